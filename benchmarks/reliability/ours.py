"""colab_magics: the real worker on a real run's folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from contenders import KEPT, ROWS_A_STEP, SEED, STEPS, said

from colab_magics.checkpoints.manifest import parse_folder_name
from colab_magics.magics.starting import write_inputs
from colab_magics.recipe import Recipe
from colab_magics.run import Run
from colab_magics.version import __version__


class ColabMagics:
    """The demo model, all weights trained, a save at every step."""

    name = f"colab_magics {__version__}"

    def prepare(self, folder: Path) -> None:
        folder.mkdir()
        recipe = Recipe(
            model="demo",
            data="demo",
            method="full",
            precision="fp32",
            max_steps=STEPS,
            effective_batch_size=ROWS_A_STEP,
            per_device_train_batch_size=ROWS_A_STEP,
            packing=False,
            gradient_checkpointing=False,
            seed=SEED,
            save_every="5 steps",
            save_total_limit=KEPT,
        )
        write_inputs(folder, recipe, {})

    def start(self, folder: Path) -> int:
        return self._work(folder, "--attempt", "1")

    def resume(self, folder: Path) -> int:
        attempt = Run(folder).attempts + 1
        return self._work(folder, "--attempt", str(attempt), "--resume", str(folder / "checkpoints"))

    def _work(self, folder: Path, *arguments: str) -> int:
        import torch

        from colab_magics.training.__main__ import main

        torch.set_num_threads(1)
        return main([str(folder), *arguments])

    def saved(self, folder: Path) -> list[Path]:
        there = folder / "checkpoints"
        found = [(told, path) for path in there.glob("*-a*") if (told := parse_folder_name(path.name)) is not None]
        return [path for _, path in sorted(found, key=lambda one: (one[0][1], one[0][0]))]

    def weights(self, folder: Path) -> Path:
        return folder / "model" / "model.safetensors"

    def saving_share(self, folder: Path) -> float:
        events = Run(folder).events()
        at = [datetime.fromisoformat(event["time"]) for event in events if event["kind"] == "step"]
        saving = sum(event["seconds"] for event in events if event.get("action") == "saved")
        return saving / (at[-1] - at[0]).total_seconds()

    def told(self, folder: Path) -> str:
        (resumed,) = (event for event in Run(folder).events() if event["kind"] == "resumed")
        return f"it said: {resumed['skipped']}, {resumed['lost_steps']} steps lost"

    def complaints(self, folder: Path) -> list[str]:
        events = Run(folder).events()
        failed = [event for event in events if event.get("action") == "failed"]
        return [f"{len(failed)} saves failed, the first of step {one['step']}: {one['message']}" for one in failed[:1]]

    def why(self, folder: Path) -> str:
        error = Run(folder).error
        lines = said(folder).read_text(errors="replace").splitlines()
        return f"{error.what} {error.why}" if error is not None else lines[-1] if lines else "it said nothing"
