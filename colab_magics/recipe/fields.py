# ruff: noqa: RUF009 - a field's default is written beside its rule; `_key` only builds a dataclass field
"""What to train and how: every key with its type, range and default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal

from colab_magics.errors import ColabMagicsError, nearest, redact
from colab_magics.recipe.rules import (
    Choice,
    Columns,
    Every,
    Flag,
    Memory,
    Names,
    Number,
    Rule,
    Text,
    Warmup,
    holds_a_key,
    memory_bytes,
)

Auto = Literal["auto"]

METHODS = ("auto", "qlora", "lora", "full")
OBJECTIVES = ("sft", "dpo", "kto", "orpo")
# The losses that TRL has for each objective from its 0.29 to its 1.16, the usual one first.
LOSSES = {
    "dpo": (
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
    ),
    "kto": ("kto", "apo_zero_unpaired"),
    "orpo": ("orpo",),
}
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
OPTIMIZERS = (
    "auto",
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "sgd",
)
# the schedules of transformers that need no further arguments
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)

# the dashboards that accelerate's trackers write for, as far as they are tested here
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")

# These say where a run is kept and shown, not what is trained: a run resumes although they changed.
NOT_TRAINED = frozenset({"save_every", "save_total_limit", "replica", "report_to"})


def _key(rule: Rule, default: Any, group: str = "") -> Any:
    # lists and mappings are never mutated in place: the recipe is frozen, and every reader gets what was read
    return field(default=default, metadata={"rule": rule, "group": group})


@dataclass(frozen=True)
class Recipe:
    """What to train and how. Every value is checked when the recipe is built.

    `"auto"` stays `"auto"`: the plan decides it for a device. Sizes of batches count documents, lengths count
    tokens, times count seconds.

    Raises
    ------
    ColabMagicsError
        When a value has the wrong type or is out of range.
    """

    model: str = _key(Text(says="a Hub id, a folder, or demo", optional=False), "", "what")
    hub_revision: str | None = _key(Text(says="a branch, tag or commit of the model"), None)
    data: str = _key(Text(says="a path, a Hub id, or a notebook variable", optional=False), "")
    eval_data: str | None = _key(Text(says="a path, a Hub id, or a notebook variable"), None)
    columns: dict[str, str] | None = _key(Columns(), None)
    prompt_template: str | None = _key(Text(says="text with {column} in it"), None)
    system: str | None = _key(Text(), None)
    format: str | None = _key(Text(says="the name of a notebook function"), None)
    loss_on: str = _key(Choice(("response", "all")), "response")
    max_length: int | Auto = _key(Number(low=2, high=2**31 - 1, whole=True, words=("auto",)), "auto")
    packing: bool | Auto = _key(Flag(auto=True), "auto")
    max_train_samples: int | None = _key(Number(low=1, whole=True, words=(None,)), None)
    max_eval_samples: int | None = _key(Number(low=1, whole=True, words=(None,)), None)

    method: str = _key(Choice(METHODS, read_as=OBJECTIVES), "auto", "how")
    objective: str = _key(Choice(OBJECTIVES), "sft")
    precision: str = _key(Choice(PRECISIONS), "auto")
    max_memory: str | None = _key(Memory(), None)
    gradient_checkpointing: bool | Auto = _key(Flag(auto=True), "auto")
    gpus: int = _key(Number(low=1, whole=True), 1)
    r: int = _key(Number(low=1, whole=True), 16, "LoRA")
    lora_alpha: int = _key(Number(low=1, whole=True), 32)
    lora_dropout: float = _key(Number(high=1, below=True), 0.0)
    target_modules: str | list[str] = _key(Names(words=("all-linear",), what="module names"), "all-linear")
    modules_to_save: list[str] | None = _key(Names(optional=True, what="module names"), None)
    use_rslora: bool = _key(Flag(), False)
    use_dora: bool = _key(Flag(), False)

    beta: float = _key(Number(above=True), 0.1, "preferences (dpo, kto, orpo)")
    loss_type: str = _key(Choice(("auto", *(loss for losses in LOSSES.values() for loss in losses))), "auto")
    label_smoothing: float = _key(Number(high=0.5, below=True), 0.0)
    desirable_weight: float = _key(Number(above=True), 1.0)
    undesirable_weight: float = _key(Number(above=True), 1.0)

    num_train_epochs: float = _key(Number(above=True), 3.0, "how long")
    max_steps: int = _key(Number(low=-1, whole=True), -1)
    effective_batch_size: int | Auto = _key(Number(low=1, whole=True, words=("auto",)), 16)
    per_device_train_batch_size: int | Auto = _key(Number(low=1, whole=True, words=("auto",)), "auto")
    learning_rate: float | Auto = _key(Number(above=True, high=1, words=("auto",)), "auto", "optimizer")
    lr_scheduler_type: str = _key(Choice(SCHEDULES), "linear")
    warmup_steps: float | int | Auto = _key(Warmup(), "auto")
    weight_decay: float = _key(Number(high=1), 0.0)
    max_grad_norm: float = _key(Number(), 1.0)
    optim: str = _key(Choice(OPTIMIZERS), "auto")
    adam_beta1: float = _key(Number(high=1, below=True), 0.9)
    adam_beta2: float = _key(Number(high=1, below=True), 0.999)
    adam_epsilon: float = _key(Number(above=True), 1e-8)
    seed: int = _key(Number(high=2**32 - 1, whole=True), 42)

    eval_every: int | Auto | None = _key(Every(bare="steps", optional=True), "auto", "watching and keeping")
    early_stopping: int | None = _key(Number(low=1, whole=True, words=(None,)), None)
    save_every: int | str = _key(Every(bare="seconds"), "auto")
    save_total_limit: int = _key(Number(low=1, whole=True), 2)
    replica: str | None = _key(Text(says="a path or an fsspec URL"), None)
    report_to: str | list[str] = _key(Names(words=("none",), what="trackers", among=TRACKERS), "none")

    allow_pickle: bool = _key(Flag(), False, "trust")
    trust_remote_code: bool = _key(Flag(), False)

    KEYS: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value == "" and one.default == "":
                continue  # `parse` says which of model and data is missing, and how to give it
            object.__setattr__(self, one.name, check(one.name, value))
        if self.replica is not None and holds_a_key(self.replica):
            raise ColabMagicsError(
                "replica: the address holds a key or a password.",
                "The recipe is written into files that are copied and shown.",
                "Leave it out: s3fs, gcsfs and their like read credentials from the environment or their own files.",
            )
        check_preferences(self)
        micro, effective = self.per_device_train_batch_size, self.effective_batch_size
        if isinstance(micro, int) and isinstance(effective, int) and effective % (micro * self.gpus):
            devices = f" x {self.gpus} GPUs" if self.gpus > 1 else ""
            raise ColabMagicsError(
                f"effective_batch_size {effective} is no multiple of per_device_train_batch_size {micro}{devices}",
                "A step takes the effective batch in whole micro-batches.",
                f"effective_batch_size: {micro * self.gpus * max(1, round(effective / (micro * self.gpus)))}",
            )

    @property
    def compares(self) -> bool:
        """Whether answers are judged (dpo, kto, orpo) and not imitated."""
        return self.objective != "sft"

    @property
    def samples(self) -> str:
        """What its samples are called: of two answers that are compared, one pair; of judged ones, each."""
        return {"sft": "documents", "kto": "examples"}.get(self.objective, "pairs")

    @property
    def loss(self) -> str:
        """The loss of a recipe that compares: `loss_type`, or the usual one of its objective."""
        return LOSSES[self.objective][0] if self.loss_type == "auto" else self.loss_type

    @property
    def max_memory_bytes(self) -> int | None:
        """`max_memory` in bytes."""
        return None if self.max_memory is None else memory_bytes(self.max_memory)

    def values(self) -> dict[str, Any]:
        """Every key and its value, in the order of the printed recipe."""
        return {key: getattr(self, key) for key in self.KEYS}

    def to_yaml(self) -> str:
        """The complete recipe as YAML, with no token in it; `from_yaml` reads it back equal."""
        from colab_magics.recipe.yaml_text import dump

        return dump(self.values())

    @staticmethod
    def from_yaml(text: str) -> Recipe:
        """The recipe that `to_yaml` wrote. Reads recipe keys only, and looks no variable up."""
        from colab_magics.recipe.yaml_text import read_entries

        entries = read_entries(text)
        for entry in entries:
            if entry.key not in Recipe.KEYS:
                raise unknown_key(entry.key, Recipe.KEYS, f"line {entry.line}")
        return Recipe(**{entry.key: entry.text if takes_text(entry.key) else entry.value for entry in entries})

    def fingerprint(self) -> str:
        """Hex digest of all that changes what is trained: two recipes with the same one train the same."""
        trained = {key: value for key, value in self.values().items() if key not in NOT_TRAINED}
        return hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()

    def diff(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        """(key, ours, theirs) for every key that changes the training and differs."""
        ours, theirs = self.values(), other.values()
        return [
            (key, ours[key], theirs[key]) for key in self.KEYS if key not in NOT_TRAINED and ours[key] != theirs[key]
        ]

    def explain(
        self, plan_choices: Mapping[str, Mapping[str, Any]] | None = None, given: Collection[str] | None = None
    ) -> str:
        """The complete recipe as YAML; comments tell the defaults and why each `auto` is what it is.

        Parameters
        ----------
        plan_choices : mapping of key to {"value", "reason"}, optional
            The `choices` of a plan event; without them the comment says what will decide.
        given : collection of str, optional
            The keys that the cell, the line or the preset gave (`Parsed.given`); without it, those that differ
            from their default.
        """
        from colab_magics.recipe.explain import explain

        return explain(self, plan_choices or {}, given)


def check_preferences(recipe: Recipe) -> None:
    """Raise where keys do not go with the objective, before anything is read."""
    said = f"objective: {recipe.objective}"
    losses = LOSSES.get(recipe.objective, ())
    if recipe.loss_type != "auto" and recipe.loss_type not in losses:
        of = next(name for name, known in LOSSES.items() if recipe.loss_type in known)
        raise ColabMagicsError(
            f"loss_type: {recipe.loss_type} is a loss of {of}, and the recipe says {said}.",
            f"{recipe.objective} has {', '.join(losses)}." if losses else "Fine-tuning on answers has one loss.",
            f"Write method: {of}, or leave loss_type out.",
        )
    if not recipe.compares:
        return
    for key, value, why in (
        ("packing", recipe.packing is True, "TRL compares whole answers, a row each."),
        ("loss_on", recipe.loss_on != "response", "A comparison is of answers; their prompt is the same."),
        ("prompt_template", recipe.prompt_template is not None, "It writes one text, and two answers are compared."),
        ("gpus", recipe.gpus > 1, "A comparison runs on one GPU here."),
    ):
        if value:
            raise ColabMagicsError(f"{key} does not go with {said}.", why, f"Leave {key} out.")
    if recipe.loss == "exo_pair" and not recipe.label_smoothing:
        raise ColabMagicsError(
            "loss_type: exo_pair needs a label_smoothing above 0.",
            "It takes the logarithm of it.",
            "label_smoothing: 1e-3 is what its paper recommends.",
        )
    micro = recipe.per_device_train_batch_size
    if recipe.loss == "kto" and 1 in (micro, recipe.effective_batch_size):
        key = "per_device_train_batch_size" if micro == 1 else "effective_batch_size"
        raise ColabMagicsError(
            f"{key}: 1 does not work with objective: kto.",
            "Its KL term is estimated from answers that are swapped among the samples of a micro-batch.",
            f"{key}: 2 or more, or loss_type: apo_zero_unpaired, which has no such term.",
        )


Recipe.KEYS = tuple(one.name for one in fields(Recipe))


@cache
def rules() -> dict[str, Rule]:
    """Each key's rule."""
    return {one.name: one.metadata["rule"] for one in fields(Recipe)}


