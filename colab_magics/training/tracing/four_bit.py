"""A bitsandbytes 4-bit layer that has the memory of one and computes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import bitsandbytes
import torch
from torch import nn

from colab_magics.training.tracing.ledger import Ledger

_BLOCK = 64  # weights that share a scale
_NESTED = 256  # scales that share a scale of their own
_CODE = 1024 + 64 + 512  # bytes of the tables and of the offset that each layer has, in steps of 512


class FourBit(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]
    """In place of a Linear: peft takes it for what it stands for.

    Parameters
    ----------
    linear : a `Linear` or a transformers `Conv1D`, on the meta device
    dtype : in which it computes
    """

    ledger: Ledger | None = None

    def __init__(self, linear: nn.Module, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        if isinstance(linear, nn.Linear):
            self.out_features, self.in_features = linear.weight.shape
        else:  # Conv1D keeps its weight the other way around
            self.in_features, self.out_features = linear.weight.shape
        number = self.in_features * self.out_features
        weight: Any = nn.Parameter(torch.empty(number // 2, dtype=torch.uint8, device="meta"), requires_grad=False)
        weight.compress_statistics, weight.quant_type = True, "nf4"
        self.weight = weight
        scales = -(-number // _BLOCK)
        self.register_buffer("absmax", torch.empty(scales, dtype=torch.uint8, device="meta"))
        self.register_buffer("nested_absmax", torch.empty(-(-scales // _NESTED), device="meta"))
        self.register_buffer("code", torch.empty(_CODE, dtype=torch.uint8, device="meta"))
        bias = getattr(linear, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)
        self.compute_dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out], by a weight that is made for the time of the product, here and in backward."""
        dtype = x.dtype
        out = _Multiply.apply(x.to(self.compute_dtype), self)
        if self.bias is not None:
            out = out + self.bias
        return out.to(dtype)

    def dequantised(self) -> list[torch.Tensor]:
        """What bitsandbytes holds while it multiplies: the weight, and its scales in fp32."""
        assert self.ledger is not None
        with self.ledger.part("dequantised"):
            scales = torch.empty(self.absmax.shape, dtype=torch.float32)
            shifted = torch.empty_like(scales)
            del scales
            return [shifted, torch.empty(self.out_features, self.in_features, dtype=self.compute_dtype)]


class _Multiply(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FourBit) -> torch.Tensor:
        ctx.layer = layer
        _, weight = held = layer.dequantised()
        out = torch.mm(x.flatten(0, -2), weight.T).view(*x.shape[:-1], layer.out_features)
        del held
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grad_outputs
        _, weight = held = ctx.layer.dequantised()
        out = torch.mm(grad.flatten(0, -2).to(weight.dtype), weight).view(*grad.shape[:-1], ctx.layer.in_features)
        del held
        return out, None


@contextmanager
def counted_by(ledger: Ledger) -> Iterator[None]:
    """Let the layers say to that ledger what they dequantise."""
    FourBit.ledger = ledger
    try:
        yield
    finally:
        FourBit.ledger = None


def put_in(model: nn.Module, dtype: torch.dtype, skip: Collection[str] = ()) -> None:
    """Exchange what 4-bit loading converts: all linear layers but the head, and those that `skip` names."""
    from transformers.pytorch_utils import Conv1D

    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | Conv1D) or module is head or _is_named(name, skip):
            continue
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, FourBit(module, dtype))


def _is_named(name: str, skip: Collection[str]) -> bool:
    return any(name == one or name.endswith(f".{one}") or f".{one}." in f".{name}." for one in skip)
