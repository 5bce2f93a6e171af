"""Peak memory of a training, from the shape of its model alone: in microseconds, without torch.

What each operation of a layer keeps for backward is counted one by one, as PyTorch's autograd keeps it under
autocast; docs/memory.md has its error against traces of the real code. It counts what the PyTorch allocator hands out;
fragmentation and the CUDA context come on top (`plan.fit`).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from colab_magics.plan import ModelShape, Setup

NF4 = 0.515913  # bytes a weight: 4 bits, double-quantised scales, tables
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
STATES = {  # optimizer bytes a trainable fp32 parameter; paged states are the driver's, and leave a card that is full
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_8bit": 2.03,
    "paged_adamw_8bit": 0.0,
    "paged_adamw_32bit": 0.0,
    "adafactor": 0.1,
    "sgd": 0.0,
}
_DEQUANTISED = 2 + 8 / 64  # bytes a weight: in 16 bit, and its scales in fp32, twice for a moment


@dataclass(frozen=True)
class Estimate:
    """Predicted peak in bytes, by what it is made of.

    Attributes
    ----------
    weights : int
        Of the model.
    adapters, gradients, optimizer : int
        Of what is trained: an adapter's weights (of a full model they are `weights`), gradients, optimizer states.
    activations : int
        What forward keeps for backward, and what one layer's backward holds beside it.
    attention : int
        Of that, what grows with the square of the length: scores, and the mask of packed documents.
    dequantised : int
        The weight of one layer, back in 16 bit, while it is multiplied.
    head : int
        Logits and what the loss makes of them; of a full model also the gradients of embedding and head on their way.
    copies : int
        Of a full model's fp32 weights, in 16 bit, as autocast makes them: whatever the length.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    attention: int
    dequantised: int
    head: int
    copies: int = 0

    @property
    def peak(self) -> int:
        """Peak bytes allocated on the device."""
        return sum(astuple(self))


def peak(shape: ModelShape, setup: Setup) -> int:
    """`estimate(...).peak`: what the plan asks."""
    return estimate(shape, setup).peak


def estimate(shape: ModelShape, setup: Setup) -> Estimate:
    """Estimate a micro-batch of `setup.documents` documents of `setup.length` tokens.

    A step with gradients of earlier micro-batches and the optimizer's states at hand, every token trained.

    Parameters
    ----------
    shape : sizes of the model
    setup : method, precision, optimizer, and what is in memory at once

    Returns
    -------
    Estimate, in bytes: of the worst of the moments that can be the highest.
    """
    return max((_at(moment, shape, setup) for moment in ("loss", "last layer", "first layer")), key=lambda it: it.peak)


def _at(moment: str, shape: ModelShape, setup: Setup) -> Estimate:
    """The parts at one moment: while the loss is computed, in the last layer's backward, or in the first's."""
    kept = _Kept(shape, setup)
    layers, full = shape.layers, kept.full
    activations = attention = dequantised = head = copies = 0.0
    if moment == "loss":
        activations = layers * kept.between_layers + kept.after_layers
        attention = layers * kept.scores if not setup.gradient_checkpointing else 0
        head = _head(shape, setup, kept)
        copies = layers * kept.casts
    elif moment == "last layer":
        # with checkpointing the layer was just computed again; without it all of them are still there
        again = kept.layer if setup.gradient_checkpointing else 0
        activations = layers * kept.between_layers + again + kept.in_backward
        at_once = 1 if setup.gradient_checkpointing else layers
        attention = at_once * kept.scores + kept.scores_in_backward
        dequantised = kept.dequantised
        head = kept.head_gradients
        copies = kept.casts * (1 if setup.gradient_checkpointing else layers)
    elif full:
        # the embedding's gradient is made whole, beside that of the head where they are one weight
        activations = kept.between_layers if setup.gradient_checkpointing else kept.layer
        copies = 0 if setup.gradient_checkpointing else kept.casts
        attention = 0 if setup.gradient_checkpointing else kept.scores
        head = 4 * shape.vocabulary * shape.hidden + kept.head_gradients
    attention += kept.mask
    copies = copies if full else 0.0  # an adapter's are small, and counted with what else it keeps
    activations -= copies
    weights, trained = _weights(shape, setup)
    saved = 0 if full else shape.saved_parameters  # in fp32, each with its gradient and states
    wide = 4 if full else setup.adapter_bytes
    # 8-bit states are of 8 bits whatever the weight is; all others have its dtype
    states = STATES.get(setup.optim, 8.0) * (1 if "8bit" in setup.optim else wide / 4)
    parts = (
        weights,
        0 if full else trained * wide + 4 * saved,
        trained * wide + 4 * saved,
        trained * states + saved * STATES.get(setup.optim, 8.0),
    )
    if moment == "loss" and full and kept.half and setup.loss not in ("head", "logits", "trl"):
        of_head = 2.0 * shape.vocabulary * shape.hidden
        head, copies = head - of_head, copies + of_head
    return Estimate(*map(round, (*parts, activations, attention, dequantised, head, copies)))


