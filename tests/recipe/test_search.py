"""Lists and ranges in a cell become the recipes of trials, or an error that names the place."""

from __future__ import annotations

from itertools import pairwise

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Parsed, parse
from colab_magics.recipe.explain import with_trials
from colab_magics.recipe.fields import rules
from colab_magics.recipe.rules import Columns, Names
from colab_magics.recipe.search import MOST, SEARCHED, SETTINGS, Range
from colab_magics.recipe.spellings import TRIALS, known_keys

pytestmark = pytest.mark.face

TWO = "model: demo\ndata: rows.jsonl\n"
HUNDRED = "r: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\nweight_decay: [0, .1, .2, .3, .4, .5, .6, .7, .8, .9]\nseed: [1, 2]\n"


def tried(body: str, **line: str) -> list[dict[str, object]]:
    """What each trial has of its own."""
    search = parse(TWO + body, line, namespace={"rates": (1e-4, 2e-4)}).search
    assert search is not None
    return [search.values(recipe) for recipe in search.recipes]


def refusal(body: str) -> list[str]:
    with pytest.raises(ColabMagicsError) as refused:
        parse(TWO + body)
    return refused.value.lines()


@pytest.mark.parametrize(
    "body",
    [
        "learning_rate: [1e-4, 2e-4]",
        "lr: [1e-4, 2e-4]",
        "learning_rate=[1e-4, 2e-4],",
        "learning_rate:\n  - 1e-4\n  - 2e-4",
        "learning_rate: {rates}",
        "learning_rate: [1e-4, 2e-4, 0.0001]",
    ],
)
def test_a_list_is_tried_value_by_value_however_it_is_written(body: str) -> None:
    assert tried(body) == [{"learning_rate": 1e-4}, {"learning_rate": 2e-4}]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[1e-4]", "learning_rate is a list of one value: 0.0001"),
        ("[1e-4, 1e-4, 1e-4]", "learning_rate is a list of one value, 3 times over: 0.0001"),
    ],
)
def test_a_list_that_has_one_value_only_is_no_search_and_says_how_often_it_stands_there(
    written: str, said: str
) -> None:
    parsed = parse(f"{TWO}learning_rate: {written}")
    assert parsed.search is None
    assert said in parsed.notes


def test_the_line_may_hold_a_list_and_one_value_on_it_leaves_none_of_the_body() -> None:
    assert tried("", learning_rate="[1e-4, 2e-4]") == [{"learning_rate": 1e-4}, {"learning_rate": 2e-4}]
    parsed = parse(TWO + "lr: [1e-4, 2e-4]", {"learning_rate": "3e-4"})
    assert (parsed.search, parsed.recipe.learning_rate) == (None, 3e-4)


def test_all_combinations_are_tried_and_the_recipe_is_the_first_trials() -> None:
    body = "lr: [1e-4, 2e-4]\nr: [8, 16, 32]"
    assert len(tried(body)) == 6
    assert parse(TWO + body).recipe.r == 8


def test_what_follows_from_a_value_follows_in_every_trial() -> None:
    search = parse(TWO + "r: [8, 16]").search
    assert search is not None
    assert [recipe.lora_alpha for recipe in search.recipes] == [16, 32]


def test_lists_that_a_recipe_holds_anyway_are_no_trials() -> None:
    body = (
        "target_modules: [q_proj, v_proj]\nmodules_to_save: [lm_head]\nreport_to: [tensorboard]\ncolumns: {text: body}"
    )
    parsed = parse(TWO + body)
    assert parsed.search is None
    assert parsed.recipe.target_modules == ["q_proj", "v_proj"]


def test_no_key_that_holds_a_list_anyway_is_searched_and_every_one_is_a_key() -> None:
    assert set(rules()) >= SEARCHED
    assert not any(isinstance(rules()[key], Names | Columns) for key in SEARCHED)
    assert set(SETTINGS) == TRIALS <= known_keys()


