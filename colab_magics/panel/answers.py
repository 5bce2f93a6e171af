"""What the panel answers at a glance: is it learning, will it fit, will it finish, is it safe?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from colab_magics.panel import bands
from colab_magics.panel.fields import shown
from colab_magics.panel.moment import Moment
from colab_magics.panel.own import Own
from colab_magics.panel.parts import Copied
from colab_magics.panel.state import PanelState
from colab_magics.panel.words import age, count, duration, instant, number, own_parts, phase, rate, size, span, when
from colab_magics.session.budget import budget
from colab_magics.session.forecast import Forecast
from colab_magics.session.here import Session

Level = Literal["fine", "mind", "bad"]
_SILENT = 60.0  # seconds without a step that are worth a word, however short the steps are
_NEWEST = 60  # steps that tell the speed of now
_TROUBLE = ("waiting", "full", "refused", "given up")


@dataclass(frozen=True)
class Answer:
    """One answer to one question.

    Attributes
    ----------
    about, said : str
        What it is about, and the figure that answers it.
    verdict : str
        What that means, in words; empty where the figure says it all.
    behind : tuple of str
        What stands behind it.
    level : str
        Whether to mind.
    """

    about: str
    said: str
    verdict: str = ""
    behind: tuple[str, ...] = ()
    level: Level = "fine"

    @property
    def parts(self) -> list[str]:
        """All that is said, in reading order."""
        return [part for part in (self.said, self.verdict, *self.behind) if part]


def standing(state: PanelState) -> str:
    """What the run is doing; of one that failed, when."""
    return f"{phase(state)} after step {state.step:,}" if state.phase == "failed" and state.step else phase(state)


def learning(state: PanelState) -> Answer | None:
    """The loss, and where it came from."""
    if not state.step:
        return None
    if state.own is not None:
        return _own_figures(state, state.own)
    said = number(state.loss)
    if state.first_loss is not None and state.curve.drawn()[:1] != state.curve.drawn():
        said += f", from {number(state.first_loss)}"
    return Answer("Loss", said, _odd(state), tuple(_compared(state)), "bad" if state.odd_losses else "fine")


def _compared(state: PanelState) -> list[str]:
    """Where answers are compared: by how much, and how often, the preferred one is the model's own as well."""
    said = [f"reward margin {number(state.margin)}"] if state.margin is not None else []
    return said + ([f"preferred in {state.preferred:.0%} of the pairs"] if state.preferred is not None else [])


def _own_figures(state: PanelState, own: Own) -> Answer | None:
    """The figure that the curve is of, where it came from, and the others."""
    others = [f"{name} {_figure(name, value)}" for name, value in own.figures if name != own.figure]
    behind = tuple(part for part in (", ".join(others), *own_parts(own)) if part)
    if not own.figure:
        return Answer("Figures", behind[0], "", behind[1:]) if behind else None
    said = number(state.loss)
    if state.first_loss is not None and state.curve.drawn()[:1] != state.curve.drawn():
        said += f", from {number(state.first_loss)}"
    name = own.figure.replace("_", " ")
    return Answer(name[:1].upper() + name[1:], said, _odd(state), behind, "bad" if state.odd_losses else "fine")


def _figure(name: str, value: float) -> str:
    if name == "perplexity":
        return f"{value:.4g}"
    return f"{value:.1%}" if name.endswith("accuracy") and 0 <= value <= 1 else number(value)


def _odd(state: PanelState) -> str:
    if not state.odd_losses:
        return ""
    where = f" step {state.curve.gaps[-1][1]:,.0f}" if state.curve.gaps else " an earlier step"
    if state.odd_losses == 1:
        return f"the loss was not a finite number at{where}"
    return f"{state.odd_losses:,} losses were not finite numbers, the newest at{where}"


def evaluation(state: PanelState) -> Answer | None:
    """The newest evaluation, and the best one where that is another."""
    if not state.evals:
        return None
    last, best = state.evals[-1], state.best_eval
    verdict = ""
    if best is not None and best.step != last.step and not last.loss <= best.loss:
        verdict = f"best {number(best.loss)} at step {best.step:,}"
    behind = [f"perplexity {last.perplexity:.4g}"] if last.perplexity is not None else []
    behind += [f"tokens right {last.accuracy:.0%}"] if last.accuracy is not None else []
    behind += [f"reward margin {number(last.margin)}"] if last.margin is not None else []
    return Answer("Evaluation", number(last.loss), verdict, tuple(behind))


