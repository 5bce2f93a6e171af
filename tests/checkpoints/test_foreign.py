"""A folder of another trainer is read with suspicion, and becomes the first checkpoint of a run."""

from __future__ import annotations

import array
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colab_magics.checkpoints.foreign import adapted_modules, imported_state, look, take
from colab_magics.checkpoints.tensors import Tensor, laid_out, read_tensors
from colab_magics.checkpoints.verify import newest_verified
from colab_magics.errors import ColabMagicsError

RUN = "0123456789abcdef"
NAMES = ("q_proj", "v_proj")
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "auto_mapping": {"parent_library": "os", "base_model_class": "Nothing"},
    "base_model_name_or_path": "org/base",
    "r": 2,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": ["v_proj", "q_proj"],
    "bias": "none",
    "rank_pattern": {},
    "init_lora_weights": True,
}
STATE = {
    "global_step": 500,
    "max_steps": 1500,
    "epoch": 1.25,
    "train_batch_size": 4,
    "log_history": [{"loss": 2.5, "step": 490}, {"loss": 1.5, "step": 500}, {"eval_loss": 2.0, "step": 500}],
}


def numbers(*shape: int, dtype: str = "F32") -> Tensor:
    count = 1
    for size in shape:
        count *= size
    code = {"F32": "f", "F16": "h", "U8": "B"}[dtype]
    return Tensor(dtype, shape, memoryview(array.array(code, range(count)).tobytes()))


def weights(r: int = 2) -> dict[str, Tensor]:
    found = {}
    for name in NAMES:
        found[f"base_model.model.model.layers.0.{name}.lora_A.weight"] = numbers(r, 8)
        found[f"base_model.model.model.layers.0.{name}.lora_B.weight"] = numbers(6, r)
    return found


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.write_bytes(b"".join(laid_out(tensors, {"format": "pt"})))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """What a Trainer with peft leaves, as far as it is read."""
    folder = tmp_path / "outputs" / "checkpoint-500"
    folder.mkdir(parents=True)
    write(folder / "adapter_model.safetensors", weights())
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    (folder / "trainer_state.json").write_text(json.dumps(STATE))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"a pickle")
    return folder


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "old" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def refused(folder: Path) -> list[str]:
    with pytest.raises(ColabMagicsError) as error:
        look(folder)
    return error.value.lines()


def test_an_adapter_becomes_a_whole_checkpoint_of_the_step_it_was(foreign: Path, checkpoints: Path) -> None:
    target = take(look(foreign), checkpoints, name="old", run=RUN)
    entry = newest_verified(checkpoints, run=RUN).entry
    assert entry is not None
    assert entry.folder == target
    assert target.name == "00000500-a0"
    assert entry.manifest is not None
    assert entry.manifest.facts["reason"] == "imported"
    assert entry.manifest.facts["parent"] == "outputs/checkpoint-500"
    assert entry.manifest.metrics == {"loss": 1.5}
    found = read_tensors(target / "adapter_model.safetensors")
    assert {name: bytes(tensor.data) for name, tensor in found.items()} == {
        name: bytes(tensor.data) for name, tensor in weights().items()
    }


def test_what_the_recipe_must_agree_with_is_in_the_state(foreign: Path, checkpoints: Path) -> None:
    told = imported_state(take(look(foreign), checkpoints, name="old", run=RUN))
    assert told is not None
    assert told["method"] == "adapter"
    assert told["groups"] is None
    assert told["adapter"] == {
        "r": 2,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "base": "org/base",
        "revision": None,
    }


def test_only_weights_and_their_config_are_taken_and_no_pickle_is_opened(foreign: Path, checkpoints: Path) -> None:
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "subprocess.Popen"):
            opened.append(Path(str(arguments[0])).name)

    sys.addaudithook(watch)  # for the rest of the process: there is no way back
    target = take(look(foreign), checkpoints, name="old", run=RUN)
    watching = False
    assert "adapter_model.safetensors" in opened
    assert not {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} & set(opened)
    assert not any("python" in name for name in opened), "no child was started"
    assert sorted(os.listdir(target)) == [
        "MANIFEST.json", "adapter_config.json", "adapter_model.safetensors", "state.json",
    ]  # fmt: skip


def test_a_library_that_the_config_names_is_not_passed_on(foreign: Path, checkpoints: Path) -> None:
    target = take(look(foreign), checkpoints, name="old", run=RUN)
    assert json.loads((target / "adapter_config.json").read_text())["auto_mapping"] is None


def test_a_token_in_a_config_does_not_reach_the_checkpoint(foreign: Path, checkpoints: Path) -> None:
    token = "hf_" + "a1B2" * 8
    planted = {**CONFIG, "base_model_name_or_path": f"https://user:{token}@hub/base", "note": token}
    (foreign / "adapter_config.json").write_text(json.dumps(planted))
    target = take(look(foreign), checkpoints, name="old", run=RUN)
    assert not [name for name in os.listdir(target) if token.encode() in (target / name).read_bytes()]


def test_a_full_model_is_taken_with_its_config(tmp_path: Path, checkpoints: Path) -> None:
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    write(folder / "model.safetensors", {"model.embed_tokens.weight": numbers(4, 2)})
    (folder / "config.json").write_text('{"model_type": "llama"}')
    found = look(folder)
    assert (found.method, found.step, found.steps, found.adapter) == ("full", 7, None, {})
    target = take(found, checkpoints, name="old", run=RUN)
    assert target.name == "00000007-a0"
    assert {"model.safetensors", "config.json"} < set(os.listdir(target))


