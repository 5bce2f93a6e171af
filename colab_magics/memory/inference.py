"""What generating takes: the weights, the cache of keys and values, and one token's logits."""

from __future__ import annotations

from dataclasses import dataclass

from colab_magics.memory.estimate import NF4
from colab_magics.plan import Device, Fit, ModelShape, fit

_USUAL = (2048, 8192, 32_768, 131_072)


@dataclass(frozen=True)
class Generating:
    """Memory of one batch of sequences at their full length. Bytes.

    Attributes
    ----------
    context : int
        Tokens of a sequence, prompt and answer together.
    batch : int
        Sequences at once.
    """

    context: int
    batch: int
    weights: int
    cache: int
    working: int
    device: Device

    @property
    def peak(self) -> int:
        return self.weights + self.cache + self.working

    @property
    def fit(self) -> Fit:
        """Whether it fits."""
        return fit(self.peak, self.device)


def cache_per_token(shape: ModelShape, width: int = 2) -> int:
    """Bytes of keys and values that a token leaves in all layers."""
    return 2 * shape.layers * shape.key_value * width


def cache_of(shape: ModelShape, length: int, width: int = 2) -> int:
    """Bytes of keys and values of a sequence: layers that see a window keep no more than that."""
    sliding = shape.sliding_layers if shape.window is not None else 0
    tokens = (shape.layers - sliding) * length + sliding * min(length, shape.window or length)
    return 2 * shape.key_value * width * tokens


def generating(
    shape: ModelShape, weights: int, device: Device, *, batch: int = 1, context: int | None = None
) -> list[Generating]:
    """For each usual context, up to what the model was made for.

    Parameters
    ----------
    weights : bytes of the model as it is loaded
    context : this one alone
    """
    width = 4 if device.kind == "cpu" else 2
    most = shape.positions or max(_USUAL)
    lengths = [context] if context is not None else sorted({*(one for one in _USUAL if one < most), most})
    # the prompt goes through a layer at once, at most; its logits are those of its last token
    widest = shape.hidden * 4 + 2 * shape.intermediate + shape.query

    def beyond(length: int) -> int:
        """What a window cuts off is there until the token after the prompt: it is cut as a view."""
        return length * cache_per_token(shape, width) - cache_of(shape, length, width)

    return [
        Generating(
            length,
            batch,
            weights,
            batch * cache_of(shape, length, width),
            batch * (length * widest * width + shape.vocabulary * (4 + width) + beyond(length)),
            device,
        )
        for length in lengths
    ]


def weights_for(shape: ModelShape, method: str, device: Device) -> int:
    """Bytes of the model to generate with: in 4 bits where that is how it is trained, else in 16 (on a CPU fp32)."""
    wide = 4 if device.kind == "cpu" else 2
    if method == "qlora" or shape.quantised:
        others = shape.parameters - shape.linear_parameters
        return shape.weight_bytes or round(NF4 * shape.linear_parameters) + wide * others
    return shape.parameters * wide
