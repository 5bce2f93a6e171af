"""What a merge takes: host memory, disk and time of a model of a given shape, beside peft's merge_and_unload.

    .venv/bin/python benchmarks/merge.py                       Llama-3.2-1B's shape, in bf16, in shards
    .venv/bin/python benchmarks/merge.py --shape qwen3-4b      a larger one (8 GB, and as much again)
    .venv/bin/python benchmarks/merge.py --place /mnt          where the models are made and removed

The weights are random; the sizes are the real ones. Each way is a process of its own, whose memory the kernel has
counted: VmHWM is the most that was resident; of it, RssFile are pages of files (libraries, and what of the base is
mapped), which the kernel takes back when somebody wants them. peft's way is loading the base in 16 bit on the CPU,
`merge_and_unload` and `save_pretrained`. The logits of the merged models are compared with those of base and adapter
together, computed in fp32 on the same tokens; `bound` is what the tests hold (tests/training/merged.py), in the same
unit: steps of the dtype at the largest logit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[1:1] = [str(REPOSITORY), str(REPOSITORY / "tests" / "training")]

SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": {
        "kind": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "kind": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "kind": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
MAKE = """
import sys, json, torch
from transformers import AutoConfig, AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
shape, base, adapter = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
config = AutoConfig.for_model(shape.pop("kind"), **shape)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.save_pretrained(base, max_shard_size="900MB")
adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
with torch.no_grad():
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, dtype=torch.float32) * 0.02
adapted.peft_config["default"].base_model_name_or_path = base
adapted.save_pretrained(adapter, save_embedding_layers=False)
"""
PEFT = """
import sys, json, torch
from peft import AutoPeftModelForCausalLM
adapter, into, dtype = sys.argv[1:]
model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=getattr(torch, dtype))
model.merge_and_unload().save_pretrained(into, max_shard_size="1GB")
"""
LOGITS = """
import sys, json, torch
adapter, folders = sys.argv[1], sys.argv[2:]
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM
def logits(kind, folder):
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(32)[None] * 7 % model.config.vocab_size).logits
told = logits(AutoPeftModelForCausalLM, adapter)
found = [float((logits(AutoModelForCausalLM, folder) - told).abs().max()) for folder in folders]
print(json.dumps({"largest": float(told.abs().max()), "differences": found}))
"""
KINDS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


class Watched:
    """A process, and the most memory that it had: resident in all (VmHWM), its own, and of files."""

    def __init__(self, command: list[str], given: str = "") -> None:
        begin = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        self.peak = self.own = self.files = 0
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        watching = threading.Thread(target=self._watch, args=(process,), daemon=True)
        watching.start()
        self.said, errors = process.communicate(given)
        watching.join()
        self.seconds = time.monotonic() - begin
        if process.returncode:
            raise SystemExit(errors[-2000:])

    def _watch(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            told = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if "VmHWM" in told:
                peak, own, files = (int(told[key].split()[0]) * 1024 for key in ("VmHWM", "RssAnon", "RssFile"))
                self.peak, self.own = max(self.peak, peak), max(self.own, own)
                self.files = max(self.files, files)
            time.sleep(0.02)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def gib(value: float) -> str:
    return f"{value / 2**30:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-1b")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--no-peft", action="store_true", help="leave peft's way out, where memory is short")
    options = parser.parse_args()
    from merged import BOUND, EPSILON

    home = Path(tempfile.mkdtemp(prefix="merge-", dir=options.place))
    try:
        base, adapter = home / "base", home / "adapter"
        Watched([sys.executable, "-c", MAKE, json.dumps(SHAPES[options.shape]), str(base), str(adapter)])
        shards = len(list(base.glob("*.safetensors")))
        print(
            f"{options.shape}: base {gib(size(base))} GiB in {shards} files, adapter {size(adapter) / 2**20:.0f} MiB\n"
        )
        print("| merged | as | seconds | most resident | own (anonymous) | of files | disk | in files |")
        print("|---|---|---|---|---|---|---|---|")
        made: dict[tuple[str, str], Path] = {}
        for dtype, long in KINDS.items():
            for way in ("%export", "peft") if not options.no_peft else ("%export",):
                into = home / f"{way.strip('%')}-{dtype}"
                into.mkdir()
                if way == "peft":
                    done = Watched([sys.executable, "-c", PEFT, str(adapter), str(into), long])
                else:
                    request = {"adapter": str(adapter), "into": str(into), "dtype": dtype, "base": None,
                               "revision": None, "copies": 1.0}  # fmt: skip
                    command = [sys.executable, "-P", "-m", "colab_magics.training.merging"]
                    done = Watched(command, json.dumps(request))
                    if '"merged"' not in done.said:
                        raise SystemExit(done.said)
                made[way, dtype] = into
                files = sorted(path.stat().st_size for path in into.glob("*.safetensors"))
                print(
                    f"| {way} | {dtype} | {done.seconds:.1f} | {gib(done.peak)} GiB | {gib(done.own)} GiB "
                    f"| {gib(done.files)} GiB | {gib(size(into))} GiB | {len(files)}, up to {gib(files[-1])} GiB |",
                    flush=True,
                )
        watched = Watched([sys.executable, "-c", LOGITS, str(adapter), *map(str, made.values())])
        told = json.loads(watched.said)
        print(f"\nLargest logit {told['largest']:.2f}. Merged against unmerged, both computed in fp32:\n")
        print("| merged | as | largest difference | in steps of the dtype | bound |")
        print("|---|---|---|---|---|")
        for (way, dtype), difference in zip(made, told["differences"], strict=True):
            steps = difference / (EPSILON[dtype] * told["largest"])
            print(f"| {way} | {dtype} | {difference:.2e} | {steps:.2f} | {BOUND[dtype]} |")
            if way == "%export" and steps >= BOUND[dtype]:
                raise SystemExit("the bound does not hold")
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
