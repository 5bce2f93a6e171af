"""`%vram why`: the newest out-of-memory, of this notebook's cells or of a run, as a person reads it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.cell_record import FailedCell
from colab_magics.magics.failed_cell import FAILURES
from colab_magics.magics.vram_why import why

pytestmark = [pytest.mark.face, pytest.mark.colab]

GIB = 2**30
CUDA = (
    "CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of 14.56 GiB of which 0.50 GiB is free."
    " Including non-PyTorch memory, this process has 14.06 GiB memory in use. Of the allocated memory 13.70 GiB is "
    "allocated by PyTorch, and 236.76 MiB is reserved by PyTorch but unallocated."
)
SHAPE = {
    "architecture": "Qwen3ForCausalLM", "parameters": 4_022_468_096, "linear_parameters": 3_633_315_840,
    "largest_linear": 2560 * 9728, "lora_parameters": 33_030_144, "layers": 36, "hidden": 2560, "intermediate": 9728,
    "query": 4096, "key_value": 1024, "vocabulary": 151_936, "positions": 40_960, "qk_norm": True,
}  # fmt: skip
CHOICES = {
    "method": "qlora", "precision": "fp16", "optim": "adamw_torch_fused", "micro_batch": 8, "effective_batch": 16,
    "gradient_checkpointing": False, "loss_chunk": 441, "attention": "colab_magics", "loss": "hidden",
    "max_length": 2048,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_cell_has_failed() -> Iterator[None]:
    FAILURES.last = None
    yield
    FAILURES.last = None


def a_run(root: Path, name: str, *events: dict[str, Any], at: float | None = None) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    moment = datetime.fromtimestamp(time.time() if at is None else at, timezone.utc).isoformat()
    plan = {
        "kind": "plan", "shape": SHAPE, "device": "Tesla T4, 14.6 GiB", "lengths": [10 * one for one in range(101)],
        "documents": 3000, "choices": {key: {"value": value, "reason": ""} for key, value in CHOICES.items()},
    }  # fmt: skip
    both = [{"time": moment, "attempt": 1, **one} for one in ({"kind": "started", "run": name}, plan, *events)]
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in both))
    (folder / "recipe.yaml").write_text("model: m\ndata: d\nr: 16\n")
    return folder


def an_oom(**changes: Any) -> dict[str, Any]:
    told = {
        "kind": "oom", "step": 3, "micro_batch": 8, "documents": 8, "message": CUDA, "phase": "backward",
        "tokens": [900] * 8, "in_memory": 7200, "packed": False, "gradient_checkpointing": False, "first": False,
    }  # fmt: skip
    return {**told, **changes}


def a_cell(message: str = CUDA, at: float | None = None, **known: Any) -> FailedCell:
    return FailedCell(time.time() if at is None else at, 7, message, **known)


def text(root: Path, *words: str) -> str:
    return why(list(words), None, root)["text/plain"]


def test_where_nothing_ran_out_it_says_so_and_what_vram_shows(tmp_path: Path) -> None:
    said = text(tmp_path)
    assert said.startswith("Nothing has run out of memory.")
    assert "%vram shows what fills the GPU now." in said


def test_a_run_is_told_in_a_sentence_with_lines_to_paste(tmp_path: Path) -> None:
    a_run(tmp_path, "tune", an_oom())
    said = text(tmp_path)
    assert said.startswith("At step 3, in the backward: ")
    assert "\nRun tune, " in said
    assert "gradient_checkpointing: true" in said
    assert "per_device_train_batch_size: " in said
    assert "the effective batch stays 16" in said
    assert "In flight: 8 documents, the longest of 900 tokens" in said


def test_the_newest_of_cells_and_runs_is_told(tmp_path: Path) -> None:
    now = time.time()
    a_run(tmp_path, "old", an_oom(step=1), at=now - 300)
    a_run(tmp_path, "new", an_oom(step=2), at=now - 200)
    a_run(tmp_path, "fine", at=now - 10)
    assert "Run new" in text(tmp_path)
    FAILURES.last = a_cell(at=now - 100)
    assert "Cell [7] of this notebook" in text(tmp_path)
    FAILURES.last = a_cell(at=now - 250)
    assert "Run new" in text(tmp_path)
    assert "At step 1" in text(tmp_path, "old")
    assert "Nothing has run out of memory." in text(tmp_path, "fine")


def test_a_run_that_recovered_is_told_to_have_lost_nothing(tmp_path: Path) -> None:
    a_run(
        tmp_path, "tune", an_oom(), {"kind": "recovered", "step": 3, "micro_batch": 4, "gradient_checkpointing": True}
    )
    assert "did the step again with 4 at a time, gradient checkpointing on; nothing is lost" in text(tmp_path)


def test_a_run_that_ended_of_it_says_how_to_go_on(tmp_path: Path) -> None:
    failed = {"kind": "failed", "error": {"what": "Out of memory."}, "oom": an_oom(tokens=[2000], in_memory=2000)}
    a_run(tmp_path, "tune", failed)
    assert "Change the recipe, then run the cell again with --override." in text(tmp_path)


@pytest.mark.parametrize(("this_cell", "told"), [(8, False), (9, True), (12, True)])
def test_an_older_cell_is_not_taken_for_one_that_caught_its_error_itself(
    tmp_path: Path, this_cell: int, told: bool
) -> None:
    FAILURES.last = a_cell()
    said = why([], SimpleNamespace(execution_count=this_cell), tmp_path)["text/plain"]
    assert "Cell [7] of this notebook" in said
    assert ("An error that a cell caught itself is not seen here." in said) is told


class AShell:
    """Has what `%vram why` asks of IPython's shell: what the variables hold, and the number of this cell."""

    def __init__(self, **variables: Any) -> None:
        self.user_ns, self.execution_count = variables, 9


