"""Attention that keeps packed documents apart, and takes the fast kernel on old GPUs.

Two things that the library's own attention does not do:

- On a GPU below compute capability 8.0, `enable_gqa=True` leaves only the MATH kernel, whose scores take memory
  quadratic in the length (huggingface/transformers#48633). Repeating the KV heads keeps the memory-efficient one.
- Documents packed into a row are attended one by one: no mask at all on a CPU, a block-diagonal one on a GPU.

Every keyword that it does not honour is an error: gemma2's soft cap and gpt_oss's sinks, left out, give wrong
numbers without a word. A model whose attention needs them keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "colab_magics"

# Keywords that change nothing in what attention computes, whatever their value.
_HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "logits_to_keep",
        "num_items_in_batch",
        "return_dict",
        "output_router_logits",
        "output_hidden_states",
        "layer_idx",
    }
)


@dataclass
class _Packing:
    """The documents of the micro-batch in flight, and the masks already built for them."""

    lengths: tuple[int, ...]
    masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """[1, 1, tokens, tokens], 0 where a token may look (its own document's past) and -inf elsewhere.

        As the kernel takes it, in the dtype of the query and with aligned rows: of any other mask torch would make
        such a copy in every layer.
        """
        if (window, dtype) not in self.masks:
            lengths = torch.tensor(self.lengths, device=device)
            numbers = torch.arange(len(lengths), device=device)
            document = torch.repeat_interleave(numbers, lengths, output_size=sum(self.lengths))  # no wait for a GPU
            seen = (document[:, None] == document[None, :]).tril_()
            if window is not None:
                seen.triu_(1 - window)
            tokens = len(document)
            rows = torch.full((tokens, -(-tokens // 8) * 8), -torch.inf, dtype=dtype, device=device)
            self.masks[window, dtype] = rows[:, :tokens].masked_fill_(seen, 0.0)[None, None]
        return self.masks[window, dtype]


class _InFlight:
    """Module state, not a context variable: autograd's threads recompute checkpointed layers and must see it too."""

    packing: _Packing | None = None


@contextmanager
def packed_documents(lengths: Sequence[int] | None) -> Iterator[None]:
    """Hold the documents' lengths for a forward *and its backward*, which may run the forward again."""
    # one document alone is a row like any other, and needs no mask
    packing = _Packing(tuple(lengths)) if lengths is not None and len(lengths) > 1 else None
    before, _InFlight.packing = _InFlight.packing, packing
    try:
        yield
    finally:
        _InFlight.packing = before


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, options: dict[str, Any]
) -> torch.Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=length > 1, **options)
    mask = _window_mask(length, window, query.device)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)


@lru_cache(maxsize=8)  # every layer of a micro-batch asks for the same few
def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """[length, length] bool, True where a token may look: the last `window` tokens up to itself."""
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return mask & ~torch.ones_like(mask).tril_(-window)


def forget_masks() -> None:
    """Let go of the masks that were kept for the next micro-batch."""
    _window_mask.cache_clear()


def _computed_in(query: torch.Tensor) -> torch.dtype:
    """The dtype in which attention will see `query`: autocast casts what an fp32 norm has made of it."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(device)
    return int(major), int(minor)


def _flash_takes_groups(query: torch.Tensor) -> bool:
    """Whether KV heads may be left unrepeated: only flash attention takes them so, from capability 8.0 on."""
    if query.device.type != "cuda" or query.shape[-1] > 256 or _computed_in(query) == torch.float32:
        return False
    return _capability(query.device) >= (8, 0)


def _takes_mask(device: torch.device) -> bool:
    """A GPU takes one masked kernel for all documents; a CPU is faster with one small kernel each."""
    return bool(device.type == "cuda")


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over whole rows, or over the packed documents of one row.

    Parameters
    ----------
    query : [rows, heads, width, head_dim]
    key, value : [rows, kv_heads, width, head_dim]
    sliding_window : how many tokens a token sees, itself included

    Returns
    -------
    [rows, width, heads, head_dim] and None (no attention weights).

    Raises
    ------
    NotImplementedError
        For a mask, a cache, bidirectional attention, or any keyword that is not honoured here.
    """
    unknown = sorted(name for name, v in others.items() if name not in _HARMLESS and v is not None and v is not False)
    if unknown:
        raise NotImplementedError(f"attention keyword not honoured: {', '.join(unknown)}")
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        raise NotImplementedError("attention with a mask or a cache")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise NotImplementedError("bidirectional attention")
    packing = _InFlight.packing
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        if packing is None and _flash_takes_groups(query):
            options["enable_gqa"] = True
        else:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if packing is None:
        out = _causal(query, key, value, sliding_window, options)
    elif _takes_mask(query.device):
        mask = packing.mask(sliding_window, _computed_in(query), query.device)
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    else:
        parts = [tensor.split(packing.lengths, dim=2) for tensor in (query, key, value)]
        out = torch.cat([_causal(q, k, v, sliding_window, options) for q, k, v in zip(*parts, strict=True)], dim=2)
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make `attn_implementation="colab_magics"` known to transformers. May be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    # No mask is ever built: causality, windows and documents are all handled above.
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
