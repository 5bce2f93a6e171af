"""When the kernel's last cell was run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from colab_magics.magics.activity import ACTIVITY, HOOKS, Activity

from .conftest import Kernel

pytestmark = [pytest.mark.face, pytest.mark.colab]

ASK = "from colab_magics.magics.activity import ACTIVITY"


@pytest.fixture
def shell() -> Iterator[Any]:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    yield shell
    shell.run_line_magic("unload_ext", "colab_magics")
    InteractiveShell.clear_instance()


def hooked(shell: Any) -> list[int]:
    return [len([one for one in shell.events.callbacks[event] if one is hook]) for event, hook in HOOKS.items()]


def test_before_any_cell_nothing_is_known() -> None:
    assert (Activity().idle(), Activity().since_last()) == (None, None)


def test_the_hooks_come_once_and_go_with_the_extension(shell: Any) -> None:
    shell.run_line_magic("load_ext", "colab_magics")
    shell.run_line_magic("reload_ext", "colab_magics")
    assert hooked(shell) == [1, 1]
    shell.run_line_magic("unload_ext", "colab_magics")
    assert hooked(shell) == [0, 0]
    shell.run_line_magic("load_ext", "colab_magics")


@pytest.mark.parametrize("ends", ["1 + 1", "1 / 0", "1 +", "raise KeyboardInterrupt"])
def test_a_cell_counts_however_it_ends_and_while_it_runs_the_kernel_is_not_idle(
    shell: Any, ends: str, capsys: Any
) -> None:
    shell.run_line_magic("load_ext", "colab_magics")
    ACTIVITY.began = ACTIVITY.ended = None
    shell.user_ns["seen"] = lambda: (ACTIVITY.idle(), ACTIVITY.began is not None)
    shell.run_cell(ends)
    idle = ACTIVITY.idle()
    assert idle is not None
    shell.run_cell("said = seen()")
    assert shell.user_ns["said"] == (None, True)
    later = ACTIVITY.idle()
    assert later is not None
    assert "Error in callback" not in capsys.readouterr().out


def test_in_a_kernel_a_cell_sees_when_the_one_before_it_ended(kernel: Kernel) -> None:
    kernel.run("import time; time.sleep(0.2)")
    kernel.run("time.sleep(0.2)")
    assert float(kernel.value(f"exec({ASK!r}) or ACTIVITY.since_last()")) < 5
    assert kernel.value("ACTIVITY.idle()") == "None"
