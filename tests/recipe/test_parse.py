"""A cell's text becomes a recipe, or an error that says what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from colab_magics.errors import MOST_LINES, ColabMagicsError
from colab_magics.recipe import Parsed, Recipe, parse, values

pytestmark = pytest.mark.face

TWO = "model: org/name\ndata: rows.jsonl\n"
TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz012345"


def read(extra: str = "", **options: str | bool) -> Recipe:
    return parse(TWO + extra, options).recipe


def refusal(body: str, **keywords: object) -> str:
    with pytest.raises(ColabMagicsError) as caught:
        parse(body, **keywords)  # type: ignore[arg-type]
    lines = caught.value.lines()
    assert len(lines) <= MOST_LINES
    return "\n".join(lines)


def test_two_lines_are_a_recipe() -> None:
    recipe = read()
    assert (recipe.model, recipe.data) == ("org/name", "rows.jsonl")
    assert (recipe.method, recipe.learning_rate, recipe.effective_batch_size) == ("auto", "auto", 16)


def test_an_empty_cell_is_told_the_two_lines_it_needs() -> None:
    for body in ("", "\n  \n", "# only a comment\n"):
        said = refusal(body)
        assert "model: " in said
        assert "data: " in said


@pytest.mark.parametrize(
    ("body", "missing"), [("model: a/b", "data"), ("data: x.csv", "model"), ("r: 4", "model and no data")]
)
def test_a_missing_model_or_data_is_named(body: str, missing: str) -> None:
    assert refusal(body).startswith(f"The recipe names no {missing}.")


@pytest.mark.parametrize("written", ["2e-4", "0.0002", "2E-4", "+2e-04", ".2e-3"])
def test_a_number_is_a_number_however_it_is_written(written: str) -> None:
    assert read(f"learning_rate: {written}").learning_rate == 2e-4
    assert read(learning_rate=written).learning_rate == 2e-4


def test_text_stays_as_it_was_written() -> None:
    recipe = parse("model: 7\ndata: 2024-01-01\nsystem: yes\nhub_revision: 1e5").recipe
    assert (recipe.model, recipe.data, recipe.system, recipe.hub_revision) == ("7", "2024-01-01", "yes", "1e5")


def test_columns_named_like_yaml_words_stay_text() -> None:
    assert read("columns: {prompt: on, completion: no}").columns == {"prompt": "on", "completion": "no"}


@pytest.mark.parametrize(
    ("wrong", "line", "column", "hint"),
    [
        ("max_length: [1", 3, 15, "quotes"),
        ("\tr: 8", 3, 1, "spaces"),
        ("prompt_template: {a} -> {b}", 3, 22, "quotes"),
        ("system: be: kind", 3, 11, "quotes"),
        ("r:8", 3, 4, "blank"),
        ("system: 'open", 3, 14, "quotes"),
    ],
)
def test_invalid_yaml_is_shown_with_line_and_column(wrong: str, line: int, column: int, hint: str) -> None:
    said = refusal(TWO + wrong)
    assert f"line {line}, column " in said
    assert abs(int(said.partition("column ")[2].partition(".")[0]) - column) <= 1
    assert hint in said
    assert wrong.strip() in said


def test_a_body_that_is_no_mapping_is_refused_with_its_line() -> None:
    assert "Line 1" in refusal("hello")
    assert "Line 1" in refusal("- model: a/b")


def test_an_unknown_key_names_the_nearest_and_its_line() -> None:
    said = refusal(TWO + "learning_rat: 1e-4")
    assert "learning_rat " in said
    assert "line 3" in said
    assert "Did you mean learning_rate?" in said


@pytest.mark.parametrize(
    ("line", "takes"),
    [
        ("learning_rate: fast", "above 0"),
        ("learning_rate: 3", "at most 1"),
        ("r: 0", "1 or more"),
        ("r: 8.5", "whole number"),
        ("max_length: true", "whole number"),
        ("packing: maybe", "true, false or auto"),
        ("use_dora: 1", "true or false"),
        ("lora_dropout: 1", "below 1"),
        ("seed: -1", "0 or more"),
        ("adam_beta2: 1", "below 1"),
        ("columns: [prompt]", "pairs"),
        ("max_memory: much", "14GB"),
        ("save_every: 0 steps", "25 steps"),
        ("eval_every: often", "25 steps"),
        ("target_modules: []", "all-linear"),
        ("warmup_steps: -1", "fraction"),
        ("warmup_steps: 1.5", "fraction"),
        ("num_train_epochs: .inf", "above 0"),
        ("model_revision: [a]", "branch"),
        ("early_stopping: 0", "1 or more"),
        ("warmup_ratio: 3", "below 1"),
        ("load_in_4bit: maybe", "true or false"),
        ("fp16: [1]", "true or false"),
        ("gradient_accumulation_steps: 0", "1 or more"),
        ("eval_strategy: often", "epoch"),
        ("save_strategy: [1]", "epoch"),
        ("stage: [sft]", "responses"),
        ("adapter: ia3", "qlora"),
        ("dtype: int8", "bf16"),
    ],
)
def test_a_wrong_type_or_range_says_what_the_key_takes(line: str, takes: str) -> None:
    said = refusal(TWO + line)
    assert takes in said
    assert "line 3" in said


def test_a_misspelt_choice_names_the_nearest() -> None:
    assert "Did you mean method: qlora?" in refusal(TWO + "method: qlorra")
    assert "cosine" in refusal(TWO + "lr_scheduler_type: cosin")


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    said = refusal(TWO + "r: 8\nseed: 1\nr: 8")
    assert "r is given twice" in said
    assert "line 3" in said
    assert "line 5" in said
    assert "completion is given twice" in refusal(TWO + "columns: {completion: a, completion: b}")


def test_spellings_that_contradict_are_both_named() -> None:
    said = refusal(TWO + "r: 8\nlora_r: 9")
    assert "r: 8 (line 3)" in said
    assert "lora_r: 9 (line 4)" in said


def test_spellings_that_agree_are_one_key() -> None:
    assert read("r: 8\nlora_r: 8").r == 8


@pytest.mark.parametrize(
    "lines",
    [
        "load_in_4bit: true\nmethod: lora",
        "fp16: true\nbf16: true",
        "adapter: lora\nfull_finetuning: true",
        "effective_batch_size: 4\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 8",
        "completion_only_loss: true\ntrain_on_inputs: true",
    ],
)
def test_keys_that_mean_opposite_things_are_both_named(lines: str) -> None:
    said = refusal(TWO + lines)
    keys = [line.partition(":")[0] for line in lines.split("\n")]
    assert "contradict" in said
    assert sum(key in said for key in keys) >= 2


@pytest.mark.parametrize(
    ("lines", "micro", "effective"),
    [
        ("per_device_train_batch_size: 2\ngradient_accumulation_steps: 4", 2, 8),
        ("micro_batch_size: 1\ngradient_accumulation_steps: 8", 1, 8),
        ("gradient_accumulation_steps: 4", "auto", 32),
        ("per_device_train_batch_size: 2", 2, 16),
        ("per_device_train_batch_size: 3", 3, 18),
        ("per_device_train_batch_size: 32", 32, 32),
        ("batch_size: 4", "auto", 4),
        ("batch_size: 4\ngradient_accumulation_steps: 2", 4, 8),
        ("effective_batch_size: 8\ngradient_accumulation_steps: 4", 2, 8),
        ("effective_batch_size: 8", "auto", 8),
    ],
)
def test_batches_become_micro_and_effective(lines: str, micro: int | str, effective: int) -> None:
    recipe = read(lines)
    assert (recipe.per_device_train_batch_size, recipe.effective_batch_size) == (micro, effective)


def test_a_micro_batch_that_does_not_divide_the_effective_batch_is_refused() -> None:
    said = refusal(TWO + "effective_batch_size: 8\nper_device_train_batch_size: 3")
    assert "8 is no multiple" in said
    assert "effective_batch_size: 9" in said


@pytest.mark.parametrize(
    ("lines", "precision"),
    [
        ("bf16: true", "auto"),
        ("fp16: true\nbf16: false", "fp16"),
        ("fp16: false\nbf16: false", "fp32"),
        ("fp16: false", "auto"),
        ("bf16: auto\nfp16:", "auto"),
        ("torch_dtype: float16", "fp16"),
        ("dtype: torch.bfloat16", "auto"),
        ("dtype: auto", "auto"),
        ("bnb_4bit_compute_dtype: float16\ndtype: bfloat16", "fp16"),
        ("mixed_precision: bf16", "bf16"),
        ("bf16: full", "auto"),
    ],
)
def test_precision_flags_become_one_precision(lines: str, precision: str) -> None:
    assert read(lines).precision == precision


@pytest.mark.parametrize(
    ("lines", "method"),
    [
        ("load_in_4bit: true", "qlora"),
        ("load_in_4bit: true\nadapter: lora", "qlora"),
        ("load_in_4bit: false\nr: 8", "lora"),
        ("load_in_4bit: false", "auto"),
        ("load_in_8bit: true", "auto"),
        ("load_in_8bit: true\nadapter: lora", "lora"),
        ("adapter: qlora", "qlora"),
        ("adapter:", "full"),
        ("finetuning_type: full", "full"),
        ("finetuning_type: lora\nquantization_bit: 4", "qlora"),
        ("full_finetuning: true\nload_in_4bit: false", "full"),
        ("load_in_16bit: true", "lora"),
        ("r: 8", "auto"),
    ],
)
def test_other_trainers_flags_become_a_method(lines: str, method: str) -> None:
    assert read(lines).method == method


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        ("warmup_ratio: 0.1", "warmup_steps", 0.1),
        ("warmup_ratio: 0.1\nwarmup_steps: 0", "warmup_steps", 0.1),
        ("warmup_ratio: 0.1\nwarmup_steps: 20", "warmup_steps", 20),
        ("warmup_steps: 10", "warmup_steps", 10),
        ("eval_strategy: steps\neval_steps: 200", "eval_every", 200),
        ("eval_strategy: 'no'\neval_steps: 200", "eval_every", None),
        ("eval_strategy: epoch", "eval_every", "auto"),
        ("eval_every: 25 steps", "eval_every", 25),
        ("eval_every:", "eval_every", None),
        ("save_strategy: steps\nsave_steps: 50", "save_every", "50 steps"),
        ("save_every: 300", "save_every", 300),
        ("lora_target: all", "target_modules", "all-linear"),
        ("lora_target: q_proj,v_proj", "target_modules", ["q_proj", "v_proj"]),
        ("lora_target_linear: true", "target_modules", "all-linear"),
        ("optimizer: adamw_bnb_8bit", "optim", "adamw_8bit"),
        ("train_on_inputs: true", "loss_on", "all"),
        ("assistant_only_loss: true", "loss_on", "response"),
        ("dataset_text_field: body", "columns", {"text": "body"}),
        ("max_steps: 0", "max_steps", -1),
        ("max_memory: {0: 14GiB, cpu: 30GiB}", "max_memory", "14GiB"),
        ("max_memory: 14", "max_memory", "14GB"),
        ("use_gradient_checkpointing: unsloth", "gradient_checkpointing", "auto"),
        ("disable_gradient_checkpointing: true", "gradient_checkpointing", False),
        ("peft: {use_dora: true}", "use_dora", True),
        ("report_to: wandb", "report_to", ["wandb"]),
        ("report_to: [TensorBoard, trackio]", "report_to", ["tensorboard", "trackio"]),
        ("report_to: tensorboard, mlflow", "report_to", ["tensorboard", "mlflow"]),
        ("report_to: [wandb, comet_ml]", "report_to", ["wandb"]),
        ("report_to: comet-ml", "report_to", "none"),
        ("report_to: [none]", "report_to", "none"),
        ("report_to:", "report_to", "none"),
        ("report_to: []", "report_to", "none"),
        ("r: 8", "lora_alpha", 16),
    ],
)
def test_what_other_trainers_write_is_translated(lines: str, key: str, value: object) -> None:
    assert getattr(read(lines), key) == value


def test_a_translation_is_said() -> None:
    parsed = parse(TWO + "max_seq_length: 512\nload_in_4bit: true\nlogging_steps: 5\noutput_dir: out")
    said = "\n".join(parsed.notes)
    assert "max_seq_length → max_length" in said
    assert "load_in_4bit: true → method: qlora" in said
    assert "no effect here: logging_steps" in said
    assert "no effect here: output_dir" in said


def test_a_key_with_nothing_behind_it_is_not_given() -> None:
    parsed = parse(TWO + "max_length:\nwandb_project:\nlearning_rate: null")
    assert parsed.notes == ()
    assert parsed.given == {"model", "data"}


def test_what_is_neither_imitated_nor_compared_is_refused_and_not_ignored() -> None:
    assert "rl: grpo" in refusal(TWO + "rl: grpo")
    assert "stage: ppo" in refusal(TWO + "stage: ppo")


def test_two_data_sets_are_refused_and_named() -> None:
    said = refusal("base_model: a/b\ndatasets:\n  - path: c/d\n  - path: e/f")
    assert "c/d, e/f" in said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("  - path: org/rows\n    split: train[:10%]", {"data": "org/rows:train[:10%]"}),
        ("  - path: json\n    data_files: [rows.jsonl]", {"data": "rows.jsonl"}),
        ("  - path: rows.jsonl\n    ds_type: json\n    type: completion", {"data": "rows.jsonl", "loss_on": "all"}),
        ("  - path: a/b\n    type: chat_template\n    field_messages: turns", {"columns": {"messages": "turns"}}),
    ],
)
def test_axolotls_list_of_one_data_set_is_read(lines: str, expected: dict[str, object]) -> None:
    recipe = parse(f"base_model: org/name\ndatasets:\n{lines}").recipe
    assert {key: getattr(recipe, key) for key in expected} == expected


def test_trls_split_keys_are_written_behind_the_name() -> None:
    splits = (
        "dataset_name: org/rows\ndataset_train_split: train_sft\ndataset_test_split: test_sft\neval_strategy: steps"
    )
    recipe = parse("model: a\n" + splits).recipe
    assert (recipe.data, recipe.eval_data) == ("org/rows:train_sft", "org/rows:test_sft")


def test_early_stopping_without_evaluation_rows_is_said_to_do_nothing() -> None:
    parsed = parse(TWO + "early_stopping: 3")
    assert parsed.recipe.early_stopping is None
    assert any("early_stopping" in note for note in parsed.notes)
    assert read("early_stopping: 3\neval_data: eval.jsonl").early_stopping == 3


def test_the_line_overrides_the_body_and_the_body_the_preset() -> None:
    parsed = parse("data: rows.jsonl\nr: 8\nseed: 1", {"seed": "2"}, preset="kwanzaa")
    recipe = parsed.recipe
    assert recipe.model == "meta-llama/Llama-3.2-1B-Instruct"
    assert (recipe.r, recipe.seed, recipe.lora_alpha, recipe.effective_batch_size) == (8, 2, 32, 8)
    assert {"model", "r", "seed", "lora_alpha"} <= parsed.given


def test_an_accumulation_on_the_line_takes_the_micro_batch_of_the_body() -> None:
    recipe = parse(TWO + "per_device_train_batch_size: 2", {"gradient_accumulation_steps": "3"}).recipe
    assert (recipe.per_device_train_batch_size, recipe.effective_batch_size) == (2, 6)


def test_options_are_read_as_the_body_is() -> None:
    recipe = read(**{"learning-rate": "1e-4", "packing": "off", "use-dora": True, "target-modules": "q_proj,v_proj"})
    assert (recipe.learning_rate, recipe.packing, recipe.use_dora) == (1e-4, False, True)
    assert recipe.target_modules == ["q_proj", "v_proj"]
    assert read(system="Be: kind {a}").system == "Be: kind {a}"
    assert read(epochs="2").num_train_epochs == 2.0


def test_an_option_that_lacks_its_value_is_named() -> None:
    assert "--max-length needs a value" in refusal(TWO, options={"max_length": True})
    assert "--learning-rate" in refusal(TWO, options={"learning-rate": "fast"})
    assert "--learning-rat" in refusal(TWO, options={"learning-rat": "1"})


def test_a_token_in_a_cell_reaches_no_recipe_and_no_note() -> None:
    parsed = parse(f"{TWO}hub_token: {TOKEN}\nsystem: my token is {TOKEN}\ntoken: {TOKEN}\ncolumns: {{text: {TOKEN}}}")
    everything = parsed.recipe.to_yaml() + repr(parsed) + parsed.recipe.explain()
    assert TOKEN not in everything
    said = "\n".join(parsed.notes)
    assert "HF_TOKEN" in said
    assert "hub_token, token" in said
    assert "system" in said


def test_a_token_in_a_wrong_value_is_not_printed() -> None:
    assert TOKEN not in refusal(f"{TWO}r: {TOKEN}")
    assert TOKEN not in refusal(f"{TWO}r: [{TOKEN}")


def test_control_characters_reach_no_error() -> None:
    assert "\x1b" not in refusal(TWO + 'packing: "\\e[31mred"')
    assert "\x00" not in refusal(TWO + "r: \x00")


def test_yaml_builds_no_objects() -> None:
    assert "r" in refusal(TWO + "r: !!python/object/apply:os.system ['exit 1']")
    refusal(TWO + "r: !!python/name:os.system ''")


def test_aliases_of_aliases_end_in_an_error_and_not_in_a_full_memory() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    refusal(TWO + bomb)
    refusal(TWO + "r: &r [*r]")
    refusal(TWO + "r: " + "[" * 5000)


def test_importing_the_recipe_imports_nothing_heavy() -> None:
    code = (
        "import sys; import colab_magics.recipe; "
        "print([m for m in ('yaml', 'torch', 'transformers', 'numpy', 'pydantic', 'IPython') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_parsed_cell_knows_what_was_given() -> None:
    parsed = parse(TWO + "seed: 42\nlogging_steps: 1")
    assert isinstance(parsed, Parsed)
    assert parsed.given == {"model", "data", "seed"}


def test_what_the_recipe_keeps_without_acting_on_it_is_said() -> None:
    parsed = parse(TWO + "gpus: 2")
    assert [note for note in parsed.notes if note.startswith("no effect here: gpus (")]
    assert parsed.recipe != read()


def test_a_tracker_is_reported_to_and_nothing_is_said() -> None:
    assert parse(TWO + "report_to: tensorboard").notes == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "[tensorboard, swanlab]",
            "swanlab left out, which colab_magics does not know; it reports to tensorboard alone",
        ),
        (
            "[comet_ml, neptune]",
            (
                "comet_ml, neptune left out, which colab_magics does not know; "
                "it can report to tensorboard, wandb, trackio, mlflow"
            ),
        ),
    ],
)
def test_a_tracker_of_another_trainer_is_left_out_and_said(line: str, said: str) -> None:
    assert f"report_to: {said}" in parse(TWO + f"report_to: {line}").notes


@pytest.mark.parametrize(
    ("installed", "reported_to", "said"),
    [
        (
            {"trackio", "wandb"},
            ["wandb", "trackio"],
            "wandb, trackio (installed of tensorboard, wandb, trackio, mlflow)",
        ),
        ({"mlflow"}, "none", "none: nothing of tensorboard, wandb, trackio, mlflow is installed"),
        ({"mlflow", "sqlalchemy"}, ["mlflow"], "mlflow (installed of tensorboard, wandb, trackio, mlflow)"),
    ],
)
def test_all_trackers_are_those_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], reported_to: object, said: str
) -> None:
    monkeypatch.setattr(values, "find_spec", lambda name: name if name in installed else None)
    parsed = parse(TWO + "report_to: all")
    assert parsed.recipe.report_to == reported_to
    assert f"report_to: all → {said}" in parsed.notes


@pytest.mark.parametrize("line", ["report_to: tensorbord", "report_to: [wandb, tensorbord]"])
def test_a_misspelt_tracker_is_refused_with_the_one_that_is_meant(line: str) -> None:
    said = refusal(TWO + line)
    assert "report_to: tensorboard?" in said
    assert "none or a list of trackers (tensorboard, wandb, trackio, mlflow)" in said