def memory(state: PanelState, moment: Moment) -> Answer | None:
    """How much is in use, and whether the peak fits."""
    bars = bands.memory_bars(state)
    if not bars or state.memory is None:
        return None if state.estimate is None else Answer("Memory", f"{size(state.estimate)} by the estimate")
    verdict, mind = bands.verdict(state, bars)
    about = "CPU memory" if bars[0].label.startswith("CPU") else "GPU memory"
    stays = moment.now is None or state.ended
    behind = () if stays else tuple(bands.beside(state.memory, bars))
    return Answer(about, bands.headline(bars, stays=stays), verdict, behind, "mind" if mind else "fine")


def speed(state: PanelState) -> str:
    """Tokens a second and seconds a step."""
    parts = []
    if state.tokens_per_second and state.own is None:  # its progress tells its speed
        parts.append(f"{count(state.tokens_per_second)} tokens/s")
    took = sorted(mark.seconds for mark in state.marks[-_NEWEST:] if mark.seconds)
    if took:
        middle = took[len(took) // 2]
        parts.append(f"{middle * 1000:.0f} ms a step" if middle < 0.995 else f"{middle:.3g} s a step")
    if state.learning_rate is not None and not state.ended:
        parts.append(f"learning rate {rate(state.learning_rate)}")
    return ", ".join(parts)


def time(state: PanelState, moment: Moment) -> Answer | None:
    """When it ends, and whether the session lasts until then."""
    if state.ended:
        return _took(state)
    coming, here = state.forecast, moment.session
    said = _left(state, coming, moment) if coming is not None else ""
    if moment.now is None or here is None:
        silent = _silence(state, moment.now)
        return Answer("Time", said, silent, (), "mind" if silent else "fine") if said else None
    verdict, mind = _fits(state, coming, here)
    left, of = session(here)
    if not said and not left:
        return None
    silent = _silence(state, moment.now)
    lasts = f"{of}: {left}" if said and left else of if left else ""
    behind = tuple(part for part in (verdict if silent else "", lasts, *idle(moment)) if part)
    about = "Time" if said else "Session"
    return Answer(about, said or left, silent or verdict, behind, "mind" if mind or silent else "fine")


def _took(state: PanelState) -> Answer | None:
    ended = f"ended {instant(state.ended_clock)}" if state.ended_clock is not None else ""
    tokens = f"{count(state.tokens)} tokens" if state.tokens else ""
    said = f"trained for {duration(state.seconds)}" if state.seconds is not None else ended
    behind = tuple(part for part in (tokens, ended if said != ended else "") if part)
    return Answer("Time", said, "", behind) if said else None


def _left(state: PanelState, coming: Forecast, moment: Moment) -> str:
    p50, p90 = span(coming.p50), span(coming.p90)
    if not coming.measured and state.prior is not None:
        low = span(state.prior.low * (coming.p50 / state.prior.mid if state.prior.mid else 1.0))
        return f"about {p50} by the estimate" + (f", {low} to {p90}" if low != p90 else "")
    if moment.now is None:
        if not state.marks:
            return ""
        clock = state.marks[-1].clock
        return f"would end about {instant(clock + coming.p50)}"
    return f"about {p50} left" if p50 == p90 else f"about {p50} left, likely within {p90}"


def _silence(state: PanelState, now: float | None) -> str:
    if now is None or state.phase != "training" or not state.marks:
        return ""
    usual = max([mark.seconds or 0.0 for mark in state.marks[-_NEWEST:]] + [one.seconds or 0.0 for one in state.evals])
    since = now - state.marks[-1].clock
    return f"the last step ended {age(since)}" if since > max(_SILENT, 5 * usual) else ""


def _fits(state: PanelState, coming: Forecast | None, here: Session) -> tuple[str, bool]:
    """The session's rest against the run's, and whether to mind."""
    told = budget(coming, here, state.step, state.total_steps)
    if coming is None or here.left is None or told.answer == "unknown":
        return "", False
    if told.answer == "yes":
        return f"finishes {span(here.left - coming.p90)} before the session ends", False
    if told.answer == "likely":
        return f"likely finishes, {span(here.left - coming.p50)} before the session ends", True
    stops = f"stops in good order at about step {_round(told.stops_at):,}" if told.stops_at is not None else "will stop"
    words = f"{stops}; {told.sessions:,} sessions in all" if told.sessions > 1 else stops
    return (f"may not finish: {words}" if told.answer == "unlikely" else words), True


def _round(step: int) -> int:
    """Two figures: no more is known, and the frame need not change at every step."""
    unit: int = 10 ** max(0, len(str(step)) - 2)
    return step // unit * unit


def session(here: Session) -> tuple[str, str]:
    """How long this session still lives, and whose it is; the first is empty where no limit is known.

    What is an estimate is called one.
    """
    title = shown(here.platform.title, 60)
    if here.limit is None:
        return "", title
    if here.limit_from == "passed":
        return f"past its limit of {span(here.limit)}, it may end at any time", title
    if here.left is None:
        return f"{span(here.limit)} at most, its age is not known", title
    certain = "" if "limit" in here.platform.certain else ", an estimate"
    return f"{span(here.left)} left of {span(here.limit)}{', as set' if here.limit_from == 'set' else certain}", title


def flags(moment: Moment) -> list[str]:
    """What is red on this machine, a few sentences."""
    return [shown(flag, 240) for flag in moment.flags[:6]]


def idle(moment: Moment) -> list[str]:
    """How long no cell was run here, where that ends a session."""
    limit = moment.session.platform.idle if moment.session is not None else None
    if moment.idle is None or limit is None or moment.idle < 60:
        return []
    return [f"no cell was run for {span(moment.idle)}; idle sessions end after about {span(limit)}"]


def safety(state: PanelState, moment: Moment) -> Answer | None:
    """The newest checkpoint here, and the newest that the durable store is known to have."""
    if not state.step and state.saved is None and state.copied is None:
        return None
    behind: list[str] = []
    if state.saved is None:
        said = f"nothing saved since step {state.resumed_step:,}" if state.resumed_step else "nothing saved yet"
    else:
        at = f" {when(state.saved.clock, moment)}" if state.saved.clock is not None else ""
        said = f"saved{at}, step {state.saved.step:,}"
        behind.append(cost(state))
    told, under_way, level = _copy(state, moment)
    behind.insert(0, under_way)
    if moment.now is None and state.copied is not None and state.copied.where:
        behind.append(f"copied to {state.copied.where}")
    return Answer("Safety", said, told, tuple(line for line in behind if line), level)


def cost(state: PanelState) -> str:
    """The newest checkpoint's size, and how long the training waited for it."""
    if state.saved is None or state.saved.size is None:
        return ""
    value = f"checkpoint {size(state.saved.size)}"
    if state.saved.stall is not None:
        waited = state.saved.stall
        told = f"{waited * 1000:.0f} ms" if waited < 1 else f"{waited:.1f} s"
        share = f" ({state.saved.share:.2%})" if state.saved.share is not None else ""
        value += f", training waited {told}{share}"
    return value


def _copy(state: PanelState, moment: Moment) -> tuple[str, str, Level]:
    """What the durable copy is known to be, what is under way, in the words that they deserve, and whether to mind."""
    now = state.copied
    if now is None:
        if moment.session is not None and moment.session.limit is not None:
            return "no copy elsewhere: it goes with this machine", "", "mind"
        return "no copy elsewhere", "", "fine"
    level: Level = "mind" if now.state in _TROUBLE else "fine"
    confirmed = ""
    if state.copied_step is not None:
        at = f" {when(state.copied_clock, moment)}" if state.copied_clock is not None else ""
        confirmed = f"copy of step {state.copied_step:,} confirmed{at}"
    if now.state == "done":
        words = now.message[:1].lower() + now.message[1:].rstrip(".")
    elif now.state == "confirmed":
        words = "" if confirmed else "copy confirmed"
    else:
        words = _standing(now) + (f", {size(now.left)} left" if now.left else "")
    return confirmed or words, words if confirmed else "", level


def _standing(now: Copied) -> str:
    if now.state == "copying":  # the recipe and the data are of no step
        return f"copying step {now.step:,}" if now.step is not None else "copying what a new machine needs"
    return f"copy of step {now.step:,} {now.state}" if now.step is not None else f"copy {now.state}"
