"""How the documents of a step lie in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import documents

from colab_magics.training.batches import collate, group, read_samples

CPU = torch.device("cpu")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("micro_batch", "budget"), [(1, None), (4, None), (16, None), (16, 60), (3, 100)])
def test_every_document_is_in_exactly_one_micro_batch_and_bounds_hold(packed, micro_batch, budget):
    samples = read_samples(documents(16), range(16))
    groups = group(samples, micro_batch, budget, packed=packed)
    assert sorted(sample.id for part in groups for sample in part) == list(range(16))
    for part in groups:
        assert len(part) <= micro_batch
        fed = sum(map(len, part)) if packed else len(part) * max(map(len, part))
        assert len(part) == 1 or budget is None or fed <= budget
    lengths = [len(sample) for part in groups for sample in part]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_predicted_is_what_was_trained(packed):
    docs = documents(5)
    batch = collate(read_samples(docs, range(5)), CPU, packed=packed)
    flat = batch.input_ids.flatten()
    predictions = [(int(flat[at]), int(target)) for at, target in zip(batch.where, batch.targets, strict=True)]
    expected = [
        (int(tokens[t - 1]), int(tokens[t])) for tokens, trained in docs for t in np.flatnonzero(trained) if t > 0
    ]
    assert predictions == expected


def test_positions_start_again_with_each_packed_document():
    samples = read_samples(documents(3), range(3))
    batch = collate(samples, CPU, packed=True)
    assert batch.position_ids.tolist()[0] == [t for sample in samples for t in range(len(sample))]
    assert batch.packed == tuple(map(len, samples))
    assert batch.input_ids.shape == (1, sum(map(len, samples)))


def test_tokens_that_cannot_change_the_loss_are_not_fed():
    tokens = np.arange(10, dtype=np.int32)
    trained = np.zeros(10, bool)
    trained[[3, 5]] = True  # a later turn that is not trained follows
    (sample,) = read_samples([(tokens, trained)], [0])
    assert sample.inputs.tolist() == [0, 1, 2, 3, 4]
    assert sample.targets.tolist() == [3, 5]
    assert sample.tokens == 10


def test_a_document_without_a_trained_token_gives_no_sample():
    tokens = np.arange(4, dtype=np.int32)
    only_first = np.array([True, False, False, False])  # nothing stands before it to predict it
    assert read_samples([(tokens, np.zeros(4, bool)), (tokens, only_first)], [0, 1]) == []
