"""YAML as people write it in a cell: numbers like 2e-4, `{name}` as it stands, doubled keys noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from colab_magics.errors import ColabMagicsError

_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Entry:
    """One `key: value` as it was written."""

    key: str
    value: Any
    line: int  # 1-based; 0 for a line option
    text: Any = None  # a scalar as it was written, before YAML makes a number or a date of it; else the value
    repeatable: bool = False  # two Python calls may both say max_seq_length=2048
    place: str = ""  # which of a list's values it is

    @property
    def where(self) -> str:
        said = f"line {self.line}" if self.line else f"--{self.key.replace('_', '-')}"
        return f"{said}, {self.place}" if self.place else said


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2: 2e-4 is a number; yes, 12:30 and 2024-01-01 are text."""

    nodes_left = 20_000  # aliases of aliases grow exponentially


class _Dumper(yaml.SafeDumper):
    """Quotes every text that either kind of YAML would read as something else."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.endswith((":null", ":merge"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_NUMBER.pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_NUMBER.pattern})$"), list("-+.0123456789"))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    try:
        return int(text)
    except ValueError:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


# what an emitter may write as it is; the rest (a tab, a NEL, a line separator) is escaped inside of quotes
_UNPRINTABLE = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # a template reads better as a block; a block cannot hold lines that start or end in blanks
    block = "\n" in value and not re.search(r" \n| $|^\s", value)
    style = '"' if _UNPRINTABLE.search(value) else "|" if block else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Dumper.add_representer(str, _text)


def read_entries(text: str) -> list[Entry]:
    """The pairs of a YAML mapping, in order; doubled keys come twice.

    Raises
    ------
    ColabMagicsError
        When the text is not YAML (naming line and column), or no mapping.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise _no_mapping(text, root.start_mark.line)
        return [_entry(loader, key, value) for key, value in root.value]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _invalid(text, error) from None


def read_scalar(text: str) -> Any:
    """The value of one line option: a number, true/false, a list, or the text itself."""
    if _VARIABLE.fullmatch(text.strip()):
        return text.strip()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return text if node is None else _value(loader, node)
    except (yaml.YAMLError, ValueError, RecursionError, ColabMagicsError):
        return text  # a path with a colon, a template: text is text


def dump(values: dict[str, Any]) -> str:
    """`values` as YAML, one key a line, lists in one line."""
    lines = []
    for key, value in values.items():
        style = True if isinstance(value, list | dict) else None
        lines.append(
            yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
            if style is None
            else f"{key}: {flow(value)}\n"
        )
    return "".join(lines)


def flow(value: Any) -> str:
    """A list or mapping on one line."""
    return str(
        yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    ).rstrip("\n")


def _entry(loader: _Loader, key: yaml.Node, value: yaml.Node) -> Entry:
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode):
        raise ColabMagicsError(f"Line {line} is no `key: value`", "A key is one word.", "Write key: value.")
    read = _value(loader, value)
    text = value.value if isinstance(value, yaml.ScalarNode) and read is not None else read
    return Entry(str(key.value), read, line, text)


def _value(loader: _Loader, node: yaml.Node) -> Any:
    """The node's value, `{name}` kept as the text it is, doubled keys refused inside mappings too."""
    loader.nodes_left -= 1
    if loader.nodes_left < 0:
        raise ValueError("too much is nested in it")
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, part) for part in node.value]
    if isinstance(node, yaml.MappingNode):
        if node.flow_style and len(node.value) == 1:
            key, value = node.value[0]
            if isinstance(value, yaml.ScalarNode) and value.value == "" and isinstance(key, yaml.ScalarNode):
                return f"{{{key.value}}}"
        pairs = {}
        for key, value in node.value:
            name = str(loader.construct_object(key, deep=True)) if isinstance(key, yaml.ScalarNode) else ""
            if name in pairs:
                raise ColabMagicsError(
                    f"{name} is given twice (line {key.start_mark.line + 1})",
                    "Only one of them can hold.",
                    "Delete one of the two lines.",
                )
            pairs[name] = _value(loader, value)
        return pairs
    return loader.construct_object(node, deep=True)


def _no_mapping(text: str, line: int) -> ColabMagicsError:
    written = text.splitlines()[line].strip() if text.splitlines() else ""
    return ColabMagicsError(
        f"Line {line + 1} is no `key: value`: {written[:60]}",
        "The body of the cell is YAML, or `key=value,` lines as in a Python call.",
        "model: Qwen/Qwen3-0.6B",
        "data: rows.jsonl",
    )


def _invalid(text: str, error: Exception) -> ColabMagicsError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None:
        return ColabMagicsError(
            "The body of the cell is not valid YAML", str(problem).split("\n")[0], "Write it as key: value, one a line."
        )
    lines = text.splitlines()
    line = min(mark.line, max(0, len(lines) - 1))
    written = lines[line].rstrip() if lines else ""
    return ColabMagicsError(
        f"Invalid YAML in line {mark.line + 1}, column {mark.column + 1}.",
        f"The reader says: {problem}",
        *(list(_hints(written)) or ["Write key: value, with a blank after the colon."]),
        details=[written[:100], " " * min(mark.column, 99) + "^"] if mark.column < 100 else [written[:100]],
    )


def _hints(written: str) -> Iterator[str]:
    if "\t" in written:
        yield "Indent with spaces: YAML takes no tabs."
    value = written.partition(":")[2].strip()
    if value[:1] in {"{", "[", "*", "&", "!", "%", "@", "`", "'", '"'} or ": " in value:
        yield "Put the value in quotes, or write `key: |` and the text indented below."
    if re.match(r"\s*\w+:\S", written):
        yield "Put a blank between the colon and the value."
