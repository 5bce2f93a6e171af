"""The ledger counts as the caching allocator hands out: storages, in steps of 512 bytes, until the last tensor."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from colab_magics.training.tracing.ledger import STEP, Ledger

pytestmark = pytest.mark.colab


def test_a_storage_is_counted_once_however_many_tensors_look_at_it():
    with Ledger() as ledger:
        whole = torch.empty(4, 512)
        views = [whole.T, whole[1:], whole.view(-1), whole.detach(), whole.unsqueeze(0).expand(9, 4, 512)]
        assert ledger.total == 4 * 512 * 4
        del whole
        assert ledger.total == 4 * 512 * 4, "its views still hold it"
        del views
    assert ledger.total == 0


@pytest.mark.parametrize(("elements", "counted"), [(0, 0), (1, 512), (128, 512), (129, 1024), (1000, 4096)])
def test_bytes_are_counted_in_steps_of_512(elements, counted):
    with Ledger() as ledger:
        made = torch.empty(elements)
        assert ledger.total == counted
        del made
        assert ledger.total == 0


def test_what_works_in_place_takes_nothing_more():
    with Ledger() as ledger:
        made = torch.ones(256)
        before = ledger.total
        made.add_(1).mul_(2)
        torch.add(made, 1, out=made)
        assert ledger.total == before


def test_what_autograd_alone_still_holds_is_counted_until_backward_lets_it_go():
    with Ledger() as ledger:
        weight = torch.ones(1024, requires_grad=True)
        loss = weight.exp().sum()  # exp keeps its output, which has no name in Python
        gc.collect()
        assert ledger.total == 4096 + 4096 + 512
        loss.backward()
        del loss
        gc.collect()
        assert ledger.total == 4096 + 4096, "the weight and its gradient"


@pytest.mark.parametrize("fake", [False, True])
def test_an_address_that_is_used_again_is_a_new_storage(fake):
    """Storages are known by their address, which the next one may get."""
    mode = FakeTensorMode() if fake else torch.no_grad()
    with mode, Ledger() as ledger:
        addresses = set()
        for size in (128, 4096, 256, 100_000) * 50:
            made = torch.empty(size)
            addresses.add(made.untyped_storage()._cdata)
            assert ledger.total == -(-size * 4 // STEP) * STEP
            del made
            assert ledger.total == 0
        assert len(addresses) < 200, "no address came back: this test has shown nothing"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["make", "view", "drop"]), st.integers(0, 2000)), max_size=40))
def test_the_total_is_that_of_the_storages_that_are_there(acts):
    tensors: list[torch.Tensor] = []
    with Ledger() as ledger:
        for act, number in acts:
            if act == "make":
                tensors.append(torch.empty(number, dtype=torch.uint8))
            elif tensors and act == "view":
                tensors.append(tensors[number % len(tensors)].view(-1)[:1])
            elif tensors:
                del tensors[number % len(tensors)]
            there = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
            there.pop(0, None)  # of nothing at all
            assert ledger.total == sum(-(-size // STEP) * STEP for size in there.values())
            assert ledger.total == sum(ledger.live.values())


def test_each_part_has_what_was_made_under_it_and_keeps_it_when_another_is_at_work():
    with Ledger() as ledger:
        with ledger.part("weights"):
            weight = torch.empty(128)
        ledger.enter("head")
        logits = torch.empty(256)
        assert (ledger.live["weights"], ledger.live["head"]) == (512, 1024)
        ledger.take(weight, "adapters")
        assert (ledger.live["weights"], ledger.live["adapters"]) == (0, 512)
        ledger.take(weight, "adapters")
        assert ledger.total == 1536
        del logits
        assert ledger.live["head"] == 0


def test_a_part_ends_with_its_block_even_by_an_error():
    ledger = Ledger()
    with ledger, pytest.raises(ValueError, match="on purpose"), ledger.part("weights"):
        raise ValueError("on purpose")
    with ledger:
        made = torch.empty(1)
        assert ledger.live == {"activations": 512}
        del made


def test_scores_are_attention_whatever_is_at_work():
    with Ledger([(1, 4, 8, 8)]) as ledger:
        scores, others = torch.empty(1, 4, 8, 8), torch.empty(1, 4, 8, 9)
        assert ledger.live == {"attention": 1024, "activations": 1536}
        del scores, others


def test_a_moment_keeps_its_parts_at_their_highest_point_together():
    with Ledger() as ledger:
        ledger.at("forward")
        first = torch.empty(1000)
        with ledger.part("head"):
            second = torch.empty(128)
        del first
        with ledger.part("head"):
            third = torch.empty(256)
        assert ledger.moments["forward"] == {"activations": 4096, "head": 512}
        ledger.at("backward")
        assert ledger.moments["backward"] == {"activations": 0, "head": 512 + 1024}
        del second, third


def test_a_tensor_from_elsewhere_is_counted_when_it_is_taken():
    outside = torch.empty(300)
    with Ledger() as ledger:
        assert ledger.total == 0
        ledger.take(outside, "activations")
        assert ledger.total == 1536
        assert ledger.moments["before"]["activations"] == 1536
