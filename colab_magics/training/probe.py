"""What an architecture allows, found out on a small random copy of it.

Of 30 architectures tried, 15 leak between packed documents (their convolutions, recurrences or ALiBi biases do not
know where a document starts), several take keywords that our attention does not honour, and some change the logits
after the head. Nothing in a config says so; 2 layers with random weights do, in a second.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.plan import Verdict
from colab_magics.training import attention
from colab_magics.training.attention import packed_documents
from colab_magics.training.layers import computed_kinds, keep_layers, layer_count, layer_kinds

TOLERANCE = 1e-4
_REVISION = 1  # of this probe: a new one forgets what the old one found
_LENGTHS = (11, 7, 13)
_WINDOW = 4  # shorter than the documents, so that a window or chunk which is not honoured shows
_VOCABULARY = 128

_SMALL = {
    "intermediate_size": 64,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "ffn_dim": 64,
    "n_inner": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": _WINDOW,
    "attention_chunk_size": _WINDOW,
}
_PLAIN_HEAD = "the head runs at labelled positions only, in chunks; full logits are never built"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def probe(config: Any, cache: Path | None = None, *, trust_remote_code: bool = False) -> Verdict:
    """Find out how a model of this config may be trained.

    Parameters
    ----------
    config : a transformers config; it is not changed
    cache : folder that keeps verdicts, by config and library version; None to keep nothing

    Raises
    ------
    ColabMagicsError
        For a model that is wrong even on padded documents: it is not causal, or not a language model.
    """
    import transformers

    key = json.dumps([_REVISION, transformers.__version__, torch.__version__, _identity(config)], sort_keys=True)
    kept = cache / "probe" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json" if cache else None
    if kept is not None:
        # torn, of another version, or not to be read: found out again
        with suppress(OSError, ValueError, TypeError):
            return Verdict(**json.loads(kept.read_text()))
    with torch.random.fork_rng(devices=[]):
        verdict = _probe(config, trust_remote_code)
    if kept is not None:
        with suppress(OSError):  # a full or read-only disk: found out again next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            staged = kept.with_suffix(f".{os.getpid()}.tmp")
            staged.write_text(json.dumps(asdict(verdict)))
            staged.replace(kept)
    return verdict


def _identity(config: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version", "architectures", "dtype", "quantization_config"):
        fields.pop(name, None)
    return fields


def shrink(config: Any, *, widths: bool = True) -> Any:
    """A copy with two layers (one of each kind, if there are kinds) and a small vocabulary, the heads as they are.

    `widths=False` leaves the feed-forward widths and experts alone, for configs whose parts must agree.
    """
    config = copy.deepcopy(config)
    config.quantization_config = None
    del config.quantization_config
    text = config.get_text_config()
    keep_layers(text, _layers_of_each_kind(text))
    for name, value in _SMALL.items():
        now = getattr(text, name, None)
        if isinstance(now, int) and not isinstance(now, bool) and now > value and (widths or value == _WINDOW):
            setattr(text, name, value)
    for name, value in vars(text).items():
        # so low that leaving it out shows: at its usual 30 or 50 it hardly bends the small scores of random weights
        if "softcap" in name and isinstance(value, float):
            setattr(text, name, 1.0)
    text.vocab_size = _VOCABULARY
    for name in _TOKENS:
        if getattr(text, name, None) is not None:
            setattr(text, name, 0)
    return config


def _layers_of_each_kind(text: Any) -> list[int]:
    """Indices of layers that together show every kind of layer; two at least."""
    kinds = layer_kinds(text)
    if kinds is not None:
        first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
        return (first * 2)[: max(2, len(first))]
    computed = computed_kinds(text)
    if computed is not None:
        return list(range(max(2, *(computed.index(kind) + 1 for kind in computed))))
    return list(range(min(2, layer_count(text))))


def _build(config: Any, trust_remote_code: bool) -> nn.Module:
    from transformers import AutoModelForCausalLM

    failure: Exception | None = None
    for widths in (True, False):
        try:
            small = shrink(config, widths=widths)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                small, attn_implementation="eager", dtype=torch.float32, trust_remote_code=trust_remote_code
            )
            _randomise(model)
            with torch.no_grad():
                model.eval()(torch.tensor([[3, 4, 5]]), use_cache=False)
            return model  # type: ignore[no-any-return]
        except Exception as error:
            failure = error
    raise ColabMagicsError(
        f"{_name(config)} cannot be tried out, so nothing says that it would be trained rightly.",
        f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}",
        "Use another model, or a newer transformers.",
    )


def _randomise(model: nn.Module) -> None:
    """Weights of a size that lets every path matter: at the usual 0.02 a leak hides below the tolerance."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, parameter.shape[-1] ** -0.5)
        else:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)


