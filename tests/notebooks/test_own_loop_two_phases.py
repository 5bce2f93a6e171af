"""notebooks/own_loop_two_phases.ipynb: a network of one's own in two phases, from an estimate to a checkpoint."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest

from colab_magics.panel.state import PanelState
from colab_magics.panel.words import own_progress
from colab_magics.run import Run

pytestmark = [pytest.mark.colab, pytest.mark.timeout(300), pytest.mark.xdist_group("own loop notebook")]

NAME = "own_loop_two_phases"
REPOSITORY = Path(__file__).resolve().parents[2]
CARDS = ("Tesla T4 16 GB", "L4 24 GB", "A100 40 GB", "H100 80 GB")
SIZES = (6_400, 10_000, 25_000, 50_000, 100_000)


@pytest.fixture(scope="module")
def shown(rehearsed: Callable[[str], dict[str, str]]) -> dict[str, str]:
    return rehearsed(NAME)


@pytest.fixture(scope="module")
def run(shown: dict[str, str]) -> Run:
    return Run(Path(shown["folder"]) / "runs" / "two_phases")


@pytest.fixture(scope="module")
def steps(run: Run) -> list[dict[str, Any]]:
    return [dict(event) for event in run.events() if event["kind"] == "step"]


def test_91m_parameters_are_estimated_by_component_against_each_card(shown: dict[str, str]) -> None:
    text = shown["estimate"]
    assert "91,365,888 parameters" in text
    sizes = {
        name: float(re.search(rf"^{name} +(\d+\.\d) MiB", text, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("weights and buffers", "gradients", "optimizer states", "kept beside it", "activations")
    }
    assert sizes["weights and buffers"] == pytest.approx(91_365_888 * 4 / 2**20, rel=0.001)
    assert sizes["kept beside it"] == pytest.approx(100_000 * 768 * 4 / 2**20, rel=0.001)  # contexts of all tokens
    assert sizes["activations"] > 100
    for card in CARDS:
        assert re.search(rf"^{card} +\S+ GiB +\S+ GiB +fits", text, re.MULTILINE), card


def test_each_size_is_foretold_before_it_is_run_with_time_and_memory(shown: dict[str, str]) -> None:
    lines = shown["scale"].splitlines()
    took = [next(line for line in lines if line.startswith(f"{size:,} tokens: ")) for size in SIZES]
    amount = r"[\d.]+ (ms|s), [\d.]+ [KMG]iB"
    assert re.search(rf": {amount}$", took[0])
    for line in took[1:]:
        assert re.search(rf"about \S+ m?s \(.*\), .* \(.*\); came: {amount}$", line), line
    assert re.search(r"^10 iterations and 10 epochs of 10,000: about \d+ s$", shown["scale"], re.MULTILINE)


def test_the_first_phase_ends_where_it_has_converged(shown: dict[str, str], steps: list[dict[str, Any]]) -> None:
    first = [event for event in steps if event["phase"] == "fixed point"]
    moved = [value for event in first for value in event.get("each", {}).get("loss", [event["loss"]])]
    assert 3 < len(moved) < 10
    assert moved[-2] - moved[-1] < 1e-3  # what the cell calls converged
    assert all(before - after > 1e-3 for before, after in pairwise(moved[:-1]))
    still = [
        value
        for event in first
        for value in event.get("each", {}).get("standing_still", [event["figures"]["standing_still"]])
    ]
    assert still[-1] > 0.8 > still[0]


def test_the_second_phase_has_ten_epochs_and_learns(steps: list[dict[str, Any]]) -> None:
    second = [event for event in steps if event["phase"] == "prediction"]
    assert second[-1]["done"] == second[-1]["total"] == 10 * 9_984
    assert second[-1]["loss"] < 5 < second[0]["loss"]


def test_loss_perplexity_and_accuracy_are_told_for_each_phase(shown: dict[str, str]) -> None:
    line = r"{} +loss ([\d.]+), perplexity ([\d,.]+), accuracy ([\d.]+)%"
    found = [re.search(line.format(phase), shown["phases"]) for phase in ("fixed point", "prediction")]
    before, after = ([float(one.replace(",", "")) for one in match.groups()] for match in found if match)
    for loss, perplexity, _ in (before, after):
        assert math.log(perplexity) == pytest.approx(loss, abs=0.002)
    assert after[0] < before[0] - 1
    assert after[2] > 10 > before[2]
    assert re.search(r"accuracy [\d.]+%,", shown["resumed"])


def test_the_line_tells_tokens_speed_and_the_time_left(run: Run) -> None:
    state, lines = PanelState(name=run.name), []
    for event in run.events():
        state = state.fold(event)
        if event["kind"] == "step" and state.own is not None:
            lines.append(own_progress(state.own))
    told = [line for line in lines if line.startswith("prediction: ")]
    assert any(re.search(r": [\d,]+/99,840 tokens \(\d+%\) \| [\d,]+ tokens/s \| ETA \d+ s$", line) for line in told)


def test_tokens_come_from_the_cache_the_second_time(shown: dict[str, str]) -> None:
    first, second = (
        float(re.search(r"11,000 tokens after ([\d.]+) s", shown[tag])[1])  # type: ignore[index]
        for tag in ("dies", "resumed")
    )
    assert second < first / 3


def test_a_machine_that_goes_leaves_its_checkpoint_where_the_next_one_finds_it(shown: dict[str, str]) -> None:
    assert "the machine is gone" in shown["dies"]
    assert "failed after step 180" in shown["dies"]
    assert "Fetching two_phases from " in shown["resumed"]
    assert "two_phases goes on from step 100." in shown["resumed"]
    assert "80 steps since then were run again" in shown["resumed"]
    assert len(list((Path(shown["folder"]) / "checkpoints").rglob("MANIFEST.json"))) >= 2


def test_what_a_checkpoint_holds_is_shown(shown: dict[str, str]) -> None:
    text = shown["checkpoints"]
    assert re.search(r"^ *40\d +.* newest", text, re.MULTILINE)
    assert re.search(r"^ *400 +.* best", text, re.MULTILINE)
    assert "1 contexts" in text
    assert re.search(r"net\.safetensors +\S+ KiB +16 tensors, 156K numbers", text)
    assert re.search(r"state\.safetensors .* 30 second, 18 first", text)


@pytest.fixture(scope="module")
def undisturbed(shown: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest checkpoint of the same cells on a machine that stays."""
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("undisturbed")
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{NAME}.ipynb", as_version=4)
    left_out = {"estimate", "scale", "resumed", "phases", "checkpoints"}
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and not left_out & set(cell.metadata.get("tags", []))
    ]
    last = notebook.cells[-1]
    last.source = "ids = read_tokens(corpus, SIZES[-1])\n" + last.source.partition("\ntry:")[0] + "\ntrain()"
    variables = {
        "COLAB_MAGICS_TINY": "1",
        "COLAB_MAGICS_CACHE": str(Path(shown["folder"]) / ".cache"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    return newest(folder / "runs" / "two_phases")


def newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir(), key=lambda one: one.name)


def test_the_resumed_run_ends_with_the_weights_of_an_undisturbed_one(run: Run, undisturbed: Path) -> None:
    resumed = newest(run.folder)
    assert resumed.name[:8] == undisturbed.name[:8]
    assert (resumed / "net.safetensors").read_bytes() == (undisturbed / "net.safetensors").read_bytes()
