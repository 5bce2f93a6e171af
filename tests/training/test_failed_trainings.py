"""A real training of TRL's, run out of memory in its midst: what a notebook's cell can still tell of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from colab_magics.magics.cell_record import FailedCell, written_down
from colab_magics.magics.failed_cell import of_memory
from colab_magics.memory.culprit import Cause
from colab_magics.memory.diagnosis import diagnose

ROWS, TOKENS = 4, 96
HIDDEN, INTERMEDIATE, WORDS = 64, 128, 1000
MESSAGE = (
    "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 14.56 GiB of which 1.00 GiB is free."
    " Including non-PyTorch memory, this process has 13.56 GiB memory in use. Of the allocated memory 13.40 GiB is "
    "allocated by PyTorch, and 30.76 MiB is reserved by PyTorch but unallocated."
)


def run_out(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError(MESSAGE)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    trl, peft = pytest.importorskip("trl"), pytest.importorskip("peft")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<pad>": 2, "<eos>": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("trl")
    arguments = trl.SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=ROWS, max_length=TOKENS, max_steps=2, use_cpu=True,
        bf16=False, fp16=False, report_to="none", gradient_checkpointing=False,
    )  # fmt: skip
    return trl.SFTTrainer(
        LlamaForCausalLM(config),
        args=arguments,
        train_dataset=Dataset.from_list([{"text": "a b " * TOKENS}] * 8),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(r=4, target_modules="all-linear"),
    )


def failed(trainer) -> FailedCell:
    with pytest.raises(torch.OutOfMemoryError) as raised:
        trainer.train()
    found = of_memory(raised.value)
    assert found is not None
    return written_down(found, 3)


def test_the_batch_the_model_and_the_arguments_are_found_in_the_frames(trainer, monkeypatch):
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaMLP.forward", run_out)
    cell = failed(trainer)
    assert cell.batch == (ROWS, TOKENS)
    assert cell.step == 0
    assert cell.adapters
    assert cell.fused_head, "TRL makes no table of all logits any more"
    assert cell.config["vocab_size"] == WORDS
    assert (cell.config["num_key_value_heads"], cell.config["head_dim"]) == (2, 16)
    assert cell.arguments["per_device_train_batch_size"] == ROWS
    assert cell.arguments["max_length"] == TOKENS
    facts = cell.facts()
    assert facts.setup is not None
    assert (facts.setup.method, facts.setup.loss, facts.setup.attention) == ("lora", "trl", "fused")
    assert any(frame.startswith("transformers.models.llama") for frame in cell.frames)


def test_the_place_is_found_although_nothing_has_the_size(trainer, monkeypatch):
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", run_out)
    found = diagnose(failed(trainer).facts())
    assert found.cause == Cause.SCORES
    assert found.sentence.startswith("In the trainer's first step: the attention's scores")


def test_the_optimizer_s_first_step_is_told_as_one(trainer, monkeypatch):
    monkeypatch.setattr("torch.optim.AdamW._init_group", run_out)
    found = diagnose(failed(trainer).facts())
    assert found.cause == Cause.OPTIMIZER
    assert "while the optimizer updated the weights" in found.sentence
