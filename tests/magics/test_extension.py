"""Loading and unloading: fast, silent, complete; and completion."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from colab_magics.magics.completion import complete

pytestmark = pytest.mark.face

HEAVY = ["torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "pynvml", "ipywidgets",
         "yaml", "psutil", "numpy", "pandas"]  # fmt: skip

LOAD = f"""
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
shell = InteractiveShell(config=Config(HistoryManager=dict(enabled=False)))
import os
environment = dict(os.environ)
before = set(sys.modules)
begin = time.process_time()
shell.run_line_magic("load_ext", "colab_magics")
seconds = time.process_time() - begin
heavy = [name for name in {HEAVY!r} if name in set(sys.modules) - before]
print(json.dumps([seconds, heavy, dict(os.environ) == environment]))
"""


def test_load_ext_takes_less_than_60_ms_prints_nothing_and_imports_nothing_heavy() -> None:
    # With byte code, as every installed package has it: where an environment forbids writing it, each process would
    # compile our source again, and that would be measured. The first process writes it and is not counted.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    seconds = []  # of CPU time: what the other tests do to the clock is not ours
    for _ in range(6):
        done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True,
                              cwd=Path(__file__).parents[2], env=environment)  # fmt: skip
        assert done.stdout.count("\n") == 1, "nothing but our own line is printed"
        took, heavy, same_environment = json.loads(done.stdout)
        assert heavy == []
        assert same_environment
        seconds.append(took)
    assert statistics.median(seconds[1:]) < 0.060


@pytest.fixture
def shell() -> Iterator[Any]:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    yield shell
    InteractiveShell.clear_instance()


def hooks(shell: Any) -> list[str]:
    dispatch = shell.strdispatchers.get("complete_command")
    return [] if dispatch is None else [word for word in dispatch.strs if "finetune" in word]


def test_unload_takes_back_all_that_load_registered(shell: Any) -> None:
    shell.run_line_magic("config", "HistoryManager")  # IPython brings in its own magics at their first use
    shell.run_line_magic("reload_ext", "colab_magics")
    shell.run_line_magic("unload_ext", "colab_magics")
    before = ([type(one) for one in shell.configurables], set(shell.magics_manager.registry))
    shell.run_line_magic("load_ext", "colab_magics")
    assert shell.find_line_magic("finetune")
    assert shell.find_cell_magic("finetune")
    assert hooks(shell)
    shell.run_line_magic("unload_ext", "colab_magics")
    assert shell.find_line_magic("finetune") is None
    assert shell.find_cell_magic("finetune") is None
    assert hooks(shell) == []
    assert ([type(one) for one in shell.configurables], set(shell.magics_manager.registry)) == before


def test_loading_twice_and_reloading_leave_one_of_everything(shell: Any) -> None:
    for magic in ("load_ext", "load_ext", "reload_ext", "unload_ext", "load_ext"):
        shell.run_line_magic(magic, "colab_magics")
    assert [type(one).__name__ for one in shell.configurables].count("FinetuneMagics") == 1
    chains = shell.strdispatchers["complete_command"].strs
    assert all(len(chains[word].chain) == 1 for word in hooks(shell))


def test_config_sets_where_runs_live_and_how_they_are_shown(shell: Any, tmp_path: Path, capsys: Any) -> None:
    shell.run_line_magic("load_ext", "colab_magics")
    shell.run_line_magic("config", "FinetuneMagics.panel = 'text'")
    shell.run_line_magic("config", f"FinetuneMagics.root = '{tmp_path}'")
    shell.run_line_magic("finetune", "list")
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize("line", ["%finetune status", "%panel", "%checkpoint resume"])
def test_a_misspelt_kind_of_panel_ends_the_next_cell_that_needs_one_and_names_the_nearest(
    shell: Any, line: str
) -> None:
    shell.run_line_magic("load_ext", "colab_magics")
    shell.run_cell("%config FinetuneMagics.panel = 'htm'")
    result = shell.run_cell(line)
    assert str(result.error_in_exec).splitlines()[-1] == "→ Did you mean %config FinetuneMagics.panel = html?"


def test_help_is_printed_for_help_and_for_an_empty_line(shell: Any, capsys: Any) -> None:
    shell.run_line_magic("load_ext", "colab_magics")
    for line in ("--help", "-h", ""):
        shell.run_line_magic("finetune", line)
        assert "--background" in capsys.readouterr().out


def test_the_help_of_a_subcommand_is_of_that_alone(shell: Any, capsys: Any) -> None:
    shell.run_line_magic("load_ext", "colab_magics")
    shell.run_line_magic("finetune", "stop --help")
    said = capsys.readouterr().out
    assert said.startswith("%finetune stop [RUN] [--now] ")
    assert "--root" in said
    assert "--background" not in said


def test_every_subcommand_has_its_help() -> None:
    from colab_magics.magics.finetune import usage
    from colab_magics.magics.options import SUBCOMMANDS

    assert all(usage(command).startswith(f"%finetune {command} ") for command in SUBCOMMANDS)


@pytest.mark.parametrize(
    ("text", "symbol", "offered"),
    [
        ("%finetune ", "", "status"),
        ("%finetune sta", "sta", "status"),
        ("%%finetune --ba", "--ba", "--background"),
        ("%%finetune kwanzaa --learn", "--learn", "--learning-rate"),
        ("%finetune attach ", "", "kwanzaa"),
        ("%finetune stop --", "--", "--now"),
        ("%%finetune kw", "kw", "kwanzaa"),
        ("%%finetune x --panel h", "h", "html"),
        ("%panel ", "", "kwanzaa"),
        ("%panel --panel ", "", "widget"),
        ("%panel kwanzaa --ro", "--ro", "--root"),
        ("%export ", "", "kwanzaa"),
        ("%export kwanzaa --me", "--me", "--merge"),
        ("%export --merge --dtype ", "", "bf16"),
        ("%export --gguf ", "", "q8_0"),
        ("%report ", "", "kwanzaa"),
        ("%report kwanzaa --t", "--t", "--to"),
    ],
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_tab_offers_subcommands_options_keys_and_runs(
    shell: Any, tmp_path: Path, text: str, symbol: str, offered: str
) -> None:
    (tmp_path / "kwanzaa").mkdir()
    (tmp_path / "kwanzaa" / "events.jsonl").touch()
    shell.run_line_magic("load_ext", "colab_magics")
    shell.run_line_magic("config", f"FinetuneMagics.root = '{tmp_path}'")
    assert offered in complete(shell, SimpleNamespace(text_until_cursor=text, symbol=symbol))
    shell.Completer.use_jedi = False
    assert offered in shell.complete(symbol, text, len(text))[1]


def test_public_names_are_there_when_asked_for_and_no_others() -> None:
    import colab_magics
    from colab_magics.run import Run

    assert colab_magics.Run is Run
    assert {"Recipe", "ColabMagicsError"} <= set(dir(colab_magics))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = colab_magics.nonsense
