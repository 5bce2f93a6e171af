"""A loop of a person's own, as its steps tell it: phases, what it counts, and whatever figures it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from colab_magics.panel.curve import Curve
from colab_magics.panel.fields import amount, count, items, mapping, number, shown

if TYPE_CHECKING:
    from colab_magics.panel.state import PanelState

_MOST_FIGURES = 8
_MOST_BEFORE = 12
_MOST_EACH = 100  # steps of one event that are drawn one by one
_MOST_NATS = 20.0  # beyond it a perplexity is a number that nobody reads


@dataclass(frozen=True)
class Part:
    """A phase that is over; `step` counts its own."""

    name: str
    step: int
    done: float
    total: float | None
    unit: str
    figure: str
    first: float | None
    last: float | None


@dataclass(frozen=True)
class Own:
    """Where the loop is.

    Attributes
    ----------
    phase : str
        The name of the phase; empty where there is none.
    done, total : float
        In `unit`.
    rate : float, optional
        Units a second.
    figures : tuple of (name, value)
        All but the loss.
    figure : str
        The one that the curve is of: the loss, else the first that was told.
    before : tuple of Part
        The phases that are over.
    """

    unit: str = ""
    phase: str = ""
    step: int = 0
    done: float = 0.0
    total: float | None = None
    rate: float | None = None
    figures: tuple[tuple[str, float], ...] = ()
    figure: str = ""
    before: tuple[Part, ...] = field(default=())

    @property
    def fraction(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def left(self) -> float | None:
        """Seconds until the phase has done all, at the speed of now."""
        return max(0.0, self.total - self.done) / self.rate if self.total and self.rate else None


def begun(event: Mapping[str, Any]) -> Own | None:
    """What a `started` event says of a loop of one's own; None of a run of `%%finetune`."""
    if event.get("made_by") != "track":
        return None
    return Own(unit=shown(event.get("unit"), 20), done=amount(event, "done") or 0.0, total=amount(event, "total"))


def entered(state: PanelState, event: Mapping[str, Any]) -> PanelState:
    """The state before a step: where it is one of another phase, the curve begins anew."""
    own = state.own
    phase = shown(event.get("phase"), 60)
    if own is None or (phase == own.phase and state.step) or not state.curve.drawn():
        return state
    if phase == own.phase:  # the first step of an attempt
        return state
    before = own.before
    if state.step:
        part = Part(own.phase, own.step, own.done, own.total, own.unit, own.figure, state.first_loss, _last(state))
        before = (*before, part)
    # a phase that is gone back to is not over
    before = tuple(part for part in before if part.name != phase)[-_MOST_BEFORE:]
    return replace(state, own=replace(own, before=before), curve=Curve(), first_loss=None, odd_losses=0)


def _last(state: PanelState) -> float | None:
    points = state.curve.drawn()
    return points[-1][1] if points else None


def stepped(own: Own, event: Mapping[str, Any]) -> Own:
    """Where the loop is after a step."""
    told = mapping(event.get("figures"))
    figures = [(shown(name, 40), number(told, name, finite=False)) for name in list(told)[:_MOST_FIGURES]]
    unit = shown(event.get("unit"), 20)
    loss = number(event, "loss")
    if unit == "tokens" and loss is not None and 0 <= loss <= _MOST_NATS and "perplexity" not in told:
        figures.append(("perplexity", math.exp(loss)))
    return replace(
        own,
        unit=unit,
        phase=shown(event.get("phase"), 60),
        step=count(event, "phase_step") or 0,
        done=amount(event, "done") or 0.0,
        total=amount(event, "total"),
        rate=amount(event, "per_second"),
        figures=tuple((name, value) for name, value in figures if value is not None),
        figure=shown(drawn_figure(event), 40),
    )


def drawn_on(curve: Curve, x: int, value: float, event: Mapping[str, Any]) -> Curve:
    """The curve with one more step; with each of several steps that were told together, if they are few."""
    each = items(mapping(event.get("each")).get(drawn_figure(event)))
    if not 1 < len(each) <= _MOST_EACH or len(each) != count(event, "steps"):
        return curve.add(x, value)
    for at, one in enumerate(each, x - len(each) + 1):
        curve = curve.add(at, float(one) if isinstance(one, int | float) else math.nan)
    return curve


def odd_values(event: Mapping[str, Any]) -> int:
    """Of how many steps that an event tells together the figure of the curve was not finite."""
    each = items(mapping(event.get("each")).get(drawn_figure(event)))
    if not each:
        value = drawn_value(event)
        return int(value is not None and not math.isfinite(value))
    odd = sum(not (isinstance(one, int | float) and math.isfinite(one)) for one in each)
    every = max(1.0, (count(event, "steps") or 0) / len(each))  # of many steps only each second, third, … is listed
    return round(odd * every)


def drawn_figure(event: Mapping[str, Any]) -> str:
    """The figure that the curve of a loop is of."""
    return "loss" if "loss" in event else next(iter(mapping(event.get("figures"))), "")


def drawn_value(event: Mapping[str, Any]) -> float | None:
    """Its value; NaN where it was no number."""
    name = drawn_figure(event)
    if not name:
        return None
    value = number(event if name == "loss" else mapping(event.get("figures")), name, finite=False)
    return math.nan if value is None else value
