"""A training like ours on fake tensors: the real model code, adapters, loss and optimizer, a few layers of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from colab_magics.plan import Setup
from colab_magics.recipe import Recipe
from colab_magics.training import attention
from colab_magics.training.attention import packed_documents
from colab_magics.training.batches import MicroBatch, Sample, collate
from colab_magics.training.layers import layer_count, with_layers
from colab_magics.training.loss import HeadLoss, HiddenLoss, Loss
from colab_magics.training.model import DTYPES, causal_lm, set_gradient_checkpointing, with_adapter
from colab_magics.training.optim import build_optimizer
from colab_magics.training.tracing import four_bit, peers
from colab_magics.training.tracing.cuda import as_on_cuda
from colab_magics.training.tracing.experts import grouped_products
from colab_magics.training.tracing.ledger import Ledger, Parts

# bytes a trained fp32 weight that bitsandbytes' 8-bit states take, with a scale for each 256; smaller tensors stay fp32
_EIGHT_BIT = ("adamw_8bit", "paged_adamw_8bit")
_PAGED = ("paged_adamw_8bit", "paged_adamw_32bit")
_LEAST_8BIT, _LEAST_PAGED = 4096, 100_000


@dataclass(frozen=True)
class Case:
    """What is traced.

    Attributes
    ----------
    config : Any
        A transformers config.
    attention : str
        The implementation that the model is given: ours, `sdpa` or `eager`.
    kind, capability : str, tuple of int
        The device that is meant.
    """

    config: Any
    recipe: Recipe
    setup: Setup
    attention: str = attention.NAME
    kind: str = "cuda"
    capability: tuple[int, int] | None = (7, 5)


def trace(case: Case, layers: Sequence[int]) -> dict[str, Parts]:
    """The parts at the highest point of each moment, with only these layers of the model.

    A step with gradients of earlier micro-batches and the optimizer's states at hand: what every step but the first
    meets.
    """
    setup = case.setup
    config = _without_quantisation(with_layers(case.config, layers))
    rows = 1 if setup.packed else setup.documents
    length = setup.documents * setup.length if setup.packed else setup.length
    ledger = Ledger(_score_shapes(config, rows, length))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _model(case, config)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake, ledger, four_bit.counted_by(ledger):
            _make_fake(model, ledger)
            model.train()
            set_gradient_checkpointing(model, setup.gradient_checkpointing)
            batch = _batch(fake, setup)
            for tensor in (batch.input_ids, batch.where, batch.targets):
                ledger.take(tensor, "activations")
            optimizer = _optimizer(case, model)
            with _as_on(case), _moments(model, ledger):
                for again in (False, True):
                    _micro_batch(case, model, batch, ledger)
                    if not again:
                        _update(case, model, optimizer, ledger)
    return {name: parts for name, parts in ledger.moments.items() if name != "before"}


@contextmanager
def _as_on(case: Case) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(grouped_products(case.capability if case.kind == "cuda" else None))
        if case.attention == "sdpa" and not case.setup.packed:
            stack.enter_context(_no_packing_is_looked_for())
        if case.kind == "cuda":
            assert case.capability is not None
            # the library's own attention is handed on as it comes: with a mask it takes another kernel than without
            pinned = case.setup.attention == "math" and case.attention != "sdpa"
            stack.enter_context(as_on_cuda(case.capability, math=pinned))
        yield


@contextmanager
def _no_packing_is_looked_for() -> Iterator[None]:
    """transformers reads from the positions whether a row has several documents; of positions without numbers it
    takes that for granted, and makes a mask with which another kernel is taken."""
    from transformers import masking_utils

    found = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda *_, **__: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = found


def _score_shapes(config: Any, rows: int, length: int) -> set[tuple[int, ...]]:
    """Shapes of attention scores, in one or two dimensions of heads, and of masks, whose rows are aligned to 8."""
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", 0) or 1)
    widths = {length, -(-length // 8) * 8}
    shapes: set[tuple[int, ...]] = {(rows, heads, length, length)}
    shapes |= {(one, 1, length, width) for one in (1, rows) for width in widths}
    if rows * heads > 1:
        shapes.add((rows * heads, length, length))
    if length != text.hidden_size:
        shapes |= {(length, width) for width in widths}
    return shapes


def _without_quantisation(config: Any) -> Any:
    if getattr(config, "quantization_config", None) is not None:
        config.quantization_config = None
        del config.quantization_config
    return config


def _skipped(config: Any) -> list[str]:
    """The layers that a pre-quantised checkpoint has left in 16 bit."""
    found = getattr(config, "quantization_config", None)
    fields = found if isinstance(found, dict) or found is None else found.to_dict()
    return list((fields or {}).get("llm_int8_skip_modules") or [])


def _model(case: Case, config: Any) -> nn.Module:
    """The model on the meta device, as `load_model` makes it."""
    from transformers import AutoModelForCausalLM

    attention.register()
    full = case.setup.method == "full"
    dtype = torch.float32 if full else DTYPES[case.setup.precision]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=case.attention,
            trust_remote_code=case.recipe.trust_remote_code,
        )
        if full:
            return model  # type: ignore[no-any-return]
        if case.setup.method == "qlora":
            four_bit.put_in(model, dtype, _skipped(case.config))
            model.is_loaded_in_4bit = True
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        adapted = with_adapter(model, case.recipe)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32 if case.setup.adapter_bytes == 4 else torch.bfloat16)
    return adapted


def _make_fake(model: nn.Module, ledger: Ledger) -> None:
    """Exchange every weight and buffer for a fake one on the CPU; what was shared stays shared."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with ledger.part("weights"):
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in list(tensors.items()):
                    if tensor is None:
                        continue
                    if id(tensor) not in made:
                        fake: torch.Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                        if isinstance(tensor, nn.Parameter):
                            fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                        made[id(tensor)] = (tensor, fake)
                    tensors[name] = made[id(tensor)][1]  # type: ignore[assignment]
    if hasattr(model, "peft_config"):
        for parameter in model.parameters():
            if parameter.requires_grad:
                ledger.take(parameter, "adapters")

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(ledger.take_gradient)