@cache
def defaults() -> dict[str, Any]:
    """Each key's default."""
    return {one.name: one.default for one in fields(Recipe)}


def takes_text(key: str) -> bool:
    """Whether `key` holds free text, so that what was written counts and not what YAML makes of it."""
    return isinstance(rules().get(key), Text)


def check(key: str, value: Any, where: str = "") -> Any:
    """The value that the recipe keeps for `key`, with tokens cut.

    Raises
    ------
    ColabMagicsError
        When `value` has the wrong type or is out of range; names the key, the value and what it takes.
    """
    rule = rules()[key]
    try:
        return _without_tokens(rule.read(value))
    except (ValueError, OverflowError):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        guess = _meant(value, rule.among) if isinstance(rule, Choice | Names) else None
        raise ColabMagicsError(
            f"{key}: {shown} cannot be used" + (f" ({where})" if where else ""),
            f"{key} takes {rule.says}.",
            f"Did you mean {key}: {guess}?" if guess else "",
            f"Leave {key} out for its default, {defaults()[key]}." if defaults()[key] not in ("", None) else "",
            "%finetune recipe prints every key with its value." if defaults()[key] in ("", None) else "",
        ) from None


def _meant(value: Any, among: Collection[str]) -> str | None:
    """What is spelt most like the value, or like the first name in it that is none of them."""
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    unknown = next((name for name in names if isinstance(name, str) and name not in among), None)
    return None if unknown is None else nearest(unknown, among)


def _without_tokens(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_without_tokens(part) for part in value]
    if isinstance(value, dict):
        return {redact(key): _without_tokens(part) for key, part in value.items()}
    return value


def unknown_key(key: str, known: Collection[str], where: str = "") -> ColabMagicsError:
    """The error for a key that nobody knows, naming the nearest one."""
    guess = nearest(key, Recipe.KEYS) or nearest(key, known)
    return ColabMagicsError(
        f"Unknown key {key}" + (f" ({where})" if where else ""),
        "Nothing was started: a misspelt key would train something else than you asked for.",
        f"Did you mean {guess}?" if guess else "",
        "%finetune recipe prints every key.",
    )
