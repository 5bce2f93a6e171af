"""Cross-entropy at the labelled positions only; the full logits are never built.

With a vocabulary of 150,000 the logits of 2,048 tokens and their gradient take 3.5 GiB in the usual way
(12 bytes a logit). Here a chunk of rows at a time goes through the head, and its gradient is taken on the spot,
so nothing is kept and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from colab_magics.training.batches import MicroBatch

# In fp16 what is below 6e-8 is lost, and the softmax of a large vocabulary is full of it.
_HALF_SCALE = 256.0


class Loss(Protocol):
    """Sum of the cross-entropy over a micro-batch's labelled positions (0-dim, fp32)."""

    chunk: int
    chunked: bool  # whether a smaller `chunk` takes less memory

    def __call__(self, batch: MicroBatch) -> torch.Tensor: ...
    def score(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]: ...


class _LinearCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """sum(cross_entropy(hidden @ weight.T + bias, targets)), and its gradients, in one pass over chunks of rows.

    The gradient of a sum needs only to be scaled in backward, so it can be computed while the logits are at hand.
    It costs [n, width] in fp32, instead of [n, vocabulary].
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return _LinearCrossEntropy._forward(ctx, hidden, weight, bias, targets, chunk, dtype)

    @staticmethod
    def _forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        head = weight.to(dtype)
        grad_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device) if needs_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias and bias is not None else None
        scale = _HALF_SCALE if dtype == torch.float16 else 1.0
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            piece = hidden[rows].to(dtype)
            wanted = targets[rows, None]
            shares = torch.log_softmax(_logits(piece, head, bias), 1, dtype=torch.float32)
            loss -= shares.gather(1, wanted).sum()
            if not (needs_hidden or needs_weight or needs_bias):
                continue
            # the gradient of the summed loss by the logits: the softmax, less one at the target
            shares.exp_().scatter_add_(1, wanted, shares.new_full((1, 1), -1.0).expand_as(wanted))
            if grad_bias is not None:
                grad_bias += shares.sum(0)
            if grad_weight is not None and dtype == torch.float32:
                grad_weight.addmm_(shares.T, piece)
            elif grad_weight is not None:
                # not scaled: this sums over rows, and a frequent token's sum would leave the range of fp16
                grad_weight += shares.to(dtype).T @ piece
            if grad_hidden is not None and dtype == torch.float32:
                torch.mm(shares, head, out=grad_hidden[rows])
            elif grad_hidden is not None:
                # in place, and last: the logits of a chunk are most of what the head takes
                grad_hidden[rows].copy_(shares.mul_(scale).to(dtype) @ head).div_(scale)
            del shares  # else it would be there beside the next chunk's
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (factor,) = grad_outputs
        grads = [
            None if grad is None else grad.mul_(factor).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None, None)


def _logits(piece: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[rows, vocabulary]; fp32 where a bias is added."""
    logits = piece @ head.T
    return logits if bias is None else logits.float().add_(bias.float())


class HiddenLoss:
    """For a head that is one plain Linear and nothing after it: the body's hidden states, then our own head.

    `chunk` is in rows (labelled positions).
    """

    chunked = True

    def __init__(self, causal_lm: nn.Module, chunk: int, dtype: torch.dtype) -> None:
        self.body = getattr(causal_lm, causal_lm.base_model_prefix)
        self.head = causal_lm.get_output_embeddings()
        self.chunk = chunk
        self.dtype = dtype

    def _hidden(self, batch: MicroBatch) -> torch.Tensor:
        hidden = self.body(batch.input_ids, position_ids=batch.position_ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, batch.where)

    def __call__(self, batch: MicroBatch) -> torch.Tensor:
        hidden = self._hidden(batch)
        head = self.head
        return _LinearCrossEntropy.apply(hidden, head.weight, head.bias, batch.targets, self.chunk, self.dtype)

    def score(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and how many labelled tokens are the model's first choice; call it under `no_grad`."""
        hidden = self._hidden(batch).to(self.dtype)
        head, bias = self.head.weight.to(self.dtype), self.head.bias
        loss = correct = torch.zeros((), device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for piece, targets in zip(hidden.split(self.chunk), batch.targets.split(self.chunk), strict=True):
                logits = _logits(piece, head, bias).float()
                loss = loss + nn.functional.cross_entropy(logits, targets, reduction="sum")
                correct = correct + (logits.argmax(1) == targets).sum()
                del logits
        return loss, correct


class HeadLoss:
    """For any other head (a soft cap or a scale after it, an adapter on it): the model's own, on fewer rows.

    A hook hands the head only the labelled positions, and whatever the model does to the logits it does to those,
    all at once.
    """

    chunked = False

    def __init__(self, causal_lm: nn.Module, chunk: int) -> None:
        self.model = causal_lm
        self.head = causal_lm.get_output_embeddings()
        self.chunk = chunk

    @contextmanager
    def _selecting(self, where: torch.Tensor) -> Iterator[None]:
        def select(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (args[0].flatten(0, 1).index_select(0, where)[None], *args[1:])

        handle = self.head.register_forward_pre_hook(select)
        try:
            yield
        finally:
            handle.remove()

    def _logits(self, batch: MicroBatch) -> torch.Tensor:
        with self._selecting(batch.where):
            out = self.model(batch.input_ids, position_ids=batch.position_ids, use_cache=False)
        return out.logits[0].float()

    def __call__(self, batch: MicroBatch) -> torch.Tensor:
        return nn.functional.cross_entropy(self._logits(batch), batch.targets, reduction="sum")

    def score(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and how many labelled tokens are the model's first choice; call it under `no_grad`."""
        logits = self._logits(batch)
        loss = nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
        return loss, (logits.argmax(1) == batch.targets).sum()
