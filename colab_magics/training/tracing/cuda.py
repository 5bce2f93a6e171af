"""What a GPU would do otherwise than a CPU, for code that runs on fake CPU tensors.

A fake CUDA tensor that needs a gradient ends the process of a torch that was built without CUDA, so everything is
traced on the CPU. Where that would take other memory than a GPU, the difference is put right here, by public
knowledge of torch's kernels: which ones autocast runs in fp32 (ATen/autocast_mode.h), which attention kernel is taken
(sdp_utils), what it keeps and what its backward takes beside that (mem_eff_attention/kernel_backward.h, flash_api.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from colab_magics.training import attention

_FLASH_SINCE = (8, 0)
_HALF = (torch.float16, torch.bfloat16)

# of AT_FORALL_FP32 those that models call: their inputs are cast
_IN_FP32 = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ softplus "
    "layer_norm native_layer_norm rms_norm group_norm cosine_similarity poisson_nll_loss cosine_embedding_loss "
    "nll_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss "
    "soft_margin_loss triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits cross_entropy dist cdist "
    "renorm logsumexp norm"
).split()
# of AT_FORALL_FP32_SET_OPT_DTYPE: the kernel reads 16 bit and writes fp32
_TO_FP32 = "prod softmax log_softmax cumprod cumsum sum".split()


def _found(names: list[str]) -> dict[Any, str]:
    """The functions of those names, wherever torch offers them."""
    places = (torch, torch.Tensor, functional)
    return {function: name for name in names for place in places if (function := getattr(place, name, None))}


@contextmanager
def as_on_cuda(capability: tuple[int, int], *, math: bool = False) -> Iterator[None]:
    """Let the block's code take the memory that it would take on a GPU of that compute capability.

    Parameters
    ----------
    math : take torch's own composition for every attention, whatever kernel there would be
    """
    enabled = torch.is_autocast_enabled
    with (
        patch("torch.is_autocast_enabled", lambda kind="cuda": enabled("cpu" if kind == "cuda" else kind)),
        patch.object(attention, "_takes_mask", lambda _: True),
        patch.object(attention, "_flash_takes_groups", lambda query: capability >= _FLASH_SINCE and _fits_flash(query)),
        _OnCuda(capability, math=math),
    ):
        yield


def _fits_flash(query: torch.Tensor) -> bool:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return query.shape[-1] <= 256 and dtype in _HALF


class _OnCuda(TorchFunctionMode):  # type: ignore[misc]
    """Puts the calls right, one by one."""

    def __init__(self, capability: tuple[int, int], *, math: bool) -> None:
        super().__init__()
        self._capability, self._math = capability, math
        self._in_fp32, self._to_fp32 = _found(_IN_FP32), _found(_TO_FP32)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            with self:
                return _backward(args[0])
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is functional.dropout:
            return _dropout(func, *args, **kwargs)
        autocast = torch.is_autocast_enabled("cpu")
        if autocast and func in self._in_fp32:
            return func(*map(_cast, args), **{key: _cast(value) for key, value in kwargs.items()})
        name = self._to_fp32.get(func)
        if name in ("softmax", "log_softmax"):
            return _softmax(func, autocast, *args, **kwargs)
        if autocast and name is not None and _is_half(args[0]) and kwargs.get("dtype") is None:
            return func(*args, **{**kwargs, "dtype": torch.float32})
        return func(*args, **kwargs)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        grouped = query.shape[1] != key.shape[1]
        flash = self._capability >= _FLASH_SINCE and query.dtype in _HALF and query.shape[-1] <= 256
        flash = flash and attn_mask is None
        if self._math or (grouped and not flash):
            with sdpa_kernel(SDPBackend.MATH):
                return functional.scaled_dot_product_attention(
                    query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
                )
        return _Fused.apply(query, key, value, attn_mask)  # type: ignore[no-any-return]


class _Fused(torch.autograd.Function):  # type: ignore[misc]
    """The memory of flash and of memory-efficient attention, which is the same: no numbers come out of it.

    Kept: query, key, value, mask, output, and the scores' logarithms in fp32. Beside the gradients, backward adds the
    query's up in fp32; flash makes those of grouped keys and values for every head before it sums them.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        rows, heads, length, _ = query.shape
        out = query.new_empty(rows, length, heads, value.shape[-1]).transpose(1, 2)
        logarithms = query.new_empty(rows, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, logarithms)
        return out

    @staticmethod
    def backward(ctx: Any, *_grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, _, _, logarithms = ctx.saved_tensors
        rows, heads, length, width = query.shape
        grad_query, grad_key, grad_value = (
            tensor.new_empty(tensor.shape[0], tensor.shape[2], tensor.shape[1], tensor.shape[3]).transpose(1, 2)
            for tensor in (query, key, value)
        )
        delta = torch.empty_like(logarithms)
        added_up = query.new_empty(rows, heads, length, width, dtype=torch.float32) if query.dtype in _HALF else None
        expanded = (
            [query.new_empty(rows, heads, key.shape[2], width) for _ in range(2)] if heads != key.shape[1] else []
        )
        del delta, added_up, expanded
        return grad_query, grad_key, grad_value, None


def _backward(loss: torch.Tensor) -> None:
    """Run backward with the mode on, for the layers that are recomputed inside it: torch's own entry is a function
    like any other, and would take the mode off."""
    engine = torch.autograd.Variable._execution_engine
    ones = (torch.ones_like(loss),)
    engine.run_backward((loss,), ones, False, False, (), allow_unreachable=True, accumulate_grad=True)


def _cast(value: Any) -> Any:
    return value.float() if _is_half(value) else value


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in _HALF


def _softmax(
    func: Callable[..., torch.Tensor],
    autocast: bool,
    tensor: torch.Tensor,
    dim: int = -1,
    *rest: Any,
    dtype: torch.dtype | None = None,
    **others: Any,
) -> torch.Tensor:
    """A GPU's kernel reads 16 bit and writes fp32; a CPU's has the input copied first."""
    if not _is_half(tensor) or not (dtype == torch.float32 or (autocast and dtype is None)):
        return func(tensor, dim, *rest, dtype=dtype, **others)
    return _HalfToFloat.apply(tensor)  # type: ignore[no-any-return]


class _HalfToFloat(torch.autograd.Function):  # type: ignore[misc]
    """(log-)softmax of 16 bit in fp32, without a copy of its input; keeps its output, as torch's does."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(tensor, dtype=torch.float32)
        ctx.save_for_backward(out)
        ctx.dtype = tensor.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *_grad_outputs: torch.Tensor) -> torch.Tensor:
        (out,) = ctx.saved_tensors
        return torch.empty_like(out, dtype=ctx.dtype)


def _dropout(
    func: Callable[..., torch.Tensor],
    tensor: torch.Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """One kernel on a GPU, which keeps a byte an element."""
    if not training or p == 0 or inplace:
        return func(tensor, p, training, inplace)
    return torch.native_dropout(tensor, p, True)[0]
