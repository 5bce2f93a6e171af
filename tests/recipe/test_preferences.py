"""`method: dpo | kto | orpo` and the keys that go with it: as people write them, and what does not go together."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Parsed, Recipe, parse
from colab_magics.recipe.fields import LOSSES

TWO = "model: org/name\ndata: rows.jsonl\n"


def read(lines: str) -> Parsed:
    return parse(TWO + lines)


def refusal(lines: str) -> str:
    with pytest.raises(ColabMagicsError) as raised:
        read(lines)
    return str(raised.value)


@pytest.mark.parametrize("name", ["dpo", "kto", "orpo"])
def test_method_says_what_is_compared_and_leaves_the_loading_to_the_plan(name: str) -> None:
    parsed = read(f"method: {name}")
    assert (parsed.recipe.objective, parsed.recipe.method) == (name, "auto")
    assert f"method: {name} → objective: {name}" in parsed.notes


@pytest.mark.parametrize(
    ("lines", "method"),
    [
        ("method: dpo\nadapter: qlora", "qlora"),
        ("method: dpo\nadapter: lora", "lora"),
        ("method: dpo\nadapter: full", "full"),
        ("method: dpo\nadapter: auto", "auto"),
        ("method: dpo\nload_in_4bit: true", "qlora"),
        ("objective: dpo\nmethod: qlora", "qlora"),
    ],
)
def test_how_the_model_is_loaded_stands_beside_it(lines: str, method: str) -> None:
    recipe = read(lines).recipe
    assert (recipe.objective, recipe.method) == ("dpo", method)


@pytest.mark.parametrize(
    ("lines", "objective", "loss"),
    [
        ("rl: dpo", "dpo", "sigmoid"),
        ("rl: kto", "kto", "kto"),
        ("stage: dpo\npref_loss: sigmoid\npref_beta: 0.2", "dpo", "sigmoid"),
        ("stage: dpo\npref_loss: orpo", "orpo", "orpo"),
        ("method: dpo\nloss_type: ipo", "dpo", "ipo"),
        ("method: dpo\nloss_type: [hinge]", "dpo", "hinge"),
        ("method: kto\nloss_type: apo_zero_unpaired", "kto", "apo_zero_unpaired"),
        ("stage: sft", "sft", ""),
    ],
)
def test_other_trainers_ways_to_say_it(lines: str, objective: str, loss: str) -> None:
    recipe = read(lines).recipe
    assert recipe.objective == objective
    assert not loss or recipe.loss == loss


def test_a_pasted_dpo_config_is_read() -> None:
    parsed = read("method: dpo\nbeta=0.3,\nloss_type=['robust'],\nlabel_smoothing=0.1,\nmax_prompt_length=512,")
    recipe = parsed.recipe
    assert (recipe.beta, recipe.loss, recipe.label_smoothing) == (0.3, "robust", 0.1)
    assert any("max_prompt_length" in note and "max_length" in note for note in parsed.notes)


def test_the_weights_of_kto_by_every_name() -> None:
    recipe = read("method: kto\nkto_chosen_weight: 1.5\nundesirable_weight: 2").recipe
    assert (recipe.desirable_weight, recipe.undesirable_weight) == (1.5, 2.0)


def test_sft_config_s_own_loss_stays_without_effect() -> None:
    parsed = read("loss_type: nll")
    assert parsed.recipe == read("").recipe
    assert any("loss_type" in note for note in parsed.notes)


def test_a_key_of_comparisons_in_a_recipe_without_one_is_told() -> None:
    parsed = read("beta: 0.2")
    assert any("no effect here: beta" in note and "dpo" in note for note in parsed.notes)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("method: dpo\nloss_type: kto", "loss_type: kto is a loss of kto"),
        ("loss_type: sigmoid", "Write method: dpo"),
        ("method: dpo\nloss_type: [sigmoid, sft]", "names 2 losses"),
        ("method: dpo\nloss_type: exo_pair", "label_smoothing"),
        ("method: dpo\npacking: true", "packing does not go with objective: dpo"),
        ("method: orpo\nloss_on: all", "loss_on does not go with objective: orpo"),
        ("method: dpo\nprompt_template: '{a}'", "prompt_template"),
        ("method: dpo\ngpus: 2", "gpus does not go"),
        ("method: kto\nper_device_train_batch_size: 1", "KL term"),
        ("method: kto\neffective_batch_size: 1", "KL term"),
        ("method: dpo\nbeta: 0", "above 0"),
        ("method: dpo\nlabel_smoothing: 0.5", "below 0.5"),
        ("method: ppo", "dpo"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(lines: str, said: str) -> None:
    assert said in refusal(lines)


def test_one_answer_at_a_time_is_enough_where_kto_has_no_kl_term() -> None:
    assert read("method: kto\nloss_type: apo_zero_unpaired\nper_device_train_batch_size: 1").recipe.compares


def test_the_printed_recipe_is_read_back() -> None:
    recipe = read("method: kto\nbeta: 0.2\nadapter: qlora").recipe
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_every_loss_of_the_table_is_one_of_the_installed_library() -> None:
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed")
    root = Path(spec.origin).parent
    new, old = root / "trainer" / "kto_trainer.py", root / "experimental" / "kto" / "kto_trainer.py"
    kto = new if "apo_zero_unpaired" in new.read_text(encoding="utf-8") else old
    for objective, file in (("dpo", root / "trainer" / "dpo_trainer.py"), ("kto", kto)):
        compared = {
            constant.value
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Compare) and "loss_type" in ast.unparse(node.left)
            for constant in ast.walk(node)
            if isinstance(constant, ast.Constant)
        }
        assert set(LOSSES[objective]) <= compared, objective
