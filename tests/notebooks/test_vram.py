"""notebooks/vram.ipynb runs from top to bottom, and each cell shows what its text says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "vram.ipynb"
REPOSITORY = NOTEBOOK.parents[1]

pytestmark = [pytest.mark.colab, pytest.mark.timeout(240), pytest.mark.xdist_group("vram notebook")]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each tagged cell's outputs, by its tag."""
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    home = tmp_path_factory.mktemp("notebook")
    changed = {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "COLAB_MAGICS_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    before = dict(os.environ)
    os.environ.update(changed)
    os.environ.pop("COLAB_MAGICS_ROOT", None)
    try:
        NotebookClient(
            notebook,
            timeout=200,
            kernel_name="python3",
            resources={"metadata": {"path": str(home)}},
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        ).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {cell.metadata["tags"][-1]: _text(cell) for cell in notebook.cells if cell.metadata.get("tags")}


def _text(cell: Any) -> str:
    """Without colours: what is printed, shown and raised."""
    parts = []
    for output in cell.outputs:
        parts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        parts += [*output.get("traceback", []), output.get("evalue", "")]
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(parts))


def test_an_estimate_is_shown_once_with_others_beside_it(shown: dict[str, str]) -> None:
    text = shown["estimate"]
    assert text.count("Qwen3-4B: qlora, fp16, 2 documents of 2,048 tokens") == 1
    assert "It fits (green)" in text
    ours, theirs = (float(re.search(rf"{name} +(\d+\.\d) GiB", text)[1]) for name in ("colab_magics", "TRL 1.16"))  # type: ignore[index]
    assert ours < theirs
    assert "Traced: the model's own code" in text


def test_what_does_not_fit_is_told_with_what_would(shown: dict[str, str]) -> None:
    assert "It does not fit (red)" in shown["too-large"]
    assert "it fits with per_device_train_batch_size: 1, gradient_accumulation_steps: 8" in shown["too-large"]


def test_generating_is_estimated_by_context(shown: dict[str, str]) -> None:
    assert re.search(r"32,768 +2\.5 GiB +4\.5 GiB", shown["inference"])


def test_a_network_of_ones_own_is_estimated_by_component(shown: dict[str, str]) -> None:
    assert re.search(r"weights and buffers +43\.4 MiB", shown["module"])
    assert re.search(r"optimizer states +86\.\d MiB", shown["module"])
    assert re.search(r"L4 24 GB +22\.2 GiB .* fits", shown["module"])


def test_a_cell_that_cannot_fit_is_refused_with_the_nearest_change(shown: dict[str, str]) -> None:
    assert "This does not fit: full with 16 documents" in shown["refused"]
    assert "the least that fits: per_device_train_batch_size: 2; gradient_accumulation_steps: 8" in shown["refused"]


def test_why_names_the_scores_and_the_remedy(shown: dict[str, str]) -> None:
    assert "Attention scores of `query`, 1 × 2 × 400,000 × 400,000 in fp32 (1.2 TiB)" in shown["why"]
    assert "F.scaled_dot_product_attention(query, key, value)" in shown["why"]
    assert "attn_implementation" not in shown["why"], "there is no transformers model"


def test_the_report_names_what_the_failed_cell_holds_and_free_lets_go_of_it(shown: dict[str, str]) -> None:
    assert "traceback of the failed cell: train_step()" in shown["report"]
    assert "Let go: the traceback of the failed cell" in shown["free"]
    assert float(re.search(r"^(\d+\.\d) MiB came back", shown["free"], re.MULTILINE)[1]) > 90  # type: ignore[index]
    assert "Removed: opt." in shown["free-name"]


def test_a_watched_cell_tells_what_it_added(shown: dict[str, str]) -> None:
    assert re.search(r"\+12[0-9]\.\d MiB, peak", shown["watched"])
    assert "no longer watched" in shown["watch-off"]


def test_the_notebook_is_valid_and_names_no_path_of_a_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert "/home/" not in cell.source
        assert "/content/" not in cell.source
