"""What the throughput benchmark trains: shapes, rows and order, fixed here so that figures can be compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROWS = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES_A_STEP = 8
MAX_LENGTH = 256
SEED = 0
LEARNING_RATE = 1e-4
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}

# The prompt of a model without a chat template, as Alpaca's authors wrote it.
ALPACA = "### Instruction:\n{instruction}{input}\n\n### Response:\n"


@dataclass(frozen=True)
class Case:
    """One model shape, one tokenizer, one method. `width` is the hidden size, `vocabulary` the rows of the head."""

    shape: str
    tokenizer: str
    method: str
    layers: int = 4
    width: int = 256
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 768

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.tokenizer}-{self.method}"

    @property
    def vocabulary(self) -> int:
        return {"gpt2": 50257, "phi3": 32064}[self.tokenizer]

    def config(self) -> Any:
        """The transformers config; every dropout is 0, or no two loops could have equal losses."""
        from transformers import GPT2Config, Qwen3Config

        if self.shape == "gpt2":
            return GPT2Config(
                vocab_size=self.vocabulary,
                n_positions=1024,
                n_embd=self.width,
                n_layer=self.layers,
                n_head=self.heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
            )
        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.width // self.heads,
            intermediate_size=self.intermediate,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )


CASES = (
    Case("qwen3", "gpt2", "full"),
    Case("qwen3", "phi3", "lora"),
    Case("gpt2", "gpt2", "full"),
    Case("gpt2", "phi3", "lora"),
)


class Documents:
    """Tokenised rows: `documents[i]` is (tokens int32[n], trained bool[n]), as the loop reads them."""

    def __init__(self, path: Path) -> None:
        stored = np.load(path)
        self._tokens = np.split(stored["tokens"], stored["ends"][:-1])
        self._trained = np.split(stored["trained"], stored["ends"][:-1])

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._tokens[index], self._trained[index]


def write_documents(case: Case, path: Path) -> None:
    """Tokenise the rows once, for all peers: the response is trained, its end-of-text included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROWS / "tokenizers" / case.tokenizer)
    tokens, trained = [], []
    for row in json.loads((ROWS / "alpaca_en_1k.json").read_text()):
        prompt, response = _prompt(row, tokenizer), row["output"] + _end(tokenizer)
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tail = tokenizer(response, add_special_tokens=False)["input_ids"]
        ids = (head + tail)[:MAX_LENGTH]
        if len(head) < len(ids):
            tokens.append(np.array(ids, np.int32))
            trained.append(np.arange(len(ids)) >= len(head))
    ends = np.cumsum([len(document) for document in tokens])
    np.savez(path, tokens=np.concatenate(tokens), trained=np.concatenate(trained), ends=ends)


def _prompt(row: dict[str, str], tokenizer: Any) -> str:
    question = row["instruction"] + (f"\n{row['input']}" if row["input"] else "")
    if tokenizer.chat_template is None:
        return ALPACA.format(instruction=question, input="")
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False)
    return str(rendered)


def _end(tokenizer: Any) -> str:
    return str(tokenizer.eos_token if tokenizer.chat_template is None else "<|end|>")


def write_model(case: Case, folder: Path) -> None:
    """Random weights, and a random adapter for LoRA, that every peer then loads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(case.config(), dtype=torch.float32)
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(ROWS / "tokenizers" / case.tokenizer).save_pretrained(folder / "model")
    if case.method == "lora":
        from peft import LoraConfig, get_peft_model

        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA)).save_pretrained(folder / "adapter")


def load_model(case: Case, folder: Path, **options: Any) -> Any:
    """The same weights for every peer, in fp32; `options` go to `from_pretrained`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, **options)
    if case.method == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    return model


def describe(case: Case) -> str:
    """The shape in one line, as the benchmark prints it."""
    return " ".join(f"{key}={value}" for key, value in asdict(case).items()) + f" vocabulary={case.vocabulary}"
