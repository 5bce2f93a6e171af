"""`%checkpoint` in a shell, in a kernel and in a terminal; and its completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import colab_magics.__main__ as terminal
from colab_magics.errors import ColabMagicsError, Interrupted
from colab_magics.magics import checkpoint_commands
from colab_magics.magics.checkpoint import configured_replica
from colab_magics.magics.checkpoint_line import COMMANDS
from colab_magics.magics.completion import complete

from .checkpointed import Left, tree
from .conftest import Home, Kernel

pytestmark = [pytest.mark.face, pytest.mark.xdist_group("checkpoint")]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Any]:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    shell.run_line_magic("load_ext", "colab_magics")
    shell.run_line_magic("config", f"FinetuneMagics.root = {str(tmp_path)!r}")
    yield shell
    InteractiveShell.clear_instance()


# --- in a shell ------------------------------------------------------------------------------------------------------


def test_help_behind_a_subcommand_is_of_that_one(shell: Any, capsys: Any) -> None:
    shell.run_line_magic("checkpoint", "verify --help")
    assert capsys.readouterr().out == "%checkpoint verify [RUN] [--full]\n"
    assert terminal.main(["checkpoint", "pin", "--help"]) == 0
    assert capsys.readouterr().out == "python -m colab_magics checkpoint pin STEP [RUN]\n"


@pytest.mark.parametrize("line", ["", "--help"])
def test_help_is_printed_for_help_and_for_an_empty_line(shell: Any, capsys: Any, line: str) -> None:
    shell.run_line_magic("checkpoint", line)
    assert "verify [RUN] [--full]" in capsys.readouterr().out


def test_text_is_printed_and_a_table_is_shown_in_both_forms(shell: Any, tmp_path: Path, capsys: Any) -> None:
    Left(tmp_path).save(20)
    shell.run_line_magic("checkpoint", "pin 20")
    assert capsys.readouterr().out.startswith("Pinned step 20")
    shell.run_line_magic("checkpoint", "list")
    assert "step" in capsys.readouterr().out


def test_the_root_of_finetune_is_that_of_checkpoint_and_the_line_overrides_it(
    shell: Any, tmp_path: Path, capsys: Any
) -> None:
    other = Left(tmp_path / "elsewhere", "other")
    other.save(20)
    with pytest.raises(ColabMagicsError, match="There is no run in"):
        shell.run_line_magic("checkpoint", "list")
    shell.run_line_magic("checkpoint", f"verify --root {other.root}")
    assert "00000020-a1" in capsys.readouterr().out


def test_the_replica_of_config_is_there_for_others_to_ask(shell: Any) -> None:
    assert configured_replica(shell) == ""
    shell.run_line_magic("config", "CheckpointMagics.replica = '/drive/colab_magics'")
    assert configured_replica(shell) == "/drive/colab_magics"


def test_an_interrupt_is_one_line_and_no_traceback(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_commands, "perform", interrupted)
    with pytest.raises(Interrupted, match=r"%checkpoint verify was stopped before its end\."):
        shell.run_line_magic("checkpoint", "verify")


@pytest.mark.parametrize("line", ["lsit", "pin", "prune --keep x", "list nothing", "export", "save", "fetch"])
def test_bad_input_changes_nothing_on_the_disk(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.delenv("COLAB_MAGICS_REPLICA", raising=False)
    Left(tmp_path).save(20)
    before = tree(tmp_path)
    with pytest.raises(ColabMagicsError) as raised:
        shell.run_line_magic("checkpoint", line)
    assert tree(tmp_path) == before
    assert 2 <= len(raised.value.lines()) <= 5


def test_unload_takes_the_magic_and_its_completion_away(shell: Any) -> None:
    def words() -> list[str]:
        dispatch = shell.strdispatchers.get("complete_command")
        return [] if dispatch is None else [word for word in dispatch.strs if "checkpoint" in word]

    assert shell.find_line_magic("checkpoint")
    assert words()
    shell.run_line_magic("reload_ext", "colab_magics")
    assert [type(one).__name__ for one in shell.configurables].count("CheckpointMagics") == 1
    shell.run_line_magic("unload_ext", "colab_magics")
    assert shell.find_line_magic("checkpoint") is None
    assert words() == []
    assert "CheckpointMagics" not in shell.magics_manager.registry


# --- completion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "symbol", "offered"),
    [
        ("%checkpoint ", "", set(COMMANDS)),
        ("checkpoint ver", "ver", {"verify"}),
        ("%checkpoint list ", "", {"kwanzaa", "other"}),
        ("%checkpoint verify --f", "--f", {"--full", "--root"}),
        ("%checkpoint prune --", "--", {"--keep", "--dry-run"}),
        ("%checkpoint pin ", "", {"20", "40", "kwanzaa"}),
        ("%checkpoint pin 2", "2", {"20"}),
        ("%checkpoint show other ", "", {"7"}),
        ("%checkpoint resume kwanzaa --from ", "", {"20", "40"}),
        ("%checkpoint export x.zip other --step ", "", {"7"}),
        ("%checkpoint export x.zip ", "", {"kwanzaa"}),
        ("%checkpoint resume --panel h", "h", {"html"}),
    ],
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_tab_offers_subcommands_runs_options_and_steps(
    shell: Any, tmp_path: Path, text: str, symbol: str, offered: set[str]
) -> None:
    Left(tmp_path, "other").save(7)
    left = Left(tmp_path)
    left.save(20)
    left.save(40)
    assert offered <= set(complete(shell, SimpleNamespace(text_until_cursor=text, symbol=symbol)))
    shell.Completer.use_jedi = False
    begun = {one for one in offered if one.startswith(symbol)}
    assert begun <= set(shell.complete(symbol, text, len(text))[1])


@pytest.mark.parametrize("text", ["%checkpoint nonsense ", "%checkpoint export ", "%checkpoint list --root "])
def test_where_nothing_of_ours_can_stand_nothing_is_offered(shell: Any, tmp_path: Path, text: str) -> None:
    Left(tmp_path).save(20)
    assert complete(shell, SimpleNamespace(text_until_cursor=text, symbol="")) == []


def test_completion_without_any_run_offers_no_step_and_does_not_raise(shell: Any) -> None:
    assert complete(shell, SimpleNamespace(text_until_cursor="%checkpoint pin ", symbol="")) == []


# --- from a terminal and in a real kernel ----------------------------------------------------------------------------


def test_a_terminal_does_the_same_and_an_error_is_exit_status_1(home: Home) -> None:
    left = Left(home.runs, "terminal")
    left.save(20)
    assert home.terminal("checkpoint", "pin", "20", "terminal").stdout.startswith("Pinned step 20 of terminal")
    listed = home.terminal("checkpoint", "list", "terminal")
    assert listed.returncode == 0
    assert "newest, pinned" in listed.stdout
    wrong = home.terminal("checkpoint", "pin", "21", "terminal")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.splitlines()[-1] == "→ Did you mean 20?"
    assert "export PATH" in home.terminal("checkpoint", "--help").stdout
    assert "checkpoint" in home.terminal("--help").stdout


def test_a_kernel_shows_the_table_as_html_and_text_and_an_error_in_a_few_lines(home: Home, kernel: Kernel) -> None:
    left = Left(home.runs, "kernel")
    left.save(20)
    reply = kernel.run("%checkpoint list kernel")
    ((frame,),) = reply.displays.values()
    assert frame["text/html"].startswith('<div class="cm-checkpoints ')
    assert frame["text/plain"].splitlines()[1].split()[0] == "20"
    assert (reply.text, reply.result) == ("", "")
    wrong = kernel.run("%checkpoint show kernel 21")
    assert wrong.error == "ColabMagicsError"
    assert wrong.traceback == ["kernel has no checkpoint of step 21.", "It has 20.", "→ Did you mean 20?"]


def test_a_kernel_expands_its_variables_in_the_line(home: Home, kernel: Kernel) -> None:
    Left(home.runs, "expanded").save(20)
    kernel.run("name, step = 'expanded', 20")
    assert kernel.run("%checkpoint pin $step {name}").text.startswith("Pinned step 20 of expanded")


def test_the_subcommands_import_no_torch_and_no_file_system_library(home: Home, kernel: Kernel) -> None:
    left = Left(home.runs, "light")
    left.save(20)
    for line in ("list light", "verify light --full", "show light", "prune light", f"export {home.folder / 'l'} light"):
        reply = kernel.run(f"%checkpoint {line}")
        assert reply.status == "ok", reply.traceback
    heavy = "torch transformers peft safetensors fsspec pandas numpy huggingface_hub".split()
    assert kernel.value(f"[name for name in {heavy} if name in __import__('sys').modules]") == "[]"
