"""Bad input in a real kernel: a few lines, Run All stops, and nothing on disk has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ROWS, Home, Kernel

pytestmark = [pytest.mark.face, pytest.mark.xdist_group("input")]

SECRET = "hf_" + "Q" * 34


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%finetune kwanzaa\nmodle: demo\ndata: train.jsonl", "model"),
        ("%%finetune kwanzaa\nmodel: demo\ndata: [", "line"),
        ("%%finetune kwanzaa\n   ", "model"),
        ("%%finetune kwanzaa\nmodel: demo\ndata: missing.jsonl", "missing.jsonl"),
        (f"%%finetune kwanzaa\nmodel: demo\ndata: {ROWS}\nmax_steps: many", "max_steps"),
        (f"%%finetune a/b\nmodel: demo\ndata: {ROWS}", "cannot be a run's name"),
        (f"%%finetune ../up\nmodel: demo\ndata: {ROWS}", "cannot be a run's name"),
        (f"%%finetune x --fork ../up\nmodel: demo\ndata: {ROWS}", "cannot be a run's name"),
        (f"%%finetune save\nmodel: demo\ndata: {ROWS}", "subcommand"),
        (f"%%finetune stop\nmodel: demo\ndata: {ROWS}", "takes no cell body"),
        (f"%%finetune kwanzaa --bakground\nmodel: demo\ndata: {ROWS}", "--background"),
        (f"%%finetune kwanzaa --out 'run\nmodel: demo\ndata: {ROWS}", "quot"),
        (f"%%finetune kwanzaa --preset nonsense\nmodel: demo\ndata: {ROWS}", "nonsense"),
        (f"%%finetune kwanzaa\nmodel: demo\ndata: {ROWS}\nformat: nobody", "nobody"),
        ("%%finetune kwanzaa\nmodel: demo\ndata: $nothing", "nothing"),
        ("%finetune stop nobody", "nobody"),
        ("%finetune --model demo", "data"),
        ("%finetune statsu", "Did you mean %finetune status?"),
        ("%finetune kwanzaa", "%finetune status kwanzaa"),
    ],
)
def test_bad_input_ends_the_cell_in_a_few_lines_and_leaves_no_trace(
    kernel: Kernel, home: Home, cell: str, said: str
) -> None:
    before = sorted(home.folder.iterdir())
    reply = kernel.run(cell)
    assert reply.status == "error"
    assert reply.error in ("ColabMagicsError", "Interrupted")
    assert 1 <= len(reply.traceback) <= 8
    assert said in "\n".join(reply.traceback)
    assert "\x1b" not in "".join(reply.traceback)
    assert sorted(home.folder.iterdir()) == before
    assert not home.runs.exists()


@pytest.mark.parametrize("data", [str(ROWS), "rows"])
def test_a_dashboard_that_cannot_work_is_told_and_no_panel_drawn(kernel: Kernel, home: Home, data: str) -> None:
    kernel.run(
        "rows = [{'text': f'ahoy {n}'} for n in range(9)]\n"
        "import os\nos.environ['NETRC'] = '/nowhere'\n"
        "for name in ('WANDB_API_KEY', 'WANDB_MODE'):\n    os.environ.pop(name, None)"
    )
    reply = kernel.run(f"%%finetune kwanzaa\nmodel: demo\ndata: {data}\nreport_to: wandb")
    assert reply.traceback[0].startswith("report_to: wandb ")
    assert reply.displays == {}
    assert not home.runs.exists()


def test_a_row_on_which_the_format_function_fails_is_named_and_leaves_no_trace(kernel: Kernel, home: Home) -> None:
    kernel.run("def shape(row):\n    return {'text': row['nope']}")
    reply = kernel.run(f"%%finetune kwanzaa\nmodel: demo\ndata: {ROWS}\nformat: shape")
    assert reply.error == "ColabMagicsError"
    assert "nope" in "\n".join(reply.traceback)
    assert not home.runs.exists()


def test_html_and_ansi_in_a_message_reach_no_terminal_and_no_page(kernel: Kernel) -> None:
    reply = kernel.run("%%finetune kwanzaa\nmodel: demo\ndata: '<script>\\x1b[31m.jsonl'")
    assert reply.error == "ColabMagicsError"
    assert "\x1b" not in "".join(reply.traceback)
    assert reply.displays == {}


def test_a_token_in_the_cell_is_shown_nowhere(kernel: Kernel, home: Home) -> None:
    for body in (f"model: demo\ndata: {ROWS}\ntokn: {SECRET}", f"model: {SECRET}\ndata: missing.jsonl", f"{SECRET}"):
        reply = kernel.run(f"%%finetune kwanzaa\n{body}")
        assert reply.status == "error"
        assert SECRET not in "\n".join(reply.traceback) + reply.text
    assert not home.runs.exists()


def test_background_is_refused_in_a_kaggle_batch_run(kernel: Kernel, home: Home) -> None:
    kernel.run("import os; os.environ['KAGGLE_KERNEL_RUN_TYPE'] = 'Batch'")
    reply = kernel.run(f"%%finetune kwanzaa --background\nmodel: demo\ndata: {ROWS}")
    kernel.run("del os.environ['KAGGLE_KERNEL_RUN_TYPE']")
    assert "batch" in "\n".join(reply.traceback)
    assert not home.runs.exists()


def test_list_and_status_without_a_run_say_so(kernel: Kernel, home: Home) -> None:
    assert "no run" in kernel.run("%finetune list").text
    assert kernel.run("%finetune status").error == "ColabMagicsError"
    done = home.terminal("status")
    assert done.returncode == 1
    assert "no run" in done.stderr
    assert not Path(home.runs).exists()
