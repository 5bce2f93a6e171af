"""`%vram` in a shell, in a kernel and in a terminal: shown once, given as a value, its words handed on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import colab_magics.__main__ as terminal
from colab_magics.magics.completion import complete

from .conftest import Home, Kernel, Reply

pytestmark = [pytest.mark.face, pytest.mark.colab, pytest.mark.xdist_group("vram")]


@pytest.fixture
def shell() -> Iterator[Any]:
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    shell.run_line_magic("load_ext", "colab_magics")
    yield shell
    shell.run_line_magic("unload_ext", "colab_magics")
    InteractiveShell.clear_instance()


def pages(reply: Reply) -> list[dict[str, str]]:
    """The reports that a cell has shown."""
    assert reply.status == "ok", reply.traceback
    return [frame for frames in reply.displays.values() for frame in frames]


# --- shown once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "%vram",
        "1\n%vram\n2;",
        "1\n%vram",
        "x = %vram",
        "x = %vram\nx",
        "%vram\n",
        "for _ in [1]:\n    get_ipython().run_line_magic('vram', '')",
    ],
)
def test_a_report_is_shown_exactly_once_wherever_the_line_stands(kernel: Kernel, cell: str) -> None:
    reply = kernel.run(cell)
    [page] = pages(reply)
    assert page["text/plain"].startswith("Memory of ")
    assert 'class="cm-grid ' in page["text/html"]
    assert "Memory" not in reply.result


def test_a_value_is_shown_again_by_a_later_cell_and_whenever_it_is_displayed(kernel: Kernel) -> None:
    kernel.run("x = %vram")
    assert len(pages(kernel.run("x"))) == 1
    assert len(pages(kernel.run("x"))) == 1
    assert len(pages(kernel.run("y = %vram\ndisplay(y)"))) == 2
    assert kernel.run("print(x)").text.startswith("Memory of ")


def test_the_value_has_figures_in_bytes_owners_and_a_dictionary(kernel: Kernel) -> None:
    kernel.run("x = %vram")
    assert kernel.value("0 < x.host.this_process < x.host.total < 2**50") == "True"
    assert kernel.value("sorted(x.to_dict())") == "['gpus', 'host', 'notes', 'owners', 'workers']"
    assert kernel.value("x.to_dict()['host']['total'] == x.host.total and x.owners") == "()"


def test_asking_imports_no_torch_and_no_numpy_into_the_kernel(kernel: Kernel) -> None:
    kernel.run("%vram\n%vram free")
    assert (
        kernel.value(
            "[name for name in ('torch', 'numpy', 'pandas', 'ipywidgets') if name in __import__('sys').modules]"
        )
        == "[]"
    )


# --- the subcommands of other rooms ----------------------------------------------------------------------------------


class Estimated:
    """Stands for what an estimate gives."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": "4.2 GiB at the peak"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `why` and `estimate` were called with."""
    calls: list[Any] = []

    def why(words: Any, shell: Any, root: Any) -> dict[str, str]:
        calls.append((words, root.name))
        return {"text/plain": "the logits did not fit"}

    def estimate(words: Any, root: Any, body: Any = None, namespace: Any = None) -> Estimated:
        calls.append((words, root.name, body, (namespace or {}).get("base")))
        return Estimated()

    for name, function in (("vram_why", why), ("vram_estimate", estimate)):
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, f"colab_magics.magics.{name}", module)
    return calls


def test_the_words_of_why_and_estimate_reach_them_as_they_were_written(
    shell: Any, asked: list[Any], capsys: Any
) -> None:
    shell.run_cell("%vram why kwanzaa")
    shell.run_cell("base = 'demo'")
    shell.run_cell("e = %vram estimate --model {base} --gpu T4")
    shell.run_cell("%%vram estimate --compare\nmodel: $base\n")
    assert asked == [
        (("kwanzaa",), "runs"),
        (("--model", "{base}", "--gpu", "T4"), "runs", None, "demo"),
        (("--compare",), "runs", "model: $base\n", "demo"),
    ]
    said = capsys.readouterr().out
    assert "the logits did not fit" in said
    assert said.count("4.2 GiB at the peak") == 2
    assert type(shell.user_ns["e"]) is Estimated


def test_in_a_terminal_they_print_text(asked: list[Any], capsys: Any) -> None:
    assert terminal.main(["vram", "why"]) == 0
    assert terminal.main(["vram", "estimate", "--gpu", "T4"]) == 0
    assert capsys.readouterr().out == "the logits did not fit\n4.2 GiB at the peak\n"
    assert asked[1] == (("--gpu", "T4"), "runs", None, None)


def test_a_terminal_reports_the_machine_and_frees_nothing(home: Home) -> None:
    done = home.terminal("vram")
    assert done.stdout.startswith("Memory of "), done.stderr
    assert "held by" not in done.stdout
    refused = home.terminal("vram", "free", "--all")
    assert refused.returncode == 1
    assert refused.stderr.startswith("free belongs in a notebook.")
    assert home.terminal("vram", "--help").stdout.startswith("python -m colab_magics vram ")


def test_only_estimate_takes_a_body(shell: Any) -> None:
    for line in ("", "free", "why"):
        result = shell.run_cell(f"%%vram {line}\nmodel: demo")
        assert "takes no cell body" in str(result.error_in_exec)


@pytest.mark.parametrize(("line", "begin"), [("--help", "%vram  "), ("free --help", "%vram free [NAME ...]")])
def test_help_is_printed(shell: Any, line: str, begin: str, capsys: Any) -> None:
    assert shell.run_line_magic("vram", line) is None
    assert capsys.readouterr().out.startswith(begin)


@pytest.mark.parametrize(
    ("text", "symbol", "offered", "not_offered"),
    [
        ("%vram ", "", "free", "model"),
        ("%vram --w", "--w", "--watch", "--all"),
        ("%vram --watch o", "o", "off", "free"),
        ("%vram free ", "", "model", "step"),
        ("%vram free model ", "", "trainer", "model"),
        ("%vram free --", "--", "--all", "--watch"),
        ("%vram why ", "", "kwanzaa", "model"),
        ("%%vram estimate kw", "kw", "kwanzaa", "model"),
    ],
)
def test_tab_offers_subcommands_variables_and_runs(
    shell: Any, tmp_path: Any, text: str, symbol: str, offered: str, not_offered: str
) -> None:
    (tmp_path / "kwanzaa").mkdir()
    (tmp_path / "kwanzaa" / "events.jsonl").touch()
    shell.run_line_magic("config", f"FinetuneMagics.root = '{tmp_path}'")
    shell.run_cell("import json\nmodel, trainer, _hidden = [1], [2], [3]\ndef step(): pass")
    found = complete(shell, SimpleNamespace(text_until_cursor=text, symbol=symbol))
    assert offered in found
    assert not {not_offered, "json", "_hidden", "In", "Out", "get_ipython"} & set(found)
