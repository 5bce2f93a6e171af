"""A room imports only from below it, and nothing heavy reaches the kernel."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import colab_magics

PACKAGE = Path(colab_magics.__file__).parent

# Top to bottom; rooms of one line do not know each other. `training` and `tracking` stand beside the panel.
FLOORS = [
    {"__init__", "__main__"},
    {"magics"},
    {"panel", "training", "inference", "tracking"},
    {"checkpoints", "memory", "session"},
    {"plan"},
    {"data"},
    {"demo"},
    {"run", "hub"},
    {"credentials"},
    {"worker", "recipe"},
    {"events", "presets"},
    {"errors", "sizes", "version"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "pynvml", "ipywidgets"}


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def _imports(tree: ast.Module, *, anywhere: bool) -> Iterator[str]:
    """Names imported by the module; with `anywhere`, also those imported inside functions, but not for types only."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif anywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(node))


def test_every_room_stands_on_a_floor() -> None:
    assert {room for room, _ in _modules()} <= set(FLOOR), "a new room needs a floor"


def test_a_room_imports_only_from_below() -> None:
    wrong = []
    for room, path in _modules():
        for name in _imports(ast.parse(path.read_text()), anywhere=False):
            package, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if package == "colab_magics" and other in FLOOR and other != room and FLOOR[other] <= FLOOR[room]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_training_at_module_level_but_its_own_rooms() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for room, path in _modules()
        if room != "training"
        for name in _imports(ast.parse(path.read_text()), anywhere=False)
        if name.startswith("colab_magics.training")
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_are_imported_at_module_level_in_training_alone() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for room, path in _modules()
        if room != "training"
        for name in _imports(ast.parse(path.read_text()), anywhere=False)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


def test_no_pickle_is_read_anywhere() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for _, path in _modules()
        for name in _imports(ast.parse(path.read_text()), anywhere=True)
        if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    ]
    assert not wrong, "\n".join(wrong)
