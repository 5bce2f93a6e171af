"""notebooks/survive_a_disconnect.ipynb: a run is killed twice and ends as if nothing had happened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.colab, pytest.mark.timeout(400), pytest.mark.xdist_group("survive notebook")]


@pytest.fixture(scope="module")
def shown(rehearsed: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return rehearsed("survive_a_disconnect")


@pytest.fixture(scope="module")
def run(shown: dict[str, str]) -> Path:
    return Path(shown["folder"]) / "runs" / "survivor"


def test_the_session_says_what_is_known_of_its_end(shown: dict[str, str]) -> None:
    assert "This machine" in shown["session"]
    assert "time limit   none is known" in shown["session"]
    assert "what stays   this machine's disk" in shown["session"]


def test_the_cell_returns_while_the_run_trains_and_another_process_sees_it(shown: dict[str, str]) -> None:
    assert "survivor trains in the background" in shown["start"]
    assert re.search(r"^survivor: (training|loading the model|preparing)", shown["elsewhere"], re.MULTILINE)


def test_a_killed_run_is_told_with_the_signal_and_the_way_on(shown: dict[str, str]) -> None:
    killed = re.search(r"killed after step (\d+): the run is unfinished", shown["killed"])
    assert killed
    assert 10 <= int(killed[1]) < 36
    assert "It was killed (signal 9)" in shown["panel"]
    assert re.search(r"%checkpoint resume survivor goes on from step (8|12|16)\.", shown["panel"])


def test_checkpoints_are_listed_with_what_a_resume_would_use(shown: dict[str, str]) -> None:
    newest = re.search(r"^ +(\d+) .* newest$", shown["list"], re.MULTILINE)
    assert newest
    assert int(newest[1]) % 4 == 0
    assert f"A resume would use step {newest[1]}" in shown["list"]


def test_one_flipped_bit_is_found_and_the_whole_copy_is_taken_in_its_place(shown: dict[str, str]) -> None:
    broken = re.search(r"^(\d{8}-a1)  broken: adapter_model.safetensors was altered", shown["verify"], re.MULTILINE)
    assert broken
    assert f"{broken[1]} is broken here" in shown["resume"]
    assert f"survivor came with checkpoint {broken[1]}" in shown["resume"]
    assert f"survivor goes on from step {int(broken[1][:8])}." in shown["resume"]


def test_when_all_is_gone_the_run_goes_on_from_its_copy(shown: dict[str, str], run: Path) -> None:
    assert "the run is unfinished" in shown["died"]
    came = re.search(r"survivor came with checkpoint (\d{8})-a2", shown["replica"])
    assert came
    assert f"survivor goes on from step {int(came[1])}." in shown["replica"]
    assert "survivor: finished, attempt 3" in shown["replica"]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [one["attempt"] for one in events if one["kind"] == "started"] == [1, 2, 3]
    assert next(one for one in events if one["kind"] == "finished")["step"] == 36


def test_it_ends_in_the_weights_of_a_run_to_which_nothing_happened(shown: dict[str, str], run: Path) -> None:
    from safetensors.numpy import load_file

    assert "attempts: 3 and 1" in shown["same"]
    assert "largest difference among 204,800 weights: 0.0" in shown["same"]
    ours, theirs = (
        load_file(run.with_name(name) / "adapter" / "adapter_model.safetensors") for name in ("survivor", "undisturbed")
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
