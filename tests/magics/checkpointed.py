"""Runs with checkpoints, made without training: what a worker leaves behind, from the rooms that write it."""

from __future__ import annotations

import array
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from colab_magics.checkpoints.commit import commit
from colab_magics.checkpoints.manifest import Manifest, folder_name
from colab_magics.checkpoints.tensors import Tensor, laid_out
from colab_magics.events import EventLog
from colab_magics.recipe import Recipe
from colab_magics.run import Run

RUN_ID = "0123456789abcdef"


def tensor(*numbers: float) -> Tensor:
    return Tensor("F32", (len(numbers),), memoryview(array.array("f", numbers).tobytes()))


@dataclass
class Left:
    """A run's folder, as an attempt that ended in the middle has left it."""

    root: Path
    name: str = "kwanzaa"
    run_id: str = RUN_ID
    recipe: Recipe = field(default_factory=lambda: Recipe(model="demo", data="rows.jsonl"))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.run.checkpoints.mkdir()
        (self.folder / "recipe.yaml").write_text(self.recipe.to_yaml(), encoding="utf-8")
        self.tell("started", name=self.name, run=self.run_id)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def run(self) -> Run:
        return Run(self.folder)

    def tell(self, kind: str, *, attempt: int = 1, log: str = "events.jsonl", **fields: object) -> None:
        events = EventLog(self.folder / log, attempt)
        events.append(kind, **fields)
        events.close()

    def copied(self, step: int, state: str, attempt: int = 1, **fields: object) -> None:
        name = folder_name(step, attempt)
        self.tell("replica", log="replica.jsonl", state=state, where="/drive", checkpoint=name, **fields)

    def save(
        self,
        step: int,
        *,
        attempt: int = 1,
        eval_loss: float | None = None,
        minutes_ago: float = 3,
        adapter: bool = True,
        **facts: object,
    ) -> Path:
        """Commit a checkpoint; its folder."""
        metrics = {"loss": 1 / step, **({"eval_loss": eval_loss} if eval_loss is not None else {})}
        when = datetime.now(timezone.utc) - timedelta(minutes=minutes_ago)
        told = {"time": when.isoformat(timespec="seconds"), "total_steps": 100, "metrics": metrics, **facts}
        weights = {f"base.layers.{n}.q_proj.lora_{side}.weight": tensor(step, n) for n in (0, 1) for side in "AB"}
        moments = {f"{kind}/{name}": tensor(0, 0) for name in weights for kind in ("exp_avg", "exp_avg_sq")}
        state = {"version": 1, "arrangement": {"micro_batch": 4, "gradient_checkpointing": True}}
        stem = "adapter_model" if adapter else "model"
        config = {"base_model_name_or_path": "demo"} if adapter else {"model_type": "llama"}
        target = self.run.checkpoints / folder_name(step, attempt)
        commit(
            target,
            {
                f"{stem}.safetensors": laid_out(weights, {"format": "pt"}),
                "optimizer.safetensors": laid_out(moments),
                "adapter_config.json" if adapter else "config.json": [json.dumps(config).encode()],
                "state.json": [json.dumps(state).encode()],
            },
            Manifest("checkpoint", self.run_id, {}, step, attempt, told),
        )
        return target


def flip(path: Path, place: int = -1) -> None:
    """Change one bit of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    """Cut a file to half its size, as a machine that dies does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes: what must not have changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