def caught(message: str) -> RuntimeError:
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def test_an_error_that_a_variable_keeps_is_told_and_how_to_let_go_of_it(tmp_path: Path) -> None:
    shell = AShell(err=caught(CUDA), other=ValueError("no"), _=caught("out of memory"))
    said = why([], shell, tmp_path)["text/plain"]
    assert "one more piece of 1.2 GiB" in said
    assert "A cell of this notebook; the error is kept in `err`" in said
    assert "%vram free err gives it back" in said
    assert FAILURES.last is None, "it is written down for the answer alone"


def test_a_cell_that_failed_later_is_told_before_an_error_that_is_kept(tmp_path: Path) -> None:
    FAILURES.last = a_cell("Unable to allocate 9.00 GiB for an array")
    said = why([], AShell(err=caught(CUDA)), tmp_path)["text/plain"]
    assert "Cell [7] of this notebook" in said
    assert "`err`" not in said


def test_where_a_run_ran_out_an_error_that_is_kept_is_named(tmp_path: Path) -> None:
    a_run(tmp_path, "tune", an_oom())
    said = why([], AShell(err=caught(CUDA)), tmp_path)["text/plain"]
    assert "Run tune" in said
    assert "`err` keeps an out-of-memory of a cell" in said


A_CPU_S = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "153600 bytes. Error code 12 (Cannot allocate memory)"
)


def test_a_cpu_under_max_memory_is_told_by_its_cap_and_what_would_be_enough(tmp_path: Path) -> None:
    record = {"requested": 153_600, "total": 44 * 2**20, "allocated": 44 * 2**20 - 153_599, "free": 153_599}
    folder = a_run(tmp_path, "tune", an_oom(message=A_CPU_S, record=record, host={"total": 24 * GIB, "free": 22 * GIB}))
    (folder / "recipe.yaml").write_text("model: m\ndata: d\nr: 16\nmax_memory: 44 MiB\n")
    said = text(tmp_path)
    assert "max_memory lets this run have 44 MiB, and one more piece of 150.0 KiB went beyond it" in said
    for invented in ("The card", "Missing", "tensors", "were free", "GPU"):
        assert invented not in said
    change = said.partition("What to change")[2].splitlines()[2]
    assert re.match(r"max_memory: [\d.]+ GiB +yes", change)
    assert "now 44 MiB" in change


def test_a_lost_context_is_not_called_memory(tmp_path: Path) -> None:
    FAILURES.last = a_cell("CUDA error: device-side assert triggered\nCUDA kernel errors might be")
    said = text(tmp_path)
    assert said.startswith("This was not memory")
    assert "restart the kernel" in said


def test_a_cell_without_a_model_says_what_it_could_not_know(tmp_path: Path) -> None:
    FAILURES.last = a_cell()
    said = text(tmp_path)
    assert "What it was for cannot be told" in said
    assert "No transformers model was found" in said


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--fast"], "%vram why has no option --fast."),
        (["one", "two"], "%vram why takes one run."),
        (["kwnza"], "There is no run called 'kwnza'"),
        (["../../etc"], "There is no run called"),
    ],
)
def test_bad_words_get_a_short_sentence(tmp_path: Path, words: list[str], what: str) -> None:
    a_run(tmp_path, "kwanza", an_oom())
    with pytest.raises(ColabMagicsError) as raised:
        why(words, None, tmp_path)
    assert what in str(raised.value)
    assert len(raised.value.lines()) <= 4


def test_a_broken_log_and_recipe_are_no_error(tmp_path: Path) -> None:
    folder = a_run(tmp_path, "tune", an_oom(message=3, tokens="x", where={"a": 1}, step=-4))
    (folder / "recipe.yaml").write_text(":::")
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"kind": "oom", "torn')
    assert "Run tune" in text(tmp_path)
    (folder / "recipe.yaml").unlink()
    assert "Run tune" in text(tmp_path)


class Tags(HTMLParser):
    """Every tag that a page opens."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.seen.append(tag)


def test_the_page_is_escaped_whatever_the_names_are(tmp_path: Path) -> None:
    frames = ("<script>alert(1)</script>.f:1", "\x1b[31mred")
    FAILURES.last = a_cell(CUDA.replace("GPU 0", "<img src=x>GPU 0"), frames=frames)
    shown = why([], None, tmp_path)
    tags = Tags()
    tags.feed(shown["text/html"])
    assert not {"script", "img", "a", "link"} & set(tags.seen)
    assert "\x1b" not in shown["text/plain"] + shown["text/html"]
    assert "&lt;script&gt;" in shown["text/html"]
