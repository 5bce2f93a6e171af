"""What is kept: a model of a run's life, in any order of saves, breaks, pins, confirmations and prunings."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checkpoints.scenes import OTHER_RUN, RUN, save
from colab_magics.checkpoints.commit import discard
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.checkpoints.retention import best_of, superfluous
from colab_magics.checkpoints.verify import Entry, entries, newest_verified

losses = st.none() | st.sampled_from([1.5, 2.0, 2.5, 3.0, float("nan"), float("inf")])


class Life(RuleBasedStateMachine):
    """A run on a real folder; what must be kept is worked out here a second time, from what was done to it."""

    @initialize(limit=st.integers(0, 4))
    def begin(self, limit: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.limit = limit
        self.step, self.attempt = 0, 1
        self.there: dict[str, float | None] = {}
        self.broken: set[str] = set()
        self.pinned: set[str] = set()
        self.confirmed: str | None = None
        self.kept_of_others = save(self.folder, 99_999_999, 9, run=OTHER_RUN, numbers=1)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def newness(self, name: str) -> tuple[int, int]:
        step, attempt = name.split("-a")
        return int(attempt), int(step)

    def whole(self) -> list[str]:
        return sorted(set(self.there) - self.broken, key=self.newness)

    @rule(loss=losses, further=st.integers(1, 5))
    def save_one(self, loss: float | None, further: int) -> None:
        self.step += further
        folder = save(self.folder, self.step, self.attempt, numbers=1, eval_loss=loss)
        self.there[folder.name] = loss

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def resume_from_an_earlier_step(self, data: Any) -> None:
        self.step = self.newness(data.draw(st.sampled_from(sorted(self.there))))[1]
        self.attempt += 1

    @precondition(lambda self: self.there)
    @rule(data=st.data(), time=st.integers(0, 2**31))
    def touch(self, data: Any, time: int) -> None:
        os.utime(self.folder / data.draw(st.sampled_from(sorted(self.there))), (time, time))

    @precondition(lambda self: self.whole())
    @rule(data=st.data(), how=st.sampled_from(["cut", "bit", "extra"]))
    def break_one(self, data: Any, how: str) -> None:
        name = data.draw(st.sampled_from(self.whole()))
        path = self.folder / name / "optimizer.safetensors"
        if how == "cut":
            os.truncate(path, 3)
        elif how == "extra":
            (self.folder / name / "notes.txt").write_text("a person's")
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
        self.broken.add(name)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def pin(self, data: Any) -> None:
        self.pinned.add(data.draw(st.sampled_from(sorted(self.there))))

    @precondition(lambda self: self.whole())
    @rule(data=st.data())
    def confirm(self, data: Any) -> None:
        self.confirmed = data.draw(st.sampled_from(self.whole()))

    @rule()
    def prune(self) -> None:
        found = newest_verified(self.folder, run=RUN)
        verified = found.entry.name if found.entry is not None else None
        doomed = superfluous(
            entries(self.folder, run=RUN),
            limit=self.limit,
            verified=verified,
            confirmed=self.confirmed,
            pinned=self.pinned,
        )
        assert [entry.name for entry in doomed] == sorted((entry.name for entry in doomed), key=self.newness)
        for entry in doomed:
            discard(entry.folder, run=RUN)
            del self.there[entry.name]
            self.broken.discard(entry.name)
        assert self.limit_is_kept(verified)
        again = newest_verified(self.folder, run=RUN).entry
        assert (again.name if again is not None else None) == verified

    def limit_is_kept(self, verified: str | None) -> bool:
        """No more are left than the limit, but for those kept for a reason of their own."""
        quickly_whole = {entry.name for entry in entries(self.folder, run=RUN) if entry.manifest is not None}
        reasons = {verified, self.confirmed, *self.pinned} & quickly_whole
        return verified is None or len(quickly_whole) <= max(1, self.limit) + len(reasons) + 1  # and the best

    @invariant()
    def all_that_matters_is_there(self) -> None:
        if not hasattr(self, "folder"):
            return
        left = {path.name for path in self.folder.iterdir()}
        assert left == {*self.there, self.kept_of_others.name}, "only what a pruning named goes"
        assert self.pinned & set(self.there) == self.pinned, "a pin was deleted"
        assert self.confirmed is None or self.confirmed in self.there, "the confirmed one was deleted"


Life.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


def entry(step: int, attempt: int = 1, *, eval_loss: object = None, broken: str = "") -> Entry:
    facts = {} if eval_loss is None else {"metrics": {"eval_loss": eval_loss}}
    manifest = None if broken else Manifest("checkpoint", RUN, {}, step, attempt, facts)
    return Entry(Path(f"{step:08d}-a{attempt}"), step, attempt, manifest, broken)


def names(found: list[Entry]) -> list[str]:
    return [one.name for one in found]


def keep(found: list[Entry], limit: int, **reasons: Any) -> list[str]:
    told = {"verified": found[-1].name, "confirmed": None, "pinned": (), **reasons}
    return names(superfluous(found, limit=limit, **told))


TEN = [entry(step) for step in range(1, 11)]


@pytest.mark.parametrize(("limit", "count"), [(-1, 9), (0, 9), (1, 9), (3, 7), (10, 0), (99, 0)])
def test_the_newest_are_kept_up_to_the_limit_and_always_one(limit: int, count: int) -> None:
    assert keep(TEN, limit) == names(TEN[:count])


def test_the_newest_verified_stays_though_newer_ones_have_the_numbers() -> None:
    assert "00000004-a1" not in keep(TEN, 2, verified="00000004-a1")


@pytest.mark.parametrize("verified", [None, "00000099-a1"])
def test_nothing_is_deleted_while_nothing_is_verified(verified: str | None) -> None:
    assert keep(TEN, 1, verified=verified) == []


def test_pinned_confirmed_and_best_stay() -> None:
    found = [*TEN[:5], entry(6, eval_loss=1.0), *TEN[6:]]
    assert keep(found, 1, confirmed="00000002-a1", pinned=["00000003-a1"]) == [
        f"{step:08d}-a1" for step in (1, 4, 5, 7, 8, 9)
    ]


def test_the_best_is_the_lowest_and_of_equals_the_newest() -> None:
    found = [entry(1, eval_loss=2.0), entry(2, eval_loss=1.0), entry(3, eval_loss=1.0), entry(1, 2, eval_loss=1.0)]
    assert best_of(found) is found[3]
    assert best_of(found[:3]) is found[2]
    assert best_of(TEN) is None


@pytest.mark.parametrize("nonsense", ["0.1", None, float("nan"), float("-inf"), [1], 10**400, {"a": 1}])
def test_a_loss_that_is_no_number_is_never_the_best(nonsense: object) -> None:
    best = best_of([entry(1, eval_loss=2.0), entry(2, eval_loss=nonsense)])
    assert best is not None
    assert best.step == 1


def test_what_is_broken_is_not_deleted_nor_counted() -> None:
    found = [entry(1), entry(2), entry(3, broken="cut"), entry(4, broken="cut"), entry(5)]
    assert keep(found, 2) == ["00000001-a1"]


def test_the_next_attempts_low_steps_are_newer() -> None:
    found = [entry(100), entry(200), entry(110, 2)]
    assert keep(found, 1) == ["00000100-a1", "00000200-a1"]
