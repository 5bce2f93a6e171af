"""Experts' products on tensors without numbers."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from colab_magics.training.tracing.experts import grouped_products

moe = pytest.importorskip("transformers.integrations.moe")
if not hasattr(functional, "grouped_mm"):
    pytest.skip("this torch has no grouped product", allow_module_level=True)


@pytest.mark.parametrize("capability", [(8, 0), None])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_any_dtype_is_multiplied_and_only_what_is_trained_gets_a_gradient(capability, dtype):
    with FakeTensorMode(), grouped_products(capability):
        tokens = torch.empty(6, 8, dtype=dtype, requires_grad=True)
        weight = torch.empty(4, 8, 16, dtype=dtype)
        out = functional.grouped_mm(tokens, weight, offs=torch.empty(4, dtype=torch.int32))
        assert (out.shape, out.dtype) == ((6, 16), dtype)
        out.sum().backward()
    assert tokens.grad.shape == tokens.shape
    assert weight.grad is None


def test_an_old_gpu_takes_transformers_own_composition():
    before = moe._can_use_grouped_mm
    with grouped_products((7, 5)):
        assert not moe._can_use_grouped_mm(None, None, None)
    assert moe._can_use_grouped_mm is before