def _probe(config: Any, trust_remote_code: bool) -> Verdict:
    attention.register()
    name = _name(config)
    model = _build(config, trust_remote_code)
    documents = [torch.randint(3, _VOCABULARY, (length,)) for length in _LENGTHS]
    with torch.no_grad():
        alone = _alone(model, documents)
        plain = _plain_head(model, documents[0], alone[0])
        wrong = {}
        for chosen in (attention.NAME, "sdpa", "eager"):
            wrong[chosen] = _attention_fault(model, chosen, documents, alone)
            if wrong[chosen] is None:
                break
        else:
            raise ColabMagicsError(
                f"{name} cannot be trained here.",
                f"A document's result changes with what stands to its right ({wrong['eager']}), so it is no causal "
                "language model.",
                "Use a model whose architecture ends in ForCausalLM.",
            )
        if chosen != attention.NAME:
            why = f"{name} keeps its own attention: {wrong[attention.NAME]}"
            apart, packing = False, f"packing needs an attention that {name} does not allow"
        else:
            why = "scaled dot-product attention, equal to the model's own"
            off = _difference(lambda: _packed(model, documents), alone)
            apart = off is None
            leak = f"packed documents would leak into each other in {name} ({off}): sorted by length instead"
            packing = "packed documents stay apart" if apart else leak
    return Verdict(chosen, why, apart, packing, plain is None, plain or _PLAIN_HEAD)


def _attention_fault(
    model: Any, implementation: str, documents: Sequence[torch.Tensor], alone: list[torch.Tensor]
) -> str | None:
    """Why the model may not be trained with this attention, or None.

    It must equal the model's plainest one, and a document must not see the padding to its right.
    """
    if implementation != "eager" and not getattr(model, "_supports_sdpa", False):
        return "it does not support SDPA"
    model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:
        return "it cannot be exchanged"
    return _difference(lambda: _alone(model, documents), alone) or _difference(lambda: _padded(model, documents), alone)


def _difference(results: Callable[[], list[torch.Tensor]], expected: list[torch.Tensor]) -> str | None:
    """How results differ from what is expected, in words; None when they agree."""
    try:
        got = results()
    except Exception as error:  # a model's code may raise anything
        return str(error).partition("\n")[0] or type(error).__name__
    size = max(1.0, *(float(logits.abs().max()) for logits in expected))
    off = max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True)) / size
    return None if off <= TOLERANCE else f"off by {off:.1e}"


def _alone(model: Any, documents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [model(document[None], use_cache=False).logits[0] for document in documents]


def _padded(model: nn.Module, documents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    rows = nn.utils.rnn.pad_sequence(list(documents), batch_first=True, padding_value=1)
    logits = model(rows, use_cache=False).logits
    return [row[: len(document)] for row, document in zip(logits, documents, strict=True)]


def _packed(model: nn.Module, documents: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(document) for document in documents]
    positions = torch.cat([torch.arange(length) for length in lengths])
    with packed_documents(lengths):
        logits = model(torch.cat(list(documents))[None], position_ids=positions[None], use_cache=False).logits
    return list(logits[0].split(lengths))


def _plain_head(model: Any, document: torch.Tensor, logits: torch.Tensor) -> str | None:
    """Why the loss may not be computed from the hidden states and the head's weights alone, or None."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return "the head is not one plain Linear: the model's own, at labelled positions only"

    def ours() -> list[torch.Tensor]:
        body = getattr(model, model.base_model_prefix)
        return [head(body(document[None], use_cache=False).last_hidden_state)[0]]

    if _difference(ours, [logits]) is not None:
        return "the logits are changed after the head: the model's own head, at labelled positions only"
    return None


def _name(config: Any) -> str:
    return str((getattr(config, "architectures", None) or [config.model_type])[0])
