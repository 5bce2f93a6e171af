"""The panel as widgets in the classic notebook, with the ipywidgets, IPython and ipykernel that Colab has."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from magics.conftest import Home, wait_for

from colab_magics import worker

from .conftest import ENDLESS, SHORT, Server, moves, outputs, picture, saved, server, shows


def _is_classic() -> bool:
    try:
        return version("notebook").startswith("6.")
    except PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.colab,
    pytest.mark.xdist_group("classic"),
    pytest.mark.skipif(not _is_classic(), reason="the classic notebook 6 is not installed"),
]

PLAIN = {"text/html", "text/plain"}


@pytest.fixture(scope="module")
def classic(home: Home, warm: Any, browser: Any) -> Iterator[Server]:
    with server(home, warm, ["-m", "notebook"]) as running:
        yield running


def address(classic: Server, name: str) -> str:
    return f"{classic.url}notebooks/{name}.ipynb?token={classic.token}"


def opened(page: Any, classic: Server, name: str) -> None:
    """Open a notebook that has no kernel yet, and wait for it.

    The widget manager first asks the kernel for widgets in a way that ipywidgets 7 does not know, says so, and looks
    for them one by one: what is made in that moment is lost to it.
    """
    with page.expect_console_message(lambda message: "jupyter.widget.control" in message.text):
        page.goto(address(classic, name))
    page.wait_for_function("() => Jupyter.notebook.kernel.is_connected() && Jupyter.notebook.kernel.widget_manager")


def test_widgets_move_while_the_cell_runs_and_a_plain_frame_outlives_a_reload(classic: Server, page: Any) -> None:
    path = classic.write("blocking", f"%%finetune blocking --panel widget\n{SHORT}")
    opened(page, classic, "blocking")
    page.evaluate("() => Jupyter.notebook.execute_all_cells()")
    page.locator(".widget-html .cm-panel").first.wait_for()
    shows(page, "blocking", "training")
    moves(page, frames=2)  # on a fast machine there are not many
    picture(page, "classic-training")
    assert page.get_by_role("button", name="Stop", exact=True).count() == 0, "it would be deaf"
    shows(page, "blocking", "finished")
    page.evaluate("() => Jupyter.notebook.save_notebook()")
    notebook = saved(path, "blocking: finished")
    assert [set(data) for data in outputs(notebook)] == [PLAIN]

    page.goto(address(classic, "blocking"))
    shows(page, "blocking", "finished")
    assert "step 60 of 60" in page.locator(".cm-panel:not(.cm-more)").inner_text()
    picture(page, "classic")


def test_save_and_stop_work_in_the_background_and_a_plain_frame_stays(classic: Server, page: Any, home: Home) -> None:
    path = classic.write("behind", f"%%finetune behind --background\n{ENDLESS}")
    opened(page, classic, "behind")
    page.evaluate("() => Jupyter.notebook.execute_all_cells()")
    save, stop = (page.get_by_role("button", name=name, exact=True) for name in ("Save", "Stop"))
    stop.wait_for()
    moves(page)
    picture(page, "classic-background")
    save.click()
    wait_for(lambda: any(event["kind"] == "checkpoint" for event in home.events("behind")), timeout=30)
    stop.click()
    shows(page, "behind", "stopped")
    wait_for(lambda: not worker.is_alive(home.runs / "behind"), timeout=30)
    page.locator(".jupyter-widgets").first.wait_for(state="detached")
    page.evaluate("() => Jupyter.notebook.save_notebook()")
    assert all(set(data) == PLAIN for data in outputs(saved(path, "behind: stopped")))
