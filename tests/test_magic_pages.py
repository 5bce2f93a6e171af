"""docs/magics has a page a magic: what `%magic --help` prints, what `%magic?` shows, and what the parsers take."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from colab_magics.errors import ColabMagicsError
from colab_magics.inference.sampling import FLAGS as DRAWS
from colab_magics.inference.sampling import OPTIONS as DRAWN
from colab_magics.magics import (
    asking_line,
    checkpoint_line,
    compare_line,
    export_line,
    generate_line,
    options,
    panel,
    report_line,
    session_cost,
    session_line,
    session_plan_line,
    vram_estimate_line,
    vram_line,
    vram_why,
)
from colab_magics.magics.line import split
from colab_magics.recipe.spellings import known_keys
from colab_magics.session.table import load_table

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "docs" / "magics"
sys.path.insert(0, str(REPOSITORY / "scripts"))

import make_magic_pages as maker  # noqa: E402

OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")


@pytest.fixture(scope="module")
def shell() -> Iterator[Any]:
    made = maker.shell_with_magics()
    yield made
    made.run_line_magic("unload_ext", "colab_magics")
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def pages(shell: Any) -> dict[str, str]:
    return maker.pages(shell)


def test_every_page_is_what_the_magics_say_today(pages: dict[str, str]) -> None:
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    for name, text in pages.items():
        assert on_disk.get(name) == text, f"docs/magics/{name} is not what its magic says: make docs"
    assert on_disk.keys() == pages.keys()


def test_every_registered_magic_has_a_page_with_its_help_and_links(shell: Any, pages: dict[str, str]) -> None:
    for name, written in maker.magics(shell).items():
        text = pages[f"{name}.md"]
        assert maker.helped(shell, f"{name} --help") in text
        assert all(f"`{one}`" in pages["README.md"] for one in written)
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert links
        assert all((FOLDER / link).exists() for link in links)


def test_the_readme_leads_to_the_pages() -> None:
    assert "(docs/magics/README.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*maker.MORE])
def test_the_question_mark_shows_what_help_prints(shell: Any, name: str) -> None:
    told = shell.object_inspect(name, detail_level=0)["docstring"]
    assert told.partition("\n\n")[2].rstrip() == maker.helped(shell, f"{name} --help")
    assert len(told.partition("\n")[0]) < 80  # a line of %quickref


@pytest.mark.parametrize("name", [*maker.MORE])
def test_every_help_names_the_magic_itself(shell: Any, name: str) -> None:
    assert re.match(rf"%?%{name}\b", maker.helped(shell, f"{name} --help"))
    for command in maker.SUBCOMMANDS.get(name, ()):
        assert re.match(rf"%?%{name} {command}\b|.*\(also %%{name} {command}\)", first_written(shell, name, command))


def first_written(shell: Any, name: str, command: str) -> str:
    return maker.helped(shell, f"{name} {command} --help").partition("\n")[0]


# --- what is told is taken -------------------------------------------------------------------------------------------


def session(line: str) -> None:
    asked = session_line.read(split(line))
    if asked.command == "plan":
        session_plan_line.read_words(asked.words, load_table(None))
    elif asked.command == "cost":
        session_cost.cost(asked.words, Path("no such folder"))


def vram(line: str) -> None:
    asked = vram_line.read(split(line))
    if asked.command == "estimate":
        vram_estimate_line.read(asked.words)
    elif asked.command == "why":
        vram_why.why(asked.words, None, Path("no such folder"))


READS: dict[str, Callable[[str], Any]] = {
    "finetune": lambda line: options.read_line(line, known_keys),
    "checkpoint": checkpoint_line.read_line,
    "panel": panel.read_line,
    "session": session,
    "vram": vram,
    "generate": lambda line: generate_line.read(asking_line.asked_words(line)),
    "compare": lambda line: compare_line.read(asking_line.asked_words(line)),
    "export": lambda line: export_line.read(split(line)),
    "report": lambda line: report_line.read(split(line)),
}
VALUES = ("", "x", "3", "auto", "11h", "fp16", "cuda", "x.md", "x.zip", "t4", "kaggle", "hub://me/mine", "50,100")


def takes(magic: str, line: str, option: str) -> bool:
    """Whether a line may have the option: with some value it is read, or refused for another reason than itself."""
    if magic == "session" and line in ("set", "unset", "table"):
        return False  # what follows is a key or nothing
    for value in VALUES:
        try:
            READS[magic](f"{line} --{option} {value}".strip())
        except ColabMagicsError as error:
            if re.search(rf"no (option|subcommand) --{option}|takes no --{option}\b", str(error)):
                continue
        return True
    return False


@pytest.mark.parametrize("name", [*maker.MORE])
def test_every_option_that_a_help_names_is_taken(shell: Any, name: str) -> None:
    lines = ["", *maker.SUBCOMMANDS.get(name, ())]
    told = set(OPTION.findall(maker.helped(shell, f"{name} --help"))) - {"help", "any-recipe-key"}
    assert told or name == "session"
    for option in told:
        assert any(takes(name, line, option) for line in lines), f"%{name} --help tells of --{option}"
    for command in maker.SUBCOMMANDS.get(name, ()):
        for option in set(OPTION.findall(maker.helped(shell, f"{name} {command} --help"))):
            assert takes(name, command, option), f"%{name} {command} --help tells of --{option}"


def test_an_option_that_is_in_no_help_is_not_taken() -> None:
    for name in READS:
        assert not any(takes(name, line, "colour") for line in ("", *maker.SUBCOMMANDS.get(name, ()))), name


HAS: dict[str, tuple[str, ...]] = {
    "finetune": tuple(options.OWN),
    "checkpoint": tuple(one for grammar in checkpoint_line.COMMANDS.values() for one in grammar.options),
    "panel": tuple(panel.OPTIONS),
    "session": session_plan_line._OPTIONS,
    "vram": (*vram_estimate_line._VALUES, *vram_estimate_line._FLAGS),
    "generate": (*generate_line.VALUES, *generate_line.FLAGS),
    "compare": (*compare_line.VALUES, *compare_line.FLAGS),
    "export": tuple(export_line.OPTIONS),
    "report": tuple(report_line.OPTIONS),
}


@pytest.mark.parametrize("name", [*HAS])
def test_every_option_of_a_magic_is_in_its_page(pages: dict[str, str], name: str) -> None:
    told = set(OPTION.findall(pages[f"{name}.md"])) | {"help"}
    missing = {option.replace("_", "-") for option in HAS[name]} - told
    assert not missing


def test_the_options_of_generation_that_a_help_names_are_transformers_own(pages: dict[str, str]) -> None:
    ours = {*generate_line.VALUES, *generate_line.FLAGS}
    others = {option.replace("-", "_") for option in OPTION.findall(pages["generate.md"])} - ours - {"help"}
    assert others
    assert others <= {*DRAWN, *DRAWS}
