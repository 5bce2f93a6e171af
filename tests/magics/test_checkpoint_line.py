"""The line of `%checkpoint`: what it means, and what is said when it means nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint import HELP
from colab_magics.magics.checkpoint_line import COMMANDS, Line, read_line, usage
from colab_magics.session.times import AS_END

pytestmark = pytest.mark.face


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("list", Line("list")),
        ("list kwanzaa --root /tmp/r", Line("list", "kwanzaa", root="/tmp/r")),
        ("save kwanzaa", Line("save", "kwanzaa")),
        ("verify --full kwanzaa", Line("verify", "kwanzaa", full=True)),
        ("prune kwanzaa --keep 3 --dry-run", Line("prune", "kwanzaa", keep=3, dry_run=True)),
        ("pin 40", Line("pin", step=40)),
        ("unpin 40 kwanzaa", Line("unpin", "kwanzaa", step=40)),
        ("show", Line("show")),
        ("show 40", Line("show", step=40)),
        ("show kwanzaa 40", Line("show", "kwanzaa", step=40)),
        ("export 'my folder/x.zip' kwanzaa --step=40 --force",
         Line("export", "kwanzaa", step=40, path="my folder/x.zip", force=True)),
        ("fetch kwanzaa --from s3://bucket/runs", Line("fetch", "kwanzaa", source="s3://bucket/runs")),
        ("import ../checkpoint-500 old --trust-pickle",
         Line("import", "old", path="../checkpoint-500", trust_pickle=True)),
        ("resume kwanzaa --from 40 --fork other --out run --panel text --background --traceback -q",
         Line("resume", "kwanzaa", step=40, fork="other", out="run", panel="text", background=True, traceback=True,
              quiet=True)),
    ],
)  # fmt: skip
def test_a_line_is_read_into_what_it_means(line: str, meant: Line) -> None:
    assert read_line(line) == meant


def test_a_step_is_known_by_its_look_wherever_it_stands() -> None:
    assert read_line("pin kwanzaa 40") == read_line("pin 40 kwanzaa")
    assert read_line("show 40 kwanzaa") == read_line("show kwanzaa 40")
    assert read_line("show 7 40") == Line("show", "7", step=40), "of two numbers the place decides"
    assert read_line("pin 40 7") == Line("pin", "7", step=40)


def test_a_checkpoint_may_be_named_in_full_where_two_attempts_saved_the_same_step() -> None:
    assert read_line("show 00000040-a2") == Line("show", step=40, attempt=2)
    assert read_line("resume --from 00000040-a2") == Line("resume", step=40, attempt=2)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("11h", 39600), ("90m", 5400), ("90 min", 5400), ("1h30m", 5400), ("1.5h", 5400), ("3600", 3600), ("45s", 45)],
)
def test_a_deadline_is_a_time_from_now(written: str, seconds: float) -> None:
    assert read_line(f"resume --deadline '{written}'").deadline == seconds


def test_a_deadline_may_be_the_time_of_the_end() -> None:
    in_two_hours = (datetime.now().astimezone() + timedelta(hours=2)).isoformat()
    assert read_line(f"resume --deadline {in_two_hours}").deadline == pytest.approx(7200, abs=300)


@pytest.mark.parametrize("line", ["", "--help", "-h", "help", "save --help", "pin -h"])
def test_nothing_and_help_ask_for_help(line: str) -> None:
    assert read_line(line).help


def test_help_names_every_subcommand_and_option_and_fits_a_screen() -> None:
    for command, grammar in COMMANDS.items():
        assert f"{command} " in HELP
        assert all(f"--{option.replace('_', '-')}" in HELP for option in grammar.options), command
    lines = HELP.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_every_usage_that_an_error_shows_can_be_read(command: str) -> None:
    example = {"PATH": "x", "STEP": "40", "N": "2", "VAR": "run", "KIND": "text", "TIME": "1h", "WHERE": "y"}
    words = usage(command).replace("[", " ").replace("]", " ").split()[1:]
    assert read_line(" ".join(example.get(word, word) for word in words)).command == command


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "lsit",
            [
                "There is no subcommand lsit.",
                "There is list, save, resume, verify, prune, pin, unpin, show, export, fetch, import.",
                "→ Did you mean %checkpoint list?",
            ],
        ),
        (
            "kwanzaa",
            [
                "There is no subcommand kwanzaa.",
                "There is list, save, resume, verify, prune, pin, unpin, show, export, fetch, import.",
                "→ %checkpoint list kwanzaa shows a run's checkpoints.",
            ],
        ),
        (
            "list 'oops",
            [
                "The line cannot be read.",
                "It is split as in a shell: no closing quotation.",
                "→ Close the quote, or leave it out.",
            ],
        ),
        (
            "verify --ful",
            [
                "There is no option --ful.",
                "%checkpoint verify takes --full, --root, --help.",
                "→ Did you mean --full?",
            ],
        ),
        (
            "verify --keep 3",
            [
                "%checkpoint verify takes no --keep.",
                "--keep belongs to prune.",
                "→ Write %checkpoint verify [RUN] [--full].",
            ],
        ),
        (
            "list -x",
            ["There is no option -x.", "%checkpoint list takes --root, --help.", "→ Write %checkpoint list [RUN]."],
        ),
        (
            "prune --keep 0",
            ["--keep 0 is no number of checkpoints.", "It is a whole number from 1 on.", "→ Try --keep 2."],
        ),
        ("verify --full=1", ["--full takes no value.", "It is on or off, and '1' is given.", "→ Write --full alone."]),
        (
            "resume --from",
            ["--from needs a value.", "The line ends, or another option follows it.", "→ Write --from STEP."],
        ),
        (
            "resume --from best",
            [
                "--from best is no step.",
                "A step is a whole number.",
                "→ %checkpoint list shows the steps that have a checkpoint.",
            ],
        ),
        (
            "resume --deadline soon",
            [
                "--deadline soon is no time.",
                "It is how long this machine still lives, or when it ends.",
                f"→ {AS_END}",
            ],
        ),
        (
            "resume --out 3x",
            [
                "--out 3x is no variable name.",
                "The run is bound to a variable of the notebook.",
                "→ Use letters, digits and _, as in --out run.",
            ],
        ),
        (
            "resume --panel htlm",
            ["--panel htlm is not known.", "It can be auto, widget, html, text, off.", "→ Did you mean --panel html?"],
        ),
        ("pin", ["%checkpoint pin needs a step.", "→ Write %checkpoint pin STEP [RUN]."]),
        (
            "pin kwanzaa",
            [
                "pin kwanzaa is no step.",
                "A step is a whole number.",
                "→ %checkpoint list shows the steps that have a checkpoint.",
            ],
        ),
        (
            "pin -1",
            [
                "pin -1 is no step.",
                "A step is a whole number.",
                "→ %checkpoint list shows the steps that have a checkpoint.",
            ],
        ),
        (
            "export",
            [
                "%checkpoint export needs a path.",
                "→ Write %checkpoint export PATH [RUN] [--step STEP] [--force].",
            ],
        ),
        (
            "import x",
            [
                "%checkpoint import needs a name for the new run.",
                "→ Write %checkpoint import PATH NAME [--trust-pickle].",
            ],
        ),
        (
            "list one two",
            ["%checkpoint list does not take 2 words: one two.", "It takes [RUN].", "→ Name one run."],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_a_few_lines(line: str, said: list[str]) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read_line(line)
    assert raised.value.lines() == said