def _weights(shape: ModelShape, setup: Setup) -> tuple[float, int]:
    """(bytes of the model, how many weights are trained)."""
    if setup.method == "full":
        reference = _BYTES[setup.precision] if setup.reference else 0
        return shape.parameters * (4 + reference), shape.parameters
    width = _BYTES[setup.precision]
    weights = float(shape.parameters * width)
    if setup.method == "qlora":
        others = shape.parameters - shape.linear_parameters
        weights = shape.weight_bytes or NF4 * shape.linear_parameters + width * others
    return weights, shape.lora_parameters


class _Kept:
    """What one layer keeps, in bytes; each property counts the tensors of one part of it."""

    def __init__(self, shape: ModelShape, setup: Setup) -> None:
        self.shape, self.setup = shape, setup
        self.tokens = setup.documents * setup.length
        self.width = _BYTES[setup.precision]
        self.half = self.width == 2
        self.full = setup.method == "full"
        # of what goes from layer to layer: the embedding's dtype, or that of a layer norm, which autocast runs in fp32
        embeds = shape.saved_parameters > (shape.vocabulary * shape.hidden if shape.saves_head else 0)
        fp32 = self.full or not self.half or embeds or (not shape.gated and setup.method == "qlora")
        self.residual = 4 if fp32 else 2

    @property
    def layer(self) -> float:
        """All that a layer keeps for its backward."""
        s = self.shape
        per_token = self._norms + self._inputs + self._attention + self._product + s.dropouts * s.hidden + self._dora
        return self.tokens * per_token + self.casts

    @property
    def between_layers(self) -> float:
        """What of a layer is there until its backward: all, or its input alone."""
        if self.setup.gradient_checkpointing:
            return self.tokens * self.residual * self.shape.hidden
        return self.layer

    @property
    def casts(self) -> float:
        """Autocast keeps a copy in 16 bit of each fp32 weight that is trained."""
        s = self.shape
        if not self.half or (not self.full and self.setup.adapter_bytes == 2):
            return 0.0
        return 2 * (s.linear_parameters if self.full else s.lora_parameters) / s.layers

    @property
    def _norms(self) -> float:
        """Two norms: an RMS norm is written out in fp32, and keeps its normalised input where its weight is trained."""
        s = self.shape
        qk = 4 * (s.query + s.key_value) + 4 * (s.heads + s.kv_heads) if s.qk_norm else 0
        if self.full and s.qk_norm:
            qk += self.width * (s.query + s.key_value)
        return 2 * 4 * s.hidden * (2 if self.full and s.gated else 1) + qk

    @property
    def _inputs(self) -> float:
        """What linears read, for the gradients of the weights behind it; one copy each where autocast makes them."""
        s, full = self.shape, self.full
        counts = s.readers if full else s.adapted
        sizes = (s.hidden, s.query, s.hidden, s.intermediate)
        copied = self.half and (full or self.setup.method == "lora")
        kept = 0.0
        for role, (count, size) in enumerate(zip(counts, sizes, strict=True)):
            if not count:
                continue
            # of what is in fp32 autocast makes a copy for each that reads it
            number = count if copied or (self.half and self.residual == 4 and role in (0, 2)) else min(1.0, count)
            if role == 1 and (full or not copied):
                number = 0.0  # attention keeps its output anyway
            if role == 3 and full:
                number = 1.0
            kept += self.width * size * number
            if not full and self.setup.lora_dropout:
                kept += (1 + self.width) * size * count
        if not full:
            kept += self.width * s.rank * sum(counts)
        if not s.gated and self.half and self.setup.method == "qlora" and counts[3]:
            kept += 2 * s.intermediate if s.activation in _WRITTEN_OUT else 0
        return kept

    @property
    def _dora(self) -> float:
        """DoRA keeps what the base and the adapter of each linear give, to scale them apart."""
        s = self.shape
        if not s.dora or self.full:
            return 0.0
        shares = [number / max(1.0, of) for number, of in zip(s.adapted, s.readers, strict=True)]
        given = (s.query + 2 * s.key_value, s.hidden, (2 if s.gated else 1) * s.intermediate, s.hidden)
        return (5 if self.half else 8) * sum(share * width for share, width in zip(shares, given, strict=True))

    @property
    def _attention(self) -> float:
        """Query, key, value, output, and the scores' logarithms."""
        s = self.shape
        if self.setup.attention in ("math", "eager"):
            return self.width * (2 * s.query + 2 * s.key_value)
        keys = s.key_value if self.setup.attention == "grouped" and not self._masked else s.query
        return self.width * (2 * s.query + 2 * keys) + 4 * s.heads

    @property
    def _product(self) -> float:
        """Gate, its activation and what that multiplies; or the activation's own input."""
        s = self.shape
        if s.gated:
            return self.width * 3 * s.intermediate
        if s.activation in _WRITTEN_OUT:  # in fp32 under autocast: cube, tanh, 1 + tanh, and half the input in 16 bit
            return (14 if self.half else 16) * s.intermediate
        if s.activation == "relu":  # it keeps what it gives; an adapter reads a copy of that in 16 bit
            return (4 if self.residual == 4 else 2) * s.intermediate if self.half and not self.full else 0
        return self.width * s.intermediate

    @property
    def in_backward(self) -> float:
        """What a layer's backward holds beside what was kept, at its highest point: in the MLP."""
        s, tokens = self.shape, self.tokens
        h, i = s.hidden, s.intermediate
        norms = 18 * s.largest_linear if s.dora and not self.full else 0  # of a whole weight with its adapter, in fp32
        again = self.setup.gradient_checkpointing
        if self.full or not self.half:
            grown = (4 * i if self.full and self.half else 8 * i) - (0 if again or not self.full else 4 * h)
            return tokens * grown + (4 * s.largest_linear if self.full else 0) + norms
        if self.setup.method == "qlora":
            return tokens * (2 * i + 6 * h if again else max(0, 2 * i - 2 * h)) + norms
        return tokens * (6 * i + 11 * h if again else max(0, 4 * i - 2 * h)) + norms

    @property
    def scores(self) -> float:
        """Of one layer: fp32 scores (math), or fp32 and 16 bit (eager)."""
        number = self.setup.documents * self.shape.heads * self._square
        if self.setup.attention == "math":
            return 4.05 * number
        return (4 + self.width) * number if self.setup.attention == "eager" else 0

    @property
    def scores_in_backward(self) -> float:
        """What their backward holds beside them."""
        number = self.setup.documents * self.shape.heads * self._square
        return 8 * number if self.setup.attention in ("math", "eager") else 0

    @property
    def _square(self) -> float:
        return float(self.setup.length**2)

    @property
    def _masked(self) -> bool:
        return self.setup.packed and self.setup.documents > 1

    @property
    def mask(self) -> float:
        """What packed documents may see: in the kernel's dtype; true or false for a moment before."""
        return self.tokens**2 * self.width if self._masked else 0

    @property
    def dequantised(self) -> float:
        return _DEQUANTISED * self.shape.largest_linear * self.width / 2 if self.setup.method == "qlora" else 0

    @property
    def after_layers(self) -> float:
        """The last norm, and the trained rows of what comes out of it."""
        h = self.shape.hidden
        norm = 4 * h * (2 if self.full and self.shape.gated else 1)
        casts = self.shape.layers * self.casts if self.setup.gradient_checkpointing else 0
        return self.tokens * (norm + self.residual * h + self.width * h) + casts

    @property
    def head_gradients(self) -> float:
        """Of a head that is trained, its gradient until it is added up with the embedding's."""
        return 4 * self.shape.vocabulary * self.shape.hidden if self.full else 0


_WRITTEN_OUT = ("gelu_new", "gelu_fast", "gelu_python", "gelu_python_tanh")


def _head(shape: ModelShape, setup: Setup, kept: _Kept) -> float:
    """The head's own memory: chunks of logits, or all of them."""
    v, h, tokens = shape.vocabulary, shape.hidden, kept.tokens
    if setup.loss == "logits":
        return 12 * tokens * v  # fp32 logits, their softmax, and its gradient
    if setup.loss == "trl":
        return min(tokens, 4096) * min(v, 32_768) * 2 + 4 * tokens * h
    if setup.loss == "head" or (setup.loss == "hidden" and shape.saves_head and not kept.full):
        # as all logits, of the labelled rows alone; a trained copy of the head is cast to 16 bit, twice
        return 12 * tokens * v + (2 * v * h if shape.saves_head and kept.half else 0)
    rows = min(setup.loss_chunk, tokens)
    logits = (6 if kept.half else 8) * rows * v
    weight = 0.0
    if kept.full:  # its gradient in fp32; in 16 bit also the weight itself, and a chunk's share of the gradient
        weight = (4 + (4 if kept.half else 0)) * v * h
    return logits + 4 * tokens * h + weight
