"""A shell with the real magic and real workers, and a check that bad input costs nothing."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from colab_magics.errors import ColabMagicsError

DEMO = Path(__file__).resolve().parents[2] / "colab_magics" / "demo"
ROWS = DEMO / "pirate.jsonl"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SHORT = "max_steps: 2\neffective_batch_size: 2\nmax_train_samples: 8\nmax_length: 64\n"
"""Recipe lines for a run that is over in a moment."""


@dataclass
class Said:
    """What a cell gave: the error that it raised, what it printed, and the frames that it displayed."""

    error: BaseException | None
    printed: str
    frames: list[dict[str, str]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The error as the notebook shows it."""
        assert isinstance(self.error, ColabMagicsError), f"not our error: {self.error!r}"
        return self.error._render_traceback_()

    @property
    def shown(self) -> str:
        """All that a reader of the notebook may see."""
        frames = "\n".join(part for frame in self.frames for part in frame.values())
        return "\n".join(["\n".join(self.lines) if self.error else "", self.printed, frames])


@dataclass(frozen=True)
class Notebook:
    """A shell in a folder of its own; its cells are run as a kernel runs them, in this process."""

    shell: Any
    folder: Path

    def run(self, cell: str) -> Said:
        """Run one cell and keep what comes of it."""
        self.shell.display_pub.outputs = []
        printed = io.StringIO()
        # the cell's own status is what makes Run All stop; the traceback that it also prints is read from the error
        self.shell.showtraceback = lambda *_, **__: None
        with redirect_stdout(printed), redirect_stderr(printed):
            result = self.shell.run_cell(cell)
        error = result.error_before_exec or result.error_in_exec
        return Said(error, printed.getvalue(), [output["data"] for output in self.shell.display_pub.outputs])

    def write(self, name: str, *rows: object) -> Path:
        """A JSONL file beside the notebook; a row that is a text stands in it as it is."""
        path = self.folder / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    def refuses(self, cell: str, *facts: str, lines: tuple[int, int] = (3, 8)) -> Said:
        """Run a cell that must be refused in a few lines that hold `facts`, leaving nothing behind."""
        before, workers = snapshot(self.folder), our_workers()
        said = self.run(cell)
        text = "\n".join(said.lines)
        print(text)  # for the person who runs pytest -s to read them as a user would
        assert lines[0] <= len(said.lines) <= lines[1], text
        for fact in facts:
            assert fact in text, f"{fact!r} is not in:\n{text}"
        well_written(said)
        assert snapshot(self.folder) == before, "something was left on disk"
        assert our_workers() <= workers, "a worker was left running"
        return said


def well_written(said: Said) -> None:
    """Hold the form of a message: sentences, then steps; nothing that a terminal or a page would act on."""
    assert isinstance(said.error, ColabMagicsError)
    what, why, *_ = said.lines
    for sentence in (what, why):
        assert sentence[-1] in ".!?:…", f"no end of a sentence: {sentence}"
    steps = [line for line in said.lines if line.startswith("→ ")]
    assert steps, "nothing says what to do next"
    for line in said.lines:
        assert not CONTROL.search(line), repr(line)
        assert len(line) <= 400, f"{len(line)} characters in one line: {line}"
        assert "Traceback" not in line
    assert len(set(said.lines)) == len(said.lines), "a line is said twice"


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` and, of files, the bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def our_workers() -> set[int]:
    """The workers that this process has started and that live."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "colab_magics.training" in child.cmdline():
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


OpenNotebook = Callable[[Path], Notebook]


@pytest.fixture
def open_notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenNotebook]:
    """Opens a notebook in a folder; its workers are those of `sys.executable`."""

    def opened(folder: Path) -> Notebook:
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        return Notebook(shell, folder)

    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("COLAB_MAGICS_ROOT", "HF_TOKEN", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    InteractiveShell.clear_instance()
    shell: Any = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.display_pub = CapturingDisplayPublisher(parent=shell)
    shell.kernel = SimpleNamespace()  # the panel is drawn as in a notebook, in both of its forms
    shell.run_line_magic("load_ext", "colab_magics")
    yield opened
    InteractiveShell.clear_instance()


def use_warm(monkeypatch: pytest.MonkeyPatch, warm: Any) -> None:
    """Let `%%finetune` start warm workers."""
    monkeypatch.setattr(sys, "executable", str(warm.python))
    for name, value in warm.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def notebook(open_notebook: OpenNotebook, warm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Notebook:
    """A notebook whose workers start at once."""
    use_warm(monkeypatch, warm)
    return open_notebook(tmp_path / "notebook")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """Puts modules in front of all that workers import: file names and their texts."""

    def plant(files: dict[str, str]) -> Path:
        folder = tmp_path / "planted"
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        return folder

    return plant
