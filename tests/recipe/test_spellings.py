"""Every key of the libraries that people paste from is known, and the table does not contradict itself."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe, parse
from colab_magics.recipe.spellings import NO_EFFECT, SECRETS, SPELLINGS, TRANSLATED, WRAPPERS, known_keys

# Read as source: importing them takes 15 s, and their keys stand in it.
CLASSES = [
    ("transformers", "training_args.py", "TrainingArguments"),
    ("transformers", "utils/quantization_config.py", "BitsAndBytesConfig"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
    ("trl", "trainer/dpo_config.py", "DPOConfig"),
    ("trl", "trainer/kto_config.py", "KTOConfig"),
    ("trl", "experimental/orpo/orpo_config.py", "ORPOConfig"),
    ("trl", "trainer/model_config.py", "ModelConfig"),
    ("trl", "scripts/utils.py", "ScriptArguments"),
    ("peft", "config.py", "PeftConfigMixin"),
    ("peft", "config.py", "PeftConfig"),
    ("peft", "tuners/lora/config.py", "LoraConfig"),
]


def keys_of(package: str, file: str, name: str) -> set[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        pytest.skip(f"this version of {package} has no {name}")
    fields = {
        node.target.id
        for node in found.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "ClassVar" not in ast.unparse(node)
    }
    if fields:
        return fields
    init = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {argument.arg for argument in [*init.args.args, *init.args.kwonlyargs]} - {"self"}


@pytest.mark.colab
@pytest.mark.parametrize(("package", "file", "name"), CLASSES)
def test_every_key_of_the_installed_libraries_is_known(package: str, file: str, name: str) -> None:
    keys = {key for key in keys_of(package, file, name) if not key.startswith("_")}
    assert keys, f"{name} has no keys: the way they are found is wrong"
    missing = sorted(keys - known_keys())
    assert not missing, f"recipe/spellings.py lacks, of {package}'s {name}: {' '.join(missing)}"


def test_what_is_read_in_the_source_is_what_the_class_has() -> None:
    # the one cheap class, as a check of the reading itself
    assert {"r", "lora_alpha", "lora_dropout", "target_modules"} <= keys_of(
        "peft", "tuners/lora/config.py", "LoraConfig"
    )
    assert {"max_length", "packing"} <= keys_of("trl", "trainer/sft_config.py", "SFTConfig")


# No library of ours, so not read from an installed one: the keys of their example configurations.
PASTED = {
    "Unsloth": """
        model_name max_seq_length dtype load_in_4bit load_in_8bit load_in_16bit full_finetuning token device_map
        rope_scaling fix_tokenizer trust_remote_code use_gradient_checkpointing resize_model_vocab revision
        fast_inference gpu_memory_utilization random_state max_lora_rank disable_log_stats r target_modules
        lora_alpha lora_dropout bias layers_to_transform use_rslora modules_to_save init_lora_weights loftq_config
        temporary_location finetune_vision_layers finetune_language_layers target_parameters""",
    "axolotl": """
        base_model model_type tokenizer_type load_in_8bit load_in_4bit strict datasets dataset_prepared_path
        val_set_size output_dir adapter lora_model_dir sequence_len sample_packing eval_sample_packing
        pad_to_sequence_len lora_r lora_target_linear lora_fan_in_fan_out wandb_project wandb_entity wandb_watch
        wandb_name wandb_log_model gradient_accumulation_steps micro_batch_size num_epochs optimizer lr_scheduler
        train_on_inputs group_by_length bf16 fp16 tf32 early_stopping_patience resume_from_checkpoint local_rank
        logging_steps xformers_attention flash_attention warmup_ratio evals_per_epoch saves_per_epoch deepspeed fsdp
        fsdp_config special_tokens chat_template plugins eval_table_size s2_attention""",
    "LLaMA-Factory": """
        model_name_or_path trust_remote_code stage do_train finetuning_type lora_rank lora_target dataset template
        cutoff_len max_samples overwrite_cache preprocessing_num_workers dataloader_num_workers output_dir plot_loss
        overwrite_output_dir save_only_model report_to per_device_train_batch_size num_train_epochs
        lr_scheduler_type ddp_timeout val_size per_device_eval_batch_size eval_strategy eval_steps quantization_bit
        quantization_method flash_attn neat_packing mask_history train_on_prompt pure_bf16 enable_liger_kernel
        use_unsloth additional_target loraplus_lr_ratio neftune_noise_alpha""",
}


@pytest.mark.parametrize("trainer", sorted(PASTED))
def test_the_keys_of_other_trainers_are_known(trainer: str) -> None:
    assert not set(PASTED[trainer].split()) - known_keys()


def test_a_key_is_in_one_table_only() -> None:
    tables = [set(Recipe.KEYS), set(SPELLINGS), set(TRANSLATED), set(WRAPPERS), set(SECRETS), set(NO_EFFECT)]
    for index, table in enumerate(tables):
        for other in tables[index + 1 :]:
            assert not table & other


def test_every_spelling_leads_to_a_key_that_is_read() -> None:
    assert set(SPELLINGS.values()) <= set(Recipe.KEYS) | TRANSLATED | set(NO_EFFECT)


def test_a_key_without_effect_is_accepted_with_a_note_and_changes_nothing() -> None:
    two = "model: org/name\ndata: rows.jsonl\n"
    bare = parse(two).recipe
    for key in sorted(NO_EFFECT):
        parsed = parse(f"{two}{key}: 1")
        assert parsed.recipe == bare
        assert len(parsed.notes) == 1
        assert f"no effect here: {key} (" in parsed.notes[0]


@pytest.mark.parametrize("key", sorted(TRANSLATED - {"do_train"}))
def test_a_translated_key_is_read_by_something(key: str) -> None:
    # not one of these values may pass in silence: an error, a note, or a changed recipe
    two = "model: org/name\ndata: org/rows\nadam_beta1: 0.9\n"
    said: list[str] = []
    for value in ("true", "false", "4", "0.1", "steps", "dpo"):
        try:
            parsed = parse(f"{two}{key}: {value}")
        except ColabMagicsError as error:
            said.append(error.what)
        else:
            said += [*parsed.notes, *(["changed"] if parsed.recipe != parse(two).recipe else [])]
    assert said


def test_no_key_and_no_value_ends_in_anything_but_a_recipe_or_our_error() -> None:
    values = [
        "",
        "[]",
        "{}",
        "[[1], {a: b}]",
        "{a: {b: [c]}}",
        "true",
        "-1",
        "1e400",
        ".nan",
        "''",
        "'a, b'",
        "[null]",
        "{x}",
    ]
    refused = accepted = 0
    for key in sorted(known_keys() - set(NO_EFFECT)):
        two = "".join(f"{one}: x\n" for one in ("model", "data") if SPELLINGS.get(key, key) != one)
        for value in values:
            try:
                parse(f"{two}{key}: {value}", namespace={"x": "y"})
            except ColabMagicsError:
                refused += 1
            else:
                accepted += 1
    assert refused > 500
    assert accepted > 300
