"""The stand-in for bitsandbytes' layer has the memory of a real one, and lets gradients through."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from conftest import tiny_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from colab_magics.training.tracing import four_bit
from colab_magics.training.tracing.four_bit import FourBit, put_in
from colab_magics.training.tracing.ledger import STEP, Ledger

pytestmark = pytest.mark.colab


def _rounded(tensor: torch.Tensor) -> int:
    return -(-tensor.untyped_storage().nbytes() // STEP) * STEP


def _of_real(inputs: int, outputs: int) -> int:
    """Bytes of a layer that bitsandbytes has really packed, on the CPU."""
    weight = bitsandbytes.nn.Params4bit(
        torch.randn(outputs, inputs, dtype=torch.float16), requires_grad=False, quant_type="nf4"
    ).to("cpu")
    state = weight.quant_state
    assert state.nested
    tensors = [weight.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum(map(_rounded, tensors))


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 64), (256, 704), (1024, 3072), (2048, 512), (96, 40), (768, 2304)]
)
def test_it_takes_what_a_packed_layer_of_bitsandbytes_takes(inputs, outputs):
    layer = FourBit(nn.Linear(inputs, outputs, bias=False, device="meta"), torch.float16)
    stood_in = sum(map(_rounded, [layer.weight, *layer.buffers()]))
    assert stood_in == _of_real(inputs, outputs)


def test_a_conv1d_is_read_the_other_way_around():
    with torch.device("meta"):
        layer = FourBit(Conv1D(48, 16), torch.bfloat16)
    assert (layer.in_features, layer.out_features) == (16, 48)
    assert layer.bias.dtype == torch.bfloat16
    assert layer.weight.numel() == 16 * 48 // 2


def _fake(layer: FourBit) -> None:
    for name, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
        if tensor is not None:
            made = torch.empty(tensor.shape, dtype=tensor.dtype)
            holder = layer._parameters if name in layer._parameters else layer._buffers
            holder[name] = nn.Parameter(made, requires_grad=False) if holder is layer._parameters else made


@pytest.fixture
def ledger(monkeypatch):
    ledger = Ledger()
    monkeypatch.setattr(FourBit, "ledger", ledger)
    return ledger


def test_gradients_go_through_and_the_weight_is_there_only_for_a_moment(ledger):
    layer = FourBit(nn.Linear(128, 256, device="meta"), torch.float16)
    with FakeTensorMode(), ledger:
        _fake(layer)
        x = torch.empty(2, 8, 128, dtype=torch.float16, requires_grad=True)
        out = layer(x)
        assert out.shape == (2, 8, 256)
        assert ledger.live["dequantised"] == 0
        assert ledger.moments["before"]["dequantised"] >= 128 * 256 * 2 + 128 * 256 // 64 * 4
        ledger.at("backward")
        out.sum().backward()
        assert x.grad.shape == x.shape
        assert ledger.moments["backward"]["dequantised"] >= 128 * 256 * 2
        assert ledger.live["dequantised"] == 0
        assert layer.weight.grad is None


def test_the_input_is_not_kept(ledger):
    """bitsandbytes needs only the weight for backward, which is frozen (bitsandbytes-foundation pull request 1270)."""
    layer = FourBit(nn.Linear(64, 64, bias=False, device="meta"), torch.float16)
    with FakeTensorMode(), ledger:
        _fake(layer)
        x = torch.empty(1024, 64, dtype=torch.float16, requires_grad=True)
        before = ledger.total
        out = layer(x * 1)
        assert ledger.total - before == 1024 * 64 * 2, "the product's output alone"
        del out


def test_the_output_has_the_dtype_of_the_input(ledger):
    layer = FourBit(nn.Linear(64, 32, device="meta"), torch.float16)
    with FakeTensorMode(), ledger:
        _fake(layer)
        assert layer(torch.empty(3, 64)).dtype == torch.float32


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_all_linears_but_the_head_are_exchanged_and_peft_takes_them_for_4_bit_layers(model_type):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.bnb import Linear4bit as Adapted

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(model_type))
        put_in(model, torch.float16)
        model.is_loaded_in_4bit = True
        left = [name for name, one in model.named_modules() if type(one) in (nn.Linear, Conv1D)]
        assert left == ["lm_head"]
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    layers = [one for one in adapted.modules() if isinstance(one, Adapted)]
    assert (
        len(layers)
        == sum(isinstance(one, FourBit) for one in adapted.modules())
        == (14 if model_type == "qwen3" else 8)
    )


def test_what_a_checkpoint_has_left_in_16_bit_stays_so():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config())
        put_in(model, torch.float16, ["lm_head", "mlp.down_proj", "model.layers.1.self_attn", "q_proj"])
    exchanged = {name for name, one in model.named_modules() if isinstance(one, FourBit)}
    assert not any(name.endswith(("down_proj", "q_proj")) or "layers.1.self_attn" in name for name in exchanged)
    assert "model.layers.0.self_attn.k_proj" in exchanged
    assert "model.layers.1.mlp.up_proj" in exchanged
    assert len(exchanged) == 3 + 2 + 2


def test_no_ledger_is_left_behind():
    assert four_bit.FourBit.ledger is None
