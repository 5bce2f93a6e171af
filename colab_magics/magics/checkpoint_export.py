"""`%checkpoint export`: a checkpoint as others load it, in a folder or in one archive to be downloaded."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from colab_magics.checkpoints.manifest import MANIFEST, Broken, Manifest, new_hash
from colab_magics.checkpoints.verify import Entry, newest_verified, verify
from colab_magics.errors import ColabMagicsError, redact
from colab_magics.magics.checkpoint_line import Line
from colab_magics.magics.checkpoint_show import ADAPTER, MODEL, loading, told
from colab_magics.magics.checkpoint_survey import chosen, no_checkpoint, survey
from colab_magics.panel import words
from colab_magics.run import Run
from colab_magics.session.detect import on_colab

README = "README.md"
_MARK = "<!-- exported by colab_magics -->"
_WEIGHTS = {ADAPTER: ("adapter_config.json",), MODEL: ("config.json", "generation_config.json")}
_PIECE = 8 * 2**20


@dataclass(frozen=True)
class Part:
    """One file of an export: from a path, or from memory. `hash` is what its bytes must have, where that is known."""

    name: str
    source: Path | None = None
    text: bytes = b""
    hash: str = ""

    @property
    def size(self) -> int:
        return self.source.stat().st_size if self.source is not None else len(self.text)


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
    target = _target(run, line)
    entry, manifest = _verified(run, line)
    parts = _parts(run, entry, manifest)
    size = sum(part.size for part in parts)
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise ColabMagicsError(
            f"The disk of {target.parent} is too full for the export.",
            f"It takes {words.size(size)}, and {words.size(free)} are free.",
            "Make room, or name a path on another disk.",
        )
    staging = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    try:
        if target.suffix == ".zip":
            _write_archive(staging, target.stem, parts)
        else:
            _write_folder(staging, parts)
        _put(staging, target)
    except (OSError, Broken) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ColabMagicsError(
            f"Step {entry.step} of {run.name} could not be exported to {target}.", why, "Nothing was left there."
        ) from None
    finally:
        _clear(staging)
    return "\n".join(_said(run, entry, target, parts, named=line.step is not None))


def _target(run: Run, line: Line) -> Path:
    """Where to write, as a path that may be written to."""
    target = Path(str(line.path)).expanduser().absolute()
    parent = target.parent
    if not parent.is_dir():
        raise ColabMagicsError(
            f"There is no folder {parent}.",
            # an unmounted Drive looks just so, and what is written there in its stead is lost
            "An export makes no folders above its own.",
            "Make it first, or name another path.",
        )
    target = parent.resolve() / target.name
    if target.name in ("", "..") or target.is_relative_to((run.checkpoints).resolve()):
        raise ColabMagicsError(
            f"{target} cannot be exported to.", "It is where checkpoints are kept.", "Name a path elsewhere."
        )
    if os.path.lexists(target):
        if not line.force:
            raise ColabMagicsError(
                f"{target} is there already.", "An export overwrites nothing.", "Name another path, or add --force."
            )
        if not _may_be_replaced(target):
            raise ColabMagicsError(
                f"{target} is no export of ours.",
                "--force replaces an earlier export and nothing else.",
                "Name another path.",
            )
    return target


def _may_be_replaced(target: Path) -> bool:
    """Whether it is an earlier export: nothing else may be deleted, whatever --force says."""
    if target.is_symlink():
        return False
    if target.suffix == ".zip":
        try:
            with zipfile.ZipFile(target) as archive:
                return _MARK in archive.comment.decode(errors="replace")
        except (OSError, zipfile.BadZipFile):
            return False
    try:
        return target.is_dir() and _MARK in (target / README).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _verified(run: Run, line: Line) -> tuple[Entry, Manifest]:
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


def _parts(run: Run, entry: Entry, manifest: Manifest) -> list[Part]:
    weights = ADAPTER if ADAPTER in manifest.files else MODEL
    if run.is_own_loop:
        raise ColabMagicsError(
            f"{run.name} is a loop of your own: its checkpoints hold modules that only your code knows.",
            "An export is a folder that PEFT or transformers loads as it stands.",
            f"%checkpoint show {run.name} prints the lines that load each module from its .safetensors file.",
        )
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
        *[*head, "---", "", _MARK, "", f"# {run.name}", ""],
        f"{'An adapter for' if adapter else 'Fine-tuned from'} `{model}`, as it was at {at}"
        + (f" ({metrics})." if metrics else "."),
    ]
    body += ["", "```python", *loading("path/of/this/folder", adapter=adapter), "```"]
    if recipe is not None:
        body += ["", "## Recipe", "", "```yaml", recipe.to_yaml().rstrip(), "```"]
    return redact("\n".join(body) + "\n")


def _write_folder(staging: Path, parts: list[Part]) -> None:
    staging.mkdir()
    for part in parts:
        with (staging / part.name).open("xb") as file:
            _copy(part, file)


def _write_archive(staging: Path, folder: str, parts: list[Part]) -> None:
    """Weights are stored as they are: they do not become smaller, and only take time."""
    with zipfile.ZipFile(staging, "x") as archive:
        archive.comment = _MARK.encode()
        for part in parts:
            entry = zipfile.ZipInfo(f"{folder}/{part.name}", (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            stored = part.name.endswith(".safetensors")
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                _copy(part, file)


def _copy(part: Part, file: IO[bytes]) -> None:
    digest = new_hash()
    for piece in _pieces(part):
        digest.update(piece)
        file.write(piece)
    if part.hash and digest.hexdigest() != part.hash:
        raise Broken(f"{part.name} was altered while it was copied")


def _pieces(part: Part) -> Iterator[bytes]:
    if part.source is None:
        yield part.text
        return
    descriptor = os.open(part.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _put(staging: Path, target: Path) -> None:
    """Give it its name; an earlier export stands aside until that is done."""
    if not target.is_dir():
        staging.rename(target)
        return
    aside = target.parent / f".{target.name}.{secrets.token_hex(4)}"
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _clear(staging: Path) -> None:
    """Leave nothing of an export that did not come to its end."""
    remove: Callable[[Path], None] = shutil.rmtree if staging.is_dir() else Path.unlink
    with suppress(OSError):
        remove(staging)


def _said(run: Run, entry: Entry, target: Path, parts: list[Part], *, named: bool) -> Iterator[str]:
    size = target.stat().st_size if target.is_file() else sum(part.size for part in parts)
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
