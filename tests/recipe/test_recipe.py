"""A recipe is complete, printable, comparable, and checked when it is built."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe, parse
from colab_magics.recipe.explain import _DECIDED_BY
from colab_magics.recipe.fields import NOT_TRAINED, defaults, rules
from colab_magics.recipe.presets import preset_names, read_preset
from colab_magics.recipe.yaml_text import read_entries

pytestmark = pytest.mark.face

BARE = Recipe(model="org/name", data="rows.jsonl")


def test_every_default_is_a_value_that_its_own_rule_keeps() -> None:
    for key, default in defaults().items():
        if key not in {"model", "data"}:
            assert rules()[key].read(default) == default, key


def test_a_recipe_is_checked_when_it_is_built() -> None:
    with pytest.raises(ColabMagicsError, match="r: 0"):
        Recipe(model="a", data="b", r=0)
    assert Recipe(model="a", data="b", num_train_epochs=2).num_train_epochs == 2.0


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BARE.r = 8  # type: ignore[misc]


def test_a_size_of_memory_is_read_in_both_units() -> None:
    assert dataclasses.replace(BARE, max_memory="14GB").max_memory_bytes == 14 * 10**9
    assert dataclasses.replace(BARE, max_memory="14 GiB").max_memory_bytes == 14 * 2**30
    assert BARE.max_memory_bytes is None


def test_the_yaml_is_complete_and_reads_back_equal() -> None:
    recipe = dataclasses.replace(
        BARE,
        prompt_template="### {q}\n\n- {a}\n",
        system="yes",
        columns={"prompt": "on", "completion": "1e5"},
        target_modules=["q_proj", "2e-4"],
        warmup_steps=0.03,
        adam_epsilon=1e-8,
        eval_every=None,
    )
    text = recipe.to_yaml()
    assert [entry.key for entry in read_entries(text)] == list(Recipe.KEYS)
    assert Recipe.from_yaml(text) == recipe
    # any other YAML reader finds the same numbers and texts in it
    plain = yaml.safe_load(text)
    assert plain == recipe.values()


def test_reading_a_recipe_back_names_a_key_it_does_not_know() -> None:
    with pytest.raises(ColabMagicsError, match="learning_rat "):
        Recipe.from_yaml(BARE.to_yaml() + "learning_rat: 1\n")


def test_a_recipe_that_is_read_back_looks_no_variable_up() -> None:
    recipe = dataclasses.replace(BARE, system="{name}", prompt_template="$name")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_the_fingerprint_changes_with_the_training_only() -> None:
    assert dataclasses.replace(BARE, r=8).fingerprint() != BARE.fingerprint()
    assert dataclasses.replace(BARE, data="other.jsonl").fingerprint() != BARE.fingerprint()
    elsewhere = dataclasses.replace(BARE, replica="/drive", save_every=300, save_total_limit=9, report_to=["wandb"])
    assert elsewhere.fingerprint() == BARE.fingerprint()
    assert set(Recipe.KEYS) >= NOT_TRAINED


def test_the_fingerprint_does_not_depend_on_how_a_number_was_written() -> None:
    one, other = (parse(f"model: a\ndata: b\nlearning_rate: {written}").recipe for written in ("2e-4", "0.00020"))
    assert one.fingerprint() == other.fingerprint()


def test_a_difference_names_key_ours_and_theirs() -> None:
    other = dataclasses.replace(BARE, r=8, lora_alpha=16, replica="/drive")
    assert BARE.diff(other) == [("r", 16, 8), ("lora_alpha", 32, 16)]
    assert BARE.diff(BARE) == []


def test_every_auto_says_what_decides_it() -> None:
    can_be_auto = {key for key, rule in rules().items() if _keeps_auto(rule)}
    assert set(_DECIDED_BY) == can_be_auto


def _keeps_auto(rule: object) -> bool:
    try:
        return rule.read("auto") == "auto" and "auto" in rule.says  # type: ignore[attr-defined,no-any-return]
    except ValueError:
        return False


def test_explaining_tells_defaults_from_what_was_given_and_reads_back_equal() -> None:
    parsed = parse("model: org/name\ndata: rows.jsonl\nseed: 42\nr: 8\nprompt_template: |\n  {q}\n  {a}\n")
    text = parsed.recipe.explain(given=parsed.given)
    assert Recipe.from_yaml(text) == parsed.recipe
    lines = {line.partition(":")[0]: line for line in text.splitlines() if not line.startswith(("#", " "))}
    assert set(lines) - {""} == set(Recipe.KEYS)
    assert "# default" in lines["weight_decay"]
    assert "default" not in lines["seed"]
    assert lines["r"] == "r: 8  # the default is 16"
    assert "bf16 from compute capability 8.0" in lines["precision"]


def test_explaining_shows_the_plans_choices_and_their_reasons() -> None:
    choices = {
        "precision": {"value": "fp16", "reason": "Tesla T4 has\ncompute capability 7.5"},
        "micro_batch": {"value": 4, "reason": "the most that fits"},
        "attention": {"value": "sdpa", "reason": "probe passed"},
        "method": {"value": "qlora", "reason": "already 4 bit"},
    }
    recipe = dataclasses.replace(BARE, method="qlora")
    text = recipe.explain(choices)
    assert "precision: auto  # default; fp16: Tesla T4 has compute capability 7.5\n" in text
    assert "per_device_train_batch_size: auto  # default; 4: the most that fits\n" in text
    assert "# attention: sdpa: probe passed" in text
    assert Recipe.from_yaml(text) == recipe


def test_explaining_says_where_the_plan_departs_from_what_was_given() -> None:
    text = dataclasses.replace(BARE, packing=True).explain({"packing": {"value": False, "reason": "the probe leaks"}})
    assert "packing: true  # the plan takes false: the probe leaks" in text


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_recipe_that_lacks_at_most_model_and_data(name: str) -> None:
    assert all(entry.key in Recipe.KEYS for entry in read_preset(name))
    parsed = parse("model: org/name\ndata: rows.jsonl", preset=name)
    assert len(parsed.given) > 2
    assert not any("read as" in note for note in parsed.notes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "qwen3-4b-colab",
            {"model": "unsloth/Qwen3-4B-unsloth-bnb-4bit", "r": 16, "lora_alpha": 16, "effective_batch_size": 8,
             "per_device_train_batch_size": 2, "max_steps": 100, "warmup_steps": 10, "learning_rate": 2e-4,
             "weight_decay": 0.01, "optim": "adamw_8bit", "seed": 3407, "max_length": 8192, "max_memory": "14GB",
             "save_every": "25 steps", "save_total_limit": 3, "max_train_samples": 1000, "precision": "auto"},
        ),
        (
            "kwanzaa",
            {"model": "meta-llama/Llama-3.2-1B-Instruct", "method": "qlora", "r": 16, "lora_alpha": 32,
             "effective_batch_size": 8, "per_device_train_batch_size": 1, "num_train_epochs": 3.0},
        ),
        ("gpt2-small", {"model": "openai-community/gpt2", "method": "full", "num_train_epochs": 3.0}),
        (
            "kaggle-100k",
            {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "max_length": 512,
             "max_train_samples": 100_000, "max_eval_samples": 10_000, "num_train_epochs": 2.0, "learning_rate": 3e-5,
             "warmup_steps": 50, "eval_every": 200, "save_every": "500 steps", "effective_batch_size": 8},
        ),
    ],
)  # fmt: skip
def test_a_preset_has_the_numbers_of_its_use_case(name: str, expected: dict[str, object]) -> None:
    body = "data: rows.jsonl" if "model" in expected else "model: org/name\ndata: rows.jsonl"
    values = parse(body, preset=name).recipe.values()
    assert {key: values[key] for key in expected} == expected


def test_an_unknown_preset_lists_those_that_exist() -> None:
    with pytest.raises(ColabMagicsError) as caught:
        parse("data: rows.jsonl", preset="kwanza")
    said = "\n".join(caught.value.lines())
    assert all(name in said for name in preset_names())
    assert "--preset kwanzaa?" in said
    with pytest.raises(ColabMagicsError, match="no preset"):
        parse("data: rows.jsonl", preset="../recipe/fields")
