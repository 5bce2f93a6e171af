"""What one attempt leaves to the next: an attempt that took no step changes nothing of what the run had come to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from colab_magics.panel.own import Own
from colab_magics.panel.parts import Saved

if TYPE_CHECKING:
    from colab_magics.panel.state import PanelState


@dataclass(frozen=True)
class Stood:
    """Where a run stood when its last attempt with a step had ended; the curve is kept by the state itself."""

    phase: str
    step: int
    total_steps: int | None
    epoch: float | None
    loss: float | None
    tokens: int | None
    own: Own | None
    saved: Saved | None
    seconds: float | None
    ended_clock: float | None


def stood(state: PanelState) -> Stood | None:
    """Where the run stands, for the attempt that begins now; of attempts without a step nothing is known."""
    if not state.step:
        return state.stood
    return Stood(
        phase=state.phase,
        step=state.step,
        total_steps=state.total_steps,
        epoch=state.epoch,
        loss=state.loss,
        tokens=state.tokens,
        own=state.own,
        saved=state.saved,
        seconds=state.seconds,
        ended_clock=state.ended_clock,
    )


def as_it_stood(state: PanelState) -> PanelState:
    """The state with what the attempts before have come to, if its own attempt has taken no step."""
    then = state.stood
    if state.step or then is None:
        return state
    return replace(
        state,
        step=then.step,
        total_steps=then.total_steps,
        epoch=then.epoch,
        loss=then.loss,
        tokens=then.tokens,
        own=then.own,
        saved=state.saved or then.saved,
    )


def nothing_left(state: PanelState, step: int) -> PanelState:
    """The state of an attempt that came to its end at `step` and took none: there was nothing left to do.

    One that ended elsewhere began over, and nothing of the earlier ones is its own.
    """
    then = state.stood
    if state.step or then is None or step != then.step:
        return state
    over = then.phase == "finished"  # how long it took, and when it ended, was told by then
    return replace(as_it_stood(state), seconds=then.seconds, ended_clock=then.ended_clock if over else None)
