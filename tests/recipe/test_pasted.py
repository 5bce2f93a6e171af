"""Configurations as other trainers have them are read as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe, parse

pytestmark = pytest.mark.face

GOLDEN = Path(__file__).parent / "golden"
TWO = "model: org/name\ndata: rows.jsonl\n"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.txt")))
def test_a_whole_pasted_configuration_becomes_this_recipe(name: str) -> None:
    parsed = parse((GOLDEN / f"{name}.txt").read_text())
    notes = "".join(f"# {note}\n" for note in parsed.notes)
    became = f"{notes}{parsed.recipe.to_yaml()}"
    expected = (GOLDEN / f"{name}.yaml").read_text()
    assert became == expected, f"golden/{name}.yaml, if this is right:\n{became}"
    assert Recipe.from_yaml(expected) == parsed.recipe


def test_key_value_lines_stand_beside_yaml() -> None:
    recipe = parse(TWO + "r=8,\nlora_alpha = 16,  # twice\nseed: 7\n    max_length=512,\n    packing=True").recipe
    assert (recipe.r, recipe.lora_alpha, recipe.seed, recipe.max_length, recipe.packing) == (8, 16, 7, 512, True)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("target_modules = ('q_proj', 'v_proj'),", "target_modules", ["q_proj", "v_proj"]),
        ('target_modules = "all-linear",', "target_modules", "all-linear"),
        ("target_modules = [\n  'q_proj',  # one\n  'v_proj',\n],", "target_modules", ["q_proj", "v_proj"]),
        ("max_seq_length = 4 * 1024,", "max_length", 4096),
        ("learning_rate = 2e-4", "learning_rate", 2e-4),
        ("max_steps = -1,", "max_steps", -1),
        ("bf16 = not is_bfloat16_supported(),", "precision", "auto"),
        ("dtype = torch.float16,", "precision", "fp16"),
        ("dtype = None,", "precision", "auto"),
        ("gradient_checkpointing = 'auto',", "gradient_checkpointing", "auto"),
        ("r = 4, lora_dropout = 0.1,", "lora_dropout", 0.1),
        ("args = TrainingArguments(seed = 5, optim = 'adamw_8bit'),", "seed", 5),
        ("args = SFTConfig(\n  seed = 5,", "seed", 5),
        ("seed = 5,\n)", "seed", 5),
        ("system = 'a, b = (c',", "system", "a, b = (c"),
        ("columns = {'prompt': 'q', 'completion': 'a'},", "columns", {"prompt": "q", "completion": "a"}),
        ("callbacks = [EarlyStoppingCallback(2)],", "early_stopping", None),
    ],
)
def test_a_python_value_is_read_and_never_run(line: str, key: str, value: object) -> None:
    assert getattr(parse(TWO + line).recipe, key) == value


def test_an_expression_is_not_evaluated_but_refused() -> None:
    with pytest.raises(ColabMagicsError, match="is an expression") as caught:
        parse(TWO + "r = __import__('os').getpid(),")
    assert "line 3" in str(caught.value)


def test_a_line_that_is_neither_yaml_nor_python_is_named() -> None:
    with pytest.raises(ColabMagicsError, match="Line 3"):
        parse(TWO + "r = = 3\n")


def test_a_misspelt_keyword_in_a_pasted_call_is_named_with_its_line() -> None:
    with pytest.raises(ColabMagicsError, match="Did you mean learning_rate") as caught:
        parse(TWO + "args = SFTConfig(\n    seed = 1,\n    learning_rat = 1,\n)")
    assert "line 5" in str(caught.value)


def test_calls_that_disagree_are_refused_and_that_agree_are_not() -> None:
    calls = "from_pretrained(max_seq_length=2048)\nSFTConfig(max_seq_length={})"
    assert parse(TWO + calls.format(2048)).recipe.max_length == 2048
    with pytest.raises(ColabMagicsError, match="2048"):
        parse(TWO + calls.format(1024))


def test_a_scripts_own_variables_are_followed() -> None:
    script = """
base = "org/small"
rows = load_dataset("org/rows", split="train[:100]")
tokenizer = AutoTokenizer.from_pretrained("org/other")
tokenizer.pad_token = tokenizer.eos_token
bnb_config = BitsAndBytesConfig(load_in_4bit=True)
model = AutoModelForCausalLM.from_pretrained(base, quantization_config=bnb_config, device_map="auto")
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=rows, args=SFTConfig(max_steps=5))
trainer.train()
"""
    recipe = parse(script).recipe
    assert (recipe.model, recipe.data, recipe.method) == ("org/small", "org/rows:train[:100]", "qlora")
    assert recipe.max_steps == 5


def test_rows_changed_in_the_notebook_are_taken_from_it() -> None:
    script = """
dataset = load_dataset("json", data_files="rows.jsonl", split="train")
dataset = dataset.map(shape, batched=True)
trainer = SFTTrainer(model="org/name", train_dataset=dataset)
"""
    changed = [{"text": "a"}]
    parsed = parse(script, namespace={"dataset": changed})
    assert parsed.recipe.data == "dataset"
    assert parsed.variables == {"dataset": changed}


def test_a_file_given_to_load_dataset_is_the_data() -> None:
    script = 'trainer = SFTTrainer(model="org/name", train_dataset=load_dataset("json", data_files="rows.jsonl"))'
    assert parse(script).recipe.data == "rows.jsonl"


def test_what_yaml_says_of_the_data_holds_over_a_pasted_name() -> None:
    recipe = parse(TWO + "trainer = SFTTrainer(model=model, train_dataset=dataset, seed=3)").recipe
    assert (recipe.model, recipe.data, recipe.seed) == ("org/name", "rows.jsonl", 3)


def test_notebook_numbers_and_texts_are_followed_in_pasted_lines() -> None:
    recipe = parse("model_name = base,\ntrain_dataset = rows,\nr = rank,", namespace={"base": "a/b", "rank": 4}).recipe
    assert (recipe.model, recipe.data, recipe.r) == ("a/b", "rows", 4)
