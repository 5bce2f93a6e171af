"""Rows out of files, one at a time: memory stays flat, and nothing is read beyond the last row that is asked for."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

from colab_magics.data.json_array import BrokenArray, array_elements
from colab_magics.data.sources import Source, file_kind
from colab_magics.errors import ColabMagicsError, clean

# phase, done, total if it is known, unit
Progress = Callable[[str, int, int | None, str], None]
Bytes = io.BufferedReader | gzip.GzipFile

_CHUNK = 1 << 20
# A text file is one document; its pieces are tokenised one by one and joined again.
_TEXT_PIECE = 1 << 16


@dataclass(frozen=True)
class Row:
    """One row and where it stands: `place` is what an error or an example names (`line 12`, `row 7`).

    A plain text document may come in pieces: `continues` says that this one belongs to the piece before it, `goes_on`
    that another follows.
    """

    place: str
    fields: dict[str, Any]
    continues: bool = False
    goes_on: bool = False


class Reading:
    """How far a file has been read, in bytes of the file as it lies on the disk."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self.file: IO[bytes] | None = None
        self.done = 0

    def look(self) -> int:
        """Bytes read so far, which never goes back (parquet is not read in order)."""
        if self.file is not None and not self.file.closed:
            self.done = max(self.done, self.file.tell())
        return self.done


def read_rows(source: Source, *, limit: int | None = None, reading: Reading | None = None) -> Iterator[Row]:
    """The rows of `source`, in order, at most `limit`.

    Raises
    ------
    ColabMagicsError
        A row that cannot be read, named by file and line; no rows at all.
    """
    if source.path is None:
        from colab_magics.data.hub import hub_rows

        rows: Iterator[Row] = hub_rows(source, limit)
    else:
        rows = _file_rows(source, reading or Reading())
    empty = True
    # A text file is one document however many pieces it is read in.
    if limit is not None and not (source.path and file_kind(Path(source.path)) == "txt"):
        rows = islice(rows, limit)
    for row in rows:
        empty = False
        yield row
    if empty:
        raise ColabMagicsError(
            f"{source} has no rows.",
            "It can be read, and nothing is in it.",
            "Check that the right file was given, and that its upload finished.",
        )


def _file_rows(source: Source, reading: Reading) -> Iterator[Row]:
    assert source.path is not None
    path = Path(source.path)
    kind = file_kind(path)
    name = source.name if source.kind == "path" else str(source)
    try:
        with cast("io.BufferedReader", path.open("rb", buffering=_CHUNK)) as raw:
            reading.file, reading.size = raw, path.stat().st_size
            try:
                if kind == "parquet":
                    yield from _parquet(raw, name)
                    return
                data = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
                yield from _READERS[str(kind)](data, name)
            finally:
                reading.look()
    except FileNotFoundError as error:
        raise ColabMagicsError(
            f"{name} does not exist", "It was there when the cell was read.", "Put it back, and run the cell again."
        ) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ColabMagicsError(
            f"{name} is not a whole gzip file", clean(error), "Download or upload it again."
        ) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(name, "", error) from error


def _not_utf8(name: str, place: str, error: UnicodeDecodeError) -> ColabMagicsError:
    return ColabMagicsError(
        f"{name}{', ' + place if place else ''} is not UTF-8 text",
        f"Byte 0x{error.object[error.start]:02x} does not belong there ({error.reason}).",
        "Save the file as UTF-8 (Excel: “CSV UTF-8”), or load it in pandas with encoding=… and name the DataFrame.",
    )


# --- JSON ---------------------------------------------------------------------------------------------------------


def _json(data: Bytes, name: str) -> Iterator[Row]:
    """One JSON array, one object around rows, or JSON lines: the beginning tells."""
    start = data.peek(_CHUNK)[:_CHUNK].removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        yield from _json_array(data, name)
    elif start.startswith(b"{") and not _is_one_a_line(start):
        yield from _json_object(data, name)
    else:
        yield from _json_lines(data, name)


def _json_by_the_line(data: Bytes, name: str) -> Iterator[Row]:
    """JSON lines, unless the file is one array whatever it is called."""
    start = data.peek(_CHUNK)[:_CHUNK].removeprefix(codecs.BOM_UTF8).lstrip()
    yield from (_json_array if start.startswith(b"[") else _json_lines)(data, name)


def _is_one_a_line(start: bytes) -> bool:
    """Whether the first line is a whole object and another follows it."""
    line, _, rest = start.partition(b"\n")
    return rest.lstrip().startswith(b"{") and (_parses(line) or not line.rstrip().endswith((b"{", b"[", b",")))


