"""The elements of one JSON array, decoded as they come: a file of gigabytes is never held whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

_CHUNK = 1 << 20
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
# An error this close to the end of what was read may only mean that the rest is missing (`tru`, `\\u12`, `-`).
_NEAR_THE_END = 10


class ReadsText(Protocol):
    def read(self, size: int, /) -> str: ...


class BrokenArray(ValueError):
    """What is wrong, the line it is on, and the text there."""

    def __init__(self, why: str, line: int, at: str) -> None:
        super().__init__(why)
        self.why, self.line, self.at = why, line, at


class _Window:
    """The part of the text that is being decoded."""

    def __init__(self, text: ReadsText) -> None:
        self.text = text
        self.buffer = text.read(_CHUNK)
        self.position = 0
        self.lines_passed = 0
        self.ended = not self.buffer

    def more(self) -> bool:
        """Drop what is done with and read on; False at the end of the text."""
        self.lines_passed += self.buffer.count("\n", 0, self.position)
        # As much again as is held: an element larger than a chunk is decoded a few times, not a thousand.
        further = self.text.read(max(_CHUNK, len(self.buffer) - self.position))
        self.buffer, self.position = self.buffer[self.position :] + further, 0
        self.ended = not further
        return bool(further)

    def mark(self) -> str:
        """The next character that is not white space; "" at the end of the text."""
        while True:
            match = _SPACE.match(self.buffer, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self.more():
                return ""

    def element(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.buffer) - _NEAR_THE_END
                offset = error.pos - self.position  # `more` moves the buffer
                if not (cut and self.more()):
                    raise self.broken(error.msg, self.position + offset) from error
            else:
                length = end - self.position
                # A number near the end of the buffer may go on in the next block (`1` of `1.5`, `1e` of `1e+3`).
                if end < len(self.buffer) - _NEAR_THE_END or self.ended or not self.more():
                    self.position += length
                    return value

    def broken(self, why: str, position: int | None = None) -> BrokenArray:
        position = self.position if position is None else position
        line = self.lines_passed + self.buffer.count("\n", 0, position) + 1
        return BrokenArray(why, line, self.buffer[max(0, position - 40) : position + 60])


def array_elements(text: ReadsText) -> Iterator[Any]:
    """Each element of the array that `text` holds.

    Raises
    ------
    BrokenArray
        The text is not one whole array, found when the iteration reaches that place.
    """
    window = _Window(text)
    if window.mark() != "[":
        raise window.broken("the file does not start with [")
    window.position += 1
    first = True
    while (mark := window.mark()) != "]":
        if not first:
            if mark != ",":
                raise window.broken("a comma or ] is missing" if mark else "the array is not closed")
            window.position += 1
            window.mark()
        yield window.element()
        first = False
    window.position += 1
    if window.mark():
        raise window.broken("something follows the end of the array")
