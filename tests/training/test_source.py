"""Where models come from, and what is said when they do not come."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe
from colab_magics.training.optim import check_bitsandbytes
from colab_magics.training.source import fetch_weights, load_tokenizer, open_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _open(model, **changes):
    return open_model(Recipe(model=str(model), data="rows", **changes))


class SmallHub:
    """Pretends to be the Hub: its API for one model, its files, and its ways to refuse."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: object) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(f"{self.command} {path}")
                if path.startswith(("/api/models/org/tiny", "/api/models/org/gated")):
                    self.send_api(path)
                elif path.startswith("/org/gated/resolve/"):
                    self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
                elif path.startswith("/org/tiny/resolve/") and path.rpartition("/")[2] in hub.files:
                    self.send_file(hub.files[path.rpartition("/")[2]])
                elif path.startswith("/org/tiny/resolve/"):
                    self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                elif path.startswith("/api/models/org/down"):
                    self.send(503, b"")
                else:
                    self.send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"})

            def send_api(self, path: str) -> None:
                if "no-such-revision" in path:
                    self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                elif "/tree/" in path:
                    tree = [{"type": "file", "path": n, "size": len(b), "oid": "0"} for n, b in hub.files.items()]
                    self.send(200, json.dumps(tree).encode())
                else:
                    files = [{"rfilename": name, "size": len(body)} for name, body in hub.files.items()]
                    info = {"id": "org/tiny", "sha": COMMIT, "siblings": files, "private": False, "tags": []}
                    self.send(200, json.dumps(info).encode())

            def send_file(self, body: bytes) -> None:
                first = 0
                if asked := self.headers.get("Range"):
                    first = int(asked.removeprefix("bytes=").split("-")[0] or 0)
                self.send(206 if first else 200, body[first:], {"ETag": f'"{hash(body):x}"', "X-Repo-Commit": COMMIT})

            def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(make_model, tmp_path, monkeypatch) -> Iterator[SmallHub]:
    small = SmallHub(make_model("qwen3"))
    _use(monkeypatch, small.url, tmp_path / "cache")
    yield small
    small.server.shutdown()
    small.server.server_close()


def _use(monkeypatch, url: str, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)


def test_a_hub_model_is_pinned_and_its_weights_come_last_with_progress(hub):
    source = _open("org/tiny")
    assert (source.id, source.revision) == ("org/tiny", COMMIT)
    assert source.missing == ("model.safetensors",)
    assert not any("model.safetensors" in line for line in hub.asked)
    assert source.config.model_type == "qwen3"
    assert "<s>" in load_tokenizer(source, Recipe(model="org/tiny", data="rows")).get_vocab()
    told = []
    fetch_weights(source, lambda done, total: told.append((done, total)))
    size = len(hub.files["model.safetensors"])
    assert (source.folder / "model.safetensors").stat().st_size == size == source.weight_bytes
    assert told[-1] == (size, size)


def test_a_folder_whose_weights_are_not_uploaded_yet_can_be_planned_and_not_trained(make_model, tmp_path):
    folder = Path(shutil.copytree(make_model("qwen3"), tmp_path / "soon"))
    (folder / "model.safetensors").unlink()
    recipe = Recipe(model=str(folder), data="rows")
    assert open_model(recipe, to_train=False).weight_bytes == 0
    with pytest.raises(ColabMagicsError, match="no weights that can be trained"):
        open_model(recipe)
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ColabMagicsError, match="no weights that can be trained"):
        open_model(recipe, to_train=False)


def test_without_network_an_earlier_download_is_used(hub, monkeypatch, tmp_path):
    fetch_weights(_open("org/tiny"))
    _use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    again = _open("org/tiny")
    assert again.revision == COMMIT
    assert again.missing == ()
    fetch_weights(again)
    assert (again.folder / "model.safetensors").is_file()


def test_a_broken_off_download_does_not_pass_for_a_model(hub, monkeypatch, tmp_path):
    source = _open("org/tiny")
    _use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(ColabMagicsError, match="not on this machine"):
        _open("org/tiny")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (source.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (source.folder / "model-1.safetensors").touch()
    with pytest.raises(ColabMagicsError, match="not on this machine"):
        _open("org/tiny")


@pytest.mark.parametrize(
    ("model", "changes", "what", "step"),
    [
        ("org/missing", {}, "There is no model org/missing", "HF_TOKEN"),
        ("org/gated", {}, "org/gated is gated", "https://huggingface.co/org/gated"),
        ("org/tiny", {"hub_revision": "no-such-revision"}, "no such revision", "hub_revision"),
        ("org/down", {}, "The Hub answered with an error of its own (HTTP 503)", "Try again later"),
        ("./nowhere", {}, "There is no folder ./nowhere", "demo"),
        ("not a model!", {}, "There is no model not a model!", "org/name"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_few_lines(hub, model, changes, what, step):
    with pytest.raises(ColabMagicsError) as error:
        _open(model, **changes)
    assert what in error.value.what
    assert step in "\n".join(error.value.next_steps)
    assert 2 <= len(error.value.lines()) <= 8


def test_no_network_says_so(monkeypatch, tmp_path):
    _use(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(ColabMagicsError, match="The Hub cannot be reached"):
        _open("org/tiny")


def _changed(make_model, tmp_path, **fields) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(make_model("qwen3"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "not a causal language model"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "not a causal language model"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "not a causal language model"),
        ({"model_type": "from_the_future"}, "does not know"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised with gptq"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "is quantised with bitsandb"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"}},
            "brings its own code",
        ),
    ],
)
def test_models_that_cannot_be_trained_are_refused_by_their_config(make_model, tmp_path, fields, what):
    with pytest.raises(ColabMagicsError) as error:
        _open(_changed(make_model, tmp_path, **fields))
    assert what in error.value.what


def test_a_folder_without_a_model_and_one_without_safetensors(make_model, tmp_path):
    with pytest.raises(ColabMagicsError, match="There is no model in the folder"):
        _open(tmp_path)
    folder = _changed(make_model, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ColabMagicsError) as error:
        _open(folder)
    assert "only as pickle files" in error.value.what
    assert "allow_pickle" in str(error.value)
    assert _open(folder, allow_pickle=True).weight_bytes > 0
    (folder / "pytorch_model.bin").rename(folder / "model.gguf")
    with pytest.raises(ColabMagicsError, match="GGUF"):
        _open(folder)


@pytest.mark.parametrize(("method", "optim"), [("qlora", "adamw_torch"), ("lora", "adamw_8bit")])
def test_a_missing_bitsandbytes_is_said_before_anything_is_loaded(monkeypatch, method, optim):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ColabMagicsError, match="needs bitsandbytes"):
        check_bitsandbytes(method, optim)
    check_bitsandbytes("lora", "adamw_torch_fused")
