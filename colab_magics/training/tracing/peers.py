"""How others come from hidden states to a loss, for what their way takes of memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from colab_magics.training.batches import MicroBatch
from colab_magics.training.tracing.ledger import Ledger

# TRL 1.16: kernels/chunked_logprob.py and trainer/utils.py
_TOKENS, _WORDS = 4096, 32_768


class FusedHead:
    """TRL's head from 1.15 on: tiles of tokens by words in 16 bit, made again in backward; its kernels need a GPU."""

    chunk = _TOKENS
    chunked = False

    def __init__(self, causal_lm: nn.Module, ledger: Ledger) -> None:
        self.body = getattr(causal_lm, causal_lm.base_model_prefix)
        self.head: Any = causal_lm.get_output_embeddings()  # type: ignore[operator]
        self.ledger = ledger

    def __call__(self, batch: MicroBatch) -> torch.Tensor:
        hidden = self.body(batch.input_ids, position_ids=batch.position_ids, use_cache=False).last_hidden_state
        return _Tiles.apply(hidden.flatten(0, 1), self.head.weight)  # type: ignore[no-any-return]

    def score(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("a peer is traced, and not evaluated")


class _Tiles(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        tile = hidden.new_empty(min(_TOKENS, len(hidden)), min(_WORDS, len(weight)), dtype=torch.float16)
        del tile
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        grad = torch.empty_like(hidden, dtype=torch.float32)
        tile = hidden.new_empty(min(_TOKENS, len(hidden)), min(_WORDS, len(weight)), dtype=torch.float16)
        del tile
        of_weight = torch.empty_like(weight, dtype=torch.float32) if weight.requires_grad else None
        return grad.to(hidden.dtype), of_weight


class AllLogits:
    """transformers' Trainer, and TRL before 1.15: the model's own loss over all logits in fp32."""

    chunk = 0
    chunked = False

    def __init__(self, causal_lm: nn.Module, ledger: Ledger) -> None:
        self.model, self.ledger = causal_lm, ledger

    def __call__(self, batch: MicroBatch) -> torch.Tensor:
        out: Any = self.model(batch.input_ids, position_ids=batch.position_ids, labels=batch.input_ids, use_cache=False)
        return out.loss  # type: ignore[no-any-return]

    def score(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("a peer is traced, and not evaluated")


LOSSES: dict[str, Any] = {"trl": FusedHead, "logits": AllLogits}
