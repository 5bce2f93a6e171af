"""`key=value,` lines as pasted from a Python call, read with `ast` and never run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.yaml_text import Entry

# a pasted script is short; these bound what a hostile one can cost
_MOST_LINES_A_GROUP = 200
_MOST_DIGITS = 30

_ASSIGNMENT = re.compile(r"\s*[A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*\s*=(?!=)")
_CALL = re.compile(r"\s*[A-Za-z_][\w.]*\(")
_CLOSING = re.compile(r"\s*[)\]}]+\s*,?\s*(?:#.*)?")
# imports, shell lines, a positional argument alone on its line, tokenizer.pad_token = ...
_IGNORED = re.compile(
    r"\s*(?:import|from)\s+\w|\s*[%!]\w|\s*[A-Za-z_]\w*\s*,\s*(?:#.*)?$|\s*[A-Za-z_]\w*\.[\w.]+\s*=(?!=)"
)
_OPENING = re.compile(r".*[(\[{]\s*(?:#.*)?")

# Calls whose keywords are settings; what any other call is given says nothing about the training.
_SETTINGS = frozenset(
    """
    SFTConfig SFTTrainer Trainer TrainingArguments Seq2SeqTrainingArguments LoraConfig BitsAndBytesConfig ModelConfig
    ScriptArguments UnslothTrainer UnslothTrainingArguments from_pretrained get_peft_model dict EarlyStoppingCallback
    """.split()
)
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


class Expression(str):
    """Source text whose value only running it could tell."""

    __slots__ = ()


class Name(Expression):
    """A bare name: a variable of the notebook."""

    __slots__ = ()


def looks_like_python(line: str) -> bool:
    """Whether a line outside of a YAML block starts `key=value,` lines or a call."""
    return any(pattern.match(line) for pattern in (_ASSIGNMENT, _CALL)) or bool(
        _CLOSING.fullmatch(line) or _IGNORED.match(line)
    )


def split(body: str) -> tuple[str, list[tuple[int, str]]]:
    """The YAML of a body, its Python lines blanked out, and those lines with their numbers (from 1).

    Lines inside a YAML block (a template below `prompt_template: |`, a list) are never taken for Python.
    """
    yaml_lines: list[str] = []
    python: list[tuple[int, str]] = []
    in_block = False
    depth = 0
    for number, line in enumerate(body.splitlines(), start=1):
        blank = not line.strip() or line.lstrip().startswith("#")
        in_block = in_block and (blank or line[0] in " \t-]}")
        if depth > 0 or (not in_block and not blank and looks_like_python(line)):
            python.append((number, line))
            yaml_lines.append("")
            depth = max(0, depth + _depth(line))
            continue
        if not blank and not in_block:
            in_block = _opens_a_block(line)
        yaml_lines.append(line)
    return "\n".join(yaml_lines), python


def _opens_a_block(line: str) -> bool:
    """Whether the lines indented below this YAML line belong to it."""
    found = re.fullmatch(r"[^#]*?:(?:\s+(.*))?", line)
    if not found:
        return False
    value = re.sub(r"(?:^|\s)#.*", "", found[1] or "").strip()
    unclosed = value[:1] in {"'", '"'} and (len(value) == 1 or value[-1] != value[0])
    return not value or value[0] in "|>&" or unclosed or _depth(value) > 0


def _depth(line: str) -> int:
    """Brackets opened less those closed, strings and comments left out."""
    bare = re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "", line).partition("#")[0]
    return sum(bare.count(opened) - bare.count(closed) for opened, closed in ("()", "[]", "{}"))


def read_python(lines: list[tuple[int, str]], namespace: Mapping[str, Any] | None) -> list[Entry]:
    """The settings in Python lines, in order.

    Raises
    ------
    ColabMagicsError
        For a line that is no `key=value` and no call, naming it.
    """
    arguments = list(_arguments(lines))
    is_script = any(isinstance(value, ast.Call) and _callee(value) in _SETTINGS for _, _, value in arguments)
    scope: dict[str, Any] = {}
    entries: list[Entry] = []
    for index, (line, key, value) in enumerate(arguments):
        settings = isinstance(value, ast.Call) and _callee(value) in _SETTINGS
        if settings or not (is_script and key is not None and _is_local(key, arguments[index + 1 :])):
            entries.extend(_argument(key, value, line, scope, namespace))
        if key is not None:
            scope[key] = _value(value, scope, namespace)
    return entries


def _is_local(key: str, later: list[tuple[int, str | None, ast.expr]]) -> bool:
    """Whether a script's assignment only feeds what follows: an unknown name, or rows that a trainer is given."""
    from colab_magics.recipe.spellings import canonical, known_keys

    if key not in known_keys() and key.lower() not in known_keys():
        return True
    used = any(isinstance(node, ast.Name) and node.id == key for _, _, value in later for node in ast.walk(value))
    return used and canonical(key) in {"data", "eval_data"}


