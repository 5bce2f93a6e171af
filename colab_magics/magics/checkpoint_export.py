"""`%checkpoint export`: a checkpoint as others load it, in a folder or in one archive to be downloaded."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest
from colab_magics.checkpoints.verify import Entry, newest_verified, verify
from colab_magics.errors import ColabMagicsError, redact
from colab_magics.magics.checkpoint_line import Line
from colab_magics.magics.checkpoint_show import ADAPTER, MODEL, loading, told
from colab_magics.magics.checkpoint_survey import chosen, no_checkpoint, survey
from colab_magics.magics.export_card import without_folders
from colab_magics.magics.parcel import MARK, README, Part, free_place, pack
from colab_magics.panel import words
from colab_magics.run import Run
from colab_magics.session.detect import on_colab

_WEIGHTS = {ADAPTER: ("adapter_config.json",), MODEL: ("config.json", "generation_config.json")}


def export(run: Run, line: Line) -> str:
    """Write the files that inference needs to the path that the line names; says where, how large, what next.

    Parameters
    ----------
    line : Line
        `path` ends in .zip for an archive; `step` (else the newest whole one) and `force` are asked.

    Raises
    ------
    ColabMagicsError
        No checkpoint is whole, the path is taken or cannot be written. Nothing is left there then.
    """
    target = free_place(str(line.path), not_in=run.checkpoints, force=line.force)
    entry, manifest = verified(run, line)
    parts = parts_of(run, entry, manifest)
    try:
        size = pack(target, parts)
    except (OSError, Broken) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ColabMagicsError(
            f"Step {entry.step} of {run.name} could not be exported to {target}.", why, "Nothing was left there."
        ) from None
    return "\n".join(_said(run, entry, target, parts, size, named=line.step is not None))


def verified(run: Run, line: Line) -> tuple[Entry, Manifest]:
    """The checkpoint, every byte of it verified: the one that is named, else the newest that is whole."""
    if line.step is None:
        search = newest_verified(run.checkpoints, run=run.id or None)
        if search.entry is not None and search.entry.manifest is not None:
            return search.entry, search.entry.manifest
        if not search.skipped:
            raise no_checkpoint(run)
        entry, why = search.skipped[0], search.skipped[0].broken
    else:
        entry = chosen(run, line)
        try:
            return entry, verify(entry.folder, run=run.id or None)
        except Broken as broken:
            why = str(broken)
    raise ColabMagicsError(
        f"The checkpoint of step {entry.step} is broken.", why, f"%checkpoint verify {run.name} --full checks all."
    )


def its_code_alone(run: Run) -> ColabMagicsError:
    """Why nothing is exported of a loop of one's own."""
    return ColabMagicsError(
        f"{run.name} is a loop of your own: its checkpoints hold modules that only your code knows.",
        "An export is a folder that PEFT or transformers loads as it stands.",
        f"%checkpoint show {run.name} prints the lines that load each module from its .safetensors file.",
    )


def parts_of(run: Run, entry: Entry, manifest: Manifest) -> list[Part]:
    """The files that inference needs; README.md comes last."""
    weights = ADAPTER if ADAPTER in manifest.files else MODEL
    if run.is_own_loop:
        raise its_code_alone(run)
    if weights not in manifest.files:
        raise ColabMagicsError(
            f"The checkpoint of step {entry.step} holds no weights that others could load.",
            f"It has neither {ADAPTER} nor {MODEL}.",
            f"%checkpoint show {run.name} {entry.step} lists what it holds.",
        )
    names = [weights, *(name for name in _WEIGHTS[weights] if name in manifest.files)]
    parts = [Part(name, entry.folder / name, hash=manifest.files[name].blake2b) for name in names]
    parts += [Part(path.name, path) for path in _tokenizer(run) if path.name not in (*names, README, MANIFEST)]
    return [*parts, Part(README, text=_readme(run, entry, manifest).encode())]


def _tokenizer(run: Run) -> list[Path]:
    """The tokenizer's files that the worker has kept with the run; links and folders are no files of ours."""
    try:
        found = sorted((run.folder / "tokenizer").iterdir())
        return [path for path in found if stat.S_ISREG(path.lstat().st_mode) and not path.name.startswith(".")]
    except OSError:
        return []


def _readme(run: Run, entry: Entry, manifest: Manifest) -> str:
    adapter = ADAPTER in manifest.files
    try:
        recipe = run.recipe
    except (OSError, ColabMagicsError):
        recipe = None
    model = recipe.model if recipe is not None else ""
    head = [
        "---",
        *([f"base_model: {model}"] if model else []),
        f"library_name: {'peft' if adapter else 'transformers'}",
    ]
    total = manifest.facts.get("total_steps")
    at = f"step {entry.step:,}{f' of {total:,}' if isinstance(total, int) else ''}"
    metrics = told(manifest.metrics)
    body = [
        *[*head, "---", "", MARK, "", f"# {run.name}", ""],
        f"{'An adapter for' if adapter else 'Fine-tuned from'} `{model}`, as it was at {at}"
        + (f" ({metrics})." if metrics else "."),
    ]
    body += ["", "```python", *loading("path/of/this/folder", adapter=adapter), "```"]
    if recipe is not None:
        body += ["", "## Recipe", "", "```yaml", recipe.to_yaml().rstrip(), "```"]
    return without_folders(redact("\n".join(body) + "\n"))


def _said(run: Run, entry: Entry, target: Path, parts: list[Part], size: int, *, named: bool) -> Iterator[str]:
    yield f"Exported step {entry.step:,} of {run.name}, {words.size(size)}: {target}"
    if not any(part.name.startswith("tokenizer") for part in parts):
        yield "The tokenizer is not in it: it is the base model's own."
    best = next((row for row in survey(run).rows if "best" in row.marks), None)
    if not named and best is not None and best.entry.name != entry.name:
        yield f"By evaluation step {best.entry.step:,} is the best: --step {best.entry.step} exports that one."
    if on_colab():
        if target.suffix == ".zip":
            yield f"To download it: from google.colab import files; files.download({str(target)!r})"
        else:
            yield "A path that ends in .zip makes one file of it, which can be downloaded."