def test_a_loss_that_is_no_number_is_left_out(foreign: Path) -> None:
    (foreign / "trainer_state.json").write_text('{"global_step": 3, "epoch": NaN, "log_history": [{"loss": NaN}]}')
    found = look(foreign)
    assert (found.step, found.epoch, found.loss) == (3, None, None)


def _only(folder: Path, **files: bytes) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _put(folder / "adapter_config.json", json.dumps({**CONFIG, **changes}))


def _put(path: Path, text: str) -> None:
    path.write_text(text)


def _linked(name: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return link


def _sharded(folder: Path) -> None:
    _only(folder, config__json=b"{}")
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ):
        (folder / name).write_bytes(b"{}")


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a pickled adapter": (
        lambda folder: _only(folder, adapter_model__bin=b"a pickle", adapter_config__json=b"{}"),
        "checkpoint-500 has no safetensors, only adapter_model.bin.",
        "That is a pickle",
    ),
    "a pickled model": (
        lambda folder: _only(folder, pytorch_model__bin=b"a pickle"),
        "checkpoint-500 has no safetensors, only pytorch_model.bin.",
        "That is a pickle",
    ),
    "nothing": (_only, "no checkpoint", "It has neither"),
    "shards": (_sharded, "checkpoint-500 is sharded: it has model-00001-of-00002.safetensors.", "from one file"),
    "linked weights": (
        _linked("adapter_model.safetensors"), "adapter_model.safetensors is a symbolic link.", "not followed"
    ),
    "a linked config": (_linked("adapter_config.json"), "adapter_config.json is a symbolic link.", "not followed"),
    "a linked state": (_linked("trainer_state.json"), "trainer_state.json is a symbolic link.", "not followed"),
    "a config that is a pipe": (
        lambda folder: ((folder / "adapter_config.json").unlink(), os.mkfifo(folder / "adapter_config.json"))[0],
        "adapter_config.json of checkpoint-500 cannot be read.",
        "It is no file.",
    ),
    "no config": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "adapter_config.json of checkpoint-500 cannot be read.",
        "No such file",
    ),
    "a huge config": (
        _config(note="x" * 2**20), "adapter_config.json of checkpoint-500 cannot be read.", "at most 1,048,576 are read"
    ),
    "a huge log": (
        lambda folder: _put(folder / "trainer_state.json", f'{{"log": "{"x" * 2**24}"}}'),
        "trainer_state.json of checkpoint-500 cannot be read.",
        "at most 16,777,216 are read",
    ),
    "a deep config": (
        lambda folder: _put(folder / "adapter_config.json", "[" * 100_000), "cannot be read", "It is no JSON."
    ),
    "another kind of adapter": (
        _config(peft_type="PREFIX_TUNING"), "checkpoint-500 holds no LoRA adapter.", "PREFIX_TUNING"
    ),
    "ranks that differ": (
        _config(rank_pattern={"q_proj": 4}), "checkpoint-500 is a LoRA adapter with rank_pattern.", "No recipe"
    ),
    "trained biases": (_config(bias="all"), "checkpoint-500 is a LoRA adapter with bias.", "No recipe"),
    "PiSSA": (_config(init_lora_weights="pissa"), "checkpoint-500 began as pissa.", "base model's weights"),
    "a rank that is not that of the weights": (
        _config(r=16), "adapter_model.safetensors of checkpoint-500 cannot be read.", "rank 2, and adapter_config.json"
    ),
    "a rank that is no number": (_config(r="sixteen"), "cannot be read", "is no number that they can be"),
    "a scale that is no number": (_config(lora_alpha=float("nan")), "cannot be read", "is no number"),
    "a step that is none": (
        lambda folder: _put(folder / "trainer_state.json", '{"global_step": 1e300}'), "cannot be read", "no step"
    ),
    "a header that lies": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64) and None,
        "adapter_model.safetensors of checkpoint-500 cannot be read.",
        "It is no safetensors",
    ),
    "quantised weights": (
        lambda folder: write(folder / "adapter_model.safetensors", {"a.lora_A.weight": numbers(2, dtype="U8")}),
        "cannot be read",
        "quantised weights are not trained",
    ),
    "an adapter of nothing": (
        lambda folder: write(folder / "adapter_model.safetensors", {"a.weight": numbers(2)}),
        "cannot be read",
        "no lora_A and lora_B",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_over_is_refused_in_words(foreign: Path, what: str) -> None:
    spoil, first, second = REFUSED[what]
    spoil(foreign)
    lines = refused(foreign)
    assert first in lines[0]
    assert second in lines[1]


def test_a_linked_folder_is_refused_and_a_missing_one(foreign: Path) -> None:
    link = foreign.parent / "latest"
    link.symlink_to(foreign)
    assert refused(link)[0] == "latest is a symbolic link."
    assert refused(foreign.parent / "none")[0] == f"There is no folder {foreign.parent / 'none'}."


def test_the_folder_above_names_its_newest_checkpoint(foreign: Path) -> None:
    (foreign.parent / "checkpoint-90").mkdir()
    assert refused(foreign.parent)[-1] == f"→ Did you mean {foreign}?"


def test_a_pattern_of_modules_is_told_by_what_it_found(foreign: Path) -> None:
    """As Unsloth writes them."""
    changed = {**CONFIG, "target_modules": "(?:.*?(?:self_attn).*?(?:q_proj|v_proj).*?)"}
    (foreign / "adapter_config.json").write_text(json.dumps(changed))
    found = look(foreign)
    assert found.adapter["target_modules"] is None
    assert set(adapted_modules(found.weights)) == {f"model.layers.0.{name}" for name in NAMES}
