"""The product of tokens with the experts that they were sent to, on fake tensors.

torch's own refuses fake tensors of any dtype but bf16, which is a rule of its compiler's and of no GPU. On a GPU below
capability 8.0 transformers takes a composition of its own, which makes the gradients of all experts' weights even where
none is trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional


@contextmanager
def grouped_products(capability: tuple[int, int] | None) -> Iterator[None]:
    """Let the block's code multiply with experts as it would on a GPU of that capability; None stands for a CPU."""
    with ExitStack() as stack:
        if capability is not None and capability < (8, 0):
            from transformers.integrations import moe

            if hasattr(moe, "_can_use_grouped_mm"):
                stack.enter_context(patch.object(moe, "_can_use_grouped_mm", lambda *_: False))
        elif hasattr(functional, "grouped_mm"):
            stack.enter_context(patch.object(functional, "grouped_mm", _grouped_mm))
        yield


def _grouped_mm(tokens: torch.Tensor, weight: torch.Tensor, *, offs: torch.Tensor) -> torch.Tensor:  # noqa: ARG001, torch names it so
    return _Product.apply(tokens, weight)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """[tokens, in] by [experts, in, out]."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        trained, reached = ctx.needs_input_grad[1], ctx.needs_input_grad[0]
        ctx.save_for_backward(tokens if trained else None, weight if reached else None)
        ctx.shapes = tokens.shape, weight.shape
        return tokens.new_empty(len(tokens), weight.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grad_outputs
        of_tokens, of_weight = (
            grad.new_empty(shape) if needed else None
            for shape, needed in zip(ctx.shapes, ctx.needs_input_grad, strict=True)
        )
        return of_tokens, of_weight
