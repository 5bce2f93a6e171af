"""What `%export` does: find the weights, merge or convert them if that is asked, and put them where they are wanted.

The notebook and `python -m colab_magics export` do the same by these functions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.manifest import Broken
from colab_magics.errors import ColabMagicsError
from colab_magics.inference.subject import older_result
from colab_magics.magics.checkpoint_export import its_code_alone, parts_of, verified
from colab_magics.magics.checkpoint_line import Line as CheckpointLine
from colab_magics.magics.export_card import merged_card
from colab_magics.magics.export_earlier import asked_for, earlier, keep, sealed
from colab_magics.magics.export_files import TOKENIZER, allowed_of, broken_weights, carded, files_of
from colab_magics.magics.export_gguf import convert, converter
from colab_magics.magics.export_hub import ADAPTER, check_token, upload
from colab_magics.magics.export_line import Line
from colab_magics.magics.export_merge import Said, merge, written_since
from colab_magics.magics.parcel import README, Part, check_free, pack, place, put
from colab_magics.magics.staging import beside, clear, sweep
from colab_magics.run import Run
from colab_magics.session.detect import on_kaggle
from colab_magics.sizes import size

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
    if line.checkpoint is None:
        for note in older_result(run):
            say(note)
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
        return _Weights(carded(allowed_of(parts_of(run, entry, manifest))), entry.folder, entry.step)
    folder = run.adapter_path
    if folder is None:
        raise _no_result(run)
    parts = files_of(folder)
    if (why := broken_weights(parts)) is not None:
        raise _broken(run, folder, why)
    return _Weights(carded(parts), folder, None)


def _broken(run: Run, folder: Path, why: str) -> ColabMagicsError:
    steps = _steps(run)
    return ColabMagicsError(
        f"The result of {run.name} is not whole.",
        f"In {folder}, {why}.",
        f"Export a checkpoint instead: %export {run.name} --checkpoint {max(steps)}."
        if steps
        else "Copy that folder again from where it was trained, or train again.",
        f"%checkpoint verify {run.name} looks at all of its checkpoints." if steps else "",
    )


def _steps(run: Run) -> list[int]:
    from colab_magics.checkpoints.verify import entries

    return [entry.step for entry in entries(run.checkpoints) if entry.manifest is not None]


def _no_result(run: Run) -> ColabMagicsError:
    if run.is_own_loop:
        raise its_code_alone(run)
    steps = _steps(run)
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
    as_archive = line.zip or (line.to.endswith(".zip") if line.to is not None else not line.merge)
    target, of, there = _target(run, line, weights, _name(run, line, kind), ".zip" if as_archive else "")
    if there is not None:
        return there
    begun = time.monotonic()
    if not line.merge:
        taken = _packed(target, weights.parts, run)
        told = {"bytes": taken, "seconds": time.monotonic() - begun}
        keep(run, what="exported", to=str(target), **told, of=of, seal=sealed(target))
        return Exported(target, [_said(run, weights, taken, target), *_hints(run, weights)])
    with _merged(run, line, weights, target, 2.0 if as_archive else 1.0, say, show) as (staging, made):
        if as_archive:
            show(f"Packing {target.name}")
            taken = _packed(target, files_of(staging), run)
        else:
            put(staging, target)
            taken = sum(path.stat().st_size for path in target.iterdir())
    _keep_merged(run, target, made, of=of, seal=sealed(target))
    said = f"Merged {run.name} into {made['base']}, {made['dtype']}, {size(taken)}: {target}"
    return Exported(target, [said, _how(made, begun)])


def _to_gguf(run: Run, line: Line, weights: _Weights, say: Said, show: Said) -> Exported:
    kind = str(line.gguf)
    target, of, there = _target(run, line, weights, _name(run, line, kind), ".gguf")
    if there is not None:
        return there
    script = converter()  # asked first: without it nothing is worth merging
    staged = beside(target)
    begun = time.monotonic()
    try:
        if weights.is_adapter:
            with _merged(run, line, weights, target, 2.0, say, show) as (folder, made):
                _keep_merged(run, target, made)
                show(f"Converting to {kind}")
                convert(script, folder, staged, kind)
        else:
            convert(script, weights.folder, staged, kind)
        put(staged, target)
    finally:
        clear(staged)
    taken = target.stat().st_size
    told = {"bytes": taken, "seconds": time.monotonic() - begun, "dtype": kind}
    keep(run, what="converted", to=str(target), **told, of=of, seal=sealed(target))
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
        keep(run, what="uploaded", to=made.url, bytes=taken, seconds=time.monotonic() - begun, commit=made.commit)
        seen = "private" if made.private else "public"
        said = f"Uploaded {run.name}, {len(parts)} files, {size(taken)}: {made.url} ({seen})"
        left_out = [] if line.merge else _of_its_base(run, weights, "on the Hub it has that folder's name alone.")
        return Exported(None, [said, *left_out])

    if not line.merge:
        return sent(weights.parts)
    near = home() / _name(run, line, "merged")
    sweep(near.parent)
    with _merged(run, line, weights, near, 1.0, say, show) as (staging, made):
        _keep_merged(run, near, made)
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
        if line.base is None and (base := _base(weights, line)) is not None and written_since(Path(base), run):
            say(
                f"{base} was written after {run.name} had begun: if its weights have changed, the adapter was made for "
                "others."
            )
        made = merge(weights.folder, staging, line, copies=copies, say=say, show=show)
        if known is not None and Path(made["base"]).is_absolute():
            made["base"] = known
        for part in weights.tokenizer:
            data = part.text if part.source is None else part.source.read_bytes()
            (staging / part.name).write_bytes(data)
        (staging / README).write_text(merged_card(run, made, weights.step), encoding="utf-8")
        yield staging, made
    finally:
        clear(staging)


def _keep_merged(run: Run, target: Path, made: dict[str, Any], **kept: Any) -> None:
    told = {key: made[key] for key in ("seconds", "bytes", "dtype", "base", "revision", "memory")}
    keep(run, what="merged", to=str(target), **told, **kept)


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


def _target(run: Run, line: Line, weights: _Weights, name: str, ending: str) -> tuple[Path, str, Exported | None]:
    """Where the export goes, what it is made of as a hash, and what there is to say where it lies there already."""
    path = Path(line.to) if line.to is not None else home() / name
    if ending and path.suffix != ending:
        path = path.with_name(path.name + ending)
    target = place(path, not_in=run.checkpoints)
    if target.is_relative_to(run.folder.resolve()):
        raise ColabMagicsError(
            f"{target} cannot be exported to.", "It is the run's own folder.", "Name a path elsewhere: --to PATH."
        )
    of = asked_for(weights.parts, line, _base(weights, line))
    known = earlier(run, target)
    if known is None or known.get("of") != of:
        check_free(target, force=line.force, ours=known is not None)
    elif not line.force:
        taken = sum(one[1] for one in known["seal"])
        return target, of, Exported(target, [f"Already there, as it was exported: {target} ({size(taken)})"])
    sweep(target.parent)  # before anybody asks what is free on that disk
    return target, of, None


def _base(weights: _Weights, line: Line) -> str | None:
    """What a merge would be made of besides; None where there is none."""
    if not weights.is_adapter or not (line.merge or line.gguf):
        return None
    return line.base if line.base is not None else _named(weights)


def _named(weights: _Weights) -> str | None:
    """The base, as the adapter names it."""
    try:
        named = json.loads((weights.folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None  # the merge says what is wrong with it
    return named if isinstance(named, str) else None


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
    return [*_of_its_base(run, weights, "elsewhere, set base_model_name_or_path to where it is."), *_more(run, weights)]


def _of_its_base(run: Run, weights: _Weights, then: str) -> list[str]:
    """A word of an adapter whose base is a folder: it loads here as it stands, and nowhere else."""
    base = _named(weights) if weights.is_adapter else None
    if base is None or not Path(base).is_absolute():
        return []
    where = "that of colab_magics's demo" if _recipe_model(run) == "demo" else base
    return [f"Its {ADAPTER} names the base as a folder of this machine, {where}: {then}"]


def _more(run: Run, weights: _Weights) -> list[str]:
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
