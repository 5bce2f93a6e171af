"""Where rows come from: a path, a notebook variable, or a data set on the Hub. Nothing is read here but its name."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from colab_magics import demo
from colab_magics.errors import ColabMagicsError, nearest

Kind = Literal["path", "variable", "hub"]

# What a file's ending says about its rows. `.gz` may follow any of them but parquet, which compresses by itself.
FILE_KINDS: Mapping[str, str] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "txt",
}
READABLE = "jsonl, json, csv, tsv, parquet or txt (each but parquet also as .gz)"

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<split>[^/\s]+))?")
_MIB = 1 << 20
# Up to here a file is hashed whole (60 ms); above, its size and some blocks stand for it.
_HASHED_WHOLE = 64 * _MIB
_BLOCKS = 64


@dataclass(frozen=True)
class Source:
    """One source of rows.

    Parameters
    ----------
    kind : {"path", "variable", "hub"}
    name : str
        What the recipe said: the path as written, the variable's name, the Hub id.
    path : str or None
        The file to read; for a variable, the JSONL file that `write_rows` wrote for it (None until then).
    split : str or None
        Of a Hub data set: `train`, or `config:train`.
    found : str or None
        Where a file was found that is not where it was named, in words.
    """

    kind: Kind
    name: str
    path: str | None = None
    split: str | None = None
    found: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """How the source is written to `inputs.json`."""
        return asdict(self)

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> Source:
        """The source that `to_dict` wrote; fields it does not know are skipped."""
        return Source(fields["kind"], fields["name"], fields.get("path"), fields.get("split"), fields.get("found"))

    def __str__(self) -> str:
        if self.kind == "variable":
            return f"the notebook variable {self.name}"
        if self.kind == "hub":
            return f"{self.name}:{self.split} on the Hub" if self.split else f"{self.name} on the Hub"
        return self.name


def file_kind(path: Path) -> str | None:
    """`jsonl`, `json`, `csv`, `parquet` or `txt` by the ending of `path`; None if it is none of them."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = bool(suffixes) and suffixes[-1] == ".gz"
    ending = suffixes[-2] if gzipped and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    kind = FILE_KINDS.get(ending)
    return None if gzipped and kind == "parquet" else kind


Find = Callable[[str], tuple[Path | None, str]]
"""Looks for a file by its name: its path, and where that is; or None, and where it was looked for."""


def _nowhere(_: str) -> tuple[Path | None, str]:
    return None, ""


def resolve(text: str, namespace: Mapping[str, Any], *, cwd: str | os.PathLike[str], find: Find = _nowhere) -> Source:
    """What `data:` names: an existing path wins over a variable, a variable over a file elsewhere, that over a Hub id.

    Parameters
    ----------
    text : str
        A path (relative to `cwd`), the name of a variable, `demo` (the rows beside the demo model), or
        `org/name[:split]`.
    namespace : mapping
        The notebook's variables; only looked up, never changed.
    find : callable
        Looks in the platform's folders for a file that is not in `cwd`.

    Raises
    ------
    ColabMagicsError
        The text names nothing that can be read; the nearest file or variable is named.
    """
    text = text.strip()
    if not text:
        raise ColabMagicsError(
            "`data` is empty.",
            "It names what to train on.",
            f"Give a file ({READABLE}), a variable, or a Hub id like org/name.",
        )
    path = Path(cwd) / Path(text).expanduser()
    if path.is_dir():
        raise _a_directory(text, path)
    if path.exists():
        return _file(text, path)
    if text in namespace and _variable_kind(namespace[text]) is not None:
        return Source("variable", text)
    there, where = find(text) if _may_be_elsewhere(text) else (None, "")
    if there is not None:
        return replace(_file(text, there), found=where)
    if text == "demo":
        return Source("path", text, os.fspath(demo.data_path()))
    hub = _HUB_ID.fullmatch(text)
    if hub is not None and file_kind(Path(hub["id"])) is None and not text.startswith((".", "~")):
        return Source("hub", hub["id"], split=hub["split"])
    raise _names_nothing(text, path, namespace, where)


def _may_be_elsewhere(text: str) -> bool:
    """Whether it is the name of a file, and says not where that is."""
    return file_kind(Path(text)) is not None and not text.startswith(("~", "/", "./", "../"))


def _file(text: str, path: Path) -> Source:
    """The file at `path`, which is there.

    Raises
    ------
    ColabMagicsError
        It cannot be read.
    """
    if file_kind(path) is None:
        raise ColabMagicsError(
            f"{text} is not a kind of file that can be read",
            f"its ending is {''.join(path.suffixes[-2:]) or 'missing'}",
            f"Give {READABLE}, or load it into a DataFrame and name that variable.",
        )
    if path.stat().st_size == 0:
        raise ColabMagicsError(f"{path} is empty", "The file has no bytes.", "Check that its upload finished.")
    return Source("path", text, str(path.resolve()))


