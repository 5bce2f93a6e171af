"""`%vram estimate net --batch x` against what torch's CPU allocator gives out, for modules that are no language model.

Each is trained for real: a forward and backward, a step, and again with the gradients kept, which is what is traced.
The peak of the second is taken from the profiler's memory events, on top of weights, states, gradients and batch.
CUDA's default updates all weights at once. Convolutions are measured with oneDNN's kernels and without.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from allocator import memory_events
from cases import table
from torch import nn
from torch.profiler import ProfilerActivity, profile

from colab_magics.training.tracing.module import Step, bytes_of, trace_module

BAR = 0.05
_MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A module, what goes in, and how it is updated."""

    name: str
    module: Callable[[], nn.Module]
    batch: Callable[[], Any]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    onednn: bool = True


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5000, 256)
        layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(256, 5000)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.words(ids)))  # type: ignore[no-any-return]


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Dropout(0.1), nn.Linear(4096, 1024))


def _convolutions() -> nn.Module:
    widths = ((3, 32), (32, 32), (32, 64))
    blocks = [(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in widths]
    return nn.Sequential(
        *(one for block in blocks for one in block), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def _wide() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 64, 7, padding=3, stride=2), nn.ReLU())


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inner = kind(256, 512, num_layers=2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0]  # type: ignore[no-any-return]


def cases() -> Iterator[Case]:
    """Without workspaces first: the bar is theirs."""
    for foreach in (False, True):
        how = "all weights at once" if foreach else "one weight after the other"
        yield Case(
            f"a linear layer, AdamW, {how}",
            lambda: nn.Linear(4000, 4000),
            lambda: torch.rand(8, 4000),
            lambda weights, foreach=foreach: torch.optim.AdamW(weights, foreach=foreach),
        )
    yield Case("two linear layers, GELU, dropout, Adam", _perceptron, lambda: torch.rand(256, 1024), torch.optim.Adam)
    yield Case("an encoder of 4 layers, AdamW", _Encoder, lambda: torch.randint(0, 5000, (8, 128)), torch.optim.AdamW)
    yield Case(
        "a GRU of 2 layers, Adam", lambda: _Recurrent(nn.GRU), lambda: torch.rand(16, 200, 256), torch.optim.Adam
    )
    for onednn in (True, False):
        yield Case(
            f"convolutions with batch norms, SGD with momentum, {'with' if onednn else 'without'} oneDNN",
            _convolutions,
            lambda: torch.rand(8, 3, 224, 224),
            lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
            onednn,
        )
    yield Case("one convolution, 7 × 7, SGD", _wide, lambda: torch.rand(8, 3, 224, 224), torch.optim.SGD, onednn=False)
    yield Case(
        "an LSTM of 2 layers, Adam", lambda: _Recurrent(nn.LSTM), lambda: torch.rand(16, 200, 256), torch.optim.Adam
    )


def traced(case: Case) -> tuple[int, tuple[str, ...]]:
    """The peak of the trace, and what has workspaces."""
    module = case.module()
    found = trace_module(Step(module, case.batch(), case.optimizer(module.parameters())), None)
    return max(sum(parts.values()) for parts in found.moments.values()), found.workspaces


def measured(case: Case) -> int:
    """The peak of the same two steps, done."""
    module, batch = case.module(), case.batch()
    optimizer = case.optimizer(module.parameters())

    def step() -> None:
        module(batch).sum().backward()
        optimizer.step()

    step()
    weights = list(module.parameters())
    held = bytes_of(
        weights, list(module.buffers()), [one.grad for one in weights], list(optimizer.state.values()), batch
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    live = highest = held
    for event in memory_events(profiled):
        live += event
        highest = max(highest, live)
    return highest


def main() -> int:
    """Print the table; 1 where the bar is missed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, missed = [], []
    for case in cases():
        with torch.backends.mkldnn.flags(enabled=case.onednn):
            foretold, workspaces = traced(case)
            peak = measured(case)
        error = foretold / peak - 1
        if not workspaces and abs(error) > BAR:
            missed.append(case.name)
        apart = f"apart, {' and '.join(workspaces)}" if workspaces else "missed" if case.name in missed else "met"
        rows.append((case.name, f"{foretold / _MIB:.1f}", f"{peak / _MIB:.1f}", f"{error:+.1%}", apart))
    print(table(("module and optimizer", "traced, MiB", "measured, MiB", "error", "bar"), rows))
    print(f"\nbar: at most {BAR:.0%}: {'missed by ' + ', '.join(missed) if missed else 'met'}")
    return 1 if missed else 0
