"""A model's config and nothing else of it: from a folder, from the Hub, from what is kept of it here."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from errors.hub_server import Hub, serving

from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError
from colab_magics.hub import read_config

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.colab

TOKEN = "hf_" + "T" * 34
SIZE = (model_path() / "model.safetensors").stat().st_size


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("repositories")
    shutil.copytree(model_path(), folder / "tiny")
    shutil.copytree(model_path(), folder / "four")
    config = json.loads((model_path() / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (folder / "four" / "config.json").write_text(json.dumps(quantised))
    for name, text in (("broken", "{"), ("listed", "[]")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    (folder / "gguf").mkdir()
    (folder / "gguf" / "model.gguf").write_bytes(b"GGUF")
    repositories = {f"org/{name}": folder / name for name in ("tiny", "four", "broken", "listed", "gguf")}
    repositories["org/gated"] = folder / "tiny"
    with serving(Hub(repositories, gated={"org/gated"}, token=TOKEN)) as hub:
        yield hub


@pytest.fixture
def kept(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache of this test's own, and a client that asks the test's Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.requests.clear()
    return tmp_path / "hub"


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if "snapshots" in str(path) and path.is_file()}


def _refused(model: str, *facts: str, revision: str | None = None) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read_config(model, revision)
    lines = raised.value.lines()
    assert 3 <= len(lines) <= 6
    for fact in facts:
        assert fact in "\n".join(lines)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_the_demo_model_is_a_folder_of_ours():
    found = read_config("demo")
    assert found.folder == model_path().resolve()
    assert (found.config["model_type"], found.weight_bytes) == ("qwen3", SIZE)


def test_a_folder_wins_over_the_hub(tmp_path, monkeypatch, kept, hub):
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    (tmp_path / "org" / "tiny" / "config.json").write_text('{"model_type": "mine"}')
    monkeypatch.chdir(tmp_path)
    assert read_config("org/tiny").config == {"model_type": "mine"}
    assert hub.requests == []


@pytest.mark.parametrize("name", ["./none", "../none", "/none/at/all", "~/none", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    _refused(name, f"There is no folder {name}")


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"3", b"\xff\xfe\x00", b"[" * 100_000, b""])
def test_a_config_that_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    _refused(str(tmp_path), "no config.json" if content is None else "cannot be read")


# --- the Hub ----------------------------------------------------------------------------------------------------------


def test_of_a_model_on_the_hub_the_config_alone_is_fetched(kept, hub):
    found = read_config("org/tiny")
    assert (found.config["model_type"], found.weight_bytes) == ("qwen3", SIZE)
    assert _files(kept) == {"config.json"}
    assert not any("safetensors" in request for request in hub.requests)


def test_what_is_kept_is_not_asked_for_again(kept, hub):
    first = read_config("org/tiny")
    hub.requests.clear()
    assert read_config("org/tiny").config == first.config
    assert hub.requests == []


def test_a_quantised_model_is_as_large_the_second_time(kept, hub):
    """Its size is that of its files, which are not here when its config is."""
    assert read_config("org/four").weight_bytes == SIZE
    assert read_config("org/four").weight_bytes == SIZE


def test_its_size_is_unknown_without_a_network_and_that_is_no_error(kept, hub, monkeypatch):
    from huggingface_hub import constants

    read_config("org/four")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    assert read_config("org/four").weight_bytes == 0


def test_an_id_that_is_not_there(kept):
    _refused("org/nothing", "There is no model org/nothing", "no such id")
    _refused("nothing", "There is no model nothing")


def test_a_revision_that_is_not_there(kept):
    _refused("org/tiny", "no such revision", revision="v9")


def test_a_gated_model(kept, monkeypatch):
    _refused("org/gated", "is gated", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_config("org/gated").config["model_type"] == "qwen3"


@pytest.mark.parametrize("name", ["org/broken", "org/listed"])
def test_a_config_on_the_hub_that_is_none(kept, name):
    _refused(name, f"The config of {name} cannot be read")


def test_a_repository_without_a_config_is_not_told_as_a_lost_network(kept):
    _refused("org/gguf", "has no config.json", "GGUF")


@pytest.mark.parametrize("name", ["a b", "org/na me", "org/..", "<script>", "-", "x" * 200])
def test_what_cannot_be_an_id(kept, name):
    _refused(name, "There is no model")


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_without_a_network(kept, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    _refused("org/new", "The Hub cannot be reached", "demo needs no network")


def test_offline_what_is_kept_will_do(kept, monkeypatch):
    from huggingface_hub import constants

    read_config("org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_config("org/tiny").config["model_type"] == "qwen3"
    _refused("org/new", "The Hub cannot be reached", "Offline mode is on", "HF_HUB_OFFLINE=0")


def test_a_hub_that_answers_with_an_error_is_not_called_out_of_reach(
    hub: Hub, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(hub, "failing", 500)
    _refused("org/new", "The Hub answered with an error of its own (HTTP 500)", "Try again later")
