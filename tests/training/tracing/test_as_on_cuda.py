"""What a GPU does otherwise than a CPU: autocast's lists, attention's kernels, and a backward that recomputes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from colab_magics.training import attention
from colab_magics.training.tracing.cuda import as_on_cuda
from colab_magics.training.tracing.ledger import Ledger

pytestmark = pytest.mark.colab

T4, A100 = (7, 5), (8, 0)
HALF = torch.bfloat16
Operation = Callable[[torch.Tensor], torch.Tensor]

# As ATen/autocast_mode.h has them for CUDA: AT_FORALL_FP32 and AT_FORALL_FP32_SET_OPT_DTYPE.
IN_FP32: dict[str, Operation] = {
    "layer_norm": lambda x: functional.layer_norm(x, (8,)),
    "LayerNorm": torch.nn.LayerNorm(8),
    "pow": lambda x: x.pow(2),
    "torch.pow": lambda x: torch.pow(x, 3.0),
    "**": lambda x: x**2,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "softplus": functional.softplus,
    "softmax": lambda x: functional.softmax(x, dim=-1),
    "Tensor.softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "sum": lambda x: x.sum(),
    "cumsum": lambda x: x.cumsum(-1),
    "norm": torch.norm,
    "cross_entropy": lambda x: functional.cross_entropy(x, torch.zeros(len(x), dtype=torch.long)),
}
AS_THEY_COME: dict[str, Operation] = {
    "mean": lambda x: x.mean(),
    "silu": functional.silu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "add": lambda x: x + x,
    "mul": lambda x: x * 2,
    "softmax in 16 bit": lambda x: functional.softmax(x, dim=-1, dtype=HALF),
    "sum in 16 bit": lambda x: x.sum(dtype=HALF),
}


@pytest.mark.parametrize("name", IN_FP32)
def test_autocast_of_a_gpu_runs_these_in_fp32(name):
    with as_on_cuda(T4), torch.autocast("cpu", HALF):
        assert IN_FP32[name](torch.rand(4, 8, dtype=HALF)).dtype == torch.float32


@pytest.mark.parametrize("name", AS_THEY_COME)
def test_and_leaves_these_in_16_bit(name):
    with as_on_cuda(T4), torch.autocast("cpu", HALF):
        assert AS_THEY_COME[name](torch.rand(4, 8, dtype=HALF)).dtype == HALF


@pytest.mark.parametrize("name", sorted({*IN_FP32} - {"cross_entropy"}))
def test_without_autocast_nothing_is_cast(name):
    operation = IN_FP32[name]
    if name == "LayerNorm":
        operation = torch.nn.LayerNorm(8, dtype=HALF)
    with as_on_cuda(T4):
        assert operation(torch.rand(4, 8, dtype=HALF)).dtype == HALF


def test_a_16_bit_softmax_makes_no_copy_of_its_input_and_keeps_its_output():
    x = torch.rand(16, 1024, dtype=HALF, requires_grad=True)
    with as_on_cuda(T4), torch.autocast("cpu", HALF), Ledger() as ledger:
        out = functional.softmax(x, dim=-1)
        assert max(sum(parts.values()) for parts in ledger.moments.values()) == 16 * 1024 * 4
        loss = out.sum()
        del out
        assert ledger.total == 16 * 1024 * 4 + 512
        loss.backward()
    assert x.grad is not None
    assert x.grad.dtype == HALF


def test_dropout_keeps_one_byte_an_element():
    x = torch.rand(16, 1024, requires_grad=True)
    with as_on_cuda(T4), Ledger() as ledger:
        out = functional.dropout(x, 0.5)
        assert ledger.total == 16 * 1024 * (4 + 1)
        del out
    with as_on_cuda(T4):
        assert functional.dropout(x, 0.5, training=False) is not None
        assert torch.equal(functional.dropout(x, 0.0), x)


# --- which kernel attention takes -------------------------------------------------------------------------------------


def _attention(
    capability: tuple[int, int],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    mask: bool = False,
    dtype: torch.dtype = torch.float16,
    math: bool = False,
    width: int = 16,
) -> int:
    """Bytes at the highest point that are scores."""
    length = 64
    query = torch.rand(1, heads, length, width, dtype=dtype, requires_grad=True)
    key, value = (torch.rand(1, kv_heads, length, width, dtype=dtype, requires_grad=True) for _ in range(2))
    seen = torch.zeros(1, 1, length, length, dtype=dtype) if mask else None
    with as_on_cuda(capability, math=math), Ledger([(1, heads, length, length), (heads, length, length)]) as ledger:
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=seen is None, enable_gqa=heads != kv_heads
        )
        assert out.shape == query.shape
        out.sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
    return max(parts.get("attention", 0) for parts in ledger.moments.values())


@pytest.mark.parametrize(
    ("capability", "options", "scores"),
    [
        (T4, {}, True),  # grouped heads: only torch's own composition takes them
        (T4, {"kv_heads": 4}, False),  # the memory-efficient kernel
        (T4, {"kv_heads": 4, "mask": True}, False),
        (A100, {}, False),  # flash
        (A100, {"mask": True}, True),  # flash takes no mask, and the others no groups
        (A100, {"mask": True, "kv_heads": 4}, False),
        (A100, {"dtype": torch.float32}, True),  # nor fp32
        (A100, {"width": 264}, True),  # nor wide heads
        (A100, {"dtype": torch.float32, "kv_heads": 4}, False),
        (A100, {"math": True, "kv_heads": 4}, True),  # pinned
    ],
)
def test_scores_are_made_where_no_fused_kernel_takes_the_call(capability, options, scores):
    assert (_attention(capability, **options) > 0) == scores


def test_under_autocast_attention_keeps_16_bit():
    query = torch.rand(1, 2, 64, 16, requires_grad=True)
    with as_on_cuda(T4), torch.autocast("cpu", HALF):
        assert functional.scaled_dot_product_attention(query, query, query).dtype == HALF


@pytest.mark.parametrize(
    ("capability", "width", "dtype", "takes"),
    [(T4, 64, torch.float16, False), (A100, 64, torch.float16, True), (A100, 512, torch.float16, False),
     (A100, 64, torch.float32, False)],
)  # fmt: skip
def test_our_attention_repeats_heads_where_the_kernel_needs_it(capability, width, dtype, takes):
    with as_on_cuda(capability):
        assert attention._flash_takes_groups(torch.empty(1, 1, 1, width, dtype=dtype)) == takes
        assert attention._takes_mask(torch.device("cpu"))


# --- backward ---------------------------------------------------------------------------------------------------------


def test_what_is_recomputed_in_backward_is_as_on_a_gpu_too():
    """torch's own `backward` is a call that takes the mode off."""
    seen = []

    def layer(x: torch.Tensor) -> torch.Tensor:
        out = functional.layer_norm(x.to(HALF), (8,))
        seen.append(out.dtype)
        return out.exp()  # it is computed again only as far as something is kept

    x = torch.rand(4, 8, requires_grad=True)
    with as_on_cuda(T4), torch.autocast("cpu", HALF):
        loss = checkpoint(layer, x, use_reentrant=False).sum()
        loss.backward()
    assert seen == [torch.float32, torch.float32]
    assert x.grad is not None


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_an_ordinary_backward(checkpointed):
    """Whatever `run_backward` is by this version of torch, it adds up the same gradients."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))

    def gradients(context: Any) -> list[torch.Tensor]:
        net.zero_grad()
        torch.manual_seed(1)
        x = torch.rand(4, 8)
        with context:
            for _ in range(2):  # they accumulate
                out = checkpoint(net, x, use_reentrant=False) if checkpointed else net(x)
                out.mean().backward()
        return [parameter.grad.clone() for parameter in net.parameters()]

    for ours, torchs in zip(gradients(as_on_cuda(T4)), gradients(torch.enable_grad()), strict=True):
        assert torch.equal(ours, torchs)


def test_the_graph_is_let_go_and_a_second_backward_is_refused():
    x = torch.rand(4, requires_grad=True)
    with as_on_cuda(T4):
        loss = (x * x).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


# --- everything is as before ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_everything_is_as_before_even_by_an_error(fails):
    before = torch.is_autocast_enabled, attention._takes_mask, attention._flash_takes_groups
    try:
        with as_on_cuda(A100):
            assert torch.is_autocast_enabled is not before[0]
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert (torch.is_autocast_enabled, attention._takes_mask, attention._flash_takes_groups) == before
    with torch.autocast("cpu", HALF):
        x = torch.rand(4, 8, dtype=HALF)
        assert (x**2).dtype == (torch.pow(x, 2)).dtype
        assert functional.silu(x).dtype == HALF
    query = torch.rand(1, 2, 8, 4)
    causal = functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert torch.equal(causal[0, 0, 0], query[0, 0, 0]), "numbers again: a first token sees itself alone"


def test_code_that_asks_whether_a_gpu_is_under_autocast_is_told_of_the_one_that_stands_for_it():
    with as_on_cuda(T4):
        assert not torch.is_autocast_enabled("cuda")
        with torch.autocast("cpu", HALF):
            assert torch.is_autocast_enabled()
            assert torch.is_autocast_enabled("cuda")
