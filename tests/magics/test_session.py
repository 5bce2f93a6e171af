"""`%session` in a shell, in a kernel and in a terminal: what can be set, and what is said."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import colab_magics.__main__ as terminal
from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import session_now
from colab_magics.magics.completion import complete
from colab_magics.magics.session_line import COMMANDS
from colab_magics.session.table import load_table

from .conftest import Home, Kernel, session_says

pytestmark = pytest.mark.face


@pytest.fixture
def shell(session_shell: Any) -> Any:
    return session_shell


def test_a_value_that_you_set_holds_and_can_be_taken_back(shell: Any, capsys: Any, tmp_path: Path) -> None:
    told = session_says(shell, capsys, "set limit 1000 h")
    assert told.splitlines()[0] == (
        f'session.limit = "1000 h", until this machine ends. It stands in {tmp_path / "session.toml"}.'
    )
    assert re.fullmatch(r"This session is .+ old and lives for .+ more\.", told.splitlines()[1])
    assert "time limit   1000 h  (as you set it)" in session_says(shell, capsys, "")
    assert "is not set any more" in session_says(shell, capsys, "unset limit")
    assert "none is known" in session_says(shell, capsys, "")


@pytest.mark.parametrize(
    "line",
    [
        "set limit=1000h",
        "set limit = 1000h",
        "set limit 1000 h",
        "set session.limit 1000h",
        "set Limit 1000h",
        "set limit 1000h  # until Friday",
        "set limit “1000h”",
    ],
)
def test_it_may_be_written_as_people_write(shell: Any, capsys: Any, line: str) -> None:
    assert "session.limit" in session_says(shell, capsys, line)
    assert "1000 h" in session_says(shell, capsys, "")


def test_a_limit_that_is_past_says_what_becomes_of_a_run(shell: Any, capsys: Any) -> None:
    told = session_says(shell, capsys, "set plain.limit 1s")
    assert "a run that trains now stops after its step. %session unset plain.limit takes that back." in told
    assert "past since " in session_says(shell, capsys, "  # and the panel?")
    session_says(shell, capsys, "set plain.limit 1000h")
    assert "%session unset start takes that back." in session_says(shell, capsys, "set start 999 days")


def test_the_platform_can_be_named_and_its_facts_follow(shell: Any, capsys: Any) -> None:
    session_says(shell, capsys, "set platform kaggle")
    assert session_says(shell, capsys, "").startswith("Kaggle, interactive  (set in ")
    session_says(shell, capsys, "set kaggle.weekly 6h")
    assert "GPU a week   6 h" in session_says(shell, capsys, "")


def test_a_threshold_is_called_as_people_call_it(shell: Any, capsys: Any) -> None:
    assert session_says(shell, capsys, "set drive_limit 12 GB").startswith(
        'thresholds.drive = "12 GB", for every session.'
    )
    assert "Drive 12 GB" in session_says(shell, capsys, "")
    assert "thresholds.drive is not set any more" in session_says(shell, capsys, "unset drive_limit")


def test_the_table_tells_where_it_is_and_what_is_yours(shell: Any, capsys: Any, tmp_path: Path) -> None:
    told = session_says(shell, capsys, "table")
    assert "platforms.toml" in told
    assert f"{tmp_path / 'session.toml'} (not there yet)" in told
    assert all(key in told for key in load_table().platforms)
    session_says(shell, capsys, "set kaggle.limit 9h")
    assert "You have set: platforms.kaggle.limit" in session_says(shell, capsys, "table")


def test_help_is_printed(shell: Any, capsys: Any) -> None:
    assert all(command in session_says(shell, capsys, "--help") for command in COMMANDS)
    assert session_says(shell, capsys, "set --help") == "%session set KEY VALUE\n"


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("sett limit 10h", ["There is no subcommand sett.", "→ Did you mean %session set?"]),
        ("set", ["%session set needs a key and a value.",
                 "→ Write %session set limit VALUE, as in %session set limit 10h."]),
        ("set limit", ["%session set needs a value.", "limit is given nothing."]),
        ("set limit 10 hous", ["limit 10 hous is no time.", "Nothing was changed."]),
        ("set limt 10h", ["There is no key limt.", "→ Did you mean limit?"]),
        ("set platform colap-free", ["There is no platform colap-free.", "→ Did you mean colab-free?"]),
        ("set kagle.limit 9h", ["There is no platform kagle.", "→ Did you mean kaggle?"]),
        ("unset limit", ["limit is not set.", "→ Nothing is set."]),
        ("unset", ["%session unset needs a key.", "→ Write %session unset KEY."]),
        ("table now", ["%session table takes no now.", "→ Write %session table."]),
        ("setup --ou paths", ["%session setup takes no --ou.", "→ Did you mean --out?"]),
        ("setup --out 1x", ["--out 1x is no variable name.", "→ Use letters, digits and _, as in --out paths."]),
        ("set limit 'x", ["The line cannot be read.", "→ Close the quote, or leave it out."]),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_told_with_what_was_meant_and_changes_nothing(
    shell: Any, tmp_path: Path, line: str, lines: list[str]
) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", line)
    told = refused.value.lines()
    assert 2 <= len(told) <= 4
    assert all(one in told for one in lines), told
    assert not (tmp_path / "session.toml").exists()
    assert not list((tmp_path / "notebook").iterdir())


def test_a_mistake_in_your_own_file_is_told_with_its_line(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "session.toml").write_text('[session]\nlimit = "10 hous"\n')
    with pytest.raises(ColabMagicsError, match=r"line 2: limit = '10 hous' is no time\."):
        shell.run_line_magic("session", "")


def test_only_plan_reads_a_body(shell: Any) -> None:
    with pytest.raises(ColabMagicsError, match="takes no cell body"):
        shell.run_cell_magic("session", "cost", "model: demo")
    with pytest.raises(ColabMagicsError, match="%%session alone takes no cell body"):
        shell.run_cell_magic("session", "", "model: demo")


def test_it_goes_with_the_extension(shell: Any) -> None:
    assert shell.find_line_magic("session")
    assert shell.find_cell_magic("session")
    shell.run_line_magic("unload_ext", "colab_magics")
    assert shell.find_line_magic("session") is None
    assert shell.find_cell_magic("session") is None
    assert "SessionMagics" not in shell.magics_manager.registry
    shell.run_line_magic("load_ext", "colab_magics")


@pytest.mark.parametrize(
    ("text", "symbol", "offered"),
    [
        ("%session ", "", set(COMMANDS)),
        ("session se", "se", {"set", "setup"}),
        ("%session set ", "", {"limit", "platform", "thresholds.drive", "kaggle.weekly", "colab-pro.units.T4"}),
        ("%session set platform ", "", {"kaggle", "colab-free", "plain"}),
        ("%session setup --", "--", {"--out"}),
    ],
)
def test_tab_offers_subcommands_keys_and_platforms(shell: Any, text: str, symbol: str, offered: set[str]) -> None:
    assert offered <= set(complete(shell, SimpleNamespace(text_until_cursor=text, symbol=symbol)))


def test_tab_offers_to_unset_what_is_set(shell: Any, capsys: Any) -> None:
    session_says(shell, capsys, "set kaggle.limit 9h")
    event = SimpleNamespace(text_until_cursor="%session unset ", symbol="")
    assert complete(shell, event) == ["kaggle.limit"]


# --- in a terminal and in a kernel -----------------------------------------------------------------------------------


def test_a_terminal_shows_and_sets_and_leaves_the_setup_to_the_notebook(
    shell: Any, capsys: Any, tmp_path: Path
) -> None:
    assert terminal.main(["session", "set", "limit", "1000", "h"]) == 0
    assert terminal.main(["session"]) == 0
    out = capsys.readouterr().out
    assert "session.limit" in out
    assert "1000 h  (as you set it)" in out
    assert terminal.main(["session", "setup"]) == 1
    assert "Run %session setup in a cell." in capsys.readouterr().err
    assert terminal.main(["session", "set", "--help"]) == 0
    assert capsys.readouterr().out == "python -m colab_magics session set KEY VALUE\n"


@pytest.fixture(scope="module")
def home(home: Home) -> Home:
    home.environment["COLAB_MAGICS_SESSION"] = str(home.folder / "session.toml")
    home.environment["COLAB_MAGICS_PLATFORM"] = "kaggle"
    return home


def test_a_kernel_shows_one_output_in_both_forms_and_when_its_last_cell_was_run(home: Home, kernel: Kernel) -> None:
    kernel.run("1 + 1")
    reply = kernel.run("%session")
    ((frame,),) = reply.displays.values()
    assert set(frame) == {"text/html", "text/plain"}
    assert frame["text/plain"].startswith("Kaggle, interactive  (COLAB_MAGICS_PLATFORM)")
    assert "last cell    just now" in frame["text/plain"]
    assert reply.status == "ok"
    assert reply.text == ""


def test_an_error_of_the_line_is_words_and_no_traceback(kernel: Kernel) -> None:
    reply = kernel.run("%session set limit 10 hous")
    assert (reply.status, reply.error) == ("error", "ColabMagicsError")
    assert reply.traceback == [
        "limit 10 hous is no time.",
        "Nothing was changed.",
        "→ Write it as 10h, 90min, 1h30m, or as the end: 2026-11-20T10:00.",
    ]


def test_the_kernel_learns_what_a_terminal_sets(home: Home, kernel: Kernel) -> None:
    done = home.terminal("session", "set", "limit", "1000h")
    assert done.returncode == 0, done.stderr
    ((frame,),) = kernel.run("%session").displays.values()
    assert "time limit   1000 h  (as you set it)" in frame["text/plain"]


@pytest.mark.parametrize("written", ["memory_limit 14 GB", "ram_limit 80%", "disk_limit 95%", "run_limit 10h"])
def test_the_short_names_in_the_documents_are_those_of_the_code(shell: Any, capsys: Any, written: str) -> None:
    key = written.partition("_")[0]
    assert session_says(shell, capsys, f"set {written}").startswith(f"thresholds.{key} = ")


def test_the_idle_limit_is_the_platforms_and_no_threshold(shell: Any, capsys: Any) -> None:
    assert session_says(shell, capsys, "set idle_limit 60 min").startswith("session.idle = ")
    assert session_says(shell, capsys, "set time_limit 1000h").startswith("session.limit = ")


def test_a_run_that_has_long_been_alive_is_flagged(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(tmp_path / "session.toml"))
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "plain")
    for name in ("kwanzaa", "ended"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "events.jsonl").write_text("")
    worker._write_info(tmp_path / "runs" / "kwanzaa", psutil.Process().pid, 1)  # this very process
    name, seconds = session_now._longest(tmp_path / "runs") or ("", 0.0)
    assert name == "kwanzaa"
    assert seconds > 0
    (tmp_path / "session.toml").write_text('[thresholds]\nrun = "0.001s"\n')
    assert [flag.key for flag in session_now.known_now(tmp_path / "runs").flags] == ["run"]
