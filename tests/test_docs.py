"""The documents say what the code does: every key, option, command and event kind, and every cell that they show."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

import pytest

import colab_magics.__main__ as terminal
from colab_magics.data.formats import Wishes, detect
from colab_magics.data.rows import Row
from colab_magics.data.templates import PLAIN_TEMPLATE, Renderer
from colab_magics.events import KINDS
from colab_magics.inference.sampling import OPTIONS
from colab_magics.magics import (
    compare_line,
    export_line,
    generate,
    generate_line,
    report_line,
    session_line,
    vram_estimate_line,
    vram_line,
)
from colab_magics.magics.asking_line import asked_words
from colab_magics.magics.export import HELP as EXPORT_HELP
from colab_magics.magics.line import split
from colab_magics.magics.options import _WITH_VALUE, OWN, SUBCOMMANDS, Options, read_line
from colab_magics.magics.report import HELP as REPORT_HELP
from colab_magics.magics.report_facts import gather
from colab_magics.magics.report_sections import report_of
from colab_magics.magics.session_set import SPELT
from colab_magics.recipe import Recipe, parse
from colab_magics.recipe.explain import flow_text
from colab_magics.recipe.presets import preset_names
from colab_magics.recipe.search import SEARCHED, SETTINGS
from colab_magics.recipe.spellings import known_keys
from colab_magics.run import Run
from colab_magics.session.clock import BootClock
from colab_magics.session.settings import set_value
from colab_magics.session.table import Table

HOME = Path(__file__).resolve().parents[1]
_PAGES = (HOME / "README.md", HOME / "CHANGELOG.md", *(HOME / "docs").glob("*.md"))
PAGES = {page.name: page.read_text(encoding="utf-8") for page in _PAGES}
OURS = [name for name in PAGES if name != "performance.md"]
NOTEBOOK = {"df": [{"prompt": "a", "completion": "b"}], "base": "demo", "lr": 1e-4, "shape": lambda row: row}


def blocks(name: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(r"^```\w*\n(.*?)^```", PAGES[name], re.DOTALL | re.MULTILINE)


def rows(name: str) -> dict[str, list[str]]:
    """Cells of the page's table rows, by each name in backticks in the first of them."""
    found: dict[str, list[str]] = {}
    for line in PAGES[name].splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells)
    return found


def lines(start: str) -> Iterator[tuple[str, str]]:
    """Every line in a block, and every word in backticks, that begins so, with its page; comments cut."""
    for name in OURS:
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGES[name], flags=re.DOTALL | re.MULTILINE))
        for line in [*inline, *(line for block in blocks(name) for line in block.splitlines())]:
            if line.startswith(start):
                yield name, line.partition(" #")[0].strip()


def test_every_key_is_documented_with_what_it_takes_and_its_default() -> None:
    told = rows("recipe.md")
    for key in fields(Recipe):
        default = f"`{flow_text(key.default)}`" if key.default != "" else ""
        expected = [f"`{key.name}`", key.metadata["rule"].says, default]
        assert told[key.name][:3] == expected, f"docs/recipe.md should have | {' | '.join(expected)} | … |"


def test_every_key_about_trials_is_documented_and_every_key_that_may_be_a_list() -> None:
    told = rows("recipe.md")
    for key, rule in SETTINGS.items():
        assert told[key][:2] == [f"`{key}`", rule.says]
    (listed,) = (part for part in PAGES["trials.md"].split("\n\n") if part.startswith("`learning_rate`"))
    assert set(re.findall(r"`(\w+)`", listed)) == SEARCHED


def test_every_option_and_preset_is_documented() -> None:
    told = rows("recipe.md")
    values = {"out": " VAR", "root": " DIR", "panel": " KIND", "deadline": " TIME"}
    for option in OWN:
        value = values.get(option, " NAME") if option in _WITH_VALUE else ""
        assert f"--{option.replace('_', '-')}{value}" in told
    assert set(preset_names()) <= set(told)
    assert all(name in PAGES["CHANGELOG.md"] for name in preset_names())


