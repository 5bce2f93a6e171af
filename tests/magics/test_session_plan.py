"""`%session plan`: a run, a recipe or hours, on every platform, as text, HTML and Markdown."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from session.jobs import plan_event

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.session_plan import plan
from colab_magics.magics.session_plan_line import USAGE, read_words
from colab_magics.recipe import Recipe
from colab_magics.session.table import load_table

from .checkpointed import Left

pytestmark = [pytest.mark.face, pytest.mark.colab]

TABLE = load_table()


@pytest.fixture(autouse=True)
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user's table would be."""
    path = tmp_path / "session.toml"
    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(path))
    return path


@pytest.fixture
def qwen(tmp_path: Path) -> Left:
    """A run of use case A, planned and not yet trained."""
    from shapes import QWEN3_4B

    given = {"max_steps": 100, "effective_batch_size": 8, "method": "qlora"}
    recipe = Recipe(model="Qwen/Qwen3-4B", data="rows.jsonl", **given)
    left = Left(tmp_path / "runs", name="qwen", recipe=recipe)
    event = plan_event(recipe, QWEN3_4B, [200 + number % 800 for number in range(1000)])
    left.tell(event.pop("kind"), **{key: value for key, value in event.items() if key != "attempt"})
    return left


def test_a_run_is_planned_on_every_platform_from_its_log_alone(qwen: Left) -> None:
    torch_was_there = "torch" in sys.modules
    shown = plan(["qwen"], qwen.root)
    assert torch_was_there or "torch" not in sys.modules
    text = shown["text/plain"]
    assert text.startswith("qwen: Qwen/Qwen3-4B, 100 steps\n")
    for platform in ("Colab Free", "Kaggle", "Lightning Studio", "RunPod", "Colab Pro+", "SageMaker Studio Lab"):
        assert platform in text
    (colab,) = (line for line in text.splitlines() if line.startswith("Colab Free  "))
    assert "yes: " in colab
    assert "qlora, fp16" in colab
    assert "free" in colab
    assert "estimate" in text.splitlines()[-1]
    assert f"{min(one.as_of for one in TABLE.platforms.values() if one.dollars)}" in text.splitlines()[-1]


def test_the_four_scenarios_stand_below_it(qwen: Left) -> None:
    text = plan(["qwen"], qwen.root)["text/plain"]
    lines = {line.partition("  ")[0]: line for line in text.partition("how a project is paid for")[2].splitlines()}
    assert "free" in lines["Free only"]
    assert "RunPod" in lines["Free and a little paid"]
    assert "$9.99" in lines["Colab Pro and a backup"]
    assert "$49.99" in lines["Colab Pro+"]
    assert "too much" not in text


def test_the_root_is_named_on_the_line_and_help_tells_every_option(qwen: Left, tmp_path: Path) -> None:
    assert plan(["--root", str(qwen.root)], tmp_path / "elsewhere") == plan(["qwen"], qwen.root)
    told = plan(["--help"], tmp_path)["text/plain"]
    assert all(f"--{option} " in told for option in ("hours", "platform", "gpu", "markdown", "root"))


def test_html_and_markdown_say_the_same(qwen: Left) -> None:
    html = plan(["qwen"], qwen.root)["text/html"]
    written = plan(["qwen", "--markdown"], qwen.root)
    assert list(written) == ["text/plain"]
    markdown = written["text/plain"]
    head = markdown.splitlines()
    assert head[0] == "## qwen: Qwen/Qwen3-4B, 100 steps"
    rows = [line for line in head if line.startswith("| ")]
    assert len({row.count(" | ") for row in rows[: rows.index(next(r for r in rows if "scenario" in r))]}) == 1
    assert html.count("<tr") == len(rows) - 2  # but for the two lines of dashes
    assert len(html) < 20_000


