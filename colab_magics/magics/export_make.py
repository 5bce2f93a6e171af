"""What `%export` does: find the weights, merge or convert them if that is asked, and put them where they are wanted.

The notebook and `python -m colab_magics export` do the same by these functions.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.manifest import Broken
from colab_magics.errors import ColabMagicsError, redact
from colab_magics.magics.checkpoint_export import its_code_alone, parts_of, verified
from colab_magics.magics.checkpoint_line import Line as CheckpointLine
from colab_magics.magics.export_card import merged_card
from colab_magics.magics.export_files import TOKENIZER, allowed_of, files_of, marked
from colab_magics.magics.export_gguf import convert, converter
from colab_magics.magics.export_hub import check_token, upload
from colab_magics.magics.export_line import Line
from colab_magics.magics.export_merge import Said, merge
from colab_magics.magics.parcel import README, Part, beside, clear, free_place, pack, put
from colab_magics.run import Run
from colab_magics.session.detect import on_kaggle
from colab_magics.sizes import size

LOG = "exports.jsonl"
ADAPTER = "adapter_config.json"
_KAGGLE = Path("/kaggle/working")


@dataclass(frozen=True)
class Exported:
    """What was made: where it is (None on the Hub), and what there is to say."""

    path: Path | None
    lines: list[str]


@dataclass(frozen=True)
class _Weights:
    """What is exported: the files that may leave, the folder of the adapter or model, and of which step it is."""

    parts: list[Part]
    folder: Path
    step: int | None

    @property
    def is_adapter(self) -> bool:
        return any(part.name == ADAPTER for part in self.parts)

    @property
    def tokenizer(self) -> list[Part]:
        return [part for part in self.parts if TOKENIZER.fullmatch(part.name)]


def export(run: Run, line: Line, *, say: Said = print, show: Said = lambda _: None) -> Exported:
    """Do what the line asks for.

    Parameters
    ----------
    say : told what should stay on the screen, a sentence each
    show : told how far it is, in a line that takes the place of the one before

    Raises
    ------
    ColabMagicsError
        There is nothing to export, the place is taken or full, or one of the steps on the way failed. Nothing
        half-written is left.
    """
    weights = _weights(run, line)
    if line.merge and not weights.is_adapter:
        raise ColabMagicsError(
            f"{run.name} has no adapter to merge.",
            "It was fine-tuned in full: its result is a whole model already.",
            "Leave --merge out.",
        )
    if line.hub is not None:
        return _to_hub(run, line, weights, say, show)
    if line.gguf is not None:
        return _to_gguf(run, line, weights, say, show)
    return _to_disk(run, line, weights, say, show)


def _weights(run: Run, line: Line) -> _Weights:
    if line.checkpoint is not None:
        entry, manifest = verified(run, CheckpointLine("export", run=run.name, step=line.checkpoint))
        return _Weights(allowed_of(parts_of(run, entry, manifest)), entry.folder, entry.step)
    folder = run.adapter_path
    if folder is None:
        raise _no_result(run)
    return _Weights(marked(files_of(folder)), folder, None)


def _no_result(run: Run) -> ColabMagicsError:
    from colab_magics.checkpoints.verify import entries

    if run.is_own_loop:
        raise its_code_alone(run)
    steps = [entry.step for entry in entries(run.checkpoints) if entry.manifest is not None]
    why = "It is written at the end of the training." if run.state == "running" else "It wrote none."
    return ColabMagicsError(
        f"{run.name} has no result yet: it is {run.state}.",
        why,
        f"Export a checkpoint instead: %export {run.name} --checkpoint {max(steps)}." if steps else "",
        f"%finetune status {run.name} shows how it stands.",
    )


def _to_disk(run: Run, line: Line, weights: _Weights, say: Said, show: Said) -> Exported:
    kind = "merged" if line.merge else "adapter" if weights.is_adapter else "model"
    # an adapter is small, and one file is what a browser downloads; a whole model is seldom wanted twice
    as_archive = line.zip or (line.to is None and not line.merge)
    target = _target(run, line, _name(run, line, kind), ".zip" if as_archive else "")
    begun = time.monotonic()
    if not line.merge:
        taken = _packed(target, weights.parts, run)
        _keep(run, what="exported", to=str(target), bytes=taken, seconds=time.monotonic() - begun)
        return Exported(target, [_said(run, weights, taken, target), *_hints(run, weights)])
    with _merged(run, line, weights, target, 2.0 if as_archive else 1.0, say, show) as (staging, made):
        if as_archive:
            show(f"Packing {target.name}")
            taken = _packed(target, files_of(staging), run)
        else:
            put(staging, target)
            taken = sum(path.stat().st_size for path in target.iterdir())
    told = f"Merged {run.name} into {made['base']}, {made['dtype']}, {size(taken)}: {target}"
    return Exported(target, [told, _how(made, begun)])


def _to_gguf(run: Run, line: Line, weights: _Weights, say: Said, show: Said) -> Exported:
    script, kind = converter(), str(line.gguf)  # asked first: without it nothing is worth merging
    target = _target(run, line, _name(run, line, kind), ".gguf")
    staged = beside(target)
    begun = time.monotonic()
    try:
        if weights.is_adapter:
            with _merged(run, line, weights, target, 2.0, say, show) as (folder, _):
                show(f"Converting to {kind}")
                convert(script, folder, staged, kind)
        else:
            convert(script, weights.folder, staged, kind)
        put(staged, target)
    finally:
        clear(staged)
    taken = target.stat().st_size
    _keep(run, what="converted", to=str(target), bytes=taken, seconds=time.monotonic() - begun, dtype=kind)
    return Exported(target, [f"Converted {run.name} to GGUF, {kind}, {size(taken)}: {target}"])


def _to_hub(run: Run, line: Line, weights: _Weights, say: Said, show: Said) -> Exported:
    token, name = check_token(), str(line.hub)
    begun = time.monotonic()

    def sent(parts: list[Part]) -> Exported:
        show(f"Uploading {size(sum(part.size for part in parts))}")
        made = upload(
            name, parts, public=line.public, force=line.force, token=token, message=f"{run.name}, by colab_magics"
        )
        taken = sum(part.size for part in parts)
        _keep(run, what="uploaded", to=made.url, bytes=taken, seconds=time.monotonic() - begun, commit=made.commit)
        seen = "private" if made.private else "public"
        return Exported(None, [f"Uploaded {run.name}, {len(parts)} files, {size(taken)}: {made.url} ({seen})"])

    if not line.merge:
        return sent(weights.parts)
    place = home() / _name(run, line, "merged")
    with _merged(run, line, weights, place, 1.0, say, show) as (staging, _):
        return sent(files_of(staging))


@contextmanager
def _merged(
    run: Run, line: Line, weights: _Weights, target: Path, copies: float, say: Said, show: Said
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The merged model in a folder beside the target, complete; whoever keeps it gives it its name."""
    staging = beside(target)
    staging.mkdir()
    try:
        known = _recipe_model(run) if line.base is None else None
        if known == "demo":  # a folder of this package: where it lies differs from machine to machine
            line = replace(line, base=known)
        made = merge(weights.folder, staging, line, copies=copies, say=say, show=show)
        if known is not None and Path(made["base"]).is_absolute():
            made["base"] = known
        for part in weights.tokenizer:
            data = part.text if part.source is None else part.source.read_bytes()
            (staging / part.name).write_bytes(data)
        (staging / README).write_text(merged_card(run, made, weights.step), encoding="utf-8")
        told = {key: made[key] for key in ("seconds", "bytes", "dtype", "base", "revision", "memory")}
        _keep(run, what="merged", to=str(target), **told)
        yield staging, made
    finally:
        clear(staging)


