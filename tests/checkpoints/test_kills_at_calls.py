"""A death at every call of commit, discard and sweep leaves the old checkpoint or the new one, whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from checkpoints.acts import ACTS, COMMIT, Act, check_after_a_death, scenes
from checkpoints.faults import calls_of
from checkpoints.kills import deaths_in_a_row, deaths_of, power_failures_of
from checkpoints.straced import calls_by_strace, strace_refuses, system_calls_of

_refused = strace_refuses()
needs_strace = pytest.mark.skipif(_refused is not None, reason=f"no strace: {_refused}")
each_act = pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)


@each_act
def test_a_death_at_any_call_leaves_a_whole_checkpoint_and_the_run_goes_on(tmp_path: Path, act: Act) -> None:
    points = 0
    for what, scene in deaths_of(act, tmp_path):
        points += 1
        try:
            check_after_a_death(scene, act)
        except AssertionError as wrong:
            raise AssertionError(f"{what}: {wrong}") from wrong
    assert points > 0


@each_act
def test_power_that_fails_at_any_call_loses_nothing_that_was_committed(tmp_path: Path, act: Act) -> None:
    for what, scene in power_failures_of(act, tmp_path):
        try:
            check_after_a_death(scene, act)
        except AssertionError as wrong:
            raise AssertionError(f"{what}: {wrong}") from wrong


def test_a_death_in_the_sweep_after_a_death_in_a_commit_loses_nothing(tmp_path: Path) -> None:
    for what, scene in deaths_in_a_row(tmp_path):
        try:
            check_after_a_death(scene, COMMIT)
        except AssertionError as wrong:
            raise AssertionError(f"{what}: {wrong}") from wrong


@needs_strace
@each_act
def test_a_real_kill_9_at_any_system_call_leaves_a_whole_checkpoint(tmp_path: Path, act: Act) -> None:
    points = 0
    for what, scene in system_calls_of(act, tmp_path):
        points += 1
        try:
            check_after_a_death(scene, act)
        except AssertionError as wrong:
            raise AssertionError(f"{what}: {wrong}") from wrong
    assert points > 0


@needs_strace
@each_act
def test_nothing_changes_the_disk_but_by_the_calls_that_are_counted(tmp_path: Path, act: Act) -> None:
    names = {"make_folder": "mkdir", "flush": "fsync", "remove_folder": "rmdir"}
    names |= {name: name for name in ("write", "rename", "unlink", "truncate")}
    fresh = scenes(tmp_path, act.prepare)
    asked = Counter(calls_of(lambda disk: act.run(next(fresh), disk)))
    made = Counter(calls_by_strace(act, tmp_path / "strace.log", next(fresh)))
    assert {names[call]: count for call, count in asked.items() if call in names} == {
        call: count for call, count in made.items() if call in names.values()
    }
