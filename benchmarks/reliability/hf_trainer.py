"""HF Trainer as people use it on Colab: `save_steps`, then `resume_from_checkpoint=True`."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from contenders import KEPT, ROWS_A_STEP, SEED, STEPS, said

from colab_magics import demo

CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class HFTrainer:
    """The demo model, all weights trained, a save at every step."""

    def __init__(self) -> None:
        import transformers

        self.name = f"HF Trainer {transformers.__version__}"

    def prepare(self, folder: Path) -> None:
        folder.mkdir()

    def start(self, folder: Path) -> int:
        return self._train(folder, resume=False)

    def resume(self, folder: Path) -> int:
        return self._train(folder, resume=True)

    def _train(self, folder: Path, *, resume: bool) -> int:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

        torch.set_num_threads(1)
        set_seed(SEED)
        model = AutoModelForCausalLM.from_pretrained(demo.model_path(), dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
        arguments = TrainingArguments(
            str(folder),
            per_device_train_batch_size=ROWS_A_STEP,
            max_steps=STEPS,
            save_steps=1,
            save_total_limit=KEPT,
            seed=SEED,
            use_cpu=True,
            report_to="none",
            logging_steps=10,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        timed = _TimedSaves(folder.with_name(f"{folder.name}.times"))
        trainer = Trainer(model, arguments, data_collator=_padded, train_dataset=_rows(tokenizer))
        save = trainer._save_checkpoint
        trainer._save_checkpoint = lambda *given, **named: timed.save(save, *given, **named)
        begin = time.perf_counter()
        trainer.train(resume_from_checkpoint=resume or None)
        timed.tell(time.perf_counter() - begin)
        trainer.save_model(str(folder / "result"))
        return 0

    def saved(self, folder: Path) -> list[Path]:
        found = [(int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def weights(self, folder: Path) -> Path:
        return folder / "result" / "model.safetensors"

    def saving_share(self, folder: Path) -> float:
        told = json.loads(folder.with_name(f"{folder.name}.times").read_text())
        return float(told["saving"] / told["whole"])

    def told(self, folder: Path) -> str:
        words = re.findall(
            r".*(?:corrupt|invalid|checksum|hash|skipp).*", said(folder).read_text(errors="replace"), re.I
        )
        return f"it said: {words[0]}" if words else "it said nothing"

    def complaints(self, folder: Path) -> list[str]:  # noqa: ARG002
        return []

    def why(self, folder: Path) -> str:
        lines = [
            line for line in said(folder).read_text(errors="replace").splitlines() if re.match(r"\w+(\.\w+)*: ?", line)
        ]
        return re.sub(r"'?/[^ ']*/|checkpoint-\d+|\d+", "…", lines[-1])[:110] if lines else "it said nothing"


class _TimedSaves:
    """How long saving took, for the share of the time in which a kill finds it under way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saving = 0.0

    def save(self, really: Any, *given: Any, **named: Any) -> None:
        begin = time.perf_counter()
        really(*given, **named)
        self.saving += time.perf_counter() - begin

    def tell(self, whole: float) -> None:
        self.path.write_text(json.dumps({"saving": self.saving, "whole": whole}))


def _rows(tokenizer: Any) -> list[dict[str, list[int]]]:
    rows = [row["messages"] for row in demo.rows()]
    texts = [tokenizer.apply_chat_template(row, tokenize=False) for row in rows]
    return [{"input_ids": tokenizer(text)["input_ids"]} for text in texts]


def _padded(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    there = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": there, "labels": ids.where(there.bool(), -100)}
