"""Real kernels for the tests of the notebook's face, and a small home for their runs."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = REPOSITORY / "colab_magics" / "demo" / "pirate.jsonl"


@dataclass
class Reply:
    """What one cell gave: its status, its printed text, its outputs as the notebook would save them."""

    status: str = ""
    text: str = ""
    error: str = ""
    traceback: list[str] = field(default_factory=list)
    displays: dict[str, list[dict[str, str]]] = field(default_factory=dict)  # display id -> its frames
    times: list[float] = field(default_factory=list)  # when a frame of the panel was sent
    result: str = ""

    @property
    def panel(self) -> list[dict[str, str]]:
        """The frames of the cell's panel, its first output; the one below it holds plan and data."""
        return next(iter(self.displays.values()))


class Kernel:
    """A kernel of this Python, as a notebook server would start it."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        from jupyter_client.manager import start_new_kernel

        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(home), env=environment)
        self._seen: list[dict[str, Any]] = []  # messages that came while something else was waited for
        self.run("%load_ext colab_magics")

    def send(self, code: str) -> str:
        """Queue a cell; its id."""
        return str(self.client.execute(code, store_history=True))

    def reply(self, cell: str, timeout: float = 180) -> Reply:
        """Wait for a queued cell's end and gather what it gave."""
        reply, end = Reply(), time.monotonic() + timeout
        while True:
            try:
                message = self._seen.pop(0) if self._seen else self._message(end)
            except queue.Empty:
                raise AssertionError(f"the cell did not end in {timeout} s; so far:\n{reply.text}") from None
            if message["parent_header"].get("msg_id") == cell and _gather(message, reply):
                break
        while True:
            answer = self.client.get_shell_msg(timeout=10)
            if answer["parent_header"].get("msg_id") == cell:
                reply.status = answer["content"]["status"]
                return reply

    def wait_for_panel(self, cell: str, timeout: float = 60) -> None:
        """Wait until a cell shows its first frame, that is, until it follows its run."""
        self._wait_for(cell, "display_data", timeout)

    def wait_for_text(self, cell: str, timeout: float = 60) -> None:
        """Wait until a cell prints its first words."""
        self._wait_for(cell, "stream", timeout)

    def _wait_for(self, cell: str, kind: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while True:
            message = self._message(end)
            self._seen.append(message)
            if message["parent_header"].get("msg_id") == cell and message["msg_type"] == kind:
                return

    def _message(self, end: float) -> dict[str, Any]:
        message: dict[str, Any] = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
        return message

    def run(self, code: str, timeout: float = 180) -> Reply:
        """A cell that is run now: for a moment after an error a kernel drops whatever comes, and is asked again."""
        while (reply := self.reply(self.send(code), timeout)).status == "aborted":
            time.sleep(0.1)
        return reply

    def value(self, expression: str) -> str:
        """What an expression gives, as its `repr`."""
        reply = self.run(f"print(repr(({expression})))")
        assert reply.status == "ok", reply.traceback
        return reply.text.strip()

    def interrupt(self) -> None:
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run("%load_ext colab_magics")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def _gather(message: dict[str, Any], reply: Reply) -> bool:
    """Add one message of the cell; whether the cell is idle again."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        reply.text += content["text"]
    elif kind in ("display_data", "update_display_data"):
        display = content.get("transient", {}).get("display_id", "")
        frames = reply.displays.setdefault(display, [])
        assert (kind == "update_display_data") == bool(frames and display), "one output, then updates of it"
        frames.append(content["data"])
        if frames is reply.panel:
            reply.times.append(message["header"]["date"].timestamp())
    elif kind == "execute_result":
        reply.result = content["data"]["text/plain"]
    elif kind == "error":
        reply.error, reply.traceback = content["ename"], content["traceback"]
    return kind == "status" and content["execution_state"] == "idle"


@dataclass(frozen=True)
class Home:
    """A folder with a `runs` root, and the environment in which everything of a test runs."""

    folder: Path
    environment: dict[str, str]

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def events(self, run: str) -> list[dict[str, Any]]:
        path = self.runs / run / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def steps(self, run: str, attempt: int = 1) -> int:
        """How many steps an attempt has logged."""
        return sum(event["kind"] == "step" and event["attempt"] == attempt for event in self.events(run))

    def terminal(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m colab_magics …`, as from another terminal."""
        command = [sys.executable, "-m", "colab_magics", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=90, check=False
        )

    def traces(self, secret: str) -> list[Path]:
        """Every file below the home that holds `secret`."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "COLAB_MAGICS_ROOT": str(folder / "runs"),
        "COLAB_MAGICS_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    for name in ("HF_TOKEN", "KAGGLE_KERNEL_RUN_TYPE"):
        environment.pop(name, None)
    return Home(folder, environment)


@pytest.fixture(scope="module")
def kernel(home: Home) -> Iterator[Kernel]:
    """One kernel a module; whatever its cells left running is ended with it."""
    kernel = Kernel(home.folder, home.environment)
    yield kernel
    kernel.close()
    if home.runs.exists():
        from colab_magics import worker

        for folder in home.runs.iterdir():
            worker.kill(folder)


def wait_for(what: Callable[[], object], timeout: float = 150) -> None:
    """Wait until `what` holds."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def session_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A shell of a machine of one's own, whose working directory and settings are the test's."""
    (tmp_path / "notebook").mkdir()
    monkeypatch.chdir(tmp_path / "notebook")
    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(tmp_path / "session.toml"))
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "plain")
    monkeypatch.delenv("COLAB_MAGICS_ROOT", raising=False)
    monkeypatch.delenv("COLAB_MAGICS_REPLICA", raising=False)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    shell.run_line_magic("load_ext", "colab_magics")
    yield shell
    shell.run_line_magic("unload_ext", "colab_magics")
    InteractiveShell.clear_instance()


def session_says(shell: Any, capsys: Any, line: str) -> str:
    """What `%session` prints, with that on its line."""
    shell.run_line_magic("session", line)
    return str(capsys.readouterr().out)
