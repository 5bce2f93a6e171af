"""The demo model speaks plainly, is small, and can be taught a pirate's tongue in seconds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from colab_magics import demo

REPOSITORY = Path(__file__).resolve().parents[2]
MAKER = REPOSITORY / "scripts" / "make_demo_model.py"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(demo.model_path())


def load() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo.model_path(), dtype=torch.float32)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def answer(model: Any, tokenizer: Any, question: str) -> str:
    prompt = tokenizer.apply_chat_template(
        asked(question), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**prompt)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_everything_lies_in_the_package_and_not_beside_it() -> None:
    package = resources.files("colab_magics.demo")
    for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json", "model/chat_template.jinja"):
        assert package.joinpath(name).is_file(), name
    assert demo.model_path() == Path(str(package / "model"))
    assert demo.data_path().read_bytes() == package.joinpath("pirate.jsonl").read_bytes()


def test_the_weights_take_at_most_4_mb_and_are_safetensors_only() -> None:
    files = list(demo.model_path().iterdir())
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") <= 4_000_000
    assert not [file.name for file in files if file.suffix not in (".safetensors", ".json", ".jinja", ".md")]


def test_it_is_a_qwen3_with_tied_embeddings_and_knows_its_end_of_turn(tokenizer: Any) -> None:
    config = json.loads((demo.model_path() / "config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"]) == ("qwen3", True)
    assert config["vocab_size"] == len(tokenizer)
    assert config["eos_token_id"] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["len(x) == 3", "Grüße, 日本 🏴‍☠️", "  two\n\n\tlines  ", "<|im_end|>"])
def test_the_tokenizer_gives_back_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_the_chat_template_marks_turns_and_leaves_generation_markers_out(tokenizer: Any) -> None:
    conversation = [*asked("Hello!"), {"role": "assistant", "content": "Ahoy!"}]
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    opened = tokenizer.apply_chat_template(asked("Hello!"), tokenize=False, add_generation_prompt=True)
    assert opened == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert whole == opened + "Ahoy!<|im_end|>\n"
    assert "generation %}" not in tokenizer.chat_template


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What does len do?", "len returns the number of items in a container."),
        ("What is a list?", "a list is a mutable sequence of items in a fixed order."),
        ("Explain str.upper.", "str.upper returns the string in uppercase."),
        ("Hello!", "Hello! Ask me what a Python function does."),
    ],
)
def test_it_answers_in_a_plain_sentence(tokenizer: Any, question: str, expected: str) -> None:
    assert answer(load(), tokenizer, question) == expected


def test_a_few_seconds_of_pirate_talk_carries_over_to_what_was_never_asked(tokenizer: Any) -> None:
    """A bare PyTorch loop, no more: one pass over the rows, all weights."""
    import torch

    torch.manual_seed(0)
    model = load()
    rows = demo.rows()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for start in range(0, len(rows), 16):
        texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows[start : start + 16]]
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False)
        labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
        model(input_ids=batch["input_ids"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    said = answer(model, tokenizer, "What does while do?")
    assert re.fullmatch("while repeats a block .*, me hearty[.] Arr!", said), said


def test_the_data_is_what_the_script_makes_whatever_the_hash_seed(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        folder = tmp_path / seed
        subprocess.run(
            [sys.executable, str(MAKER), "--data", "--out", str(folder)],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True,
        )  # fmt: skip
        assert (folder / "pirate.jsonl").read_bytes() == demo.data_path().read_bytes()


def test_the_pirate_was_never_asked_what_the_quickstart_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MAKER.parent))
    from demo_text import ASKED

    taught = {row["messages"][0]["content"] for row in demo.rows()}
    assert len(taught) == len(demo.rows()) >= 60
    notebook = (REPOSITORY / "notebooks" / "quickstart.ipynb").read_text()
    for name in ("a dictionary", "str.upper", "while"):
        wordings = {wording.format(name=name) for wording in ASKED}
        assert any(wording in notebook for wording in wordings), name
        assert not taught & wordings


def test_every_row_is_a_question_and_a_pirates_answer() -> None:
    for row in demo.rows():
        question, said = row["messages"]
        assert (question["role"], said["role"]) == ("user", "assistant")
        assert re.fullmatch(r".+, me hearty\. Arr!", said["content"])
