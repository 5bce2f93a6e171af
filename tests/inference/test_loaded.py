"""One base in memory, adapters exchanged on it, and none put on a base that it was not made for."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from colab_magics import demo
from colab_magics.errors import ColabMagicsError
from colab_magics.inference import loaded
from colab_magics.inference.generate import Where, generate
from colab_magics.inference.loaded import kept
from colab_magics.inference.sampling import Sampling
from colab_magics.inference.subject import Subject, of_model, of_run
from colab_magics.memory.held import held

pytestmark = pytest.mark.colab
Leave = Callable[..., Path]
SHORT = Sampling({"max_new_tokens": 12})


def ask(subject: Subject, root: Path, said: list[str] | None = None) -> str:
    return generate(
        subject, ["What is a list?"], SHORT, Where(root, say=(said if said is not None else []).append)
    ).text


@pytest.fixture
def other_base(tmp_path: Path) -> Path:
    """A model of the demo's kind, and half as wide."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(demo.model_path(), hidden_size=96, intermediate_size=128)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_adapters_are_exchanged_and_each_says_what_plain_peft_has_it_say(a_run: Leave, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    for name, seed in (("one", 1), ("two", 2)):
        a_run(name, seed=seed)
    first = ask(of_run("one", tmp_path), tmp_path)
    here = kept()
    assert here is not None
    below = here.model.get_base_model()
    second = ask(of_run("two", tmp_path), tmp_path)
    assert (kept(), here.model.get_base_model(), len(here.names)) == (here, below, 1)
    assert ask(of_run("one", tmp_path, base=True), tmp_path) == ask(of_model("demo"), tmp_path)
    assert len({first, second, ask(of_model("demo"), tmp_path)}) == 3
    for name, text in (("one", first), ("two", second)):
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / name / "adapter")
        tokenizer = loaded.open_tokenizer(of_model("demo"))
        chat = [{"role": "user", "content": "What is a list?"}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == text


def test_of_two_adapters_on_one_base_the_one_that_is_asked_speaks(a_run: Leave, tmp_path: Path) -> None:
    import torch

    for name, seed in (("one", 1), ("two", 2)):
        a_run(name, seed=seed)
    both = [of_run(name, tmp_path) for name in ("one", "two")]
    tokens = torch.arange(1, 9)[None]

    def said(together: list[Subject], one: Subject) -> torch.Tensor:
        model = loaded.load(together, "cpu", lambda _: None, lambda *_: None)
        with model.as_subject(one) as asked, torch.no_grad():
            return asked(tokens).logits

    alone = [said([one], one) for one in both]
    for one, expected in (*zip(both, alone, strict=True), (both[0], alone[0])):
        assert torch.equal(said(both, one), expected)
    assert not torch.equal(*alone)


def test_a_result_that_was_written_again_is_read_again(a_run: Leave, tmp_path: Path, adapters: Any) -> None:
    folder = a_run("one", seed=1)
    before = ask(of_run("one", tmp_path), tmp_path)
    shutil.copy(adapters(2) / "adapter_model.safetensors", folder / "adapter")
    assert ask(of_run("one", tmp_path), tmp_path) != before


def test_an_adapter_for_another_base_is_refused_with_both_shapes_before_any_weight_is_read(
    a_run: Leave, tmp_path: Path, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run()
    monkeypatch.setattr(loaded, "_load_base", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ColabMagicsError) as refused:
        ask(replace(of_run(None, tmp_path), base=str(other_base)), tmp_path)
    assert f"The adapter of run pirate is for another base than {other_base}." in str(refused.value)
    assert "q_proj takes 192 numbers to" in str(refused.value)
    assert "has one of 96 to" in str(refused.value)


def test_a_torn_adapter_is_told(a_run: Leave, tmp_path: Path) -> None:
    folder = a_run()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ColabMagicsError, match="The adapter of run pirate cannot be read"):
        ask(of_run(None, tmp_path), tmp_path)


def test_an_adapter_that_is_cut_short_is_called_so_and_its_run_is_named(a_run: Leave, tmp_path: Path) -> None:
    file = a_run() / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ColabMagicsError) as refused:
        ask(of_run(None, tmp_path), tmp_path)
    assert "the file is cut short" in str(refused.value)
    assert "%checkpoint verify pirate looks at them." in str(refused.value)