@pytest.mark.parametrize(("hours", "shown"), [("3", "3 h"), ("6-8", "7 h (6 to 8)"), ("180min", "3 h")])
def test_hours_of_gpu_are_compared_on_colab_kaggle_and_runpod(tmp_path: Path, hours: str, shown: str) -> None:
    """Use case C: what 3, and 6 to 8 hours of GPU cost there."""
    text = plan(["--hours", hours, "--platform", "colab-free,colab-pro,kaggle,runpod"], tmp_path)["text/plain"]
    assert text.startswith(f"{shown} of GPU on each platform")
    rows = [line for line in text.splitlines() if f"  {shown}  " in line]
    assert any(row.startswith("Colab Free") and row.endswith("free") for row in rows)
    assert any(row.startswith("Kaggle") and "% of a week" in row and row.endswith("free") for row in rows)
    assert any(row.startswith("RunPod") and "$" in row for row in rows)
    assert any(row.startswith("Colab Pro ") and "units" in row for row in rows)
    assert rows[0].endswith("free"), "what is free comes first"
    assert "factor of two" not in text, "the user has said the hours"
    assert "scenario" not in text, "a part of the platforms holds no scenario"


def test_the_documents_show_the_table_that_the_command_prints(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
    command = re.search(r"`python -m colab_magics session plan (--hours .*--markdown)`", page)
    assert command is not None
    printed = plan(command[1].split(), tmp_path)["text/plain"]
    table = "\n".join(line for line in printed.splitlines() if line.startswith("| "))
    assert table in page, f"docs/cost.md should show\n{table}"


def test_the_platform_on_which_this_is_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "kaggle-batch")
    text = plan(["--hours", "3"], tmp_path)["text/plain"]
    marked = [line for line in text.splitlines() if "(here)" in line]
    assert marked
    assert all(line.startswith("Kaggle, saved version (here)  ") for line in marked)


def test_a_device_of_which_no_speed_is_known_is_shown_without_a_time(qwen: Left, own_table: Path) -> None:
    own_table.write_text(
        '[accelerators.X1]\ntitle = "X One"\nmemory = "40 GiB"\ncapability = [9, 0]\n'
        '[platforms.attic]\ntitle = "The attic"\nas_of = "2026-11-01"\naccelerators = ["X1"]\ndollars = { X1 = 0 }\n'
    )
    text = plan(["qwen"], qwen.root)["text/plain"]
    (row,) = (line for line in text.splitlines() if line.startswith("The attic"))
    assert "yes: " in row
    assert "not known" in row


def test_hours_alone_show_the_scenarios_too_and_no_column_for_what_fits(tmp_path: Path) -> None:
    text = plan(["--hours", "100"], tmp_path)["text/plain"]
    assert text.startswith("100 h of GPU on each platform\n")
    assert "Free and a little paid" in text
    assert "days" not in text.partition("SageMaker")[0]
    assert " fits " not in text
    assert "Left out, as today's torch has no kernels for it: Kaggle, interactive (Tesla P100 16 GB); " in text


def test_the_platform_on_which_this_is_comes_first_then_what_costs_nothing(
    qwen: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "colab-pro")
    rows = plan(["qwen"], qwen.root)["text/plain"].partition("\nplatform ")[2].splitlines()[1:]
    here = [row.startswith("Colab Pro (here)") for row in rows[: rows.index("")]]
    assert here == sorted(here, reverse=True)
    free = [row.endswith(("free", "of the free credits")) for row in rows[sum(here) : rows.index("")]]
    assert free == sorted(free, reverse=True)
    assert sum(here) > 1
    assert sum(free) > 2


def test_a_run_that_has_begun_is_planned_for_what_is_left(qwen: Left) -> None:
    whole = plan(["qwen", "--platform", "colab-free", "--gpu", "T4"], qwen.root)["text/plain"]
    qwen.save(40)
    qwen.tell("step", step=60, total_steps=100, loss=1.0, seconds=5.0)
    rest = plan(["qwen", "--platform", "colab-free", "--gpu", "T4"], qwen.root)["text/plain"]
    assert rest.startswith("qwen: Qwen/Qwen3-4B, 100 steps, of which 60 are left"), "20 were lost with the worker"
    times = [text.partition("checkpointing  ")[2].partition(" min")[0] for text in (whole, rest)]
    assert float(times[1]) == pytest.approx(0.6 * float(times[0]), rel=0.1)


