"""The loss and its gradients equal plain cross-entropy over the labelled positions, without the full logits."""

from __future__ import annotations

import pytest
import torch
from conftest import documents
from torch.nn.functional import cross_entropy

from colab_magics.training.batches import collate, read_samples
from colab_magics.training.loss import HeadLoss, HiddenLoss, _LinearCrossEntropy

CPU = torch.device("cpu")


def _case(dtype=torch.float32, bias=False, rows=50, vocabulary=97):
    torch.manual_seed(0)
    hidden = torch.randn(rows, 32).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, 32) / 4).to(dtype).requires_grad_()
    shift = torch.randn(vocabulary).to(dtype).requires_grad_() if bias else None
    return hidden, weight, shift, torch.randint(0, vocabulary, (rows,))


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_equal_plain_cross_entropy(chunk, bias):
    ours, plain = _case(bias=bias), _case(bias=bias)
    loss = _LinearCrossEntropy.apply(*ours, chunk, torch.float32)
    (loss * 0.25).backward()
    hidden, weight, shift, targets = plain
    expected = cross_entropy(torch.nn.functional.linear(hidden, weight, shift), targets, reduction="sum")
    (expected * 0.25).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for a, b in zip(ours[:3], plain[:3], strict=True):
        if a is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_16_bit_the_gradients_stay_close_to_those_in_fp32(dtype):
    hidden, weight, _, targets = _case(vocabulary=20_000)
    exact = cross_entropy(hidden.to(dtype).float() @ weight.to(dtype).float().T, targets, reduction="sum")
    exact.backward()
    ours_hidden, ours_weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = _LinearCrossEntropy.apply(ours_hidden, ours_weight, None, targets, 16, dtype)
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)
    for ours, plain in ((ours_hidden, hidden), (ours_weight, weight)):
        off = (ours.grad - plain.grad).norm() / plain.grad.norm()
        assert off < (2e-3 if dtype == torch.float16 else 1e-2)


def test_in_fp16_the_small_shares_of_a_large_vocabulary_reach_the_gradient():
    # half of the tokens have shares of 3e-8, half of the least that fp16 can hold, and together they weigh
    torch.manual_seed(0)
    hidden = torch.zeros(4, 8)
    hidden[:, 0] = 1.0
    weight = torch.randn(150_000, 8) / 8
    weight[:, 0] = 0.0
    weight[75_000:, 0] = -6.0
    weight[75_000:, 1] = 16.0
    hidden, weight = hidden.half().requires_grad_(), weight.half()
    targets = torch.arange(4)
    exact = hidden.detach().float().requires_grad_()
    cross_entropy(exact @ weight.float().T, targets, reduction="sum").backward()
    _LinearCrossEntropy.apply(hidden, weight, None, targets, 4, torch.float16).backward()
    off = (hidden.grad.float() - exact.grad).norm() / exact.grad.norm()
    assert off < 2e-3


def test_a_frequent_token_in_fp16_does_not_overflow_the_head_s_gradient():
    torch.manual_seed(0)
    hidden = (torch.randn(512, 32) + 8).half().requires_grad_()
    weight = (torch.randn(97, 32) / 4).half().requires_grad_()
    _LinearCrossEntropy.apply(hidden, weight, None, torch.full((512,), 5), 512, torch.float16).backward()
    assert torch.isfinite(weight.grad).all()
    assert torch.isfinite(hidden.grad).all()


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, _, targets = _case()
    weight.requires_grad_(False)
    _LinearCrossEntropy.apply(hidden, weight, None, targets, 16, torch.float32).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_the_full_logits_are_never_built():
    rows, vocabulary, chunk = 512, 5_000, 16
    hidden, weight, _, targets = _case(rows=rows, vocabulary=vocabulary)
    weight.requires_grad_(False)
    with torch.profiler.profile(profile_memory=True) as profile:
        _LinearCrossEntropy.apply(hidden, weight, None, targets, chunk, torch.float32).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 2 * max(chunk * vocabulary, rows * 32) * 4 + 4096


@pytest.mark.parametrize(
    ("model_type", "path", "packed"),
    [
        *(("qwen3", path, packed) for path in (HiddenLoss, HeadLoss) for packed in (False, True)),
        ("gpt2", HiddenLoss, False),
        ("gpt2", HiddenLoss, True),
        ("gemma2", HeadLoss, False),  # a soft cap after the head
    ],
)
def test_every_path_equals_the_model_s_own_logits(make_model, model_type, path, packed):
    from transformers import AutoModelForCausalLM

    from colab_magics.training.attention import packed_documents

    implementation = "eager" if model_type == "gemma2" else "colab_magics"
    model = AutoModelForCausalLM.from_pretrained(make_model(model_type), attn_implementation=implementation).eval()
    docs = documents(3)
    batch = collate(read_samples(docs, range(3)), CPU, packed=packed)
    loss = path(model, 8, torch.float32) if path is HiddenLoss else path(model, 8)
    expected, right = 0.0, 0
    with torch.no_grad(), packed_documents(batch.packed):
        got = loss(batch)
        score, correct = loss.score(batch)
    with torch.no_grad():
        for tokens, trained in docs:
            ids = torch.from_numpy(tokens).long()
            logits = model(ids[None]).logits[0, :-1][torch.from_numpy(trained[1:])]
            wanted = ids[1:][torch.from_numpy(trained[1:])]
            expected += float(cross_entropy(logits, wanted, reduction="sum"))
            right += int((logits.argmax(-1) == wanted).sum())
    assert float(got) == pytest.approx(expected, rel=1e-5)
    assert float(score) == pytest.approx(expected, rel=1e-5)
    assert int(correct) == right
