"""The line of `%vram`: text in, a frozen value out."""

from __future__ import annotations

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.line import split
from colab_magics.magics.vram_line import COMMANDS, Line, read

pytestmark = [pytest.mark.face, pytest.mark.colab]


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", Line()),
        ("# what is it now?", Line()),
        ("--watch", Line(watch="on")),
        ("--watch on", Line(watch="on")),
        ("--watch off", Line(watch="off")),
        ("--watch=off", Line(watch="off")),
        ("--help", Line(help=True)),
        ("help", Line(help=True)),
        ("free", Line("free")),
        ("free model trainer  # both", Line("free", ("model", "trainer"))),
        ("free model, trainer", Line("free", ("model", "trainer"))),
        ("free Out[5] _", Line("free", ("Out[5]", "_"))),
        ("free --all", Line("free", all=True)),
        ("free --help", Line("free", help=True)),
        ("why", Line("why")),
        ("why kwanzaa --help", Line("why", help=True)),
        ("estimate --model a/b --gpu T4", Line("estimate", ("--model", "a/b", "--gpu", "T4"))),
    ],
)
def test_a_line_is_read(line: str, asked: Line) -> None:
    assert read(split(line)) == asked


@pytest.mark.parametrize(
    ("line", "what", "next_step"),
    [
        ("fre", "There is no subcommand fre.", "Did you mean %vram free?"),
        ("--wach", "There is no option --wach.", "Did you mean %vram --watch?"),
        ("--watch maybe", "%vram --watch takes no maybe.", "Write %vram --watch, or %vram --watch off."),
        ("free --al", "%vram free takes no --al; nothing was removed.", "Did you mean --all?"),
        ("free model --all", "%vram free takes names or --all; nothing was removed.", "Write one of them."),
        ("nonsense", "There is no subcommand nonsense.", "%vram --help tells what each does."),
    ],
)
def test_what_cannot_be_read_is_told_with_the_nearest(line: str, what: str, next_step: str) -> None:
    with pytest.raises(ColabMagicsError) as caught:
        read(split(line))
    assert (caught.value.what, caught.value.next_steps) == (what, (next_step,))


def test_every_subcommand_is_in_the_help() -> None:
    from colab_magics.magics.vram import HELP

    assert all(f"\n  {usage.removeprefix('%vram ')}" in HELP for usage in COMMANDS.values())