def test_a_run_that_was_killed_before_its_first_checkpoint_is_planned_as_a_whole(qwen: Left) -> None:
    qwen.tell("step", step=60, total_steps=100, loss=1.0, seconds=5.0)
    assert plan(["qwen"], qwen.root)["text/plain"].startswith("qwen: Qwen/Qwen3-4B, 100 steps\n")


def test_a_price_that_the_user_knows_better_counts(qwen: Left, own_table: Path) -> None:
    own_table.write_text('[platforms.runpod]\ndollars = { L4 = 123 }\nas_of = "2027-01-01"\n')
    text = plan(["qwen", "--platform", "runpod", "--gpu", "L4"], qwen.root)["text/plain"]
    assert "2027-01-01" in text
    (row,) = (line for line in text.splitlines() if line.startswith("RunPod"))
    assert float(row.rpartition("$")[2]) > 5


def test_names_are_taken_in_any_case_and_by_their_beginning() -> None:
    line = read_words(["--platform=COLAB", "--gpu", "t4,a100"], TABLE)
    assert line.platforms == tuple(key for key in TABLE.platforms if key.startswith("colab-"))
    assert line.accelerators == ("T4", "A100-40", "A100-80")


@pytest.mark.parametrize(
    ("words", "what", "advice"),
    [
        (["--platform", "kagle"], "no platform kagle", "Did you mean kaggle?"),
        (["--gpu", "RTX-4080"], "no device RTX-4080", "Did you mean RTX-4090?"),
        (["--gpu", "Groq"], "no device Groq", "all are shown"),
        (["--huors", "3"], "no option --huors", "Did you mean --hours?"),
        (["--hours"], "--hours needs a value", USAGE),
        (["--hours", "soon"], "--hours soon is no", ""),
        (["--hours", "0"], "--hours 0 is no time", "--hours 3"),
        (["--hours", "-3"], "--hours -3 is no time", "--hours 3"),
        (["--hours", "3-"], "--hours 3- is no time", "--hours 3"),
        (["one", "two"], "one run", USAGE),
        (["nobody"], "no run called 'nobody'", ""),
    ],
)
def test_a_line_that_cannot_be_read_is_explained(
    tmp_path: Path, words: list[str], what: str, advice: str
) -> None:  # fmt: skip
    Left(tmp_path / "runs")
    with pytest.raises(ColabMagicsError) as raised:
        plan(words, tmp_path / "runs")
    said = "\n".join(raised.value.lines())
    assert what in said
    assert advice in said


def test_a_run_without_a_plan_says_what_to_do(tmp_path: Path) -> None:
    left = Left(tmp_path / "runs")
    with pytest.raises(ColabMagicsError, match="has no plan") as raised:
        plan([left.name], left.root)
    assert "%%session plan" in raised.value.lines()[-1]


def test_a_recipe_goes_through_the_preflight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("torch")
    warm = request.getfixturevalue("warm")
    monkeypatch.setattr(sys, "executable", str(warm.python))
    for name, value in warm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "a b c", "completion": "d e f"}) + "\n" for _ in range(40)))
    said: list[str] = []
    demo = Path(__file__).resolve().parents[2] / "colab_magics" / "demo" / "model"
    shutil.copytree(demo, tmp_path / "soon", ignore=shutil.ignore_patterns("*.safetensors"))
    shown = plan([], tmp_path / "runs", body=f"model: {tmp_path / 'soon'}\ndata: {rows}\n", say=said.append)
    assert "Planned on " in shown["text/plain"]
    assert f"{tmp_path / 'soon'} has no weights yet: it can be planned, and not trained." in said
    body = f"model: demo\ndata: {rows}\nepochs: 2\n"
    shown = plan([], tmp_path / "runs", body=body, say=said.append)
    assert shown["text/plain"].startswith("demo, 6 steps\n40 documents, ")
    assert "Planned on " in shown["text/plain"]
    assert any("num_train_epochs" in line for line in said)
    assert not (tmp_path / "runs").exists(), "nothing is kept"