def _parses(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _json_lines(data: Bytes, name: str) -> Iterator[Row]:
    for number, line in enumerate(data, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except UnicodeDecodeError as error:
            raise _not_utf8(name, f"line {number}", error) from error
        except ValueError as error:
            raise ColabMagicsError(
                f"{name}, line {number} is not valid JSON",
                f"{error.msg} (column {error.pos + 1})." if isinstance(error, json.JSONDecodeError) else str(error),
                "Each line must be one JSON object.",
                details=[_shortened(line.decode("utf-8", "replace"))],
            ) from error
        yield Row(f"line {number}", _an_object(fields, name, f"line {number}"))


def _an_object(value: object, name: str, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return {"messages": value}
    if isinstance(value, str):
        return {"text": value}
    raise ColabMagicsError(
        f"{name}, {place} is not a JSON object",
        f"It is {json.dumps(value)[:60]}",
        'Each row must be an object with columns, like {"prompt": "…", "completion": "…"}',
    )


def _shortened(text: str, most: int = 100) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _json_array(data: Bytes, name: str) -> Iterator[Row]:
    elements = array_elements(codecs.getreader("utf-8-sig")(data))
    try:
        for number, value in enumerate(elements, 1):
            yield Row(f"row {number}", _an_object(value, name, f"row {number}"))
    except BrokenArray as error:
        raise _broken_json(name, error.line, error.why, error.at) from error


def _broken_json(name: str, line: int, why: str, at: str) -> ColabMagicsError:
    return ColabMagicsError(
        f"{name}, line {line} is not valid JSON",
        why,
        "The file must be one array of objects, or one object a line.",
        details=[_shortened(at)] if at.strip() else [],
    )


def _json_object(data: Bytes, name: str) -> Iterator[Row]:
    """One object around the rows: its only list of rows (`{"data": [...]}`), or lists as columns, or one row."""
    text = data.read().decode("utf-8-sig")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken_json(name, error.lineno, error.msg, text[max(0, error.pos - 40) : error.pos + 40]) from error
    lists = {key: value for key, value in whole.items() if isinstance(value, list)}
    of_rows = [key for key, value in lists.items() if value and all(isinstance(row, dict) for row in value)]
    if len(of_rows) == 1 and of_rows[0] not in {"messages", "conversations"}:
        rows: list[Any] = lists[of_rows[0]]
    elif len(of_rows) > 1:
        raise ColabMagicsError(
            f"{name} holds several lists of rows: {', '.join(of_rows)}",
            "One file is one set of rows.",
            "Write the one you want to a file of its own, or load it into a variable.",
        )
    elif lists and len(lists) == len(whole) and len({len(value) for value in lists.values()}) == 1 and not of_rows:
        rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    else:
        rows = [whole]
    for number, row in enumerate(rows, 1):
        yield Row(f"row {number}", _an_object(row, name, f"row {number}"))


# --- CSV, text, parquet -------------------------------------------------------------------------------------------


def _csv(data: Bytes, name: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole document
    text = io.TextIOWrapper(data, encoding="utf-8-sig", newline="")
    head = list(islice(text, 20))
    reader = csv.reader(chain(head, text), delimiter=_delimiter(head))
    try:
        header = next(reader, None)
        if header is None:
            return
        names = [column.strip() for column in header]
        if len(set(names)) < len(names):
            doubled = next(column for column in names if names.count(column) > 1)
            raise ColabMagicsError(
                f"{name} has two columns named {doubled!r}.",
                "A column's name says which one is meant.",
                "Rename one of them in the first line.",
            )
        for number, values in enumerate(reader, 1):
            if not any(values):
                continue
            if len(values) > len(names):
                raise ColabMagicsError(
                    f"{name}, line {reader.line_num} has {len(values)} values where the header has {len(names)}",
                    f"The columns are {', '.join(names)}",
                    "Put text that holds the separator or a line break in double quotes.",
                )
            yield Row(f"row {number}", dict(zip(names, values, strict=False)))
    except csv.Error as error:
        raise ColabMagicsError(
            f"{name}, line {reader.line_num} is not valid CSV.", str(error), "Save it again as CSV."
        ) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(name, f"after line {reader.line_num}", error) from error
    finally:
        text.detach()


def _delimiter(head: list[str]) -> str:
    """The separator that splits the first rows into the most columns, the same number in each."""
    best, most = ",", 1
    for delimiter in ",;\t|":
        widths = [len(row) for row in islice(csv.reader(head, delimiter=delimiter), 5) if row]
        # The last of the lines read may end inside a quoted cell; the header and the row after it must agree.
        if widths and len(set(widths[:2])) == 1 and widths[0] > most:
            best, most = delimiter, widths[0]
    return best


def _text(data: Bytes, _name: str) -> Iterator[Row]:
    """The file as one document, in pieces cut at the end of a line."""
    text = io.TextIOWrapper(data, encoding="utf-8-sig")
    try:
        piece, continues = "", False
        while True:
            further = text.read(_TEXT_PIECE)
            further += text.readline(_TEXT_PIECE) if further else ""
            # White space alone waits for the words that it stands before.
            if piece.strip() and (further.strip() or not further):
                yield Row("row 1", {"text": piece}, continues, goes_on=bool(further))
                piece, continues = "", True
            if not further:
                return
            piece += further
    finally:
        text.detach()


def _parquet(raw: Bytes, name: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(raw, pre_buffer=False)
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for fields in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", fields)
    except (pa.ArrowInvalid, OSError) as error:
        raise ColabMagicsError(
            f"{name} is not a whole parquet file.", clean(error).splitlines()[0], "Download or upload it again."
        ) from error


_READERS: dict[str, Callable[[Bytes, str], Iterator[Row]]] = {
    "jsonl": _json_by_the_line,
    "json": _json,
    "csv": _csv,
    "txt": _text,
}
