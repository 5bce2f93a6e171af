"""One value of a TOML file that a person edits, written or taken out; his comments and all else stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from colab_magics.session.lines import Keys, Lines


def with_value(text: str, at: Keys, value: Any, name: str) -> str:
    """The file's text with `value` at `at`, and nothing else changed.

    Parameters
    ----------
    name : str
        How errors name the file.

    Raises
    ------
    ColabMagicsError
        Something on the way to it is no table.
    """
    import tomlkit

    document = tomlkit.parse(text)
    table: Any = document
    for depth, key in enumerate(at[:-1], 1):
        if key not in table:
            # a header of its own for what has one in ours: [platforms.kaggle], and not [platforms] above it
            table[key] = tomlkit.table(is_super_table=depth < len(at) - 1) if depth < 3 else tomlkit.inline_table()
        table = table[key]
        if not isinstance(table, dict):
            where = ".".join(at[:depth])
            raise Lines(name, text).wrong(
                at[:depth], f"{where} is no table.", f"It stands in {name}.", f"Write [{where}]."
            )
    table[at[-1]] = value
    return tomlkit.dumps(document)


def without(text: str, gone: Iterable[Keys]) -> str:
    """The file's text without what stands at each path of `gone`; what does not stand there need not go."""
    import tomlkit

    document = tomlkit.parse(text)
    for at in gone:
        _take_out(document, at)
    return tomlkit.dumps(document)


def _take_out(table: Any, at: Keys) -> None:
    """What stands at `at`; an inline table that holds nothing without it goes too, a header and its comments stay."""
    from tomlkit.items import InlineTable

    key, *rest = at
    if not isinstance(table, dict) or key not in table:
        return
    if rest:
        _take_out(table[key], tuple(rest))
    if not rest or (isinstance(table[key], InlineTable) and not table[key]):
        del table[key]