def _arguments(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str | None, ast.expr]]:
    """(line, key or None, value) of every argument, the lines read as those of one call."""
    position = 0
    while position < len(lines):
        number, line = lines[position]
        if not line.strip() or line.lstrip().startswith("#") or _CLOSING.fullmatch(line) or _IGNORED.match(line):
            position += 1
            continue
        for length in range(1, min(_MOST_LINES_A_GROUP, len(lines) - position) + 1):
            text = "\n".join(one for _, one in lines[position : position + length])
            call = _as_call(text)
            if call is not None:
                break
        else:
            if _CALL.match(line.partition("=")[2] or line) and _OPENING.fullmatch(line):
                position += 1  # a call pasted without its closing bracket: read what is in it
                continue
            raise ColabMagicsError(
                f"Line {number} cannot be read: {line.strip()[:60]}",
                "The body of the cell is YAML (`key: value`), or `key=value,` lines as in a Python call.",
                "Write model: demo and data: rows.jsonl, each on a line of its own, to begin with.",
            )
        for keyword in call.keywords:
            # lineno counts from 1, and line 1 of the text is the bracket that we put before it
            yield lines[position + max(0, keyword.value.lineno - 2)][0], keyword.arg, keyword.value
        for argument in call.args:
            yield number, None, argument
        position += length


def _as_call(text: str) -> ast.Call | None:
    try:
        tree = ast.parse(f"_(\n{text}\n)", mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree.body if isinstance(tree.body, ast.Call) else None


def _callee(call: ast.Call) -> str:
    target = call.func
    return target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""


def _argument(
    key: str | None, value: ast.expr, line: int, scope: Mapping[str, Any], namespace: Mapping[str, Any] | None
) -> Iterator[Entry]:
    """One argument: a setting, a call of settings, or nothing of ours."""
    if isinstance(value, ast.Call) and _callee(value) in _SETTINGS:
        yield from _settings(value, line, scope, namespace)
    elif key == "callbacks" and isinstance(value, ast.List):
        for callback in value.elts:
            yield from _argument(None, callback, line, scope, namespace)
    elif key is not None:
        read = _value(value, scope, namespace)
        yield Entry(key, read, line, read, repeatable=True)


def _settings(
    call: ast.Call, line: int, scope: Mapping[str, Any], namespace: Mapping[str, Any] | None
) -> Iterator[Entry]:
    """The arguments of a call of settings, those of the calls inside it too."""
    name = _callee(call)
    if name == "from_pretrained" and "Tokenizer" in ast.unparse(call.func):
        return
    for position, argument in enumerate(call.args):
        is_model = name == "from_pretrained" and position == 0
        yield from _argument("model" if is_model else None, argument, line, scope, namespace)
    for keyword in call.keywords:
        yield from _argument(keyword.arg, keyword.value, line + keyword.value.lineno - call.lineno, scope, namespace)


def _value(node: ast.expr, scope: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> Any:
    """A literal's value, a name's value where it is known, else the source as an Expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(part, scope, namespace) for part in node.elts]
    if isinstance(node, ast.Dict):
        return {
            str(_value(key, scope, namespace)): _value(value, scope, namespace)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, ast.Name):
        if node.id in scope:
            held = scope[node.id]
            return Name(node.id) if isinstance(held, Expression) else held
        known = (namespace or {}).get(node.id)
        return known if isinstance(known, str | int | float) else Name(node.id)
    if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
        return node.attr
    if isinstance(node, ast.Call) and _callee(node) == "load_dataset":
        return _loaded(node, scope, namespace)
    return _number(node, scope, namespace)


def _number(node: ast.expr, scope: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> Any:
    """Arithmetic on literals, such as 4 * 2048; anything else stays source."""
    source = Expression(ast.unparse(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, scope, namespace)
        return -value if isinstance(value, int | float) else source
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = (_value(part, scope, namespace) for part in (node.left, node.right))
        if all(isinstance(part, int | float) and len(str(part)) < _MOST_DIGITS for part in (left, right)):
            try:
                return _ARITHMETIC[type(node.op)](left, right)
            except ArithmeticError:
                return source
    return source


def _loaded(call: ast.Call, scope: Mapping[str, Any], namespace: Mapping[str, Any] | None) -> Any:
    """What `load_dataset(...)` would read, as `data` names it."""
    given = {keyword.arg: _value(keyword.value, scope, namespace) for keyword in call.keywords}
    first = _value(call.args[0], scope, namespace) if call.args else given.get("path")
    files, name = given.get("data_files"), first
    if isinstance(files, dict):
        files = files.get("train")
    if isinstance(files, list) and len(files) == 1:
        files = files[0]
    if isinstance(files, str):
        return files
    split = given.get("split")
    plain = isinstance(name, str) and not isinstance(name, Expression)
    if not plain:
        return Expression(ast.unparse(call))
    return f"{name}:{split}" if isinstance(split, str) and split != "train" else name
