"""One value of a TOML file that a person edits, written or taken out; his comments and all else stay as they are.

What was written is read back and compared: what would change anything else is refused.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from colab_magics.session.lines import Keys, Lines, holds


def with_value(text: str, at: Keys, value: Any, name: str) -> str:
    """The file's text with `value` at `at`, and nothing else changed.

    Parameters
    ----------
    name : str
        How errors name the file.

    Raises
    ------
    ColabMagicsError
        The line on which it stands holds more than it.
    """
    file = Lines(name, text)
    written, span = list(file.lines), file.span(at)
    if span is not None:
        key = written[span[0] - 1].partition("=")[0].rstrip()  # as he spells it, below whatever header it stands
        written[span[0] - 1 : span[1]] = [f"{key} = {_literal(value)}"]
    else:
        _insert(written, at, _literal(value))
    after = "\n".join(written) + "\n"
    if _parsed(after) != _laid(file.values, at, value):
        raise file.wrong(
            at if span else at[:2],
            f"{'.'.join(at)} was not set.",
            f"It stands with others on one line of {name}.",
            "Change it there.",
        )
    return after


def without(text: str, gone: Iterable[Keys], name: str) -> str:
    """The file's text without what stands at each path of `gone`; what does not stand there need not go.

    Raises
    ------
    ColabMagicsError
        The line on which it stands holds more than it.
    """
    for at in gone:
        file = Lines(name, text)
        span = file.span(at)
        if span is None:
            continue
        written = list(file.lines)
        del written[span[0] - 1 : span[1]]
        after = "\n".join(written) + "\n"
        if _filled(_parsed(after) or {}) != _filled(_laid(file.values, at, None)):
            raise file.wrong(
                at,
                f"{'.'.join(at)} was not taken out.",
                f"It stands with others on one line of {name}.",
                "Change it there.",
            )
        text = after
    return text


def _insert(written: list[str], at: Keys, literal: str) -> None:
    """Put a line below the header that is nearest to it, or both at the end."""
    for depth in range(len(at) - 1, 0, -1):
        for number, line in enumerate(written, 1):
            if _is_header(line, at[:depth]):
                written.insert(number, f"{_dotted(at[depth:])} = {literal}")
                return
    depth = min(2, len(at) - 1)
    blank = [""] if written and written[-1].strip() else []
    written += [*blank, f"[{_dotted(at[:depth])}]", f"{_dotted(at[depth:])} = {literal}"]


def _is_header(line: str, path: Keys) -> bool:
    found = _parsed(f"{line}\n") if line.lstrip().startswith("[") else None
    return found is not None and holds(found, path) and _below(found, path) == {}


def _below(values: Any, path: Keys) -> Any:
    for key in path:
        values = values[key]
    return values


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _laid(values: Mapping[str, Any], at: Keys, value: Any) -> dict[str, Any]:
    """A copy of `values` with `value` at `at`; None takes it out."""
    copy = dict(values)
    if len(at) > 1:
        copy[at[0]] = _laid(copy.get(at[0], {}), at[1:], value)
    elif value is None:
        copy.pop(at[0], None)
    else:
        copy[at[0]] = value
    return copy


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without tables that hold nothing: `a.b = 1` makes the table `a`, and takes it along when it goes."""
    kept = {key: _filled(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value != {}}


def _dotted(path: Keys) -> str:
    return ".".join(map(_bare, path))


def _bare(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key)


def _literal(value: Any) -> str:
    # a TOML string is a JSON string, but for one character
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