def test_every_event_kind_is_documented() -> None:
    assert not KINDS - set(rows("runs.md"))


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (HOME / "colab_magics").rglob("*.py"))
    shown = [
        phrase
        for line in PAGES["troubleshooting.md"].splitlines()
        if line.startswith(("| `", "| ..."))
        for phrase in re.findall(r"`([^`]+)`", line.split(" | ")[0])
        if not phrase.startswith("UsageError")  # IPython's own
    ]
    assert len(shown) > 25
    for phrase in shown:
        # names and numbers are examples: half of the longest part, in one piece, must be the code's
        words = max(phrase.split("..."), key=len).split()
        size = max(2, (len(words) + 1) // 2)
        pieces = [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]
        assert any(piece in code for piece in pieces), phrase


def test_every_subcommand_is_documented() -> None:
    told = " ".join(PAGES[name] for name in OURS)
    for command, takes_a_body in SUBCOMMANDS.items():
        assert re.search(rf"%finetune {command}\b|python -m colab_magics {command}\b", told), command
        assert not takes_a_body or f"%%finetune {command}" in told


def test_every_terminal_command_in_the_documents_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_run", lambda _: None)
    shown = list(lines("python -m colab_magics"))
    assert len(shown) > 5
    for _, line in shown:
        words = line.replace("[", "").replace("]", "").split()[3:]
        assert not words or terminal.main(words) == 0, line


def test_every_cell_in_the_documents_can_be_read() -> None:
    cells = [block for name in OURS for block in blocks(name) if block.startswith("%%finetune")]
    assert len(cells) > 6
    for cell in cells:
        line, _, body = cell.partition("\n")
        options = read_line(line.removeprefix("%%finetune"), known_keys)
        assert parse(body, options.recipe, preset=options.preset, namespace=NOTEBOOK).recipe.model


def test_every_line_magic_in_the_documents_can_be_read() -> None:
    shown = list(lines("%finetune"))
    assert shown
    for _, line in shown:
        assert line == "%finetune" or read_line(line.removeprefix("%finetune"), known_keys) != Options()


def test_every_session_line_in_the_documents_can_be_read(tmp_path: Path) -> None:
    shown = [line for _, line in lines("%session") if line not in ("%session set", "%session unset")]  # their names
    assert len(shown) > 15
    environ = {"COLAB_MAGICS_SESSION": str(tmp_path / "session.toml")}
    for line in shown:
        asked = session_line.read(split(line.removeprefix("%session")))
        if asked.command == "set" and not {"NAME", "VALUE", "TIME"} & set(asked.words):
            key, value = asked.words
            set_value(SPELT.get(key, key), value, environ=environ, clock=Earlier())


def test_every_vram_line_in_the_documents_can_be_read() -> None:
    shown = {re.split(r"\s{2,}", line)[0] for _, line in lines("%vram")}  # a page may say beside a line what it does
    assert len(shown) > 10
    for line in shown:
        asked = vram_line.read(split(re.sub(r"\[[^]]*\]", "", line.removeprefix("%vram"))))
        if asked.command == "estimate":
            vram_estimate_line.read(asked.words)


@pytest.mark.parametrize(("magic", "line"), [("%generate", generate_line), ("%compare", compare_line)])
def test_every_line_that_asks_a_model_in_the_documents_can_be_read(magic: str, line: ModuleType) -> None:
    shown = {shown for start in (magic, f"%{magic}") for _, shown in lines(start)}
    assert len(shown) > 5
    for one in shown:
        line.read(asked_words(one.lstrip("%").removeprefix(magic.lstrip("%"))))
    told = PAGES["generate.md"] + PAGES["compare.md"]
    for option in (*line.VALUES, *line.FLAGS, *OPTIONS):
        # --root and --on are the same everywhere, and told in the help alone
        spelt = f"--{option.replace('_', '-')}"
        assert spelt in told or spelt in generate.HELP, spelt


def test_every_export_and_report_line_in_the_documents_can_be_read() -> None:
    for start, read in (("%export", export_line.read), ("%report", report_line.read)):
        shown = {re.split(r"\s{2,}", line)[0] for _, line in lines(start)}
        assert len(shown) > 1
        for line in shown:
            assert not read(split(line.removeprefix(start))).help


def test_every_option_of_export_and_report_is_documented() -> None:
    told = rows("export.md")
    for name, value in export_line.OPTIONS.items():
        assert f"--{name}{f' {value}' if value else ''}" in told
    assert all(f"--{name}" in EXPORT_HELP for name in export_line.OPTIONS)
    assert all(f"--{name}" in REPORT_HELP for name in report_line.OPTIONS)


def test_the_sections_of_a_report_are_those_of_its_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").touch()
    made = report_of(gather(Run(tmp_path / "run"), Table({}, {}, {}, "", {}), now=0.0))
    page = re.findall(r"^\| ([A-Z][^|]*?) \|", PAGES["report.md"], re.MULTILINE)
    assert [one.title for one in made.sections] == page


class Earlier(BootClock):
    """A machine on which the dates of the documents are still to come, and that was started just now."""

    def started(self) -> float:
        return self.now()

    def wall(self) -> datetime:
        return datetime(2026, 11, 20, tzinfo=timezone.utc)


def test_the_rows_shown_in_the_readme_are_understood() -> None:
    (block,) = (block for block in blocks("README.md") if block.startswith('{"messages"'))
    names = []
    for line in block.splitlines():
        row = json.loads(line)
        form = detect([Row("line 1", row)], Wishes(), source="rows", written=lambda _: False)
        form.read(row)
        names.append(form.name)
    assert names == ["messages", "prompt + completion", "Alpaca", "text"]


def test_the_plain_template_is_shown_as_it_is() -> None:
    said = [
        {"role": "user", "content": "What is a list?"},
        {"role": "assistant", "content": "A sequence that can change."},
    ]
    rendered = Renderer(PLAIN_TEMPLATE, {"eos_token": "<end of text>"}, datetime(2026, 1, 1)).render(said)
    assert rendered.strip() in PAGES["data.md"]


def test_python_in_the_documents_is_python() -> None:
    for name in OURS:
        for block in re.findall(r"^```python\n(.*?)^```", PAGES[name], re.DOTALL | re.MULTILINE):
            ast.parse(block)


def test_files_and_make_targets_named_in_the_documents_exist() -> None:
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    for name in OURS:
        ours = r"(?<!/)\b((?:tests|colab_magics|notebooks|scripts|benchmarks)/[\w./-]*\w)"
        for path in re.findall(ours, PAGES[name]):
            assert (HOME / path).exists(), f"{name} names {path}"
        for target in re.findall(r"`make (\w+)`|^make (\w+)", PAGES[name], re.MULTILINE):
            assert f"\n{''.join(target)}:" in makefile, f"{name} names make {''.join(target)}"


@pytest.mark.parametrize("name", OURS)
def test_links_lead_somewhere(name: str) -> None:
    folder = HOME if (HOME / name).exists() else HOME / "docs"
    for link in re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", PAGES[name]):
        target = "".join(link)
        assert target.startswith("https://") or (folder / target.partition("#")[0]).exists(), target
