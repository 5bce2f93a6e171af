"""What one training step of any torch module takes: its own code on fake tensors, in the process that has it.

The module is not changed and not copied: its weights are exchanged for fake ones for the length of one call, and what
its code notes in attributes is put back as it was.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

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
Stage = Literal["forward", "loss", "backward", "optimizer"]
# operations that take memory for themselves while they run, which no tensor shows
_WORKSPACES = {"convolution": "convolutions", "rnn": "recurrent layers", "_fft_": "Fourier transforms"}


class Failed(Exception):
    """The user's code, or torch's under it, has raised: `stage` is where, and `error` what."""

    def __init__(self, stage: Stage, error: Exception) -> None:
        super().__init__(stage)
        self.stage: Stage = stage
        self.error = error


@dataclass(frozen=True)
class Traced:
    """The parts at the highest point of each moment, and what has run that takes a workspace of its own."""

    moments: dict[str, Parts]
    workspaces: tuple[str, ...] = ()


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


def trace_module(step: Step, capability: tuple[int, int] | None) -> Traced:
    """The second step: with states, and gradients of the first.

    Parameters
    ----------
    capability : of the GPU that is meant; None for a CPU

    Raises
    ------
    Failed
        Something has raised; the module is as it was then, too.
    """
    ledger = Ledger()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_quiet())
        stack.enter_context(_as_it_was(step.module))
        fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(ledger)
        if capability is not None:
            stack.enter_context(as_on_cuda(capability))
            # a CPU's fused LSTM shows nothing of what it keeps; step by step it is seen
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # type: ignore[no-untyped-call]
        with ledger.part("weights"):
            tensors = _fake_tensors(step.module)
        trained = [tensor for tensor in tensors.values() if isinstance(tensor, nn.Parameter) and tensor.requires_grad]
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(ledger.take_gradient)
        with ledger.part("batch"):
            batch = tree_map(lambda leaf: _fake(leaf) if isinstance(leaf, torch.Tensor) else leaf, step.batch)
        assert fake is not None
        with _stage("optimizer"):
            optimizer = _optimizer(step, tensors, trained, on_cuda=capability is not None)
        for again in (False, True):
            _run(step, tensors, batch, ledger)
            # the first makes the states beside what it needs for a moment; of the second that is told apart
            ledger.enter("step")
            ledger.at("optimizer" if again else "before")
            with _stage("optimizer"):
                optimizer.step()
            for state in tree_leaves([dict(states) for states in optimizer.state.values()]):
                if isinstance(state, torch.Tensor):
                    ledger.take(state, "optimizer")
    moments = {name: parts for name, parts in ledger.moments.items() if name != "before"}
    used = [name for word, name in _WORKSPACES.items() if any(word in one for one in ledger.ran)]
    if capability is not None and any(isinstance(one, nn.RNNBase) for one in step.module.modules()):
        used.append("recurrent layers")  # which are cuDNN's there, and were traced step by step
    return Traced(moments, tuple(dict.fromkeys(used)))


@contextmanager
def _stage(stage: Stage) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the user's code may raise anything on tensors without numbers
        raise Failed(stage, error) from None


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Put back what forward notes in the modules' attributes: it has run without a step of the user's."""
    before = [(inside, dict(vars(inside))) for inside in module.modules()]
    noted = [one for _, held in before for one in held.values() if type(one) in (list, dict, set)]
    copies = [one.copy() for one in noted]
    try:
        yield
    finally:
        for inside, held in before:
            vars(inside).clear()
            vars(inside).update(held)
        for one, copy in zip(noted, copies, strict=True):
            one.clear()
            one.extend(copy) if type(one) is list else one.update(copy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own log of what it cannot tell of a fake tensor, and what forward prints of such."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
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
        with _stage("forward"):
            out = functional_call(step.module, dict(tensors), args, keywords)
        with _stage("loss"):
            loss = _loss(step, out, batch)
        del out
    ledger.at("backward")
    with _stage("backward"):
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


def _optimizer(
    step: Step, tensors: Mapping[str, torch.Tensor], trained: list[nn.Parameter], *, on_cuda: bool
) -> torch.optim.Optimizer:
    """One of the same kind over the fake weights, in the same groups; on CUDA with the step that it takes there.

    Where neither way was chosen, torch updates all weights at once on a GPU, and holds temporaries of all of them.
    """
    made = _like(step, tensors, trained)
    for group in made.param_groups if on_cuda else ():
        if "foreach" in group and group["foreach"] is None and not group.get("fused"):
            group["foreach"] = not group.get("differentiable")
    return made


def _like(step: Step, tensors: Mapping[str, torch.Tensor], trained: list[nn.Parameter]) -> torch.optim.Optimizer:
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
    return type(step.optimizer)(groups)  # type: ignore[no-any-return]
