"""What the panel says of a loop of one's own: in its own unit, by phase, with whatever figures it was given."""

from __future__ import annotations

from typing import Any

from colab_magics.panel.html import html
from colab_magics.panel.state import PanelState
from colab_magics.panel.text import line, text

STARTED = {"kind": "started", "name": "phase1", "attempt": 1, "made_by": "track", "unit": "tokens", "total": 100_000}


def step(number: int, **fields: Any) -> dict[str, Any]:
    told = {"step": number, "phase_step": number, "phase": "", "unit": "tokens", "done": number * 100, "total": 100_000}
    return {"kind": "step", "attempt": 1, "per_second": 1200.0, "figures": {}, **told, **fields}


def state_after(*events: dict[str, Any]) -> PanelState:
    return PanelState().fold_all([STARTED, *events])


def test_progress_speed_and_time_left_are_in_its_own_unit() -> None:
    shown = text(state_after(step(100, loss=1.0)))
    assert "10,000/100,000 tokens (10%) | 1,200 tokens/s | ETA 1:15 min" in shown
    assert "10,000/100,000 tokens (10%) | 1,200 tokens/s | ETA 1:15 min" in line(state_after(step(100, loss=1.0)))


def test_a_loss_by_tokens_has_a_perplexity_and_an_accuracy_is_a_share() -> None:
    assert "accuracy 91.0%, perplexity 2.718" in text(state_after(step(1, loss=1.0, figures={"accuracy": 0.91})))
    assert "perplexity" not in text(state_after(step(1, loss=1.0, unit="steps")))


def test_without_a_loss_the_curve_is_of_the_first_figure() -> None:
    state = state_after(*(step(n, figures={"delta": 1 / n}) for n in (1, 2, 3)))
    assert [y for _, y in state.curve.drawn()] == [1, 1 / 2, 1 / 3]
    assert "delta       0.3333, from 1.0000" in text(state)


def test_without_any_figure_it_says_how_far_it_is_all_the_same() -> None:
    assert "100/100,000 tokens" in text(state_after(step(1)))
    assert "100/100,000 tokens" in html(state_after(step(1)))


def test_each_step_of_a_batch_is_on_the_curve() -> None:
    state = state_after(step(4, steps=4, loss=2.5, each={"loss": [4.0, 3.0, 2.0, 1.0]}))
    assert state.curve.drawn() == ((1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0))


def test_each_loss_of_a_batch_that_is_no_number_is_counted() -> None:
    several = step(3, steps=2, loss=None, each={"loss": [None, None]})
    assert "3 losses were not finite numbers, the newest at step 3" in text(state_after(step(1, loss=None), several))
    one = step(4, steps=3, loss=None, each={"loss": [2.0, None, 1.0]})
    assert "the loss was not a finite number at step 3" in text(state_after(step(1, loss=3.0), one))
    listed = step(4001, steps=4000, loss=None, each={"loss": [None] * 1000})
    assert "4,000 losses were not finite" in text(state_after(step(1, loss=3.0), listed))


def test_a_phase_has_a_curve_of_its_own_and_leaves_a_line() -> None:
    fixed = [
        step(n, phase="fixed point", unit="steps", done=n, total=10, figures={"delta": 1 / n}) for n in range(1, 11)
    ]
    state = state_after(*fixed, step(11, phase="prediction", phase_step=1, loss=5.0))
    shown = text(state)
    assert "prediction: " in shown
    assert "fixed point: 10/10 steps, delta 1.0000 → 0.1000" in shown
    assert state.curve.drawn() == ((1, 5.0),)
    assert "fixed point: 10/10 steps" in html(state)


def test_a_resumed_attempt_that_goes_back_to_a_phase_does_not_call_it_over() -> None:
    first = [step(n, phase="a", figures={"x": n}) for n in (1, 2)]
    later = [step(3, phase="b", phase_step=1, figures={"x": 3})]
    again = [{**STARTED, "attempt": 2}, {**step(2, phase="a", figures={"x": 2}), "attempt": 2}]
    state = state_after(*first, *later, *again)
    assert "a: 200" not in text(state).partition("\n")[2].replace("progress", "", 1).partition("speed")[2]
    assert state.own is not None
    assert [part.name for part in state.own.before] == []


def test_names_that_a_person_gave_cannot_draw_in_the_page() -> None:
    wild = "<img src=x onerror=alert(1)>"
    state = state_after(*(step(n, phase=wild, unit=wild, figures={wild: n}) for n in (1, 2, 3)))
    assert "<img" not in html(state)


def test_what_a_log_of_another_version_tells_breaks_nothing() -> None:
    odd = {"kind": "step", "step": "x", "figures": [1], "each": 3, "unit": None, "total": -1, "done": "many"}
    assert text(state_after(odd, step(1, figures={"a": "b"}), step(2, loss=None)))
