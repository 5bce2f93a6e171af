"""`{name}` and `$name` are notebook variables; everything else with braces is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import parse

pytestmark = pytest.mark.face

TWO = "model: org/name\ndata: rows.jsonl\n"


class Frame:
    """Stands for a DataFrame: neither text nor a list."""


@pytest.mark.parametrize("written", ["{rank}", "$rank", "'{rank}'", '"$rank"'])
def test_a_scalar_that_is_exactly_a_variable_takes_its_value(written: str) -> None:
    parsed = parse(f"{TWO}r: {written}", namespace={"rank": 4})
    assert parsed.recipe.r == 4
    assert parsed.variables == {"rank": 4}


def test_options_take_variables_too() -> None:
    assert parse(TWO, {"r": "{rank}"}, namespace={"rank": 4}).recipe.r == 4


@pytest.mark.parametrize("rows", [Frame(), [{"text": "a"}]])
def test_rows_stay_in_the_notebook_under_their_name(rows: object) -> None:
    parsed = parse("model: org/name\ndata: {train}\neval_data: $held", namespace={"train": rows, "held": rows})
    assert (parsed.recipe.data, parsed.recipe.eval_data) == ("train", "held")
    assert parsed.variables == {"train": rows, "held": rows}


def test_a_path_in_a_variable_is_the_path() -> None:
    space = {"here": Path("/tmp/rows.jsonl"), "there": "eval.jsonl"}
    recipe = parse("model: org/name\ndata: {here}\neval_data: $there", namespace=space).recipe
    assert (recipe.data, recipe.eval_data) == ("/tmp/rows.jsonl", "eval.jsonl")


def test_a_list_and_a_mapping_may_be_variables_or_hold_them() -> None:
    space = {"modules": ("q_proj", "v_proj"), "names": {"prompt": "q", "completion": "a"}, "one": "k_proj"}
    recipe = parse(f"{TWO}target_modules: {{modules}}\ncolumns: {{names}}", namespace=space).recipe
    assert recipe.target_modules == ["q_proj", "v_proj"]
    assert recipe.columns == {"prompt": "q", "completion": "a"}
    assert parse(f"{TWO}target_modules: [q_proj, $one]", namespace=space).recipe.target_modules == ["q_proj", "k_proj"]


def test_a_numpy_scalar_is_a_number() -> None:
    numpy = pytest.importorskip("numpy")
    assert parse(f"{TWO}learning_rate: $rate", namespace={"rate": numpy.float64(1e-4)}).recipe.learning_rate == 1e-4


def test_a_missing_variable_is_named_with_the_nearest() -> None:
    with pytest.raises(ColabMagicsError) as caught:
        parse("model: org/name\ndata: {trian}", namespace={"train": [], "_hidden": 1})
    said = "\n".join(caught.value.lines())
    assert "no variable trian" in said
    assert "{train}" in said


def test_a_variable_without_a_notebook_is_refused() -> None:
    with pytest.raises(ColabMagicsError, match="no notebook here"):
        parse("model: org/name\ndata: {train}")


def test_a_value_of_the_wrong_type_is_refused_as_if_it_were_written() -> None:
    with pytest.raises(ColabMagicsError, match="whole number"):
        parse(f"{TWO}r: $rank", namespace={"rank": "many"})


@pytest.mark.parametrize(
    "text",
    ["{instruction}", "$instruction", '{"json": true}', "{a} and {b}", "cost: $5", "{{x}}", "{}", "{a b}", "{0}"],
)
def test_a_template_is_never_looked_up(text: str) -> None:
    quoted = "'" + text + "'"
    assert parse(f"{TWO}prompt_template: {quoted}", namespace={"instruction": "no"}).recipe.prompt_template == text


@pytest.mark.parametrize(
    "text", ['{"json": true}', "{a} and {b}", "cost: $5", "{{x}}", "{}", "{a b}", "{0}", "$", "$a b"]
)
def test_braces_and_dollars_in_other_text_are_left_alone(text: str) -> None:
    assert parse(f"{TWO}system: '{text}'", namespace={"a": "no", "x": "no"}).recipe.system == text


def test_an_unquoted_template_of_one_field_is_text() -> None:
    assert parse(f"{TWO}prompt_template: {{text}}", namespace={}).recipe.prompt_template == "{text}"


def test_a_template_block_keeps_its_lines() -> None:
    body = f"{TWO}prompt_template: |\n  ### In: {{question}}\n  key = value,\n  r = 3\nseed: 7\n"
    recipe = parse(body).recipe
    assert recipe.prompt_template == "### In: {question}\nkey = value,\nr = 3\n"
    assert (recipe.r, recipe.seed) == (16, 7)


@pytest.mark.parametrize("written", ["shape", "{shape}", "$shape"])
def test_format_names_a_function_of_the_notebook(written: str) -> None:
    parsed = parse(f"{TWO}format: {written}", namespace={"shape": len})
    assert parsed.recipe.format == "shape"
    assert parsed.variables == {"shape": len}


def test_a_format_that_is_missing_or_no_function_is_named() -> None:
    with pytest.raises(ColabMagicsError, match="Did you mean"):
        parse(f"{TWO}format: shap", namespace={"shape": len})
    with pytest.raises(ColabMagicsError, match="no function"):
        parse(f"{TWO}format: shape", namespace={"shape": 3})