def _recipe_model(run: Run) -> str | None:
    """The base as the user has called it; None where nobody knows."""
    try:
        return run.recipe.model
    except (OSError, ColabMagicsError):
        return None


def _name(run: Run, line: Line, kind: str) -> str:
    return f"{run.name}-step-{line.checkpoint}-{kind}" if line.checkpoint is not None else f"{run.name}-{kind}"


def home() -> Path:
    """Where an export goes whose path is not given; on Kaggle only one folder outlives the session."""
    return _KAGGLE if on_kaggle() and _KAGGLE.is_dir() else Path.cwd()


def _target(run: Run, line: Line, name: str, ending: str) -> Path:
    path = Path(line.to) if line.to is not None else home() / name
    if ending and path.suffix != ending:
        path = path.with_name(path.name + ending)
    target = free_place(path, not_in=run.checkpoints, force=line.force)
    if target.is_relative_to(run.folder.resolve()):
        raise ColabMagicsError(
            f"{target} cannot be exported to.", "It is the run's own folder.", "Name a path elsewhere: --to PATH."
        )
    return target


def _packed(target: Path, parts: list[Part], run: Run) -> int:
    try:
        return pack(target, parts)
    except (OSError, Broken) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ColabMagicsError(
            f"{run.name} could not be exported to {target}.", why, "Nothing was left there: name another path."
        ) from None


def _said(run: Run, weights: _Weights, taken: int, target: Path) -> str:
    of = f"step {weights.step:,} of {run.name}" if weights.step is not None else run.name
    return f"Exported the {'adapter' if weights.is_adapter else 'model'} of {of}, {size(taken)}: {target}"


def _hints(run: Run, weights: _Weights) -> list[str]:
    if not weights.tokenizer:
        return ["The tokenizer is not in it: it is the base model's own."]
    if run.state == "unfinished" and weights.step is None:
        return [
            f"The run was stopped before its end; this is what it had learnt: %checkpoint resume {run.name} goes on."
        ]
    return []


def _how(made: dict[str, Any], begun: float) -> str:
    memory = made["memory"]
    held = f", at most {size(memory['peak'])} of memory" if memory else ""
    return (
        f"It took {time.monotonic() - begun:.0f} s{held}. AutoModelForCausalLM.from_pretrained loads it as it stands."
    )


def _keep(run: Run, **told: Any) -> None:
    """Note it in the run's folder, for the report; an export must not fail of its note."""
    line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **told}
    with suppress(OSError), (run.folder / LOG).open("a", encoding="utf-8") as file:
        file.write(redact(json.dumps(line, ensure_ascii=False)) + os.linesep)
