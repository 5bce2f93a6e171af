"""Packed documents are kept apart, windows are honoured, and what is not honoured is an error."""

from __future__ import annotations

import types

import pytest
import torch

from colab_magics.training import attention
from colab_magics.training.attention import attend, packed_documents
from colab_magics.training.oom import release

LENGTHS = (5, 9, 1, 3)


class Layer(torch.nn.Module):
    is_causal = True


def _heads(tokens: int, heads: int = 4, kv_heads: int = 2) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(1, heads, tokens, 8), torch.randn(1, kv_heads, tokens, 8), torch.randn(1, kv_heads, tokens, 8)


def _by_hand(query, key, value, window=None):
    """Softmax over the allowed scores, spelt out."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    there = torch.arange(query.shape[2])
    back = there[:, None] - there[None, :]
    allowed = (back >= 0) & (back < (window or 10**9))
    return (scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("masked", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_packed_documents_attend_as_if_each_were_alone(monkeypatch, window, masked):
    monkeypatch.setattr(attention, "_takes_mask", lambda _device: masked)
    heads = _heads(sum(LENGTHS))
    with packed_documents(LENGTHS):
        packed, weights = attend(Layer(), *heads, None, sliding_window=window)
    assert weights is None
    expected = [_by_hand(*document, window) for document in zip(*(h.split(LENGTHS, 2) for h in heads), strict=True)]
    torch.testing.assert_close(packed, torch.cat(expected, 1))


@pytest.mark.parametrize("autocast", [False, True])
def test_the_packed_mask_is_made_once_and_as_the_kernel_takes_it(monkeypatch, autocast):
    monkeypatch.setattr(attention, "_takes_mask", lambda _device: True)
    masks = []
    kernel = attention.scaled_dot_product_attention

    def noted(*heads, attn_mask, **options):
        masks.append(attn_mask)
        return kernel(*heads, attn_mask=attn_mask, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", noted)
    heads = _heads(sum(LENGTHS)) if autocast else [tensor.bfloat16() for tensor in _heads(sum(LENGTHS))]
    with packed_documents(LENGTHS), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for _ in range(2):
            attend(Layer(), *heads, None)
    assert masks[0] is masks[1]
    assert masks[0].dtype == torch.bfloat16
    assert sum(LENGTHS) % 8
    assert all(stride % 8 == 0 for stride in masks[0].stride()[:-1])
    assert masks[0].stride(-1) == 1


@pytest.mark.parametrize(
    ("dtype", "autocast", "taken"),
    [(torch.float32, None, False), (torch.bfloat16, None, True), (torch.float32, torch.float16, True)],
)
def test_kv_heads_stay_unrepeated_only_where_flash_attention_computes(monkeypatch, dtype, autocast, taken):
    query = types.SimpleNamespace(device=torch.device("cuda"), shape=(1, 4, 8, 64), dtype=dtype)
    monkeypatch.setattr(attention, "_capability", lambda _device: (8, 0))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _kind: autocast is not None)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _kind: autocast)
    assert attention._flash_takes_groups(query) is taken


def test_one_packed_document_needs_no_mask(monkeypatch):
    monkeypatch.setattr(attention, "_takes_mask", lambda _device: pytest.fail("asked for a mask"))
    heads = _heads(12)
    with packed_documents((12,)):
        torch.testing.assert_close(attend(Layer(), *heads, None)[0], _by_hand(*heads))


def test_masks_are_given_back_when_memory_runs_out():
    attend(Layer(), *_heads(12), None, sliding_window=4)
    assert attention._window_mask.cache_info().currsize
    release()
    assert not attention._window_mask.cache_info().currsize


@pytest.mark.parametrize("window", [None, 4])
def test_without_packing_a_row_is_one_document(window):
    heads = _heads(12)
    torch.testing.assert_close(attend(Layer(), *heads, None, sliding_window=window)[0], _by_hand(*heads, window))


def test_documents_are_forgotten_after_the_micro_batch():
    heads = _heads(12)
    with pytest.raises(ZeroDivisionError), packed_documents((6, 6)):
        raise ZeroDivisionError
    torch.testing.assert_close(attend(Layer(), *heads, None)[0], _by_hand(*heads))


@pytest.mark.parametrize("keyword", ["softcap", "s_aux", "position_bias", "something_new"])
def test_a_keyword_that_is_not_honoured_is_an_error(keyword):
    with pytest.raises(NotImplementedError, match=keyword):
        attend(Layer(), *_heads(4), None, **{keyword: torch.ones(4)})


def test_keywords_that_ask_for_nothing_are_accepted():
    attend(Layer(), *_heads(4), None, softcap=None, output_attentions=False, position_ids=torch.arange(4)[None])


def test_a_mask_a_cache_and_bidirectional_attention_are_errors():
    query, key, value = _heads(4)
    with pytest.raises(NotImplementedError, match="mask"):
        attend(Layer(), query, key, value, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    with pytest.raises(NotImplementedError, match="cache"):
        attend(Layer(), query[:, :, :1], key, value, None)
    with pytest.raises(NotImplementedError, match="bidirectional"):
        attend(Layer(), query, key, value, None, is_causal=False)


@pytest.mark.parametrize("model_type", ["qwen3", "mistral"])
def test_checkpointed_layers_see_the_documents_again_in_backward(tiny_run, model_type):
    config = {"sliding_window": 6} if model_type == "mistral" else {}
    padded = tiny_run(model_type, config=config).run().losses
    packed = tiny_run(model_type, config=config, packing=True, gradient_checkpointing=True).run().losses
    assert packed == pytest.approx(padded, abs=1e-4)
