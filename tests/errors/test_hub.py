"""Models and data sets of a real, small Hub: fetched at a pinned commit, or refused in words.

The variables by which the Hub's client finds its server are read when it is imported, so these workers are forked from
a process of their own.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colab_magics.run import Run

from .conftest import DEMO, ROWS, SHORT, Notebook, OpenNotebook, use_warm
from .hub_server import COMMIT, Hub, serving

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("hub")]

TOKEN = "hf_" + "T" * 34


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("repositories")
    shutil.copytree(DEMO / "model", folder / "tiny")
    own = folder / "own-code"
    shutil.copytree(DEMO / "model", own)
    code = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}, "model_type": "own"}
    (own / "config.json").write_text(json.dumps(code))
    (own / "own.py").write_text("open('it-was-run', 'w')\n")
    repositories = {"org/tiny": folder / "tiny", "org/gated": folder / "tiny", "org/own-code": own}
    with serving(Hub(repositories, gated={"org/gated"}, token=TOKEN)) as hub:
        yield hub


def elsewhere(endpoint: str, home: Path) -> dict[str, str]:
    """The variables that make a process look there, and not at the real Hub."""
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


@pytest.fixture(scope="module")
def workers(hub: Hub, warm_under: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    home = tmp_path_factory.mktemp("hub-home")
    return warm_under(elsewhere(hub.endpoint, home)), home


@pytest.fixture
def notebook(
    open_notebook: OpenNotebook, hub: Hub, workers: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Notebook:
    use_warm(monkeypatch, workers[0])
    look_there(monkeypatch, hub.endpoint, workers[1])
    return open_notebook(tmp_path / "notebook")


def look_there(monkeypatch: pytest.MonkeyPatch, endpoint: str, home: Path) -> None:
    """For the notebook's own questions, too: this process has imported the client under other variables."""
    import huggingface_hub.constants

    for name, value in elsewhere(endpoint, home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)


def cell(model: str, data: object = ROWS, more: str = "") -> str:
    return f"%%finetune run\nmodel: {model}\ndata: {data}\n{SHORT}{more}"


def holding(secret: str, *folders: Path) -> list[Path]:
    """The files below `folders` in which `secret` stands."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_a_models_commit_is_pinned_and_recorded(notebook: Notebook, hub: Hub) -> None:
    said = notebook.run(cell("org/tiny"))
    assert said.error is None, said.error
    run = Run(notebook.folder / "runs" / "run")
    (model,) = (event for event in run.events() if event["kind"] == "model")
    assert (model["id"], model["revision"]) == ("org/tiny", COMMIT)
    config = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", COMMIT)
    fetched = [request for request in hub.requests if "model.safetensors" in request]
    assert fetched
    assert all(f"/resolve/{COMMIT}/" in request for request in fetched)
    downloading = [event for event in run.events() if event.get("phase") == "downloading"]
    assert downloading[-1]["done"] == downloading[-1]["total"] == (DEMO / "model" / "model.safetensors").stat().st_size


def test_an_id_that_is_not_there(notebook: Notebook) -> None:
    notebook.refuses(cell("org/nothing"), "org/nothing", "no such id", "HF_TOKEN")


def test_a_revision_that_is_not_there(notebook: Notebook) -> None:
    notebook.refuses(cell("org/tiny", more="hub_revision: v9"), "org/tiny", "revision", "hub_revision")


def test_a_gated_model_without_a_login_says_how_to_set_a_token(notebook: Notebook) -> None:
    facts = ("org/gated is gated", "No Hub token was found", "HF_TOKEN", "Colab's or Kaggle's secrets", "hf auth login")
    notebook.refuses(cell("org/gated"), *facts)


def test_a_gated_model_with_a_token_that_is_not_let_in(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])
    facts = ("org/gated is gated", "no access yet", "https://huggingface.co/org/gated")
    said = notebook.refuses(cell("org/gated"), *facts)
    assert TOKEN[::-1] not in said.shown


def test_a_token_reaches_the_hub_in_a_header_and_nothing_else(
    notebook: Notebook, hub: Hub, workers: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said = notebook.run(cell("org/gated"))
    assert said.error is None, said.error
    assert any("config.json" in path for path in hub.authorised)
    assert not any(TOKEN in request for request in hub.requests)
    assert TOKEN not in said.shown
    assert (notebook.folder / "runs" / "run" / "events.jsonl").exists()
    assert holding(TOKEN, tmp_path, workers[1]) == []


def test_a_model_that_brings_its_own_code(notebook: Notebook) -> None:
    notebook.refuses(cell("org/own-code"), "org/own-code", "own code", "trust_remote_code: true")


def test_a_data_set_that_is_not_there(notebook: Notebook) -> None:
    for more in ("", "max_train_samples: 5"):
        body = f"%%finetune run\nmodel: demo\ndata: org/no-rows\n{more}"
        notebook.refuses(body, "org/no-rows", "no data set on the Hub", "spelling")


def test_html_in_an_id_is_only_text(notebook: Notebook) -> None:
    said = notebook.refuses("%%finetune run\nmodel: 'org/<b>bold'\n" + f"data: {ROWS}", "org/<b>bold")
    assert not any("<b>" in frame.get("text/html", "") for frame in said.frames)


@pytest.fixture(scope="module")
def nobody() -> str:
    """An address at which nobody answers."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


def test_no_network(
    open_notebook: OpenNotebook,
    nobody: str,
    warm_under: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    look_there(monkeypatch, nobody, tmp_path / "hub-home")
    use_warm(monkeypatch, warm_under(elsewhere(nobody, tmp_path / "hub-home")))
    notebook = open_notebook(tmp_path / "notebook")
    notebook.refuses(cell("org/tiny"), "org/tiny", "cannot be reached", "network", "demo")
    notebook.refuses(cell("demo", "org/rows"), "org/rows", "cannot be reached", "network")
