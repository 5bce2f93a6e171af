"""What loading costs at its peak on the host, beside what is held when it is done: `python benchmarks/load_spike.py`.

A model of the shape of Llama-3.2-1B with random weights in fp16, in shards of 512 MB in a temporary folder (2.5 GB,
deleted at the end). Each way of loading it runs in a process of its own, looked at every 2 ms from outside:

anonymous  the process's own memory (RssAnon), less what it had before: what can run out
resident   all of it (VmHWM), less the start: with the pages of the files that safetensors maps, which the system
           takes back when it wants them

The ratio is the highest anonymous figure to what is held at the end; where weights stay in the mapped file (their
dtype is the file's) they are held there, and both are of all that is resident. A card's peak is not to be seen here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MB = 10**6
SHAPE: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
QUICK = SHAPE | {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}


# --- in the process that loads ---------------------------------------------------------------------------------------


def ours(method: str, precision: str, folder: Path) -> Callable[[], Any]:
    import torch

    from colab_magics.plan import Choice, Plan
    from colab_magics.recipe import Recipe
    from colab_magics.training.model import load_model
    from colab_magics.training.source import open_model

    recipe = Recipe(model=str(folder), data="rows", method=method)
    source = open_model(recipe)
    chosen = {"method": method, "precision": precision, "attention": "sdpa"}
    plan = Plan({key: Choice(value, "a benchmark") for key, value in chosen.items()})
    return lambda: load_model(source, recipe, plan, torch.device("cpu"))


def transformers_default(folder: Path) -> Callable[[], Any]:
    from transformers import AutoModelForCausalLM

    return lambda: AutoModelForCausalLM.from_pretrained(folder)


def trl_by_name(folder: Path) -> Callable[[], Any]:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    tokenizer = _tokenizer()
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    rows = Dataset.from_list([{"text": "a b"}])
    options = SFTConfig(output_dir=str(folder / "trl"), report_to=[], use_cpu=True, bf16=False, fp16=False)
    return lambda: SFTTrainer(model=str(folder), args=options, train_dataset=rows, processing_class=tokenizer)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


WAYS: dict[str, tuple[str, Callable[[Path], Callable[[], Any]]]] = {
    "lora-fp16": ("ours, lora, fp16 (the file's dtype)", lambda folder: ours("lora", "fp16", folder)),
    "lora-fp32": ("ours, lora, fp32 (what a CPU takes)", lambda folder: ours("lora", "fp32", folder)),
    "qlora": ("ours, qlora", lambda folder: ours("qlora", "fp16", folder)),
    "full": ("ours, full, fp32", lambda folder: ours("full", "fp32", folder)),
    "transformers": ("transformers, from_pretrained", transformers_default),
    "trl": ("TRL, SFTTrainer(model=name)", trl_by_name),
}


def load(way: str, folder: Path) -> None:
    """Load, and tell on each side of it that the watching process may note what is held."""
    import gc

    import torch

    torch.set_num_threads(1)
    work = WAYS[way][1](folder)
    if way == "qlora":
        import bitsandbytes  # noqa: F401 - so that its import is no part of the loading
    import peft  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    gc.collect()
    print("begin", flush=True)
    sys.stdin.readline()
    kept = work()
    gc.collect()
    print("held", flush=True)
    sys.stdin.readline()
    model = getattr(kept, "model", kept) if way == "trl" else kept
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    print(json.dumps({"bytes": size}), flush=True)


# --- in the process that watches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Bytes beyond the start: highest and held, of anonymous memory and of all; and of the parameters."""

    anonymous: int
    anonymous_held: int
    resident: int
    resident_held: int
    parameters: int
    seconds: float

    @property
    def ratio(self) -> float:
        """The highest to what is held: of the anonymous, or of all where the weights are held in the mapped file."""
        if self.anonymous_held > self.parameters / 2:
            return self.anonymous / self.anonymous_held
        return self.resident / self.resident_held


def watch(way: str, folder: Path) -> Seen:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        _until(process, "begin")
        start = _memory(process.pid)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # VmHWM counts from here
        process.stdin.write("\n")
        process.stdin.flush()
        begin, most = time.perf_counter(), 0
        os.set_blocking(process.stdout.fileno(), False)
        while process.stdout.readline().strip() != "held":
            if process.poll() is not None:
                raise SystemExit(process.stderr.read())
            most = max(most, _memory(process.pid)["RssAnon"])
            time.sleep(0.002)
        seconds, end = time.perf_counter() - begin, _memory(process.pid)
        os.set_blocking(process.stdout.fileno(), True)
        process.stdin.write("\n")
        process.stdin.flush()
        parameters = int(json.loads(process.stdout.readline())["bytes"])
    return Seen(
        max(most, end["RssAnon"]) - start["RssAnon"],
        end["RssAnon"] - start["RssAnon"],
        end["VmHWM"] - start["VmRSS"],
        end["VmRSS"] - start["VmRSS"],
        parameters,
        seconds,
    )


def _until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    raise SystemExit(process.stderr.read())


def _memory(pid: int) -> dict[str, int]:
    fields = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {field[0][:-1]: int(field[1]) * 1024 for field in fields if field[0] in ("RssAnon:", "VmRSS:", "VmHWM:")}


def make_model(folder: Path, shape: dict[str, Any], shard: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **shape, bos_token_id=0, eos_token_id=2, pad_token_id=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.to_empty(device="cpu")
    model.tie_weights()
    block = torch.randn(1 << 20).mul_(0.02).half()
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for begin in range(0, len(flat), len(block)):
                piece = flat[begin : begin + len(block)]
                piece.copy_(block[: len(piece)])
    model.save_pretrained(folder, max_shard_size=shard)
    _tokenizer().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a model of 0.1 GB, to see that it works")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    if options.way:
        load(options.way, options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shape, shard = (QUICK, "20MB") if options.quick else (SHAPE, "512MB")
        # in a process of its own, whose pages are gone when the first way is watched
        made = f"from load_spike import *; make_model(Path({temporary!r}), {shape!r}, {shard!r})"
        path = os.pathsep.join([str(Path(__file__).parent), str(REPOSITORY)])
        subprocess.run(
            [sys.executable, "-c", made], check=True, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
        )
        shards = sorted(folder.glob("*.safetensors"))
        print(f"{len(shards)} shards, {sum(one.stat().st_size for one in shards) / MB:,.0f} MB\n")
        print("| way of loading | anonymous: peak | held | resident: peak | held | parameters | peak / held | s |")
        print("|---|---|---|---|---|---|---|---|")
        for way in options.only:
            seen = watch(way, folder)
            sizes = (seen.anonymous, seen.anonymous_held, seen.resident, seen.resident_held, seen.parameters)
            shown = " | ".join(f"{size / MB:,.0f}" for size in sizes)
            print(f"| {WAYS[way][0]} | {shown} | {seen.ratio:.2f} | {seen.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
