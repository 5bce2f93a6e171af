"""The line of the magic: what it means, and what is said when it means nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.options import Options, read_line
from colab_magics.session.times import AS_END

pytestmark = pytest.mark.face

KEYS = frozenset({"model", "data", "max_steps", "learning_rate", "packing", "allow_pickle", "lora_r"})


def read(line: str) -> Options:
    return read_line(line, lambda: KEYS)


def test_a_line_holds_a_name_own_options_and_keys_of_the_recipe() -> None:
    assert read("kwanzaa --preset colab --out run --background --max-steps -1 --learning-rate=2e-4 -q") == Options(
        name="kwanzaa",
        preset="colab",
        out="run",
        background=True,
        quiet=True,
        recipe={"max_steps": "-1", "learning_rate": "2e-4"},
    )


def test_quotes_keep_spaces_together_and_are_taken_off() -> None:
    assert read("""--data 'my rows.jsonl' --model="a b" """).recipe == {"data": "my rows.jsonl", "model": "a b"}


def test_a_switch_takes_no_value_so_that_a_name_may_follow_it() -> None:
    options = read("--allow-pickle kwanzaa --packing")
    assert options.name == "kwanzaa"
    assert options.recipe == {"allow_pickle": True, "packing": True}


def test_a_variable_on_the_line_is_left_for_the_recipe_to_look_up() -> None:
    assert read("--data {rows} --model $base").recipe == {"data": "{rows}", "model": "$base"}


def test_a_subcommand_is_one_only_in_the_first_place() -> None:
    assert read("stop kwanzaa --now") == Options(command="stop", name="kwanzaa", now=True)
    assert read("--out run status") == Options(name="status", out="run")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "--modle x",
            [
                "There is no option --modle.",
                "An option is one of the magic's own or a key of the recipe.",
                "→ Did you mean --model?",
            ],
        ),
        (
            "--bakground",
            [
                "There is no option --bakground.",
                "An option is one of the magic's own or a key of the recipe.",
                "→ Did you mean --background?",
            ],
        ),
        (
            "--zzzzzz 1",
            [
                "There is no option --zzzzzz.",
                "An option is one of the magic's own or a key of the recipe.",
                "→ %finetune --help lists the options.",
            ],
        ),
        (
            "-x",
            [
                "There is no option -x.",
                "An option is one of the magic's own or a key of the recipe.",
                "→ %finetune --help lists the options.",
            ],
        ),
        (
            "run --data 'oops",
            [
                "The line cannot be read.",
                "It is split as in a shell: no closing quotation.",
                "→ Close the quote, or leave it out.",
            ],
        ),
        (
            "--deadline 10hous",
            [
                "--deadline 10hous is no time.",
                "It is how long this machine still lives, or when it ends.",
                f"→ {AS_END}",
            ],
        ),
        ("--out", ["--out needs a value.", "The line ends, or another option follows it.", "→ Write --out VALUE."]),
        ("--quiet=1", ["--quiet takes no value.", "It is on or off, and '1' is given.", "→ Write --quiet alone."]),
        (
            "--out 3x",
            [
                "--out 3x is no variable name.",
                "The run is bound to a variable of the notebook.",
                "→ Use letters, digits and _, as in --out run.",
            ],
        ),
        (
            "--panel htlm",
            [
                "--panel htlm is not known.",
                "It can be auto, widget, html, text, off.",
                "→ Did you mean --panel html?",
            ],
        ),
        (
            "stpo kwanzaa",
            [
                "There are two names on the line: stpo and kwanzaa.",
                "A run has one name; every other word belongs to an option.",
                "→ Did you mean %finetune stop kwanzaa?",
            ],
        ),
        ("stop one two", ["%finetune stop takes one run.", "one and two are two runs.", "→ Name one of them."]),
    ],
)
def test_what_cannot_be_read_is_said_in_a_few_lines(line: str, said: list[str]) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read(line)
    assert raised.value.lines() == said


@pytest.mark.parametrize(("written", "seconds"), [("11h", 39600), ("'90 min'", 5400), ("1h30m", 5400), ("3600", 3600)])
def test_a_deadline_is_a_time_from_now(written: str, seconds: float) -> None:
    assert read(f"kwanzaa --deadline {written}").deadline == seconds


def test_a_deadline_may_be_the_time_of_the_end() -> None:
    in_two_hours = (datetime.now().astimezone() + timedelta(hours=2)).isoformat()
    assert read(f"--deadline {in_two_hours}").deadline == pytest.approx(7200, abs=300)


def test_a_deadline_that_is_past_is_refused_with_the_time_that_it_is_here() -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read("--deadline 2020-11-20T10:00")
    assert raised.value.what == "--deadline 2020-11-20T10:00 is past."
    assert raised.value.why.startswith("Here it is 2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("list --now", "%finetune list takes no --now."),
        ("status --max-steps 3", "%finetune status takes no --max-steps."),
        ("kwanzaa --now", "A cell that trains takes no --now."),
        ("stop kwanzaa --background", "%finetune stop takes no --background."),
    ],
)
def test_an_option_that_a_subcommand_does_not_take_is_refused_by_name(line: str, said: str) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read(line)
    assert raised.value.lines()[0] == said
