"""What one training step of any torch module takes: its own code on fake tensors, in the process that has it.

The module is not changed and not copied: its weights are exchanged for fake ones for the length of one call.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from colab_magics.training.tracing.cuda import as_on_cuda
from colab_magics.training.tracing.ledger import STEP, Ledger, Parts

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@dataclass(frozen=True)
class Step:
    """What is traced.

    Attributes
    ----------
    batch : Any
        What the module is called with: a tensor, a tuple of arguments, or a dict of keywords.
    optimizer : torch.optim.Optimizer or str
        One over the module's weights, or a name of `OPTIMIZERS`.
    loss : callable, optional
        Called as loss(output, batch); without it the output's own `loss`, else the sum of its first tensor.
    autocast : torch.dtype, optional
        Under which the forward runs.
    """

    module: nn.Module
    batch: Any
    optimizer: Any = "adamw"
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    autocast: torch.dtype | None = None


def trace_module(step: Step, capability: tuple[int, int] | None) -> dict[str, Parts]:
    """The parts at the highest point of each moment of the second step: with states, and gradients of the first.

    Parameters
    ----------
    capability : of the GPU that is meant; None for a CPU
    """
    ledger = Ledger()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_quiet())
        fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(ledger)
        if capability is not None:
            stack.enter_context(as_on_cuda(capability))
        with ledger.part("weights"):
            tensors = _fake_tensors(step.module)
        trained = [tensor for tensor in tensors.values() if isinstance(tensor, nn.Parameter) and tensor.requires_grad]
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(ledger.take_gradient)
        with ledger.part("batch"):
            batch = tree_map(lambda leaf: _fake(leaf) if isinstance(leaf, torch.Tensor) else leaf, step.batch)
        assert fake is not None
        optimizer = _optimizer(step, tensors, trained)
        for again in (False, True):
            _run(step, tensors, batch, ledger)
            if not again:
                ledger.enter("optimizer")
                ledger.at("optimizer")
                optimizer.step()
                ledger.enter("activations")
    return {name: parts for name, parts in ledger.moments.items() if name != "before"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own log of what it cannot tell of a fake tensor: whoever traces says it in a sentence."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def bytes_of(*values: Any) -> int:
    """Bytes of the tensors in some values, each storage once."""
    storages = {
        leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes()
        for leaf in tree_leaves(values)
        if isinstance(leaf, torch.Tensor)
    }
    return sum(-(-size // STEP) * STEP for size in storages.values())


def _run(step: Step, tensors: Mapping[str, torch.Tensor], batch: Any, ledger: Ledger) -> None:
    ledger.enter("activations")
    ledger.at("forward")
    with torch.autocast("cpu", step.autocast or torch.bfloat16, enabled=step.autocast is not None):
        args, keywords = _arguments(batch)
        out = functional_call(step.module, dict(tensors), args, keywords)
        loss = _loss(step, out, batch)
        del out
    ledger.at("backward")
    loss.backward()  # type: ignore[no-untyped-call]


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch), {}) if isinstance(batch, tuple | list) else ((batch,), {})


def _loss(step: Step, out: Any, batch: Any) -> torch.Tensor:
    if step.loss is not None:
        return step.loss(out, batch)
    own = out.get("loss") if isinstance(out, Mapping) else getattr(out, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    floats = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not floats:
        raise ValueError("nothing that the module returns depends on its weights")
    return floats[0].sum()


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of that shape and type on the CPU, whatever device it is on."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return made.requires_grad_() if tensor.requires_grad and tensor.is_leaf else made


def _fake_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Fake weights and buffers by name; what the module shares is shared."""
    made: dict[int, torch.Tensor] = {}
    named: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) not in made:
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
            made[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        named[name] = made[id(parameter)]
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if id(buffer) not in made:
            made[id(buffer)] = _fake(buffer)
        named[name] = made[id(buffer)]
    return named


def _optimizer(step: Step, tensors: Mapping[str, torch.Tensor], trained: list[nn.Parameter]) -> Any:
    """One of the same kind over the fake weights, in the same groups."""
    if isinstance(step.optimizer, str):
        return OPTIMIZERS[step.optimizer](trained)
    real = {id(parameter): name for name, parameter in step.module.named_parameters()}
    groups = []
    for group in step.optimizer.param_groups:
        fakes = [tensors[real[id(parameter)]] for parameter in group["params"] if id(parameter) in real]
        if fakes:
            groups.append({**{key: value for key, value in group.items() if key != "params"}, "params": fakes})
    if not groups:
        raise ValueError("the optimizer has none of the module's weights")
    return type(step.optimizer)(groups)