def _batch(fake: FakeTensorMode, setup: Setup) -> MicroBatch:
    """Documents of equal length in which every token is trained."""
    ids = np.zeros(setup.length, np.int32)
    where = np.arange(setup.length, dtype=np.int64)
    samples = [Sample(i, ids, where, np.zeros(setup.length, np.int64), setup.length) for i in range(setup.documents)]
    batch = collate(samples, torch.device("cpu"), packed=setup.packed)
    names = ("input_ids", "where", "targets", "position_ids")
    tensors = {name: tensor for name in names if (tensor := getattr(batch, name)) is not None}
    return replace(batch, **{name: fake.from_tensor(tensor) for name, tensor in tensors.items()})


@contextmanager
def _moments(model: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Tell the ledger which layer is at work, forward and backward."""
    lm = causal_lm(model)
    layers = layers_of(lm)
    last = len(layers) - 1
    state = {"forward": True}

    def name(index: int) -> str:
        return "first" if index == 0 else "last" if index == last else "middle"

    def before(index: int) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            if state["forward"]:
                ledger.enter("activations")
                ledger.at(f"forward, {name(index)} layer")

        return hook

    def after(index: int) -> Any:
        def hook(_module: nn.Module, _args: Any, out: Any) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            if state["forward"]:
                if index == last:
                    ledger.enter("head")
                    ledger.at("head")
                if hidden.requires_grad:
                    hidden.register_hook(lambda _: begin_backward(index))

        return hook

    def begin_backward(index: int) -> None:
        state["forward"] = False
        ledger.enter("activations")
        ledger.at(f"backward, {name(index)} layer")

    def forward_again(_module: nn.Module, _args: Any) -> None:
        state["forward"] = True

    handles = [lm.register_forward_pre_hook(forward_again)]
    body = getattr(lm, lm.base_model_prefix)
    handles.append(body.register_forward_pre_hook(forward_again))
    for index, layer in enumerate(layers):
        handles += [layer.register_forward_pre_hook(before(index)), layer.register_forward_hook(after(index))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_of(lm: nn.Module) -> nn.ModuleList:
    """The list of a model's layers: the first that is as long as its config says."""
    count = layer_count(lm.config.get_text_config())  # type: ignore[union-attr,operator]
    return next(module for module in lm.modules() if isinstance(module, nn.ModuleList) and len(module) == count)


def _micro_batch(case: Case, model: nn.Module, batch: MicroBatch, ledger: Ledger) -> None:
    """Forward and backward, as the loop's `micro_batch_gradients`; the scale of fp16 is one number more."""
    lm = causal_lm(model)
    dtype = DTYPES[case.setup.precision]
    loss: Loss
    if case.setup.loss in ("trl", "logits"):
        loss = peers.LOSSES[case.setup.loss](lm, ledger)
    elif case.setup.loss == "hidden" and type(lm.get_output_embeddings()) is nn.Linear:  # type: ignore[operator]
        loss = HiddenLoss(lm, case.setup.loss_chunk, dtype)
    else:
        loss = HeadLoss(lm, case.setup.loss_chunk)
    ledger.enter("activations")
    with packed_documents(batch.packed):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            total = loss(batch) / len(batch.targets)
        total.backward()
    attention.forget_masks()
    ledger.at("between")


def _optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer | None:
    """torch's own; bitsandbytes' has states whose size is known."""
    if case.setup.optim in (*_EIGHT_BIT, *_PAGED):
        return None
    return build_optimizer(model, case.recipe, case.setup.optim, 1e-4)


def _update(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer | None, ledger: Ledger) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ledger.enter("optimizer")
    ledger.at("optimizer")
    nn.utils.clip_grad_norm_(trained, 1.0)
    if optimizer is not None:
        optimizer.step()
        case_states = optimizer.state
    else:
        case_states = _bitsandbytes_states(case.setup.optim, trained)
    model._states = case_states  # type: ignore[assignment]
    ledger.at("between")


def _bitsandbytes_states(optim: str, trained: list[nn.Parameter]) -> Any:
    """Two states a weight; paged ones are the driver's to place, and leave the card when it is full."""
    states = []
    for parameter in trained:
        number = parameter.numel()
        if optim in _PAGED and number >= _LEAST_PAGED:
            continue
        small = optim not in _EIGHT_BIT or number < _LEAST_8BIT
        for _ in range(2):
            states.append(torch.empty(number, dtype=torch.float32 if small else torch.uint8))
            if not small:
                states.append(torch.empty(-(-number // 256), dtype=torch.float32))
    return states
