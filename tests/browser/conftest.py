"""A real notebook server, a real browser, and one run of a notebook in it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from magics.conftest import ROWS, Home, home, wait_for

from colab_magics import worker

__all__ = ["home"]

# where the pictures go, if they are wanted; for docs/
PICTURES = os.environ.get("COLAB_MAGICS_PICTURES")

SHORT = "model: demo\ndata: pirate.jsonl\neval_data: unseen.jsonl\nmax_steps: 60\neval_every: 8"
ENDLESS = "model: demo\ndata: pirate.jsonl\nmax_steps: 100000\neffective_batch_size: 1"

# A page keeps the texts that its panel has shown, from the moment of this script on.
WATCH = """
() => {
    window.seen = new Set();
    const look = () => document.querySelectorAll(".cm-panel:not(.cm-more)").forEach((one) => seen.add(one.innerText));
    new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true});
    look();
}
"""
TIMEOUT = 60_000  # milliseconds
NEWS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"


@dataclass(frozen=True)
class Server:
    """A notebook server on a free port, in the home's folder."""

    url: str
    token: str
    home: Home

    def write(self, name: str, *cells: str) -> Path:
        """A notebook whose first cell loads the extension, and then has these."""
        import nbformat

        code = [nbformat.v4.new_code_cell(cell) for cell in ("%load_ext colab_magics", *cells)]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        path = self.home.folder / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=metadata), path)
        return path


@contextmanager
def server(home: Home, warm: Any, command: Sequence[str]) -> Iterator[Server]:
    """Start a server by its command, wait until it has written where it is, and end it with all its kernels."""
    token = secrets.token_hex(8)
    jupyter = home.folder / "jupyter"
    rows = ROWS.read_text().splitlines(keepends=True)
    _write(home.folder / "pirate.jsonl", "".join(rows[:-16]))
    _write(home.folder / "unseen.jsonl", "".join(rows[-16:]))
    _write(home.folder / "ipython" / "profile_default" / "startup" / "warm.py", warm.cell)
    _write(jupyter / "config" / "lab" / "user-settings" / NEWS, '{"fetchNews": "false"}')  # it asks, over the panel
    environment = {
        **home.environment,
        "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
        "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
        "JUPYTER_DATA_DIR": str(jupyter / "data"),
        "JUPYTER_TOKEN": token,
    }
    with (home.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--no-browser", f"--port={_free_port()}", "--ip=127.0.0.1", "--allow-root"],
            cwd=home.folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        found: list[Path] = []

        def is_up() -> bool:
            assert process.poll() is None, (home.folder / "server.log").read_text()[-2000:]
            found[:] = (jupyter / "runtime").glob(f"*server-{process.pid}.json")
            return bool(found)

        wait_for(is_up, timeout=60)
        yield Server(json.loads(found[0].read_text())["url"], token, home)
    finally:
        process.terminate()  # it ends its kernels, too
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if home.runs.exists():
            for folder in home.runs.iterdir():
                worker.kill(folder)


def _free_port() -> int:
    """A port that nobody has; a server whose port is taken meanwhile tries the next, and writes which it has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A fresh page of ordinary width."""
    context = browser.new_context(viewport={"width": 1200, "height": 1100}, device_scale_factor=2 if PICTURES else 1)
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    yield page
    context.close()


def picture(page: Any, name: str, of: str | None = None) -> None:
    """A picture of the page, or of one element on it, if pictures are wanted."""
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        (page if of is None else page.locator(of).last).screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def moves(page: Any, frames: int = 3) -> None:
    """Wait until the panel has shown that many different texts since now."""
    page.evaluate(WATCH)
    page.wait_for_function("frames => window.seen.size >= frames", arg=frames)


def shows(page: Any, run: str, phase: str) -> None:
    """Wait until the panel of the run says that phase."""
    heading = re.compile(rf"^\s*{run}\s+{phase}")
    page.locator(".cm-panel:not(.cm-more)").filter(has_text=heading).first.wait_for()


def saved(path: Path, words: str, timeout: float = 30) -> dict[str, Any]:
    """The notebook as it is on the disk, once it holds these words in an output."""
    end = time.monotonic() + timeout
    while True:
        notebook: dict[str, Any] = json.loads(path.read_text())
        if words in json.dumps([cell.get("outputs") for cell in notebook["cells"]]):
            return notebook
        assert time.monotonic() < end, f"{words} is not in the saved notebook"
        time.sleep(0.1)


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of what its last cell has displayed."""
    return [one["data"] for one in notebook["cells"][-1]["outputs"] if one["output_type"] == "display_data"]
