"""Phases, epochs and batches: a cell that is run again does what is left, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.tracking.progress import MOST_PATIENCE, History

from .conftest import Died, Root

pytestmark = [pytest.mark.colab, pytest.mark.face]

BOTH = {"save_every": "1 steps"}


def cell(root: Root, *, dies_at: int | None = None, **options: Any) -> list[str]:
    """Use case E's two phases, and something around them; what was done, in order."""
    done: list[str] = []

    def step(run: Any, what: str, **figures: float) -> None:
        done.append(what)
        run.log(**figures)
        run.saver.wait()
        if run.step == dies_at:
            raise Died

    with root.track(total=12, unit="tokens", **BOTH, **options) as run:
        with run.phase("fixed point", total=10) as phase:
            for number in phase.rest(range(10)):
                step(run, f"fixed {number}", delta=max(0.5, 2.0 - number))
                if phase.converged("delta", patience=2):
                    break
        for epoch in run.epochs(3):
            with run.phase("train", total=2, unit="batches") as train:
                for batch in train.rest(iter("ab")):
                    step(run, f"train {epoch}{batch}", loss=1.0, tokens=2)
            with run.phase("check") as check:
                for batch in check.rest("x"):
                    step(run, f"check {epoch}{batch}", accuracy=0.5)
    return done


WHOLE = [
    *(f"fixed {number}" for number in range(5)),
    *(f"{what} {epoch}{part}" for epoch in range(3) for what, part in (("train", "a"), ("train", "b"), ("check", "x"))),
]


def test_the_cell_does_all_of_it_once(root: Root) -> None:
    assert cell(root) == WHOLE


@pytest.mark.parametrize("at", [2, 5, 6, 7, 8, 10, 14])
def test_wherever_it_dies_the_cell_run_again_does_what_is_left(root: Root, at: int) -> None:
    with pytest.raises(Died):
        cell(root, dies_at=at)
    assert cell(root) == WHOLE[at:]
    assert root.run().state == "finished"
    assert [event["done"] for event in root.events(kind="finished")] == [12]


def test_each_phase_counts_and_tells_for_itself(root: Root) -> None:
    with root.track(total=100, unit="tokens") as run:
        with run.phase("outer", total=4) as outer:
            run.log(loss=1, tokens=10)
            with outer.phase("inner", total=2, unit="tokens") as inner:
                run.log(loss=2, tokens=1)
            assert (inner.step, inner.done, outer.step, outer.done) == (1, 1, 2, 2)
        assert (run.step, run.done) == (2, 11)
        run.log(tokens=1)
    told = [(event["phase"], event["phase_step"], event["done"], event["unit"]) for event in root.events(kind="step")]
    assert told == [("outer", 1, 1, "steps"), ("inner", 1, 1, "tokens"), ("", 3, 12, "tokens")]


def test_a_unit_that_is_not_tokens_counts_one_a_step_where_it_is_not_told(root: Root) -> None:
    with root.track(unit="batches") as batches, root.track("b") as steps, root.track("c", unit="tokens") as tokens:
        for run in (batches, steps, tokens):
            run.log(loss=1)
        batches.log(batches=4)
    assert (batches.done, steps.done, tokens.done) == (5, 1, 0)


def test_without_a_unit_steps_are_counted_and_tokens_where_they_are_told(root: Root) -> None:
    counted = {}
    for name, figures in (("steps", {}), ("tokens", {"tokens": 512})):
        for _ in range(2):  # the second goes on
            with pytest.raises(Died), root.track(name, unit=None, total=2000, **BOTH) as run:
                run.log(loss=1, **figures)
                run.log(loss=1, **figures)
                raise Died
        counted[name] = (run.unit, run.done)
        assert {event["unit"] for event in root.events(name, "step")} == {name}
    assert counted == {"steps": ("steps", 4), "tokens": ("tokens", 2048)}
    with root.track("asked", unit="steps") as run:
        run.log(tokens=512)
    assert (run.unit, run.done) == ("steps", 1)


