"""Traces come from a process of their own; whatever becomes of it, the notebook has an answer or a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.hub import ConfigFile, read_config
from colab_magics.memory import traced
from colab_magics.memory.estimate import estimate
from colab_magics.memory.prediction import fixed_lengths
from colab_magics.memory.traced import NotTraced, Traces, traces
from colab_magics.plan import GIB, Device
from colab_magics.recipe import Recipe

T4 = Device("cuda", "Tesla T4", int(14.56 * GIB), int(14.56 * GIB), 12 * GIB, (7, 5))
LENGTHS = fixed_lengths(64, 4)
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="there is nothing to trace without torch")


def _ask(model: ConfigFile | None = None, cache: Path | None = None, **changes: Any) -> Traces:
    given = {"recipe": Recipe(model="demo", data="d", per_device_train_batch_size=2), "devices": [T4]} | changes
    return traces(model or read_config("demo"), given["recipe"], given["devices"], LENGTHS, cache=cache)


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Lets a shell's lines stand for the process that traces; every library counts as installed."""

    def stand_in(*lines: str) -> Path:
        script = tmp_path / "python"
        script.write_text("\n".join(["#!/bin/sh", f"echo asked >> {tmp_path}/asked", *lines]) + "\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(traced, "_version", lambda _: "1")
        return tmp_path / "asked"

    return stand_in


# --- the real process -------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.colab
def test_a_real_model_is_traced_once_and_then_remembered(tmp_path, monkeypatch):
    chatter = tmp_path / "site"
    chatter.mkdir()
    (chatter / "sitecustomize.py").write_text("import sys\nprint('a greeting of this site')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(chatter), os.environ.get("PYTHONPATH", "")]))
    cache = tmp_path / "cache"
    found = _ask(cache=cache)
    (made,) = found.predictions
    assert (made.tier, found.verdict.attention, found.shape.architecture) == (1, "colab_magics", "Qwen3ForCausalLM")
    assert made.moment
    assert made.parts.peak == pytest.approx(estimate(found.shape, made.setup).peak, rel=0.08)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was asked again")

    monkeypatch.setattr(subprocess, "run", never)
    assert _ask(cache=cache) == found
    with pytest.raises(AssertionError, match="asked again"):
        _ask(cache=cache, devices=[Device("cuda", "Tesla T4", 2**34, 2**34, 0, (7, 5))])


@needs_torch
def test_stdout_is_json_whatever_libraries_print_and_code_that_cannot_be_traced_is_a_sentence(tmp_path):
    """A model whose own code prints, and then needs a number."""
    (tmp_path / "own.py").write_text(
        "from transformers import PretrainedConfig\n"
        "import os\n"
        "class OwnConfig(PretrainedConfig):\n"
        "    model_type = 'own'\n"
        "    def __init__(self, **rest):\n"
        "        super().__init__(**rest)\n"
        "        print('chatter'); os.write(1, b'more of it\\n')\n"
        "        if 'own' in getattr(self, 'auto_map', {}).get('AutoConfig', ''):\n"
        "            raise ValueError('needs a number\\nand a second line')\n"
    )
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = Recipe(model=str(tmp_path), data="d", trust_remote_code=True)
    request = {
        "folder": str(tmp_path), "weight_bytes": 0, "recipe": recipe.to_yaml(), "devices": [], "lengths": [],
        "compare": False, "cache": None,
    }  # fmt: skip
    environment = {**os.environ, **worker.importable(), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-P", "-m", "colab_magics.training.tracing"]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, env=environment, timeout=90, check=False
    )
    answer = json.loads(done.stdout)
    assert set(answer) <= {"untraceable", "error"}
    assert "\n" not in str(answer.get("untraceable", ""))
    assert "chatter" in done.stderr
    assert "more of it" in done.stderr


# --- what may become of it --------------------------------------------------------------------------------------------


@pytest.mark.face
@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["kill -9 $$"], "its process ended with code -9"),
        (["echo 'MemoryError: of the machine' >&2", "exit 1"], "ended with code 1: MemoryError: of the machine"),
        (["printf '{\"predictions\": ['"], "ended with code 0"),
        (["echo nothing of use"], "ended with code 0"),
        (["printf '[]'"], "no answer"),
        (["printf '{}'"], "no answer"),
        (['printf \'{"untraceable": "DataDependentOutputException: item"}\''], "DataDependentOutputException"),
    ],
)
def test_without_an_answer_there_is_a_sentence_and_nothing_is_kept(python, tmp_path, lines, sentence):
    python(*lines)
    with pytest.raises(NotTraced, match=sentence):
        _ask(cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.face
def test_what_the_model_or_the_device_cannot_do_is_told_as_it_is(python):
    told = {"error": ColabMagicsError("It cannot.", "For a reason.", "Do this.").to_dict()}
    python(f"printf '%s' '{json.dumps(told)}'")
    with pytest.raises(ColabMagicsError, match="It cannot") as raised:
        _ask()
    assert raised.value.lines() == ["It cannot.", "For a reason.", "→ Do this."]


@pytest.mark.face
def test_a_process_that_hangs_is_ended(python, monkeypatch):
    python("exec sleep 60")
    monkeypatch.setattr(traced, "_PATIENCE", 0.3)
    with pytest.raises(NotTraced, match="not done in"):
        _ask()


@pytest.mark.face
@pytest.mark.parametrize(
    ("missing", "sentence"), [({"torch"}, "torch is not"), ({"torch", "peft"}, "torch and peft are not")]
)
def test_without_a_library_nothing_is_started(python, monkeypatch, missing, sentence):
    asked = python("exit 0")
    monkeypatch.setattr(traced, "_version", lambda library: "" if library in missing else "1")
    with pytest.raises(NotTraced, match=f"{sentence} installed"):
        _ask()
    assert not asked.exists()


@pytest.mark.face
@pytest.mark.parametrize("kept", ["", "{", "[]", "{}", '{"predictions": [{}]}', '{"predictions": [], "shape": {}}'])
def test_what_is_kept_and_cannot_be_read_is_asked_for_again(python, tmp_path, monkeypatch, kept):
    asked = python('printf \'{"untraceable": "asked anew"}\'')
    folder = tmp_path / "cache" / "traces"
    folder.mkdir(parents=True)
    (folder / "this.json").write_text(kept)
    monkeypatch.setattr(traced, "_key", lambda *_: "this")
    with pytest.raises(NotTraced, match="asked anew"):
        _ask(cache=tmp_path / "cache")
    assert asked.read_text() == "asked\n"


@pytest.mark.face
def test_the_key_is_of_everything_that_counts_and_of_no_place(monkeypatch, tmp_path):
    model = read_config("demo")
    request = {"folder": "/a", "cache": "/b", "recipe": "r: 1", "devices": [], "lengths": [1], "compare": False}
    key = traced._key(request, model)
    assert traced._key({**request, "folder": "/c", "cache": None}, model) == key
    for changed in ({"recipe": "r: 2"}, {"lengths": [2]}, {"compare": True}, {"devices": [{}]}):
        assert traced._key({**request, **changed}, model) != key
    assert traced._key(request, ConfigFile(model.folder, {**model.config, "vocab_size": 7}, 0)) != key
    monkeypatch.setattr(traced, "_version", lambda _: "99")
    assert traced._key(request, model) != key
