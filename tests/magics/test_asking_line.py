"""The lines of %generate and %compare, and what a cell or a variable says: read, or refused with the nearest."""

from __future__ import annotations

from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.inference.sampling import Sampling
from colab_magics.magics import compare_line, generate_line
from colab_magics.magics.asking_line import asked_words
from colab_magics.magics.prompts import prompts_of

pytestmark = [pytest.mark.face, pytest.mark.colab]


def generate(line: str) -> generate_line.Asked:
    return generate_line.read(asked_words(line))


def test_what_is_no_option_is_the_prompt_with_its_apostrophes() -> None:
    asked = generate("--run kwanzaa What's a list, and what isn't? --max-new-tokens 64 --out answers")
    assert asked.text == "What's a list, and what isn't?"
    assert (asked.run, asked.out, asked.sampling.new_tokens) == ("kwanzaa", "answers", 64)
    assert generate('--system "Be \\"brief\\"." "two  spaces"').system == 'Be "brief".'
    assert generate('"two  spaces"').text == "two  spaces"


@pytest.mark.parametrize(
    ("line", "draws"),
    [("x", False), ("--do-sample x", True), ("--temperature 0.7 x", True), ("--top-p=0.9 x", True),
     ("--temperature 0 --top-p 0.9 x", False), ("--repetition-penalty 1.2 x", False)],
)  # fmt: skip
def test_who_gives_an_option_of_drawing_draws(line: str, draws: bool) -> None:
    assert generate(line).sampling.do_sample is draws


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--max-tokens 3", "Did you mean --max-new-tokens?"),
        ("--temprature 3", "Did you mean --temperature?"),
        ("--checkpiont 3", "Did you mean --checkpoint?"),
        ("--run", "--run needs a value."),
        ("--run --base", "--run needs a value."),
        ("--temperature hot", "--temperature hot cannot be used."),
        ("--top-p 1.5", "It takes a number from 0 to 1."),
        ("--max-new-tokens 0", "It takes a whole number from 1."),
        ("--checkpoint last", "--checkpoint last is no number."),
        ("--on gpu x", "It takes cuda or cpu."),
        ("--out 3x", "--out 3x is no variable's name."),
        ("--base=yes", "--base takes no value."),
        ("--base --checkpoint 3", "--base and --checkpoint do not go together."),
        ("--model demo --base", "--model demo and --base do not go together."),
        ("--raw --system x", "--raw takes no --system."),
        ("--prompt-length 8", "--prompt-length belongs to --bench."),
        ("--batch 1,4", "--batch takes one number here."),
        ("--bench --batch 1,x", "--batch 1,x cannot be read."),
        ("--bench hello", "--bench takes no prompt."),
        ("--bench --prompts asked", "--bench takes no prompt."),
        ("--bench --repeats 0", "It takes a whole number from 1 on."),
        ("--seed abc", "Write it as --seed 7."),
        ("--top-p high", "Write it as --top-p 0.9."),
        ("--num-return-sequences 3", "would give the same text 3 times."),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(line: str, said: str) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        generate(line)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--checkpoints 50", "--checkpoints takes two steps, and 1 were given."),
        ("--with other --checkpoints 1,2", "--with and --checkpoints do not go together."),
        ("--threshold 0.7", "--threshold belongs to --score."),
        ("--data x.jsonl --prompts y", "There are --data and prompts."),
        ("--rows some", "--rows some is no number."),
        ("--rows 0", "--rows 0 cannot be used."),
        ("--batch 0", "It takes a whole number from 1 on."),
        ("--num-return-sequences 2 --do-sample", "%compare takes no --num-return-sequences."),
    ],
)
def test_a_comparison_that_cannot_be_meant_is_refused(line: str, said: str) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        compare_line.read(asked_words(line))
    assert said in str(refused.value)


def test_a_comparison_is_read() -> None:
    asked = compare_line.read(asked_words("--run a --with b --rows all --score f --threshold 0.7"))
    assert (asked.run, asked.other, asked.rows, asked.score, asked.threshold) == ("a", "b", 0, "f", 0.7)


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is\na list?"}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("What is a list?\n", ["What is a list?"]),
        ("  indented code\n\n    stays", ["  indented code\n\n    stays"]),
        ("system: Be brief.\nuser: What is\na list?\n", [CHAT]),
        ('[{"role": "user", "content": "Hi"}]', [[{"role": "user", "content": "Hi"}]]),
        ("- role: user\n  content: Hi\n", [[{"role": "user", "content": "Hi"}]]),
        ("messages:\n- role: user\n  content: Hi\n", [[{"role": "user", "content": "Hi"}]]),
        ('["one", "two"]', ["one", "two"]),
        ('{"question": "Q", "context": "C"}', [{"question": "Q", "context": "C"}]),
        ("- a list\n- of things: see", ["- a list\n- of things: see"]),
        ("[1] is a footnote", ["[1] is a footnote"]),
        ("{x for x in y}", ["{x for x in y}"]),
    ],
)
def test_a_cell_is_one_prompt_a_chat_a_row_or_many(body: str, said: list[Any]) -> None:
    assert prompts_of("", body, None, {}, lines=False) == said


def test_with_lines_each_line_is_a_prompt() -> None:
    assert prompts_of("", "one\n\n  two \nuser: three\n", None, {}, lines=True) == ["one", "two", "user: three"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        (CHAT, [CHAT]),
        ([CHAT, "two"], [CHAT, "two"]),
        ([{"question": "Q"}], [{"question": "Q"}]),
    ],
)
def test_a_variable_holds_prompts(value: Any, said: list[Any]) -> None:
    assert prompts_of("", None, "asked", {"asked": value}, lines=False) == said


def test_a_data_frame_holds_rows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"question": ["a", "b"]})
    assert prompts_of("", None, "frame", {"frame": frame}, lines=False) == [{"question": "a"}, {"question": "b"}]


@pytest.mark.parametrize(
    ("text", "body", "variable", "said"),
    [
        ("", " \n", None, "The prompt is empty."),
        ("", None, None, "The prompt is empty."),
        ("one", "two", None, "There are prompts on the line and in the cell."),
        ("", "two", "asked", "There are prompts in the cell and in asked."),
        ("", None, "askde", "→ Did you mean asked?"),
        ("", None, "number", "number is of type int, and holds no prompts."),
        ("", None, "empty", "empty is empty."),
        ("", None, "mixed", "mixed holds a int, which is no prompt."),
        ("", "user: Hi\nassistant: Ho", None, "The chat ends with the assistant."),
    ],
)
def test_what_is_no_prompt_is_refused(text: str, body: str | None, variable: str | None, said: str) -> None:
    namespace = {"asked": ["one"], "number": 3, "empty": [], "mixed": ["one", 2]}
    with pytest.raises(ColabMagicsError) as refused:
        prompts_of(text, body, variable, namespace, lines=False)
    assert said in str(refused.value)


def test_no_draw_needs_no_options_of_drawing() -> None:
    assert Sampling({"temperature": 0, "top_k": 3, "seed": 1}).given == {"seed": 1}
