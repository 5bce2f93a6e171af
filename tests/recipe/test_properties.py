"""For any recipe and any text: what is written reads back equal, and nothing but our own error comes out."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe, parse
from colab_magics.recipe.fields import METHODS, OPTIMIZERS, PRECISIONS, SCHEDULES
from colab_magics.recipe.python_text import split

text = st.text(min_size=1).filter(lambda value: bool(value.strip()))
whole = st.integers(min_value=1, max_value=10**9)
names = st.lists(text, min_size=1, max_size=4, unique=True)
small = st.floats(min_value=1e-30, max_value=0.999)


def _or(*values: Any) -> Any:
    return st.sampled_from(values)


recipes = st.builds(
    Recipe,
    model=text,
    data=text,
    eval_data=st.none() | text,
    columns=st.none() | st.dictionaries(text, text, min_size=1, max_size=3),
    prompt_template=st.none() | text,
    system=st.none() | text,
    max_length=_or("auto") | st.integers(min_value=2, max_value=10**6),
    packing=_or("auto", True, False),
    method=_or(*METHODS),
    precision=_or(*PRECISIONS),
    max_memory=st.none() | st.integers(min_value=1, max_value=99).map(lambda size: f"{size}GiB"),
    r=whole,
    lora_dropout=st.floats(min_value=0, max_value=0.999),
    target_modules=_or("all-linear") | names,
    modules_to_save=st.none() | names,
    num_train_epochs=st.floats(min_value=1e-9, max_value=1e9),
    max_steps=st.integers(min_value=-1, max_value=10**9),
    learning_rate=_or("auto") | small,
    warmup_steps=_or("auto") | small | whole,
    optim=_or(*OPTIMIZERS),
    lr_scheduler_type=_or(*SCHEDULES),
    eval_every=_or("auto", None) | whole,
    save_every=_or("auto") | whole | whole.map(lambda steps: f"{steps} steps"),
)


@given(recipes)
@settings(max_examples=40, deadline=None)
def test_any_recipe_reads_back_equal_from_its_yaml(recipe: Recipe) -> None:
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.explain()) == recipe


@given(st.text(alphabet="abr_=:,()[]{}'\"#|>-$&*!%@` \n\t0123456789.e", max_size=120))
@settings(max_examples=150, deadline=None)
def test_any_body_gives_a_recipe_or_our_error(body: str) -> None:
    try:
        parsed = parse("model: org/name\ndata: rows.jsonl\n" + body, namespace={"a": 3})
    except ColabMagicsError:
        return
    assert Recipe.from_yaml(parsed.recipe.to_yaml()) == parsed.recipe


@given(
    st.lists(st.sampled_from(["a: 1", "b = 2,", "c: |", "  d = 3", "f(x", ")", "", "# e = 4", "g: [", "  h]", "- i"]))
)
@settings(max_examples=100, deadline=None)
def test_splitting_loses_no_line_and_moves_none(lines: list[str]) -> None:
    yaml_part, python_part = split("\n".join(lines))
    numbered = dict(enumerate(yaml_part.split("\n"), start=1))
    for number, line in python_part:
        assert numbered[number] == ""
        numbered[number] = line
    assert "\n".join(numbered.values()).rstrip("\n") == "\n".join(lines).rstrip("\n")
