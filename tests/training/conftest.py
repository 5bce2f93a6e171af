"""Tiny real models, a tiny real tokenizer, and documents of known tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colab_magics.memory.estimate import peak
from colab_magics.plan import Choice, DataFacts, Device, Plan, Verdict, make_plan
from colab_magics.recipe import Recipe
from colab_magics.training import attention
from colab_magics.training.loop import Outcome, Progress, Task, train
from colab_magics.training.model import causal_lm, describe, load_model
from colab_magics.training.source import ModelSource, open_model
from colab_magics.training.task import make_task

# Some sandboxes announce AMX and then kill the process that uses it; oneDNN reads this at its first 16-bit product.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

VOCABULARY = 256
Documents = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    attention.register()


def tiny_config(model_type: str = "qwen3", **changes: Any) -> Any:
    """A real config of that type, 2 layers of width 64."""
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    if model_type == "gpt2":
        sizes = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
        sizes |= {"bos_token_id": 0, "eos_token_id": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    elif model_type in ("qwen3", "llama", "mistral", "gemma2"):
        sizes["head_dim"] = 16
    return AutoConfig.for_model(model_type, **(sizes | changes))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Words of its own, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        # sorted, for the alphabet comes in another order each time: without a letter of the text it would be added
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCABULARY - 3],
    )
    tokenizer.train_from_iterator(["one step takes the effective batch"], trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    return fast


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[..., Path]:
    """A folder with a tiny model of that type and the tiny tokenizer, as from the Hub."""
    made: dict[str, Path] = {}

    def make(model_type: str = "qwen3", **changes: Any) -> Path:
        from transformers import AutoModelForCausalLM

        key = repr((model_type, sorted(changes.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(model_type)
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).save_pretrained(folder)
            tiny_tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


def documents(count: int = 40, seed: int = 0, longest: int = 48) -> Documents:
    """Documents that can be learnt: arithmetic progressions of tokens; the first third of each is a prompt."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(random.integers(4, longest))
        tokens = ((random.integers(0, 16) + np.arange(length) * random.integers(1, 4)) % 200 + 3).astype(np.int32)
        trained = np.arange(length) >= max(1, length // 3)
        made.append((tokens, trained))
    return made


CPU = Device("cpu", "a test's CPU", 2**34, 2**33, 2**33)
PLAIN = Verdict("colab_magics", "probed", True, "probed", True, "probed")


class Trained:
    """One tiny run, from a folder to the end of the loop, and every event it told."""

    def __init__(self, folder: Path, docs: Documents, eval_docs: Documents | None, changes: dict[str, Any]) -> None:
        self.recipe = Recipe(
            **(
                {"model": str(folder), "data": "rows", "method": "lora", "packing": False, "learning_rate": 1e-2}
                | changes
            )
        )
        self.source: ModelSource = open_model(self.recipe)
        lengths = np.array([len(tokens) for tokens, _ in docs], np.int32)
        facts = DataFacts(lengths, len(eval_docs or ()), Choice(256, "a test"))
        shape = describe(self.source, self.recipe)
        self.plan: Plan = make_plan(self.recipe, shape, CPU, facts, PLAIN, peak)
        device = torch.device("cpu")
        self.model = load_model(self.source, self.recipe, self.plan, device)
        self.task: Task
        self.progress: Progress
        self.task, self.progress = make_task(self.model, self.recipe, self.plan, docs, eval_docs, device=device)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.outcome: Outcome | None = None

    def run(self, control: Callable[[], str | None] = lambda: None) -> Trained:
        self.outcome = train(self.task, self.progress, self.tell, control)
        return self

    def tell(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    @property
    def losses(self) -> list[float]:
        return [fields["loss"] for fields in self.told("step")]

    @property
    def lm(self) -> Any:
        return causal_lm(self.model)


@pytest.fixture
def tiny_run(make_model: Callable[..., Path]) -> Callable[..., Trained]:
    def run(
        model_type: str = "qwen3",
        docs: Documents | None = None,
        eval_docs: Documents | None = None,
        config: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Trained:
        folder = make_model(model_type, **(config or {}))
        return Trained(folder, documents() if docs is None else docs, eval_docs, {"max_steps": 6} | changes)

    return run