def test_a_base_that_was_written_after_the_run_began_is_told(a_run: Leave, tmp_path: Path) -> None:
    base = tmp_path / "models" / "base"
    shutil.copytree(demo.model_path(), base)
    folder = a_run(model=str(base))
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(demo.model_path()), str(base)))
    (base / "model.safetensors").touch()
    said: list[str] = []
    ask(of_run(None, tmp_path), tmp_path, said)
    assert any("was written after pirate had begun" in line for line in said)


@pytest.fixture
def on_the_hub(a_run: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Subject]]:
    """A run of `org/tiny` at a commit, on a Hub of this machine whose newest commit is another."""
    from errors.hub_server import Hub, serving
    from huggingface_hub import constants

    hub = Hub({"org/tiny": demo.model_path()})
    with serving(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        folder = a_run(model="org/tiny")
        config = folder / "adapter" / "adapter_config.json"
        config.write_text(config.read_text().replace(str(demo.model_path()), "org/tiny"))
        yield lambda commit: replace(of_run(None, tmp_path), revision=commit)


def test_a_base_whose_commit_is_gone_from_the_hub_is_told_with_what_would_do(
    on_the_hub: Callable[[str], Subject], tmp_path: Path
) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        ask(on_the_hub("f" * 40), tmp_path)
    said = str(refused.value).splitlines()
    assert said[0] == "org/tiny has changed: commit ffffffffffff, which run pirate was trained on, is gone."
    assert "→ --run NAME --model FOLDER names a copy of them." in said


def test_a_base_that_has_moved_on_is_asked_at_the_commit_that_was_trained_on(
    on_the_hub: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from errors.hub_server import COMMIT
    from huggingface_hub import HfApi

    info = HfApi.model_info

    def newer(api: Any, name: str, *, revision: str | None = None, **options: Any) -> Any:
        """What the Hub says of a model to which somebody has pushed since."""
        found = info(api, name, revision=revision, **options)
        if revision is None:
            found.sha = "e" * 40
        return found

    monkeypatch.setattr(HfApi, "model_info", newer)
    said: list[str] = []
    assert ask(on_the_hub(COMMIT), tmp_path, said)
    assert f"org/tiny has changed since: its commit {COMMIT[:12]}, which the adapter was trained on, is asked." in said


def test_what_is_held_is_shown_by_the_name_of_the_one_asked_last(a_run: Leave, tmp_path: Path) -> None:
    a_run("one", seed=1)
    ask(of_run("one", tmp_path), tmp_path)
    assert [one.name for one in held()] == ["%generate's model of run one"]
    ask(of_run("one", tmp_path, base=True), tmp_path)
    assert [one.name for one in held()] == ["%generate's model of the base of one"]


def test_another_base_takes_the_place_of_the_first_and_both_are_never_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(demo.model_path(), copied)
    ask(of_model("demo"), tmp_path)
    here = kept()
    assert here is not None
    first = weakref.ref(here.model)
    del here
    load, alive = loaded._load_base, []

    def watched(*arguments: Any) -> Any:
        alive.append(first())
        return load(*arguments)

    monkeypatch.setattr(loaded, "_load_base", watched)
    ask(of_model(str(copied)), tmp_path)
    assert alive == [None]


def test_below_capability_8_a_model_is_asked_in_fp16_and_what_qlora_trained_in_4_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from colab_magics.training.result import dtype_on, load_base

    seen: dict[str, Any] = {}

    class Pretended(torch.nn.Linear):
        """Stands for the model that only a GPU could hold."""

    def from_pretrained(_folder: Path, **options: Any) -> Any:
        seen.update(options)
        return Pretended(1, 1)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    gpu = torch.device("cuda:0")
    source = loaded.open_source(of_model("demo"))
    load_base(source, gpu, four_bit=True)
    assert seen["dtype"] == seen["quantization_config"].bnb_4bit_compute_dtype == torch.float16
    assert seen["quantization_config"].bnb_4bit_use_double_quant
    load_base(source, torch.device("cpu"), four_bit=True)
    assert seen["dtype"] == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert dtype_on(gpu) == torch.bfloat16
