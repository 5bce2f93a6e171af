"""Notebook variables to a JSONL file, in the kernel: the worker reads files and never sees the notebook's objects."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from colab_magics.data.rows import Progress, read_rows
from colab_magics.data.sources import Source
from colab_magics.errors import ColabMagicsError, clean

_AT_A_TIME = 1000


def write_rows(
    value: Any,
    path: str | os.PathLike[str],
    *,
    fn: Callable[[dict[str, Any]], Any] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the rows of `value` to `path`, one JSON object a line, a thousand rows in memory at most.

    Parameters
    ----------
    value : DataFrame, datasets.Dataset, list of dicts or of texts, or Source
    path : path
        Appears only when it is whole.
    fn : callable, optional
        Applied to each row (a dict); returns a dict, a text, or a list of messages.
    limit : int, optional
        At most so many rows are read.
    progress : callable, optional
        Called with (phase, done, total or None, unit).

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    ColabMagicsError
        A row that is none, that JSON cannot hold, or that `fn` fails on; the row is named.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    total = limit
    if hasattr(value, "__len__"):
        total = min(len(value), limit) if limit is not None else len(value)
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for place, row in _rows(value, limit):
                fields = row if fn is None else _applied(fn, row, place)
                file.write(json.dumps(_plain(fields, place), ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
                if progress is not None and count % _AT_A_TIME == 0:
                    progress("reading", count, total, "rows")
        if not count:
            raise ColabMagicsError(
                "The data variable has no rows.", "Nothing is left to train on.", "Look at it in a cell of its own."
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if progress is not None:
        progress("reading", count, count, "rows")
    return count


def _rows(value: Any, limit: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, Source):
        for row in read_rows(value, limit=limit):
            yield row.place, row.fields
        return
    rows: Iterable[Any] = _frame_rows(value) if hasattr(value, "iloc") else value
    for number, row in enumerate(rows, 1):
        if limit is not None and number > limit:
            return
        if isinstance(row, str):
            yield f"row {number}", {"text": row}
        elif isinstance(row, Mapping):
            yield f"row {number}", dict(row)
        else:
            raise ColabMagicsError(
                f"Row {number} of the data variable is of type {type(row).__name__}",
                "Each row must be a dict of columns, or a text.",
                "Make them so in a cell above.",
            )


def _frame_rows(frame: Any) -> Iterator[dict[str, Any]]:
    """Rows of a DataFrame; a part of it at a time, because `to_dict` makes Python objects of all that it is given."""
    for start in range(0, len(frame), _AT_A_TIME):
        for row in frame.iloc[start : start + _AT_A_TIME].to_dict("records"):
            yield {str(column): cell for column, cell in row.items()}


def _applied(fn: Callable[[dict[str, Any]], Any], row: dict[str, Any], place: str) -> dict[str, Any]:
    name = getattr(fn, "__name__", "format")
    try:
        made = fn(row)
    except Exception as error:
        raise ColabMagicsError(
            f"`format: {name}` failed on {place}",
            f"{type(error).__name__}: {clean(error)}",
            f"Try it on that row alone: its columns are {', '.join(map(str, row))}",
        ) from error
    if isinstance(made, Mapping):
        return dict(made)
    if isinstance(made, str):
        return {"text": made}
    if isinstance(made, list) and made and all(isinstance(turn, Mapping) for turn in made):
        return {"messages": made}
    returned = "nothing" if made is None else f"something of type {type(made).__name__}"
    raise ColabMagicsError(
        f"`format: {name}` returned {returned} for {place}",
        "It must return a dict of columns, a text, or a list of messages.",
        "Forgot `return`?" if made is None else "Return one of these.",
    )


def _plain(value: Any, place: str, column: str = "") -> Any:
    """`value` as JSON can hold it: missing values are null, times are ISO-8601, arrays are lists."""
    if value is None or isinstance(value, (str, bool)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, place, column or str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner, place, column) for inner in value]
    if type(value).__name__ in {"NaTType", "NAType"}:
        return None
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, (uuid.UUID, Path, dt.timedelta)):
        return str(value)
    if hasattr(value, "tolist"):  # a numpy array or scalar; NaT of numpy becomes None
        return _plain(value.tolist(), place, column)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    raise ColabMagicsError(
        f"Column {column!r} of {place} is of type {type(value).__name__}, which is no text.",
        "Rows are written as JSON: texts, numbers, lists and dicts.",
        "Leave that column out, or turn it into text with `format: NAME`",
    )