def test_a_bad_value_is_named_with_its_place_though_no_trial_would_take_it() -> None:
    assert "(line 3, value 2 of 3)" in refusal("learning_rate: [1e-4, fast, 2e-4]")[0]
    body = HUNDRED.replace("10]", "0]") + "trials: 2\n"
    assert "(line 3, value 10 of 10)" in refusal(body)[0]
    with pytest.raises(ColabMagicsError, match=r"--learning-rate, value 2 of 2"):
        parse(TWO, {"learning_rate": "[1e-4, 3]"})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("learning_rate: [1e-4, [2e-4, 3e-4]]", "value 2 of the list is itself a list"),
        ("r: []", "the list is empty"),
        ("max_length: [512, 1024]", "and no list"),
        ("model: [demo, gpt2]", "and no list"),
        ("trials: 3", "no key holds several values"),
        ("lr: [1e-4]\ntrials: 3", "no key holds several values"),
        ("r: [8, 16]\ntrials: 1", "2 or more"),
        ("r: [8, 16]\ntrial_steps: 9\ntrial_samples: 9", "both given"),
        ("method: [dpo, orpo]", "would learn by dpo and by orpo"),
        ("r: [8, 16]\nbest_by: accuracy", "one of auto, eval_loss, loss"),
        ("r: [8, 16]\nbest_by: eval_loss", "names no eval_data"),
        ("lr: {low: 1e-5, high: 1e-3}", "Add trials: 5"),
        ("lr: {low: 1e-3, high: 1e-5}\ntrials: 3", "ends before it begins"),
        ("lr: {lo: 1e-3, high: 1e-2}\ntrials: 3", "Did you mean low?"),
        ("lr: {low: 1e-3}\ntrials: 3", "is no range"),
        ("lr: {low: 1e-3, high: 2}\ntrials: 3", "high of the range, 2,"),
        ("weight_decay: {low: 0, high: 1, log: true}\ntrials: 3", "only where low is above 0"),
        ("optim: {low: 1, high: 2}\ntrials: 3", "is no range"),
        ("lr=[1e-4, 2e-4],\nlearning_rate=[1e-4, 3e-4],", "are two lists"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_a_sentence(body: str, says: str) -> None:
    lines = refusal(body)
    assert says in "\n".join(lines)
    assert len(lines) <= 5


def test_two_hundred_combinations_are_refused_unless_it_is_said_how_many_are_tried() -> None:
    assert refusal(HUNDRED)[0] == "10 x 10 x 2 = 200 combinations: r, weight_decay, seed."
    assert len(tried(HUNDRED + "trials: 5")) == 5
    assert MOST < 200


def test_few_trials_of_many_combinations_are_spread_evenly_and_always_the_same() -> None:
    ten = tried(HUNDRED + "trials: 10")
    assert ten == tried(HUNDRED + "trials: 10")
    assert sorted(one["r"] for one in ten) == list(range(1, 11))  # type: ignore[type-var]
    assert len({one["weight_decay"] for one in ten}) == 10
    assert sum(one["seed"] == 1 for one in ten) == 5


def test_more_trials_than_combinations_are_all_of_them_and_it_is_said() -> None:
    parsed = parse(TWO + "r: [8, 16]\ntrials: 9")
    assert parsed.search is not None
    assert len(parsed.search.recipes) == 2
    assert "trials: 9, and there are 2 combinations: all are tried" in parsed.notes


def test_combinations_that_train_the_same_are_tried_once() -> None:
    parsed = parse(TWO + "optim: [adamw, adamw_torch_fused, sgd]")
    assert parsed.search is not None
    assert [recipe.optim for recipe in parsed.search.recipes] == ["adamw_torch_fused", "sgd"]
    assert any("train the same" in note for note in parsed.notes)


def test_a_range_is_tried_from_end_to_end_in_equal_steps_or_in_equal_powers() -> None:
    powers = Range(1e-5, 1e-3, log=True, whole=False).values(5)
    assert powers == (1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3)
    assert Range(0.0, 0.1, log=False, whole=False).values(3) == (0.0, 0.05, 0.1)
    assert Range(4, 64, log=True, whole=True).values(5) == (4, 8, 16, 32, 64)
    assert Range(1, 3, log=False, whole=True).values(9) == (1, 2, 3)
    assert all(low < high for low, high in pairwise(Range(1e-7, 0.9, log=True, whole=False).values(50)))


def test_a_wide_range_is_one_of_powers_and_a_narrow_one_is_not() -> None:
    assert [one["learning_rate"] for one in tried("lr: {low: 1e-4, high: 1e-2}\ntrials: 3")] == [1e-4, 1e-3, 1e-2]
    assert [one["learning_rate"] for one in tried("lr: {low: 1e-4, high: 3e-4}\ntrials: 3")] == [1e-4, 2e-4, 3e-4]


def test_the_best_is_best_by_the_evaluation_where_there_is_one() -> None:
    def best_by(body: str) -> str:
        search = parse(TWO + "r: [8, 16]\n" + body).search
        assert search is not None
        return search.best_by

    assert best_by("") == "loss"
    assert best_by("eval_data: held_out.jsonl") == "eval_loss"
    assert best_by("eval_data: held_out.jsonl\nbest_by: loss") == "loss"


@pytest.mark.parametrize(
    "body",
    [
        "lr: [1e-4, 2e-4]\nr: [8, 16]\ntrial_steps: 9",
        "lr: {low: 1e-5, high: 1e-3}\ntrials: 4\neval_data: held_out.jsonl",
    ],
)
def test_the_printed_recipe_asks_for_the_same_trials(body: str) -> None:
    def of(parsed: Parsed) -> object:
        search = parsed.search
        assert search is not None
        return search.varied, {one.fingerprint() for one in search.recipes}, search.steps, search.best_by

    parsed = parse(TWO + body)
    assert parsed.search is not None
    printed = with_trials(parsed.recipe.explain(None, parsed.given), parsed.search)
    assert of(parse(printed)) == of(parsed)