def test_a_phase_that_an_exception_has_left_is_not_finished(root: Root) -> None:
    with root.track(**BOTH) as run:
        with pytest.raises(Died), run.phase("a") as phase:
            run.log(loss=1)
            raise Died
        assert not phase.finished
        run.log(loss=2)
    assert root.events(kind="step")[-1]["phase"] == ""


def test_a_step_in_a_finished_phase_is_refused_by_name(root: Root) -> None:
    with pytest.raises(Died), root.track(**BOTH) as run:
        with run.phase("first"):
            run.log(loss=1)
        run.log(loss=1)
        raise Died
    refused = pytest.raises(ColabMagicsError, match="The phase 'first' is finished")
    with refused, root.track() as run, run.phase("first") as phase:
        assert phase.finished
        run.log(loss=1)


def test_a_second_pass_of_epochs_in_one_phase_is_refused(root: Root) -> None:
    with pytest.raises(ColabMagicsError, match="twice in one phase"), root.track() as run:
        for _ in range(2):
            list(run.epochs(2))


def loader() -> Iterator[float]:
    """A loader whose order comes of python's random numbers, as a shuffled one's does."""
    import random

    order = list(range(6))
    random.shuffle(order)
    for number in order:
        yield number + random.random()


def test_a_shuffled_order_and_the_random_numbers_after_it_are_as_they_would_have_been(root: Root) -> None:
    import random

    def drawn(name: str, dies_at: int | None = None) -> list[float]:
        random.seed(5)
        state: dict[str, Any] = {"drawn": []}
        with root.track(name, state, **BOTH) as run:
            for _ in run.epochs(3):
                for value in run.rest(loader()):
                    state["drawn"] += [value, random.random()]
                    run.log(loss=value)
                    run.saver.wait()
                    if run.step == dies_at:
                        raise Died
        return state["drawn"]

    whole = drawn("whole")
    for at in (1, 6, 10):
        with pytest.raises(Died):
            drawn(f"cut-{at}", at)
        random.seed(99)
        assert drawn(f"cut-{at}") == whole


def test_it_has_converged_when_nothing_was_gained_for_so_many_steps() -> None:
    history = History()
    answers = []
    for value in (1.0, 0.5, 0.50004, 0.49999, 0.49998):
        history.add(value)
        answers.append(history.has_settled(3, 1e-4))
    assert answers == [False, False, False, False, True]


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("begin", [[], [1.0], [1.0, 1.0]], ids=["from the first on", "after one", "after two"])
def test_a_loss_that_is_no_number_has_not_converged(begin: list[float], odd: float) -> None:
    history = History()
    for value in (*begin, *[odd] * (MOST_PATIENCE + 3)):
        history.add(value)
        assert not history.has_settled(2, 0.0)
    for value in (1.0, 1.0, 1.0):
        history.add(value)
    assert history.has_settled(2, 0.0)


def test_a_loss_that_is_no_number_is_said_once_where_convergence_is_asked(root: Root) -> None:
    with root.track() as run, run.phase("a") as phase:
        for _ in phase.rest(range(5)):
            run.log(loss=float("nan"))
            assert not phase.converged("loss", patience=2)
    (warning,) = root.events(kind="warning")
    assert warning["message"] == "loss is nan at step 1, and never counts as converged. Stop the loop, and look why."


def test_the_lowest_of_a_long_history_is_not_forgotten() -> None:
    history = History()
    history.add(0.1)
    for _ in range(MOST_PATIENCE + 5):
        history.add(1.0)
    assert len(history.newest) == MOST_PATIENCE
    history.add(0.5)
    assert history.has_settled(1, 0.0)


def test_a_figure_that_was_never_logged_is_named_with_the_nearest(root: Root) -> None:
    with pytest.raises(ColabMagicsError) as refused, root.track() as run:
        run.log(delta=1)
        run.converged("detla")
    assert 'Did you mean "delta"?' in refused.value.next_steps
