"""Which documents a step takes, and how they lie inside it.

The order of the samples is a function of the seed and the epoch alone, and each step takes exactly
`effective_batch` documents (the last step of an epoch takes what is left, as in transformers). Packing,
padding and the micro-batch only arrange the documents *inside* a step, so they can change between
attempts, or after an out-of-memory, without changing what is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Document = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


class Documents(Protocol):
    """What the loop needs of a data set: `documents[i]` is (tokens, trained), both of the same length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Document: ...


@dataclass(frozen=True)
class Order:
    """The samples of every step of a run, from the seed alone.

    Its generator is numpy's and is used for nothing else: dropout draws from torch's, so neither moves the other.
    """

    documents: int
    effective_batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, math.ceil(self.documents / self.effective_batch))

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.documents)

    def steps(self, start: int, stop: int, position: int | None = None) -> Iterator[tuple[int, list[int]]]:
        """Yield (step, sample ids) for `start <= step < stop`; steps count from 0.

        Parameters
        ----------
        position : int, optional
            Samples taken before `start`, where those steps were not all of this effective batch: what was taken is
            not taken again, and nothing is left out.
        """
        if position is None:
            position = self.position(start)
        epoch, permutation = -1, np.empty(0, np.int64)
        for step in range(start, stop):
            if position // self.documents != epoch:
                epoch = position // self.documents
                permutation = self.permutation(epoch)
            first = position % self.documents
            ids = permutation[first : first + self.effective_batch].tolist()
            position += len(ids)
            yield step, ids

    def position(self, step: int) -> int:
        """Samples taken before `step`, if all steps were of this effective batch."""
        inside = (step % self.steps_per_epoch) * self.effective_batch
        return self.epoch(step) * self.documents + min(inside, self.documents)

    def steps_from(self, position: int, end: int) -> int:
        """How many steps lead from one position to another, both in samples; the last one may go beyond `end`."""
        count = 0
        while position < end:
            left = self.documents - position % self.documents
            count += math.ceil(min(left, end - position) / self.effective_batch)
            position += left
        return count


@dataclass(frozen=True)
class Sample:
    """One document as the model sees it: what goes in, where something is predicted, and what.

    Tokens after the last trained one cannot change the loss of a causal model, and the last trained one is
    only ever predicted, so neither is fed.
    """

    id: int
    inputs: npt.NDArray[np.int32]
    where: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    tokens: int

    def __len__(self) -> int:
        return len(self.inputs)


def read_samples(documents: Documents, ids: Sequence[int]) -> list[Sample]:
    """The samples of one step; a document without a trained token gives none."""
    samples = []
    for id_ in ids:
        tokens, trained = documents[id_]
        predicted = np.flatnonzero(trained[1:]) + 1
        if len(predicted):
            end = int(predicted[-1])
            targets = tokens[predicted].astype(np.int64)
            samples.append(Sample(id_, np.asarray(tokens[:end]), predicted - 1, targets, len(tokens)))
    return samples


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward takes.

    `input_ids` is [rows, width]; `where` [n] indexes the flattened rows x width positions that predict `targets` [n].
    `packed` holds the documents' lengths when they share one row, and is None when each has its own.
    """

    ids: tuple[int, ...]
    lengths: tuple[int, ...]
    input_ids: torch.Tensor
    where: torch.Tensor
    targets: torch.Tensor
    position_ids: torch.Tensor | None

    @property
    def packed(self) -> tuple[int, ...] | None:
        return None if self.position_ids is None else self.lengths


def group(samples: Sequence[Sample], micro_batch: int, token_budget: int | None, *, packed: bool) -> list[list[Sample]]:
    """Split a step's samples into micro-batches at document boundaries, the longest first.

    Longest first, so that a micro-batch which does not fit is met before any work is done, and so that the
    documents of one micro-batch are of nearly one length. `token_budget` bounds what a micro-batch of more than one
    document feeds (its padding included).
    """
    ordered = sorted(samples, key=lambda sample: (-len(sample), sample.id))
    groups: list[list[Sample]] = []
    fed = 0
    for sample in ordered:
        grown = fed + len(sample) if packed else (len(groups[-1]) + 1) * len(groups[-1][0]) if groups else 0
        full = not groups or len(groups[-1]) == micro_batch or (token_budget is not None and grown > token_budget)
        if full:
            groups.append([])
            fed = 0
        groups[-1].append(sample)
        fed += len(sample)
    return groups


def tokens_at_once(samples: Sequence[Sample], *, packed: bool) -> int:
    """What one micro-batch feeds, its padding included."""
    lengths = [len(sample) for sample in samples]
    return sum(lengths) if packed else len(lengths) * max(lengths, default=0)


def collate(samples: Sequence[Sample], device: torch.device, *, packed: bool) -> MicroBatch:
    """Lay samples into one row (packed) or one row each (padded on the right).

    Padded rows carry no attention mask: under causal attention no real token ever sees what is to its right,
    and nothing is predicted there. So the padding value is of no account.
    """
    lengths = [len(sample) for sample in samples]
    if packed:
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        flat = np.concatenate([sample.inputs for sample in samples]).astype(np.int64)[None, :]
        positions = np.concatenate([np.arange(length) for length in lengths])[None, :]
    else:
        width = max(lengths)
        starts = np.arange(len(samples)) * width
        flat = np.zeros((len(samples), width), np.int64)
        for row, sample in zip(flat, samples, strict=True):
            row[: len(sample)] = sample.inputs
        positions = None
    where = np.concatenate([sample.where + start for sample, start in zip(samples, starts, strict=True)])
    targets = np.concatenate([sample.targets for sample in samples])

    def on_device(array: npt.NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    return MicroBatch(
        ids=tuple(sample.id for sample in samples),
        lengths=tuple(lengths),
        input_ids=on_device(flat),
        where=on_device(where),
        targets=on_device(targets),
        position_ids=None if positions is None else on_device(positions),
    )