def _variable_kind(value: object) -> str | None:
    """What kind of table a variable holds; None if it holds none (judged without importing pandas or datasets)."""
    root = type(value).__module__.partition(".")[0]
    name = type(value).__name__
    if root == "pandas" and name == "DataFrame":
        return "DataFrame"
    if root == "datasets" and name in {"Dataset", "IterableDataset"}:
        return name
    if isinstance(value, (list, tuple)):
        return "list"
    return None


def _a_directory(text: str, path: Path) -> ColabMagicsError:
    inside = sorted(child.name for child in path.iterdir() if file_kind(child))
    return ColabMagicsError(
        f"{text} is a folder",
        f"It holds {', '.join(inside[:5])}{', …' if len(inside) > 5 else ''}"
        if inside
        else "No file in it can be read.",
        f"Give one file: data: {Path(text) / inside[0]}" if inside else f"Give a file: {READABLE}",
    )


def _names_nothing(text: str, path: Path, namespace: Mapping[str, Any], where: str) -> ColabMagicsError:
    if text in namespace:
        value = namespace[text]
        kind = type(value).__name__
        splits = list(value) if kind == "DatasetDict" else []
        return ColabMagicsError(
            f"The variable {text} is of type {kind}, which holds no rows that can be read.",
            "A DataFrame, a datasets.Dataset or a list of dicts is needed.",
            f"Pick a split first: rows = {text}[{splits[0]!r}], then data: rows"
            if splits
            else "Turn it into one of them in a cell above.",
        )
    files = [child.name for child in path.parent.iterdir() if file_kind(child)] if path.parent.is_dir() else []
    near = nearest(path.name, files)
    if file_kind(path) or "/" in text or os.sep in text or text.startswith("~"):
        why = f"the folder {path.parent} does not exist" if not path.parent.is_dir() else ""
        listed = ", ".join(sorted(files)[:5])
        return ColabMagicsError(
            f"{text} does not exist",
            (why or (f"{path.parent} has {listed}" if files else f"No readable file is in {path.parent}"))
            + (f"; it was looked for in {where} too" if where else ""),
            f"Did you mean {Path(text).parent / near}?" if near else "Check the path, or upload the file first.",
        )
    tables = [name for name, value in namespace.items() if not name.startswith("_") and _variable_kind(value)]
    near_variable = nearest(text, tables)
    near_file = near or nearest(text, [Path(name).stem for name in files])
    meant = near_variable or near_file
    return ColabMagicsError(
        f"`data: {text}` names no file and no variable.",
        f"A file is {READABLE}; a variable is a DataFrame, a datasets.Dataset or a list of dicts; "
        "a Hub data set is org/name.",
        f"Did you mean {meant}?" if meant else f"Run the cell that defines {text}, or check the spelling.",
    )


def identity(source: Source) -> str:
    """A cheap answer to "is this the same data?".

    A file up to 64 MiB, and the rows written for a variable, are hashed whole. A larger file is its size and 64
    blocks spread over it, with the first and last MiB among them; its time of change is left out, so that a copy on
    another machine is the same data. A Hub data set is its id, split and, where the Hub answers, its revision.
    """
    if source.kind == "hub" and source.path is None:
        from colab_magics.data.hub import revision

        return f"hub:{source.name}:{source.split or ''}@{revision(source.name) or 'unknown'}"
    if source.path is None:
        raise ColabMagicsError(f"The rows of {source} were not written yet.", "write_rows comes first.")
    path = Path(source.path)
    size = path.stat().st_size
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE or source.kind == "variable":
            while block := file.read(_MIB):
                digest.update(block)
            return f"{file_kind(path)}:{size}:{digest.hexdigest()}"
        for place in range(_BLOCKS):
            file.seek(place * (size - _MIB) // (_BLOCKS - 1))
            digest.update(file.read(_MIB if place in (0, _BLOCKS - 1) else _MIB >> 4))
    return f"{file_kind(path)}:{size}:{digest.hexdigest()}"


def changed(source: Source) -> int:
    """When a file that `identity` does not read whole was last changed; 0 for all else.

    For caches: there an edit that the blocks miss must not go unseen, and a copy may cost a second tokenising.
    """
    if source.path is None or source.kind == "variable":
        return 0
    found = Path(source.path).stat()
    return found.st_mtime_ns if found.st_size > _HASHED_WHOLE else 0
