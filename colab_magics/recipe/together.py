"""Keys of other trainers that mean something only together: batches, precision flags, adapters, strategies."""

from __future__ import annotations

from collections.abc import Callable

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.fields import OBJECTIVES, check, defaults
from colab_magics.recipe.layer import Layer, show
from colab_magics.recipe.python_text import Expression
from colab_magics.recipe.rules import Number
from colab_magics.recipe.values import DTYPES

LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora", "use_dora")
# the micro-batch that transformers takes where only the accumulation is given
USUAL_MICRO_BATCH = 8
_EVAL_STRATEGIES = ("no", "steps", "epoch")


def _batches(layer: Layer) -> None:
    """micro-batch x accumulation = effective batch, from any two of the three."""
    accumulation = layer.whole("gradient_accumulation_steps")
    if layer.has("batch_size"):
        # beside an accumulation it is the micro-batch; alone, what one step sees
        alone = accumulation is None or "per_device_train_batch_size" in layer.values
        layer.put(
            "effective_batch_size" if alone else "per_device_train_batch_size", layer.get("batch_size"), "batch_size"
        )
    micro = layer.values.get("per_device_train_batch_size")
    effective = layer.values.get("effective_batch_size")
    if accumulation is None:
        if (
            isinstance(micro, int)
            and effective is None
            and not isinstance(layer.below.get("effective_batch_size"), int)
        ):
            usual = defaults()["effective_batch_size"]
            steps = max(1, -(-usual // micro))
            layer.values["effective_batch_size"] = micro * steps
            layer.notes.say(
                f"per_device_train_batch_size {micro} without an accumulation → effective_batch_size: {micro * steps} "
                f"({steps} micro-batch{'es' if steps != 1 else ''} a step)"
            )
        return
    if isinstance(effective, int) and not isinstance(micro, int) and effective % accumulation == 0:
        layer.put("per_device_train_batch_size", effective // accumulation, "gradient_accumulation_steps")
        return
    if not isinstance(micro, int):
        below = layer.below.get("per_device_train_batch_size")
        micro = below if isinstance(below, int) else USUAL_MICRO_BATCH
        what = f"{micro} documents a micro-batch" + ("" if isinstance(below, int) else ", as transformers has it")
        layer.notes.say(
            f"gradient_accumulation_steps: {accumulation} x {what} → effective_batch_size: {micro * accumulation}"
        )
    else:
        layer.notes.say(
            f"per_device_train_batch_size {micro} x gradient_accumulation_steps {accumulation} "
            f"→ effective_batch_size: {micro * accumulation}"
        )
    layer.put("effective_batch_size", micro * accumulation, "gradient_accumulation_steps", say=False)


def _flags_to_precision(layer: Layer) -> None:
    """fp16/bf16 flags, else the compute dtype, else the dtype of the load."""
    spellings = {"bf16": ("bf16", "bfloat16", "pure_bf16"), "fp16": ("fp16", "float16"), "fp32": ("float32",)}
    flags = [(key, name) for name, keys in spellings.items() for key in keys if layer.has(key)]
    # axolotl's `bf16: full` trains in bf16 too
    on = [(key, name) for key, name in flags if layer.get(key) == "full" or layer.flag(key)]
    for key, name in on:
        # bf16 in a pasted configuration means 16 bit as on its author's GPU; below capability 8.0 it is only emulated
        if name == "bf16" and layer.values.get("precision") == "bf16":
            layer.notes.ignore(key, "precision: bf16 says it")
        else:
            layer.put("precision", "auto" if name == "bf16" else name, key)
    if on:
        pass
    elif any(isinstance(layer.get(key), Expression) or layer.get(key) == "auto" for key, _ in flags):
        shown = ", ".join(f"{key}: {show(layer.get(key))}" for key, _ in flags)
        layer.notes.say(f"{shown} → precision: auto")
        if "precision" not in layer.values:
            layer.values["precision"] = "auto"
    elif {"bf16", "fp16"} <= {name for _, name in flags}:
        layer.put("precision", "fp32", flags[0][0])
    dtypes = [key for key in ("bnb_4bit_compute_dtype", "dtype") if layer.has(key)]
    for key in dtypes:
        said = str(layer.get(key)).rpartition(".")[2].lower()
        if "precision" in layer.values or said == "auto":
            layer.notes.ignore(key, "the precision of the recipe holds for the load too")
        elif said in DTYPES:
            layer.put("precision", "auto" if DTYPES[said] == "bf16" else DTYPES[said], key)
        elif isinstance(layer.get(key), Expression):
            layer.notes.say(f"{key}: {show(layer.get(key))} → precision: auto")
        else:
            check("precision", layer.get(key), layer.written[key].where)


def _objective(layer: Layer) -> None:
    """stage, rl and pref_loss of other trainers → objective; keys that only a comparison has, where there is none."""
    for key in ("stage", "rl"):
        if not layer.has(key) or layer.get(key) in ("pt", False):
            continue
        name = str(layer.get(key)).lower()
        if name not in OBJECTIVES:
            raise ColabMagicsError(
                f"{key}: {show(layer.get(key))} is not trained here ({layer.written[key].where})",
                "A cell trains on the responses in the data (sft), or on judgements of them (dpo, kto, orpo).",
                f"Leave {key} out, or name one of these.",
            )
        layer.put("objective", name, key, say=name != "sft")
    if layer.get("stage") == "pt":
        layer.put("loss_on", "all", "stage")
    for key in ("reward_model", "process_reward_model"):
        if layer.get(key):
            raise ColabMagicsError(
                f"{key} is not trained here.",
                "This cell trains a causal language model.",
                f"Leave {key} out.",
            )
    objective = layer.values.get("objective", layer.below.get("objective", "sft"))
    if layer.has("pref_loss"):
        # LLaMA-Factory's stage dpo is also the way to ORPO
        if layer.get("pref_loss") == "orpo" and objective == "dpo":
            layer.values["objective"] = objective = "orpo"
            layer.notes.say("pref_loss: orpo → objective: orpo")
        elif objective == "sft":
            layer.notes.ignore("pref_loss", "the answers are imitated; method: dpo compares them")
        else:
            layer.put("loss_type", layer.get("pref_loss"), "pref_loss")
    if objective == "sft":
        for key in ("beta", "label_smoothing", "desirable_weight", "undesirable_weight"):
            if layer.has(key):
                layer.notes.ignore(
                    layer.written[key].key, "the answers are imitated; method: dpo, kto or orpo compares"
                )


def _flags_to_method(layer: Layer) -> None:
    """load_in_4bit, adapter, finetuning_type and their like → method."""
    four_bit = (
        layer.flag("load_in_4bit") or str(layer.get("quantization_bit")) == "4" or layer.get("adapter") == "qlora"
    )
    for key in ("adapter", "finetuning_type"):
        if not layer.has(key):
            continue
        kind = str(layer.get(key)).lower()
        if kind == "auto":
            continue
        if kind not in {"lora", "qlora", "full", "none"}:
            raise ColabMagicsError(
                f"{key}: {kind} cannot be used ({layer.written[key].where})",
                "The methods are auto, qlora, lora and full.",
                "Write method: auto, and the plan chooses.",
            )
        layer.put("method", "full" if kind in {"full", "none"} else "qlora" if four_bit else "lora", key)
    if "adapter" in layer.written and not layer.has("adapter") and not four_bit:
        layer.values.setdefault("method", "full")
        layer.notes.say("adapter: nothing → method: full")
    if layer.flag("full_finetuning"):
        layer.put("method", "full", "full_finetuning")
    elif layer.flag("use_peft") is False:
        layer.put("method", "full", "use_peft")
    elif layer.flag("load_in_4bit"):
        layer.put("method", "qlora", "load_in_4bit")
    elif str(layer.get("quantization_bit")) == "4":
        layer.put("method", "qlora", "quantization_bit")
    elif layer.flag("load_in_16bit"):
        layer.put("method", "lora", "load_in_16bit")
    elif layer.flag("load_in_8bit") or layer.has("quantization_bit"):
        key = "load_in_8bit" if layer.flag("load_in_8bit") else "quantization_bit"
        layer.notes.say(
            f"{key}: {show(layer.get(key))} → method: {layer.values.get('method', 'auto')} (16 or 4 bit here)"
        )
    elif layer.flag("load_in_4bit") is False and "method" not in layer.values:
        if any(key in layer.values for key in LORA_KEYS):
            layer.put("method", "lora", "load_in_4bit")
        else:
            layer.notes.say("load_in_4bit: false → method: auto (4 bit only where 16 bit does not fit)")


def _warmup(layer: Layer) -> None:
    if not layer.has("warmup_ratio"):
        return
    if layer.values.get("warmup_steps") not in (None, 0):
        layer.notes.ignore("warmup_ratio", "warmup_steps is given too, and holds")
        return
    ratio = layer.get("warmup_ratio")
    try:
        Number(high=1, below=True).read(ratio)
    except ValueError:
        raise ColabMagicsError(
            f"warmup_ratio: {show(ratio)} cannot be used ({layer.written['warmup_ratio'].where}).",
            "warmup_ratio takes a fraction of all steps, 0 or more, below 1.",
            "Write warmup_steps for a number of steps.",
        ) from None
    layer.values.pop("warmup_steps", None)
    layer.put("warmup_steps", ratio, "warmup_ratio")


def _strategy(layer: Layer, key: str, among: tuple[str, ...]) -> str:
    """The strategy's name, or nothing where it is not given; `IntervalStrategy.STEPS` is steps."""
    if not layer.has(key):
        return ""
    if layer.get(key) is False:
        return "no"
    name = str(layer.get(key)).rpartition(".")[2].lower()
    if name not in among:
        raise ColabMagicsError(
            f"{key}: {show(layer.get(key))} cannot be used ({layer.written[key].where})",
            f"{key} takes one of {', '.join(among)}.",
            f"Correct {key}, or leave it out.",
        )
    return name


def _evaluating(layer: Layer) -> None:
    strategy = _strategy(layer, "eval_strategy", _EVAL_STRATEGIES)
    off = strategy == "no" or layer.flag("do_eval") is False
    if layer.has("eval_steps"):
        steps = layer.get("eval_steps")
        if off or steps in (0, "0"):
            layer.notes.ignore("eval_steps", "evaluation is switched off")
        elif isinstance(steps, int | float) and not isinstance(steps, bool) and 0 < steps < 1:
            layer.put("eval_every", "auto", "eval_steps")
        elif strategy == "epoch":
            layer.notes.ignore("eval_steps", "eval_strategy is epoch")
        else:
            layer.put("eval_every", steps, "eval_steps")
    if off:
        layer.put("eval_every", None, "eval_strategy" if layer.has("eval_strategy") else "do_eval")
    elif strategy == "epoch":
        layer.put("eval_every", "auto", "eval_strategy")
    if layer.has("evals_per_epoch") and "eval_every" not in layer.values:
        layer.put("eval_every", "auto", "evals_per_epoch")


def _saving(layer: Layer) -> None:
    strategy = _strategy(layer, "save_strategy", ("no", "steps", "epoch", "best"))
    steps = layer.get("save_steps")
    if layer.has("save_steps") and strategy in {"", "steps"}:
        whole = isinstance(steps, int) and steps >= 1
        layer.put("save_every", f"{steps} steps" if whole else "auto", "save_steps")
    elif layer.has("save_steps"):
        layer.notes.ignore("save_steps", f"save_strategy is {strategy}")
    if strategy and strategy != "steps":
        layer.put("save_every", "auto", "save_strategy")
    if layer.has("saves_per_epoch") and "save_every" not in layer.values:
        layer.put("save_every", "auto", "saves_per_epoch")


def _data_keys(layer: Layer) -> None:
    name = layer.values.get("data")
    hub = isinstance(name, str) and name.count("/") == 1 and ":" not in name and not name.startswith((".", "/"))
    for key, target in (("dataset_train_split", "data"), ("dataset_test_split", "eval_data")):
        if not layer.has(key):
            continue
        split = layer.get(key)
        if not hub or (target == "data" and split == "train"):
            layer.notes.ignore(key, "the split is written behind the name, as in org/name:split")
        elif target == "data":
            layer.values["data"] = f"{name}:{split}"
        elif _strategy(layer, "eval_strategy", _EVAL_STRATEGIES) in {"steps", "epoch"}:
            layer.values.setdefault("eval_data", f"{name}:{split}")
        else:
            layer.notes.ignore(key, "name evaluation rows with eval_data")
    if layer.has("dataset_config"):
        layer.notes.ignore("dataset_config", "the default configuration of the data set is read")
    if layer.has("dataset_text_field") and layer.get("dataset_text_field") != "text" and "columns" not in layer.values:
        layer.put("columns", {"text": layer.get("dataset_text_field")}, "dataset_text_field")


def _loss(layer: Layer) -> None:
    for key, on_response in (("completion_only_loss", True), ("assistant_only_loss", True),
                             ("train_on_inputs", False), ("train_on_prompt", False)):  # fmt: skip
        flag = layer.flag(key)
        # assistant_only_loss: False is TRL's default, and says nothing about completions
        if flag is None or (key == "assistant_only_loss" and not flag):
            continue
        layer.put("loss_on", "response" if flag == on_response else "all", key)


def _lora_keys(layer: Layer) -> None:
    if layer.flag("lora_target_linear"):
        if isinstance(layer.values.get("target_modules"), list):
            layer.notes.ignore("lora_target_linear", "target_modules is given too, and holds")
        else:
            layer.put("target_modules", "all-linear", "lora_target_linear")
    if "r" in layer.values and "lora_alpha" not in layer.values and "lora_alpha" not in layer.below:
        alpha = 2 * layer.values["r"]
        layer.values["lora_alpha"] = alpha
        layer.notes.say(f"r {layer.values['r']} without lora_alpha → lora_alpha: {alpha} (2 x r)")
    if layer.flag("disable_gradient_checkpointing") is not None:
        on = not layer.flag("disable_gradient_checkpointing")
        layer.put("gradient_checkpointing", "auto" if on else False, "disable_gradient_checkpointing")


TOGETHER: tuple[Callable[[Layer], None], ...] = (
    _batches,
    _flags_to_precision,
    _objective,
    _flags_to_method,
    _warmup,
    _evaluating,
    _saving,
    _data_keys,
    _loss,
    _lora_keys,
)
