"""What the policies choose for a recipe on a device, each choice with its reason. Pure: no torch, files or clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from colab_magics.errors import ColabMagicsError
from colab_magics.plan.facts import Choice, DataFacts, Device, Estimate, ModelShape, Plan, Setup, Verdict
from colab_magics.plan.fit import budget
from colab_magics.recipe import Recipe
from colab_magics.sizes import size

LONGEST_AUTO_LENGTH = 2048
_GPU_TOKENS = 8192  # more tokens in one micro-batch make no kernel faster, and cost memory
# On a CPU more tokens at once are no faster, and leave the cache: 1.1 to 1.2 times the speed of 4,096 (4 layers of
# width 256, vocabulary of 50,257).
CPU_TOKENS = 1024
_LOSS_CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**28}  # fp32 logits of one chunk: a CPU's cache, a GPU's spare memory


GIVEN = "as the recipe says"
Kernel = Literal["fused", "grouped", "math", "eager"]


def choose_max_length(recipe: Recipe, lengths: Sequence[int] | npt.NDArray[np.int32], positions: int | None) -> Choice:
    """`max_length` for documents of these token lengths, under the model's own number of positions.

    Raises
    ------
    ColabMagicsError
        When the recipe asks for more than the model has.
    """
    if recipe.max_length != "auto":
        if positions is not None and recipe.max_length > positions:
            raise ColabMagicsError(
                f"max_length {recipe.max_length} is longer than the model's {positions} positions.",
                "It has learnt nothing about tokens beyond them.",
                f"Set max_length: {positions} or less, or leave it out.",
            )
        return Choice(recipe.max_length, GIVEN)
    longest = int(max(lengths, default=0))
    p99 = math.ceil(float(np.percentile(lengths, 99))) if len(lengths) else 0
    rounded = max(64, math.ceil(p99 / 64) * 64)
    cap = min(LONGEST_AUTO_LENGTH, positions or LONGEST_AUTO_LENGTH)
    if rounded <= cap:
        found = "the longest document has" if longest <= rounded else "99% of the documents have at most"
        return Choice(
            rounded, f"{found} {min(longest, p99) if longest > rounded else longest} tokens, rounded up to 64"
        )
    limit = "the model's own positions" if cap == positions else "set max_length to go higher"
    return Choice(cap, f"99% of the documents have at most {p99} tokens; auto stops at {cap} ({limit})")


def make_plan(
    recipe: Recipe, shape: ModelShape, device: Device, data: DataFacts, verdict: Verdict, estimate: Estimate
) -> Plan:
    """Decide everything that the recipe leaves to `auto`, and resolve what depends on the data and the device.

    Raises
    ------
    ColabMagicsError
        When the recipe asks for what this device or model cannot do.
    """
    precision = _precision(recipe, device)
    effective = (
        Choice(16, "a usual size for fine-tuning")
        if recipe.effective_batch_size == "auto"
        else Choice(recipe.effective_batch_size, GIVEN)
    )
    chunk = Choice(
        _loss_chunk(shape, device), f"rows of logits at a time, {_LOSS_CHUNK_BYTES[device.kind] // 2**20} MiB in fp32"
    )
    free = min(device.free, recipe.max_memory_bytes or device.free)
    # only a GPU's kernel takes a mask over all packed documents; the loop may yet settle for sorting by length
    packed = device.kind == "cuda" and verdict.packing and recipe.packing is not False and not recipe.compares
    ask = _Asker(
        recipe,
        shape,
        device,
        data,
        precision.value,
        chunk.value,
        estimate,
        budget(device, cap=recipe.max_memory_bytes),
        packed,
        _kernel(verdict.attention, shape, device, precision.value),
        _loss(recipe, verdict).value,
    )
    method = _method(recipe, shape, ask, free)
    optim = _optim(recipe, device, method.value, ask)
    micro, checkpointing = _micro_batch(recipe, device, data, effective.value, method.value, optim.value, ask)
    steps_per_epoch = max(1, math.ceil(len(data.lengths) / effective.value))
    total = (
        Choice(recipe.max_steps, "max_steps, as the recipe says")
        if recipe.max_steps > 0
        else Choice(
            max(1, math.ceil(recipe.num_train_epochs * steps_per_epoch)),
            f"{_epochs(recipe.num_train_epochs)} of {steps_per_epoch} steps",
        )
    )
    return Plan(
        {
            "method": method,
            "precision": precision,
            "attention": Choice(verdict.attention, verdict.attention_reason),
            "loss": _loss(recipe, verdict),
            "loss_chunk": chunk,
            "packing": _packing(recipe, verdict),
            "max_length": data.max_length,
            "effective_batch": effective,
            "micro_batch": micro,
            "accumulation": Choice(math.ceil(effective.value / micro.value), "effective batch / micro-batch"),
            "gradient_checkpointing": checkpointing,
            "optim": optim,
            "learning_rate": _learning_rate(recipe, shape, method.value),
            "total_steps": total,
            "warmup_steps": _warmup(recipe, total.value),
            "eval_every": _eval_every(recipe, data.eval_documents, total.value),
        }
    )


def _epochs(number: float) -> str:
    return "1 epoch" if number == 1 else f"{number:g} epochs"


def _at_once(recipe: Recipe, documents: int, length: int, device: Device) -> int:
    """Of a micro-batch, what is in memory at once: a CPU's is bounded by its tokens, document by document.

    Of a comparison it is all: both answers of each pair in one forward, and TRL splits nothing.
    """
    if recipe.compares:
        return documents * rows_of(recipe)
    return documents if device.kind == "cuda" else max(1, min(documents, CPU_TOKENS // length))


def rows_of(recipe: Recipe) -> int:
    """How many texts of one sample go through the model together: both answers of a pair."""
    return 2 if recipe.objective in ("dpo", "orpo") else 1


def _has_reference(recipe: Recipe, method: str) -> bool:
    """Whether the model as it was lies beside the one that is trained: an adapter is switched off instead."""
    return method == "full" and recipe.objective in ("dpo", "kto")


def _loss(recipe: Recipe, verdict: Verdict) -> Choice:
    if recipe.compares:
        return Choice("logits", f"TRL's {recipe.loss} loss; all logits counted, though newer releases build fewer")
    return Choice("hidden" if verdict.plain_head else "head", verdict.plain_head_reason)


def _length_held(lengths: npt.NDArray[np.int32], documents: int) -> int:
    """The longest document must fit alone; of several at once, 99% of the steps hold no more than this."""
    if not len(lengths):
        return 1
    return max(1, int(lengths.max()) if documents == 1 else math.ceil(float(np.percentile(lengths, 99))))


def setup_of(plan: Plan, recipe: Recipe, shape: ModelShape, lengths: npt.NDArray[np.int32], device: Device) -> Setup:
    """What a finished plan holds in memory at once, as the estimate was asked about it."""
    documents = int(plan["micro_batch"])
    length = _length_held(lengths, documents)
    return Setup(
        plan["method"],
        plan["precision"],
        plan["optim"],
        _at_once(recipe, documents, length, device),
        length,
        bool(plan["gradient_checkpointing"]),
        int(plan["loss_chunk"]),
        device.kind == "cuda" and plan["packing"] is not False,
        _kernel(plan["attention"], shape, device, plan["precision"]),
        plan["loss"],
        recipe.lora_dropout > 0,
        reference=_has_reference(recipe, plan["method"]),
    )


def _kernel(attention: str, shape: ModelShape, device: Device, precision: str) -> Kernel:
    """Which kernel an attention implementation comes to on a device.

    transformers hands key and value heads over ungrouped, which below capability 8.0 only torch's own composition takes
    (huggingface/transformers#48633); ours repeats them there. A packed row's mask takes them repeated everywhere.
    """
    if attention == "eager":
        return "eager"
    if device.kind == "cpu" and shape.attention_dropout:
        return "math"  # no fused kernel of a CPU drops anything
    flash = device.kind == "cuda" and (device.capability or (0, 0)) >= (8, 0) and precision != "fp32"
    if attention == "sdpa" and shape.key_value != shape.query and device.kind == "cuda" and not flash:
        return "math"
    return "grouped" if flash else "fused"


@dataclass(frozen=True)
class _Asker:
    """Asks the estimate about variations of one recipe, and whether they fit."""

    recipe: Recipe
    shape: ModelShape
    device: Device
    data: DataFacts
    precision: str
    loss_chunk: int
    estimate: Estimate
    budget: int
    packed: bool
    attention: Kernel
    loss: Literal["hidden", "head", "logits"]

    def bytes(self, method: str, optim: str, documents: int, checkpointing: bool) -> int:
        length = _length_held(self.data.lengths, documents)
        setup = Setup(
            method,
            self.precision,
            optim,
            _at_once(self.recipe, documents, length, self.device),
            length,
            checkpointing,
            self.loss_chunk,
            self.packed,
            self.attention,
            self.loss,
            self.recipe.lora_dropout > 0,
            reference=_has_reference(self.recipe, method),
        )
        return self.estimate(self.shape, setup)

    def fits(self, method: str, optim: str, documents: int, checkpointing: bool) -> bool:
        return self.bytes(method, optim, documents, checkpointing) <= self.budget

    @property
    def fewest(self) -> int:
        """How many documents there are at once at least."""
        given = self.recipe.per_device_train_batch_size
        return given if isinstance(given, int) else 1

    @property
    def may_checkpoint(self) -> bool:
        return self.recipe.gradient_checkpointing is not False


def _precision(recipe: Recipe, device: Device) -> Choice:
    wanted = recipe.precision
    if device.kind == "cpu":
        if wanted == "fp16" and recipe.compares:
            raise ColabMagicsError(
                f"precision: fp16 does not work with objective: {recipe.objective} on a CPU.",
                "accelerate, which TRL's trainers stand on, has it for GPUs alone.",
                "Use precision: auto (fp32 here).",
            )
        if wanted == "auto":
            return Choice("fp32", "a CPU computes fp32 fastest")
        return Choice(wanted, GIVEN)
    assert device.capability is not None
    shown = ".".join(map(str, device.capability))
    if wanted == "auto":
        if device.capability >= (8, 0):
            return Choice("bf16", f"{device.name} has compute capability {shown}")
        return Choice("fp16", f"{device.name} has compute capability {shown}: bf16 is only emulated below 8.0")
    if wanted == "bf16" and device.capability < (8, 0):
        raise ColabMagicsError(
            f"precision: bf16 does not work on this {device.name}.",
            f"Its compute capability is {shown}; below 8.0 bf16 is emulated and many times slower.",
            "Use precision: auto (fp16 here).",
        )
    return Choice(wanted, GIVEN)


def _method(recipe: Recipe, shape: ModelShape, ask: _Asker, free: int) -> Choice:
    if shape.quantised:
        if recipe.method in ("auto", "qlora"):
            return Choice("qlora", "the checkpoint is already quantised to 4 bits")
        raise ColabMagicsError(
            f"method: {recipe.method} cannot train a checkpoint that is already quantised.",
            "Its 4-bit weights stay frozen; only an adapter on top can learn.",
            "Use method: qlora, or name the 16-bit model.",
        )
    if recipe.method != "auto":
        return Choice(recipe.method, GIVEN)
    need = ask.bytes("lora", "adamw_torch_fused", ask.fewest, ask.may_checkpoint)
    figures = f"LoRA needs about {size(need)} of the {size(free)} free"
    if need <= ask.budget:
        return Choice("lora", f"{figures}, and is faster than QLoRA")
    return Choice("qlora", f"{figures}; QLoRA holds the base model in 4 bits")


def _optim(recipe: Recipe, device: Device, method: str, ask: _Asker) -> Choice:
    if recipe.optim != "auto":
        if device.kind == "cpu" and recipe.optim.startswith("paged_"):
            raise ColabMagicsError(
                f"optim: {recipe.optim} needs a GPU.",
                "A paged optimizer moves its state between GPU and host memory.",
                "Use optim: adamw_8bit or adamw_torch_fused.",
            )
        return Choice(recipe.optim, GIVEN)
    usual = "adamw_torch_fused"
    if device.kind == "cpu" or method != "full" or ask.fits(method, usual, ask.fewest, ask.may_checkpoint):
        return Choice("adamw_torch_fused", "one fused kernel for all weights")
    return Choice("paged_adamw_8bit", "AdamW's two fp32 states do not fit beside the weights")


def _micro_batch(
    recipe: Recipe, device: Device, data: DataFacts, effective: int, method: str, optim: str, ask: _Asker
) -> tuple[Choice, Choice]:
    """(micro_batch, gradient_checkpointing): no checkpointing where a useful micro-batch fits without."""
    p99 = max(1, math.ceil(float(np.percentile(data.lengths, 99)))) if len(data.lengths) else 1
    tokens = _GPU_TOKENS if device.kind == "cuda" else CPU_TOKENS
    if recipe.per_device_train_batch_size != "auto":
        sizes = [min(recipe.per_device_train_batch_size, effective)]
    else:
        sizes = [effective]
        while sizes[-1] > 1:
            sizes.append(math.ceil(sizes[-1] / 2))
        # a CPU's micro-batches are bounded by their tokens, document by document; but TRL's are what they are
        if device.kind == "cuda" or recipe.compares:
            sizes = [size for size in sizes if size == 1 or size * rows_of(recipe) * p99 <= tokens]
        if recipe.loss_type != "apo_zero_unpaired" and recipe.objective == "kto":
            # its KL term swaps the answers of a micro-batch among each other
            sizes = [size for size in sizes if size > 1] or [2]
    given = recipe.gradient_checkpointing
    ways = [False, True] if given == "auto" else [bool(given)]
    # Without checkpointing a micro-batch should still fill the device: a third more compute beats idle kernels.
    useful = next((size for size in reversed(sizes) if size * p99 >= 1024), sizes[0])
    for checkpointing in ways:
        least = useful if given == "auto" and not checkpointing else sizes[-1]
        for documents in sizes:
            if documents >= least and ask.fits(method, optim, documents, checkpointing):
                return _chosen(recipe, documents, effective, checkpointing, ask, method, optim)
    return _chosen(recipe, sizes[-1], effective, ways[-1], ask, method, optim)


def _chosen(
    recipe: Recipe, documents: int, effective: int, checkpointing: bool, ask: _Asker, method: str, optim: str
) -> tuple[Choice, Choice]:
    need = ask.bytes(method, optim, documents, checkpointing)
    rough = "roughly" if recipe.compares else "about"  # TRL's own memory is not traced
    figures = f"{rough} {size(need)}, of {size(ask.budget)} that may be used"
    micro = (
        Choice(documents, GIVEN)
        if recipe.per_device_train_batch_size != "auto"
        else Choice(
            documents,
            f"the largest split of {effective} that fits: {figures}"
            if need <= ask.budget
            else f"nothing larger fits: {figures}",
        )
    )
    if recipe.gradient_checkpointing != "auto":
        return micro, Choice(checkpointing, GIVEN)
    reason = (
        "without it the activations do not fit"
        if checkpointing
        else "the activations fit; it would cost a third more compute"
    )
    return micro, Choice(checkpointing, reason)


def _loss_chunk(shape: ModelShape, device: Device) -> int:
    rows = _LOSS_CHUNK_BYTES[device.kind] // (4 * max(1, shape.vocabulary))
    return int(max(64, min(8192, rows)))


def _packing(recipe: Recipe, verdict: Verdict) -> Choice:
    if recipe.compares:
        return Choice(False, "TRL compares whole answers, a row each")
    if not verdict.packing:
        if recipe.packing is True:
            raise ColabMagicsError(
                "packing: true does not work for this model.",
                verdict.packing_reason,
                "Leave packing out: documents are sorted by length instead.",
            )
        return Choice(False, verdict.packing_reason)
    if recipe.packing == "auto":
        return Choice("auto", "packing or sorting by length, whichever is faster here: measured before the first step")
    return Choice(recipe.packing, GIVEN)


def _learning_rate(recipe: Recipe, shape: ModelShape, method: str) -> Choice:
    if recipe.learning_rate != "auto":
        return Choice(recipe.learning_rate, GIVEN)
    if recipe.compares:
        rate, whose = (8e-6, "the ORPO paper's") if recipe.objective == "orpo" else (1e-6, "TRL's")
        if method == "full":
            return Choice(rate, f"{whose} rate for all weights")
        return Choice(10 * rate, f"ten times {whose} rate for all weights, as is usual for adapters")
    if method != "full":
        return Choice(2e-4, "a usual rate for adapters")
    if shape.parameters <= 500_000_000:
        return Choice(5e-5, "a usual rate for all weights of a model of at most 0.5B parameters")
    return Choice(2e-5, "a usual rate for all weights of a model")


def _warmup(recipe: Recipe, total: int) -> Choice:
    wanted = recipe.warmup_steps
    if wanted == "auto":
        share, tenth = math.ceil(0.03 * total), math.ceil(0.1 * total)
        if tenth <= max(share, 5):
            return Choice(tenth, f"a tenth of {total} steps, which is few")
        return Choice(
            max(share, 5), f"3% of {total} steps" if share >= 5 else "5, where 3% of the steps would be fewer"
        )
    if isinstance(wanted, float) and wanted < 1:
        return Choice(math.ceil(wanted * total), f"{wanted:g} of {total} steps")
    return Choice(int(wanted), GIVEN)


def _eval_every(recipe: Recipe, documents: int, total: int) -> Choice:
    if not documents:
        return Choice(None, "there is no eval_data")
    if recipe.eval_every is None:
        return Choice(None, "only at the end, as the recipe says")
    if recipe.eval_every == "auto":
        return Choice(max(1, math.ceil(total / 10)), "ten times over the run")
    return Choice(recipe.eval_every, GIVEN)
