"""Write docs/magics: one page a magic, of what `%magic --help` prints: `make docs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from colab_magics.magics import checkpoint_line, extension, options, session_line, vram_line

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "magics"
SUBCOMMANDS: Mapping[str, Iterable[str]] = {
    "finetune": options.SUBCOMMANDS,
    "checkpoint": checkpoint_line.COMMANDS,
    "session": session_line.COMMANDS,
    "vram": vram_line.COMMANDS,
}
# magic -> the pages of docs/ that tell more of it
MORE: Mapping[str, tuple[str, ...]] = {
    "finetune": ("recipe", "data", "training", "trials", "preferences", "runs", "troubleshooting"),
    "checkpoint": ("checkpoints", "runs", "reliability"),
    "panel": ("panel", "dashboards"),
    "session": ("session", "cost"),
    "vram": ("memory",),
    "generate": ("generate", "performance"),
    "compare": ("compare",),
    "export": ("export",),
    "report": ("report",),
}


def shell_with_magics() -> Any:
    """A shell as a notebook has it, with the extension loaded."""
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.extension_manager.load_extension("colab_magics")
    return shell


def magics(shell: Any) -> dict[str, tuple[str, ...]]:
    """What the extension has registered: name -> the ways to write it, `%name` and `%%name`."""
    found: dict[str, tuple[str, ...]] = {}
    for kind, sign in (("line", "%"), ("cell", "%%")):
        for name, magic in shell.magics_manager.magics[kind].items():
            if type(getattr(magic, "__self__", None)) in extension._MAGICS.values():
                found[name] = (*found.get(name, ()), f"{sign}{name}")
    return found


def helped(shell: Any, line: str) -> str:
    """What `%line` prints, for one such as `checkpoint list --help`."""
    printed = StringIO()
    with redirect_stdout(printed):
        shell.run_line_magic(*line.split(maxsplit=1))
    return printed.getvalue().rstrip()


def summary(shell: Any, name: str) -> str:
    """What a magic does, in the words that `%quickref` has for it."""
    return str(shell.find_line_magic(name).__doc__.strip().partition("\n")[0])


def page(shell: Any, name: str, written: Iterable[str]) -> str:
    """The page of one magic."""
    parts = [
        f"# {', '.join(f'`{one}`' for one in written)}",
        f"<!-- make docs: this is what %{name} --help prints, and %{name}? shows -->",
        summary(shell, name),
        _block(helped(shell, f"{name} --help")),
    ]
    told = {command: helped(shell, f"{name} {command} --help") for command in SUBCOMMANDS.get(name, ())}
    short = [text for text in told.values() if "\n" not in text]
    if short:
        parts += ["How each is written:", _block("\n".join(short))]
    for command, text in told.items():
        if text not in short:
            parts += [f"## `%{name} {command}`", _block(text)]
    parts.append("More: " + " · ".join(f"[{one}](../{one}.md)" for one in MORE[name]))
    return "\n\n".join(parts) + "\n"


def index(shell: Any, found: Mapping[str, tuple[str, ...]]) -> str:
    """The page that names them all."""
    rows = [
        f"| [{', '.join(f'`{one}`' for one in written)}]({name}.md) | {summary(shell, name)} |"
        for name, written in found.items()
    ]
    return "\n".join(
        [
            "# The magics",
            "",
            "<!-- make docs -->",
            "Each page is what `%magic --help` prints and `%magic?` shows.",
            "A loop of your own takes no magic: [track](../track.md).",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def pages(shell: Any) -> dict[str, str]:
    """Every page by the name of its file."""
    registered = magics(shell)
    found = {name: registered[name] for name in (*extension._MAGICS, *registered) if name in registered}
    return {"README.md": index(shell, found)} | {f"{name}.md": page(shell, name, one) for name, one in found.items()}


def _block(text: str) -> str:
    return f"```\n{text}\n```"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = pages(shell_with_magics())
    for old in FOLDER.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} pages in docs/magics")


if __name__ == "__main__":
    main()
