"""The panel in today's JupyterLab, as a person sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from magics.conftest import Home, wait_for

from colab_magics import worker

from .conftest import ENDLESS, PICTURES, SHORT, Server, moves, outputs, picture, saved, server, shows

pytestmark = [
    pytest.mark.xdist_group("lab"),
    pytest.mark.skipif(find_spec("jupyterlab") is None, reason="JupyterLab is not installed"),
]

# asked any earlier to run a cell, it asks back which kernel is to do so
HAS_KERNEL = """
() => {
    const context = window.jupyterapp?.shell?.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === "idle";
}
"""
PLAIN = {"text/html", "text/plain"}
VIEW = "application/vnd.jupyter.widget-view+json"
PANEL = ".cm-panel:not(.cm-more)"
ROW = ".widget-hbox"
ERROR = "Error displaying widget"
CELL = ".jp-CodeCell"


@pytest.fixture(scope="module")
def lab(home: Home, warm: Any, browser: Any) -> Iterator[Server]:
    command = ["-m", "jupyterlab", "--LabApp.expose_app_in_browser=True"]
    with server(home, warm, command) as running:
        yield running


def opened(page: Any, lab: Server, name: str) -> None:
    page.goto(f"{lab.url}lab/tree/{name}.ipynb?token={lab.token}&reset")
    page.wait_for_function(HAS_KERNEL)
    do(page, "application:toggle-left-area")


def do(page: Any, command: str, **arguments: Any) -> None:
    """One of JupyterLab's commands; returns at once, also where it takes its time."""
    page.evaluate("([name, how]) => void window.jupyterapp.commands.execute(name, how)", [command, arguments])


def theme(page: Any, which: str) -> None:
    do(page, "apputils:change-theme", theme=f"JupyterLab {which}")
    page.locator(f"body[data-jp-theme-name='JupyterLab {which}']").wait_for(state="attached")


def exported(notebook: dict[str, Any]) -> str:
    """The panel in what nbconvert makes of the notebook."""
    import nbformat
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(notebook), as_version=4))
    return str(page).partition('<div class="cm-panel tex2jax_ignore')[2].partition("</style>")[2][:5000]


def test_the_panel_moves_while_the_cell_runs_and_its_last_frame_outlives_a_reload(lab: Server, page: Any) -> None:
    path = lab.write("blocking", f"%%finetune blocking\n{SHORT}")
    opened(page, lab, "blocking")
    do(page, "notebook:run-all-cells")
    shows(page, "blocking", "training")
    assert page.locator(".jp-InputPrompt", has_text="[*]").count() > 0
    moves(page, frames=2)  # on a fast machine there are not many
    if PICTURES:
        page.get_by_text(re.compile(r"step 4[0-9] of 60")).first.wait_for()
        picture(page, "lab", CELL)
        theme(page, "Dark")
        picture(page, "lab-dark", CELL)
        theme(page, "Light")
    shows(page, "blocking", "finished")
    do(page, "docmanager:save")
    notebook = saved(path, "blocking: finished")
    assert all(set(data) == PLAIN for data in outputs(notebook))
    assert "widgets" not in notebook["metadata"]

    opened(page, lab, "blocking")
    shows(page, "blocking", "finished")
    assert "step 60 of 60" in page.locator(".cm-panel:not(.cm-more)").inner_text()
    assert page.locator(".cm-panel svg").count() > 0

    page.locator(".cm-more summary").first.click()
    page.locator(".cm-more details[open] dl").first.wait_for()
    page.set_viewport_size({"width": 560, "height": 1300})
    picture(page, "lab-narrow", ".cm-panel:not(.cm-more)")
    panel = page.locator(".cm-panel:not(.cm-more)")
    assert panel.evaluate("one => one.scrollWidth <= one.clientWidth + 1"), "nothing sticks out of a narrow panel"


def test_save_and_stop_work_in_the_background_and_a_plain_frame_stays(lab: Server, page: Any, home: Home) -> None:
    path = lab.write("behind", f"%%finetune behind --background\n{ENDLESS}")
    opened(page, lab, "behind")
    do(page, "notebook:run-all-cells")
    save, stop = (page.get_by_role("button", name=name, exact=True) for name in ("Save", "Stop"))
    stop.wait_for()
    moves(page)
    picture(page, "lab-background", CELL)

    # plan and data stay unfolded while the frames move on
    page.locator(".cm-more summary").first.click()
    moves(page)
    assert page.locator(".cm-more details[open]").count() == 1

    before = home.steps("behind")
    save.click()
    wait_for(lambda: any(event["kind"] == "checkpoint" for event in home.events("behind")), timeout=30)
    wait_for(lambda: home.steps("behind") > before, timeout=30)
    stop.click()
    shows(page, "behind", "stopped")
    wait_for(lambda: not worker.is_alive(home.runs / "behind"), timeout=30)
    assert home.events("behind")[-1]["reason"] == "stopped"
    page.locator(".jupyter-widgets").first.wait_for(state="detached")
    do(page, "docmanager:save")
    notebook = saved(path, "behind: stopped")
    assert all(set(data) == PLAIN for data in outputs(notebook))

    opened(page, lab, "behind")
    shows(page, "behind", "stopped")
    assert page.get_by_text(ERROR).count() == 0


@pytest.mark.parametrize("kind", ["auto", "widget"])
def test_a_page_that_is_loaded_again_while_a_run_trains_and_after_its_end_always_shows_numbers(
    lab: Server, page: Any, home: Home, kind: str
) -> None:
    run = f"reloaded-{kind}"
    path = lab.write(run, f"%%finetune {run} --background --panel {kind}\n{ENDLESS}")
    opened(page, lab, run)
    do(page, "notebook:run-all-cells")
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    moves(page)
    do(page, "docmanager:save")
    notebook = saved(path, VIEW)
    if kind == "auto":
        assert "step" in exported(notebook), "whoever gets the notebook now sees numbers too"

    # in mid-run: a frame that says of when it is (widgets go on by themselves), and buttons that are heard
    opened(page, lab, run)
    shows(page, run, "training")
    assert "As of" in page.locator(PANEL).inner_text()
    save = page.get_by_role("button", name="Save", exact=True)
    save.click()
    wait_for(lambda: any(event["kind"] == "checkpoint" for event in home.events(run)), timeout=30)
    save.wait_for()
    page.goto("about:blank")
    assert home.terminal("stop", run).returncode == 0
    wait_for(lambda: not worker.is_alive(home.runs / run), timeout=30)

    # after its end, which no page has heard of
    opened(page, lab, run)
    page.locator(PANEL).first.wait_for()
    assert re.search(r"step [\d,]+ of 100,000", page.locator(PANEL).inner_text())
    page.locator(ROW).wait_for(state="hidden")
    assert page.get_by_text(ERROR).count() == 0
    if kind == "widget":
        shows(page, run, "stopped")
