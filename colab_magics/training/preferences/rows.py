"""Judged answers as the tensors that TRL's trainers read, from our own tokens.

TRL would tokenise the texts itself, with another template, clock and truncation than the preflight has shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from colab_magics.data import Documents
from colab_magics.data.tokenise import Tokens, Trained

Batch = Mapping[str, Any]
Answer = tuple[Tokens, Trained]
_NOT_TRAINED = -100


@dataclass(frozen=True)
class Rows:
    """The samples of one split, as batches of one trainer.

    Parameters
    ----------
    documents : prepared for that trainer's objective
    read : the batch of so many samples
    """

    documents: Documents
    read: Callable[[Documents, Sequence[int]], Batch]

    def __len__(self) -> int:
        return len(self.documents.samples)

    def batch(self, samples: Sequence[int]) -> Batch:
        """What one forward and backward takes."""
        return self.read(self.documents, samples)

    def tokens(self, samples: Sequence[int]) -> list[int]:
        """Of each sample, the tokens of all its answers with their prompts."""
        together = self.documents.together
        return [int(self.documents.lengths[one * together : (one + 1) * together].sum()) for one in samples]

    def padded(self, samples: Sequence[int]) -> int:
        """The tokens that a batch of these samples holds, its padding included."""
        longest = max((int(self.documents.samples[one]) for one in samples), default=0)
        return longest * len(samples) * self.documents.together


def rows_for(trainer: Any, objective: str) -> Callable[[Documents, Sequence[int]], Batch]:
    """How the installed trainer wants its batches."""
    if objective == "orpo":
        return orpo_batch
    if objective == "dpo":
        return dpo_batch
    # the KTO that TRL has since 1.0 reads masks; the one before read labels, and had a function to score them
    swaps = bool(trainer.calculate_KL)
    if hasattr(trainer, "get_batch_logps"):
        return lambda documents, samples: kto_batch_with_labels(documents, samples, swaps=swaps)
    return lambda documents, samples: kto_batch(documents, samples, swaps=swaps)


def dpo_batch(documents: Documents, samples: Sequence[int]) -> Batch:
    """Preferred answers first, then the rejected ones: [2 x samples, width] each."""
    answers = [documents[2 * one] for one in samples] + [documents[2 * one + 1] for one in samples]
    return _masked(answers)


def orpo_batch(documents: Documents, samples: Sequence[int]) -> Batch:
    """The two sides apart, each with labels: [samples, width]."""
    sides = {side: [documents[2 * one + place] for one in samples] for place, side in enumerate(("chosen", "rejected"))}
    return {f"{side}_{key}": value for side, answers in sides.items() for key, value in _labelled(answers).items()}


def kto_batch(documents: Documents, samples: Sequence[int], *, swaps: bool) -> Batch:
    """One answer a sample, its judgement, and where the loss has a KL term, the prompts with each other's answers."""
    answers = [documents[one] for one in samples]
    batch: dict[str, Any] = dict(_masked(answers))
    if swaps:
        batch |= {f"KL_{key}": value for key, value in _masked(_swapped(documents, samples, answers)).items()}
    batch["label"] = torch.from_numpy(_judgements(documents, samples))
    return batch


def kto_batch_with_labels(documents: Documents, samples: Sequence[int], *, swaps: bool) -> Batch:
    """The same for the trainer of TRL before 1.0."""
    answers = [documents[one] for one in samples]
    batch: dict[str, Any] = {f"completion_{key}": value for key, value in _labelled(answers).items()}
    if swaps:
        swapped = _labelled(_swapped(documents, samples, answers))
        batch |= {f"KL_completion_{key}": value for key, value in swapped.items()}
    batch["label"] = _judgements(documents, samples).tolist()
    return batch


def _judgements(documents: Documents, samples: Sequence[int]) -> Any:
    assert documents.desirable is not None
    return np.asarray(documents.desirable)[list(samples)]


def _swapped(documents: Documents, samples: Sequence[int], answers: Sequence[Answer]) -> list[Answer]:
    """Each prompt with the answer of the sample before it, as TRL pairs them inside a micro-batch.

    A sample that is alone (at the end of an epoch) gets the answer of another row: its own would make the KL term the
    very reward that it is to be compared with.
    """
    others = [answers[-1], *answers[:-1]]
    if len(answers) == 1:
        others = [documents[(samples[0] + 1) % len(documents)]]
    made = []
    for (asked, own), (said, judged) in zip(answers, others, strict=True):
        prompt, first = asked[: _first(own)], _first(judged)
        tokens = np.concatenate([prompt, said[first:]])[: documents.max_length]
        mask = np.concatenate([np.zeros(len(prompt), np.bool_), judged[first:]])[: documents.max_length]
        made.append((tokens, mask))
    return made


def _first(trained: Trained) -> int:
    return int(trained.argmax())


def _masked(answers: Sequence[Answer]) -> dict[str, torch.Tensor]:
    ids, seen, trained = _padded(answers)
    return {"input_ids": ids, "attention_mask": seen, "completion_mask": trained}


def _labelled(answers: Sequence[Answer]) -> dict[str, torch.Tensor]:
    ids, seen, trained = _padded(answers)
    return {"input_ids": ids, "attention_mask": seen, "labels": ids.masked_fill(trained == 0, _NOT_TRAINED)}


def _padded(answers: Sequence[Answer]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, which of them are there, and which are trained: int64[answers, width], padded on the right."""
    width = max(len(tokens) for tokens, _ in answers)
    ids, seen, trained = (np.zeros((len(answers), width), np.int64) for _ in range(3))
    for row, (tokens, mask) in enumerate(answers):
        ids[row, : len(tokens)] = tokens
        seen[row, : len(tokens)] = 1
        trained[row, : len(tokens)] = mask
    return torch.from_numpy(ids), torch.from_numpy(seen), torch.from_numpy(trained)
