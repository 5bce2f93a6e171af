"""From what a cell, a line or a preset gives to keys of the recipe, saying what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.fields import check, defaults, rules, takes_text, unknown_key
from colab_magics.recipe.notes import Notes
from colab_magics.recipe.python_text import Expression
from colab_magics.recipe.spellings import (
    NO_EFFECT,
    OPTIMIZER_NAMES,
    SECRETS,
    SPELLINGS,
    WRAPPERS,
    known_keys,
)
from colab_magics.recipe.yaml_text import Entry

LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora", "use_dora")
# the micro-batch that transformers takes where only the accumulation is given
USUAL_MICRO_BATCH = 8
_DTYPES = {
    "float16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float32": "fp32",
    "float": "fp32",
    "fp32": "fp32",
}
_SECRET_REASON = (
    "a token in a cell is saved with the notebook: set HF_TOKEN in the environment, or Colab's or Kaggle's secrets"
)


@dataclass
class Layer:
    """One layer's pairs (preset, body or line) while they are read: what was written, and what it means."""

    written: dict[str, Entry] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Entry] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    below: Mapping[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        return key in self.written and self.written[key].value is not None

    def get(self, key: str) -> Any:
        return self.written[key].value if key in self.written else None

    def flag(self, key: str) -> bool | None:
        """True or false as written; None where it is not given, auto, or an expression."""
        value = self.get(key)
        if isinstance(value, str) and value.strip().lower() in {"true", "yes", "on"}:
            return True
        if isinstance(value, str) and value.strip().lower() in {"false", "no", "off"}:
            return False
        return value if isinstance(value, bool) else None

    def whole(self, key: str) -> int | None:
        """A whole number of 1 or more, or None where the key is not given."""
        if not self.has(key):
            return None
        value = self.get(key)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = 0
        if isinstance(value, bool) or number < 1 or number != int(number):
            raise ColabMagicsError(
                f"{key}: {value!r} cannot be used ({self.written[key].where})",
                f"{key} takes a whole number, 1 or more.",
            )
        return int(number)

    def put(self, key: str, value: Any, because: str, say: bool = True) -> None:
        """Set a recipe key from another trainer's key; the two must not contradict."""
        entry = self.written[because]
        value = check(key, value, entry.where)
        if key in self.values and self.values[key] != value:
            other = self.origin[key]
            raise ColabMagicsError(
                f"{other.key} ({other.where}) and {entry.key} ({entry.where}) contradict each other",
                f"{other.key} says {key}: {self.values[key]}, {entry.key} says {key}: {value}.",
                f"keep one of them, or write {key} itself",
            )
        self.values[key] = value
        self.origin[key] = entry
        if say:
            self.notes.say(f"{entry.key}: {show(entry.value)} → {key}: {show(value)}")


def show(value: Any) -> str:
    """A value as it stands in YAML, shortened."""
    words = {True: "true", False: "false", None: "nothing"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def translate(entries: Iterable[Entry], below: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Recipe keys and checked values of one layer.

    Parameters
    ----------
    below : mapping
        What the layers below gave already: a lone `gradient_accumulation_steps` needs their micro-batch.

    Raises
    ------
    ColabMagicsError
        For a key that nobody knows, a key given twice, spellings that contradict, a value that cannot be used.
    """
    layer = Layer(notes=notes, below=below)
    for entry in _flat(entries):
        _sort(layer, entry)
    for key, entry in layer.written.items():
        if key in rules():
            _take(layer, key, entry)
    for step in _STEPS:
        step(layer)
    return layer.values


def _flat(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries, with the contents of `peft_config: {...}` and its like standing beside the others."""
    for entry in entries:
        if entry.key in WRAPPERS and isinstance(entry.value, dict):
            yield from _flat(Entry(str(key), value, entry.line, value) for key, value in entry.value.items())
        elif entry.key not in WRAPPERS or (entry.value is not None and not isinstance(entry.value, Expression)):
            yield entry


def _sort(layer: Layer, entry: Entry) -> None:
    """File an entry under its canonical key, or as one without effect."""
    key = SPELLINGS.get(entry.key, entry.key)
    if key in WRAPPERS or key not in known_keys():
        raise unknown_key(entry.key, known_keys() - WRAPPERS, entry.where)
    if key in SECRETS:
        layer.notes.ignore(entry.key, _SECRET_REASON)
        return
    if key in NO_EFFECT:
        if entry.value is not None:
            layer.notes.ignore(entry.key, NO_EFFECT[key])
        return
    if key == "model" and isinstance(entry.value, Expression):
        return  # SFTTrainer(model=model): the loaded model, not its name
    if key in layer.written:
        first = layer.written[key]
        if isinstance(entry.value, Expression) and first.value is not None:
            return  # `data: rows.jsonl` above a pasted train_dataset=dataset: what can be read holds
        if not isinstance(first.value, Expression):
            _refuse_a_contradiction(first, entry)
        if entry.value is None:
            return
    if key != entry.key and entry.value is not None:
        layer.notes.rename(entry.key, key)
    layer.written[key] = entry


def _refuse_a_contradiction(first: Entry, second: Entry) -> None:
    if first.key == second.key and not second.repeatable:
        raise ColabMagicsError(
            f"{first.key} is given twice ({first.where} and {second.where})", "Only one of them can hold."
        )
    if first.value is not None and second.value is not None and first.value != second.value:
        same = (
            f"{first.key} is given twice"
            if first.key == second.key
            else f"{first.key} and {second.key} are the same key"
        )
        raise ColabMagicsError(
            f"{same}, and contradict each other",
            f"{first.key}: {show(first.value)} ({first.where}); {second.key}: {show(second.value)} ({second.where}).",
            "keep one of them",
        )


def _take(layer: Layer, key: str, entry: Entry) -> None:
    """A key of the recipe, under this or another name, with the values that other trainers write for it."""
    value = entry.text if takes_text(key) and isinstance(entry.value, str | int | float) else entry.value
    if isinstance(value, Expression):
        if key in {"packing", "gradient_checkpointing", "precision", "max_length"}:
            layer.notes.say(f"{entry.key}: {value} is an expression → {key}: auto")
            value = "auto"
        else:
            raise ColabMagicsError(
                f"{entry.key}: {value} is an expression ({entry.where})",
                "A cell is read, never run.",
                f"write the value, or put it into a variable and write {key}: {{name}}",
            )
    value = _READ.get(key, _as_it_is)(layer, entry, value)
    if value is None and defaults()[key] is not None and key != "eval_every":
        return  # `adapter:` with nothing behind it: not given
    layer.values[key] = check(key, value, entry.where)
    layer.origin[key] = entry


def _as_it_is(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return value


def _optim(layer: Layer, entry: Entry, value: Any) -> Any:
    # SFTConfig(optim=OptimizerNames.ADAMW_8BIT) and axolotl's adamw_bnb_8bit mean the same
    name = str(value).rpartition(".")[2].lower() if value is not None else None
    if name in OPTIMIZER_NAMES:
        layer.notes.say(f"{entry.key}: {value} → optim: {OPTIMIZER_NAMES[name]}")
        return OPTIMIZER_NAMES[name]
    return name


def _targets(layer: Layer, entry: Entry, value: Any) -> Any:
    if value in ("all", ["all"], ["all-linear"]):
        layer.notes.say(f"{entry.key}: {show(value)} → target_modules: all-linear")
        return "all-linear"
    return value


def _checkpointing(layer: Layer, entry: Entry, value: Any) -> Any:
    if value in ("unsloth", "offload"):
        layer.notes.say(f"{entry.key}: {value} → gradient_checkpointing: auto")
        return "auto"
    return value


def _patience(layer: Layer, entry: Entry, value: Any) -> Any:
    if isinstance(value, bool):
        layer.notes.say(f"{entry.key}: {show(value)} → early_stopping: {'3 evaluations' if value else 'nothing'}")
        return 3 if value else None
    return value


def _memory(_layer: Layer, _entry: Entry, value: Any) -> Any:
    # accelerate's {0: "14GiB", "cpu": ...}: the first device's
    return next(iter(value.values()), None) if isinstance(value, dict) else value


def _precision(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return _DTYPES.get(value, value) if isinstance(value, str) else value


def _max_steps(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return -1 if value in (None, 0) else value


def _limit(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return None if value in (-1, 0) and not isinstance(value, bool) else value


def _tracker(_layer: Layer, _entry: Entry, value: Any) -> Any:
    return "none" if value in (None, [], ["none"]) else [value] if isinstance(value, str) and value != "none" else value


def _data(layer: Layer, entry: Entry, value: Any) -> Any:
    """One data set; axolotl's list of mappings and LLaMA-Factory's comma lists hold one or more."""
    if isinstance(value, str) and entry.key in {"dataset", "eval_dataset"} and "," in value and "/" not in value:
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, list) and value and all(isinstance(part, dict | str) for part in value):
        if len(value) > 1:
            raise ColabMagicsError(
                f"{entry.key} names {len(value)} data sets ({entry.where})",
                "A run trains on one.",
                "put their rows into one file, or into one list in a cell above",
                details=[", ".join(str(part.get("path", part) if isinstance(part, dict) else part) for part in value)],
            )
        value = value[0]
    if not isinstance(value, dict):
        return value
    path, split = value.get("path"), value.get("split")
    if path in {"json", "csv", "parquet", "text"} or (value.get("ds_type") and value.get("data_files")):
        path, split = value.get("data_files"), None
        path = path[0] if isinstance(path, list) and len(path) == 1 else path
    read = f"{path}:{split}" if isinstance(path, str) and split and split != "train" else path
    if value.get("type") == "completion":
        layer.written.setdefault("train_on_inputs", Entry("type: completion", True, entry.line, "true"))
    columns = {
        role: value[theirs]
        for role, theirs in (("messages", "field_messages"), ("prompt", "field_instruction"),
                             ("completion", "field_output"), ("system", "field_system"), ("text", "field"))
        if isinstance(value.get(theirs), str)
    }  # fmt: skip
    if columns and "columns" not in layer.written and entry.key != "test_datasets":
        layer.values["columns"] = check("columns", columns, entry.where)
        layer.origin["columns"] = entry
    layer.notes.say(f"{entry.key}: {show(path)} → the format of its rows is detected")
    return read


_READ: dict[str, Callable[[Layer, Entry, Any], Any]] = {
    "optim": _optim,
    "target_modules": _targets,
    "gradient_checkpointing": _checkpointing,
    "early_stopping": _patience,
    "max_memory": _memory,
    "precision": _precision,
    "max_steps": _max_steps,
    "max_train_samples": _limit,
    "max_eval_samples": _limit,
    "report_to": _tracker,
    "data": _data,
    "eval_data": _data,
}


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
                f"({steps} micro-batches a step)"
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
    on = [(key, name) for key, name in flags if layer.flag(key)]
    for key, name in on:
        layer.put("precision", name, key)
    if on:
        pass
    elif any(isinstance(layer.get(key), Expression) or layer.get(key) == "auto" for key, _ in flags):
        layer.notes.say(f"{', '.join(key for key, _ in flags)} decided at run time → precision: auto")
        if "precision" not in layer.values:
            layer.values["precision"] = "auto"
    elif {"bf16", "fp16"} <= {name for _, name in flags}:
        layer.put("precision", "fp32", flags[0][0])
    dtypes = [key for key in ("bnb_4bit_compute_dtype", "dtype") if layer.has(key)]
    for key in dtypes:
        said = str(layer.get(key)).rpartition(".")[2].lower()
        if "precision" in layer.values or said == "auto":
            layer.notes.ignore(key, "the precision of the recipe holds for the load too")
        elif said in _DTYPES:
            layer.put("precision", _DTYPES[said], key)
        elif isinstance(layer.get(key), Expression):
            layer.notes.say(f"{key} decided at run time → precision: auto")
        else:
            check("precision", layer.get(key), layer.written[key].where)


def _flags_to_method(layer: Layer) -> None:
    """load_in_4bit, adapter, finetuning_type and their like → method."""
    for key in ("stage", "rl"):
        if layer.has(key) and layer.get(key) not in {"sft", "pt", False}:
            raise ColabMagicsError(
                f"{key}: {show(layer.get(key))} is not supervised fine-tuning ({layer.written[key].where})",
                "This cell trains on the responses in the data.",
            )
    if layer.get("stage") == "pt":
        layer.put("loss_on", "all", "stage")
    for key in ("reward_model", "process_reward_model"):
        if layer.flag(key):
            raise ColabMagicsError(f"{key} is not supervised fine-tuning", "This cell trains a causal language model.")
    four_bit = (
        layer.flag("load_in_4bit") or str(layer.get("quantization_bit")) == "4" or layer.get("adapter") == "qlora"
    )
    for key in ("adapter", "finetuning_type"):
        if not layer.has(key):
            continue
        kind = str(layer.get(key)).lower()
        if kind not in {"lora", "qlora", "full", "none"}:
            raise ColabMagicsError(
                f"{key}: {kind} cannot be used ({layer.written[key].where})",
                "The methods are auto, qlora, lora and full.",
            )
        layer.put("method", "full" if kind in {"full", "none"} else "qlora" if four_bit else "lora", key)
    if "adapter" in layer.written and not layer.has("adapter") and not four_bit:
        layer.values.setdefault("method", "full")
        layer.notes.say("adapter: nothing → method: full")
    if layer.flag("full_finetuning"):
        layer.put("method", "full", "full_finetuning")
    elif layer.flag("load_in_4bit"):
        layer.put("method", "qlora", "load_in_4bit")
    elif str(layer.get("quantization_bit")) == "4":
        layer.put("method", "qlora", "quantization_bit")
    elif layer.flag("load_in_16bit"):
        layer.put("method", "lora", "load_in_16bit")
    elif layer.flag("load_in_8bit") or layer.has("quantization_bit"):
        key = "load_in_8bit" if layer.flag("load_in_8bit") else "quantization_bit"
        layer.notes.say(
            f"{key}: {show(layer.get(key))} → method: {layer.values.get('method', 'auto')} (weights are 16 or 4 bit here)"
        )
    elif layer.flag("load_in_4bit") is False and "method" not in layer.values:
        adapter = layer.flag("use_peft") is not False and any(key in layer.values for key in LORA_KEYS)
        if adapter:
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
    layer.values.pop("warmup_steps", None)
    layer.put("warmup_steps", ratio, "warmup_ratio")


def _evaluating(layer: Layer) -> None:
    strategy = str(layer.get("eval_strategy") or "").rpartition(".")[2].lower()
    off = (layer.has("eval_strategy") and strategy in {"no", "none", "false"}) or layer.flag("do_eval") is False
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
    strategy = str(layer.get("save_strategy") or "").rpartition(".")[2].lower()
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
    data = layer.values.get("data", "")
    for key, target in (("dataset_train_split", "data"), ("dataset_test_split", "eval_data")):
        if not layer.has(key):
            continue
        split, name = layer.get(key), layer.values.get("data")
        hub = isinstance(name, str) and name.count("/") == 1 and ":" not in name and not name.startswith((".", "/"))
        if not hub or (target == "data" and split == "train"):
            layer.notes.ignore(key, "the split is written behind the name, as in org/name:split")
        elif target == "data":
            layer.values["data"] = f"{name}:{split}"
        elif layer.flag("do_eval") is not False and layer.get("eval_strategy") not in {None, "no"}:
            layer.values.setdefault("eval_data", f"{data}:{split}")
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


_STEPS: tuple[Callable[[Layer], None], ...] = (
    _batches,
    _flags_to_precision,
    _flags_to_method,
    _warmup,
    _evaluating,
    _saving,
    _data_keys,
    _loss,
    _lora_keys,
)
