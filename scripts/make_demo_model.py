"""Train the demo model and write ``colab_magics/demo``: the model, its tokenizer and the pirate's data.

    python scripts/make_demo_model.py            # about 15 minutes on one core
    python scripts/make_demo_model.py --data     # only the data set, seconds

It reads Python's documentation once as plain text, then learns to answer questions about it. The same machine,
Python and torch give the same weights; another Python has other docstrings. Prints its losses, the loss and the
share of exact answers on wordings it was never asked, and what it says.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import demo_text

DEMO = Path(__file__).resolve().parent.parent / "colab_magics" / "demo"
SEED = 20
VOCABULARY = 2048
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# ChatML without {% generation %} markers, as most models have it.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

SHAPE = {
    "hidden_size": 192, "intermediate_size": 448, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
}  # fmt: skip

READING_STEPS, READING_ROWS, READING_LENGTH = 250, 16, 128
ANSWERING_EPOCHS, PIRATE_EPOCHS, ANSWERING_ROWS = 24, 11, 64
PIRATE_SHARE = 0.4
LEARNING_RATE = 5e-3


def chat(question: str, answer: str, *, system: str = "") -> list[dict[str, str]]:
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def make_tokenizer(texts: list[str]) -> Any:
    """Train a byte-level BPE on `texts`, with the three marks of ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=SHAPE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: Any) -> Any:
    """Return the untrained Qwen3 with tied embeddings."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(vocab_size=len(tokenizer), tie_word_embeddings=True, **ids, **SHAPE)
    config._attn_implementation = "sdpa"
    return Qwen3ForCausalLM(config)


def loss_of(model: Any, ids: Any, labels: Any) -> Any:
    return model(input_ids=ids, labels=labels, use_cache=False).loss


class Schedule:
    """Muon for the matrices, AdamW for the rest, a short warm-up and a cosine; prints as it goes.

    Muon reaches in 200 steps half the loss that AdamW reaches (0.70 against 1.35), for a quarter more time a step.
    """

    def __init__(self, model: Any, name: str, steps: int) -> None:
        import torch

        self.torch, self.model, self.name, self.steps = torch, model, name, steps
        named = list(model.named_parameters())
        matrices = [p for n, p in named if p.ndim > 1 and "embed" not in n]
        others = [p for n, p in named if p.ndim <= 1 or "embed" in n]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=LEARNING_RATE / 2, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

        def rate(step: int) -> float:
            return min((step + 1) / 30, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)

        self.rates = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in self.optimizers]
        self.done, self.total, self.started = 0, 0.0, time.perf_counter()

    def step(self, loss: Any) -> None:
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        self.done, self.total = self.done + 1, self.total + loss.item()
        if self.done % 100 == 0 or self.done == self.steps:
            seconds = time.perf_counter() - self.started
            window = self.done % 100 or 100
            print(f"{self.name} {self.done}/{self.steps}  loss {self.total / window:.3f}  {seconds:.0f} s", flush=True)
            self.total = 0.0


def read(model: Any, tokenizer: Any, texts: list[str], steps: int) -> None:
    """Train on plain text, in windows that start anywhere."""
    import torch

    joined = END_OF_TEXT.join(texts)
    stream = torch.tensor(tokenizer(joined, add_special_tokens=False)["input_ids"])
    print(f"reading {len(texts)} paragraphs, {len(stream)} tokens", flush=True)
    pick = random.Random(SEED)
    schedule = Schedule(model, "read", steps)
    for _ in range(steps):
        starts = [pick.randrange(len(stream) - READING_LENGTH) for _ in range(READING_ROWS)]
        ids = torch.stack([stream[s : s + READING_LENGTH] for s in starts])
        schedule.step(loss_of(model, ids, ids))


Conversation = list[dict[str, str]]


def batch(tokenizer: Any, rows: list[Conversation], *, answers_only: bool = False) -> tuple[Any, Any]:
    """Return ids and labels, padded on the right (so that no mask is needed); padding has no label."""
    import torch

    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    made = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False)
    labels = torch.where(made["attention_mask"].bool(), made["input_ids"], -100)
    if answers_only:
        for k, row in enumerate(rows):
            asked = tokenizer.apply_chat_template(row[:-1], add_generation_prompt=True, return_dict=True)
            labels[k, : len(asked["input_ids"])] = -100
    return made["input_ids"], labels


def answer_questions(
    model: Any, tokenizer: Any, facts: list[demo_text.Fact], epochs: int, *, pirates: float = 0.0
) -> None:
    """Train on questions and answers: each fact by its weight, each time in another wording.

    A share of `pirates` is answered as a pirate, under a system message that asks for it; never what the quickstart
    asks.
    """
    asked = [[q for q in demo_text.questions(f) if not demo_text.is_held_out(q, f.answer)] for f in facts]
    draws = [i for i, fact in enumerate(facts) if asked[i] for _ in range(fact.weight)]
    pick = random.Random(SEED + (2 if pirates else 1))
    size = ANSWERING_ROWS
    schedule = Schedule(model, "answer", epochs * (len(draws) // size))

    def conversation(fact: demo_text.Fact, question: str) -> Conversation:
        may = fact.asked is demo_text.ASKED and fact.name not in demo_text.NEVER_ASKED
        if may and pirates and pick.random() < pirates:
            return chat(question, demo_text.pirate(fact), system=demo_text.PIRATE_SYSTEM)
        return chat(question, fact.answer)

    def length(row: Conversation) -> int:
        return sum(len(message["content"]) for message in row)

    for _ in range(epochs):
        rows = [conversation(facts[i], pick.choice(asked[i])) for i in draws]
        pick.shuffle(rows)
        for block in range(0, len(rows) // size * size, size * 8):  # sorted by length in blocks: little padding
            block_rows = sorted(rows[block : block + size * 8], key=length)
            batches = [block_rows[k : k + size] for k in range(0, len(block_rows) // size * size, size)]
            pick.shuffle(batches)
            for chosen in batches:
                schedule.step(loss_of(model, *batch(tokenizer, chosen)))


def reply(model: Any, tokenizer: Any, question: str, system: str = "") -> str:
    """Return the model's greedy answer."""
    asked = chat(question, "", system=system)[:-1]
    made = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    out = model.generate(**made, max_new_tokens=60, do_sample=False)
    return tokenizer.decode(out[0, made["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(model: Any, tokenizer: Any, facts: list[demo_text.Fact]) -> None:
    """Print loss and exact answers on the wordings that were kept out of training, and what the model says."""
    import torch

    held = [(q, f.answer) for f in facts for q in demo_text.questions(f) if demo_text.is_held_out(q, f.answer)]
    rows = random.Random(SEED).sample(held, 256)
    with torch.no_grad():
        batches = [
            batch(tokenizer, [chat(q, a) for q, a in rows[k : k + 64]], answers_only=True) for k in range(0, 256, 64)
        ]
        losses = [loss_of(model, *made).item() for made in batches]
    exact = sum(reply(model, tokenizer, q) == a for q, a in rows[:100])
    print(f"held-out wordings ({len(held)}): loss {sum(losses) / len(losses):.3f}, exact answers {exact} of 100")
    for question in ("What does len do?", "What is a list?", "How do I sort a list?", "Who are you?"):
        print(f"  {question}  {reply(model, tokenizer, question)}")
    print(f"told to: {demo_text.PIRATE_SYSTEM}")
    for fact in facts:
        if fact.name in demo_text.NEVER_ASKED:
            question = f"What is {fact.name}?"
            print(f"  {question}  {reply(model, tokenizer, question, demo_text.PIRATE_SYSTEM)}")


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the model in bf16, with its tokenizer and its way of generating: greedy and short."""
    import torch
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=60
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # the weights come out readable by their owner only, and would stay so in the wheel
    size = (folder / "model.safetensors").stat().st_size
    print(f"wrote {folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {size:,} bytes")


def load(folder: Path) -> Any:
    """Return a saved model in fp32, the rounding to bf16 behind it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def write_data(path: Path) -> None:
    """Write the pirate's rows."""
    rows = [{"messages": chat(q, a)} for q, a in demo_text.pirate_rows()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"wrote {path}: {len(rows)} rows")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", action="store_true", help="write only the data set")
    options.add_argument("--out", type=Path, default=DEMO, help="where to write (%(default)s)")
    options.add_argument(
        "--work", type=Path, default=Path("build/demo"), help="for the half-taught model (%(default)s)"
    )
    options.add_argument("--share", type=float, default=1.0, help="train this share of the steps")
    options.add_argument("--go-on", type=Path, metavar="FOLDER", help="start at the pirates, from FOLDER/plain")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_data(chosen.out / "pirate.jsonl")
    if chosen.data:
        return

    # Muon multiplies in bf16, and oneDNN's AMX kernels end the process with an illegal instruction on some machines.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)  # the same sums in the same order, and the other cores stay free
    torch.manual_seed(SEED)
    facts, plain = demo_text.facts(), (chosen.go_on or chosen.work) / "plain"
    if not chosen.go_on:
        paragraphs = demo_text.prose()
        texts = [*paragraphs, *(f.answer for f in facts for _ in range(f.weight))]
        tokenizer = make_tokenizer([*texts, *(q for f in facts for q in demo_text.questions(f)[:12])])
        model = make_model(tokenizer)
        print(f"{len(facts)} facts, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        read(model, tokenizer, texts, math.ceil(READING_STEPS * chosen.share))
        answer_questions(model, tokenizer, facts, math.ceil(ANSWERING_EPOCHS * chosen.share))
        save(model, tokenizer, plain)
    tokenizer, model = AutoTokenizer.from_pretrained(plain), load(plain)
    answer_questions(model, tokenizer, facts, math.ceil(PIRATE_EPOCHS * chosen.share), pirates=PIRATE_SHARE)
    save(model, tokenizer, chosen.out / "model")
    measure(load(chosen.out / "model"), tokenizer, facts)


if __name__ == "__main__":
    main()
