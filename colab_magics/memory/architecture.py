"""A model's sizes from its config.json alone, for the architectures whose layers are known here: no torch, no weights.

Of any other the worker builds the model without memory and counts; what both come to is the same `ModelShape`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from colab_magics.errors import ColabMagicsError, nearest
from colab_magics.plan import ModelShape, Verdict

Role = Literal[0, 1, 2, 3]
"""What a linear reads: the attention's input, its output, the MLP's input, its product."""

# names that only an attention has; a c_proj or a dense may be the MLP's as well, which its shape then says
_ATTENTION_IN = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
_ATTENTION_OUT = ("o_proj", "out_proj", "c_proj", "dense", "wo")
ATTENTION_DROPOUTS = ("attn_pdrop", "attention_dropout")
_HEADS, _EMBEDDINGS = ("lm_head", "embed_out"), ("embed_tokens", "wte", "embed_in")
_WINDOWS = {"mistral": 4096, "gemma2": 4096, "gemma3_text": 4096}  # of a config that says nothing of it
DROPOUTS = ("resid_pdrop", "hidden_dropout", "dropout")  # of what a layer adds to the residual
_EVERY = {"gemma2": 2, "gemma3_text": 6}  # the layer that sees all, where the file does not say
_PLAIN = frozenset("gpt2 gpt_neox opt".split())
_FAMILIES = _PLAIN | frozenset("llama mistral qwen2 qwen3 smollm3 gemma gemma2 gemma3_text phi3".split())


# what transformers' class has where the file says nothing, if that is not one key and value for each head
_CLASS_HAS = {
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "smollm3": {"num_key_value_heads": 4},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256},
    "gemma3_text": {"num_key_value_heads": 4, "head_dim": 256},
}
_MOST = 2**31  # of anything that a config counts: more is no model's


class UnknownArchitecture(ColabMagicsError):
    """Its layers are not known here; the worker can count them."""


@dataclass(frozen=True)
class Linear:
    """One linear layer of a transformer layer."""

    name: str
    role: Role
    inputs: int
    outputs: int
    bias: bool = False


@dataclass(frozen=True)
class _Layout:
    """What a model is made of: the linears of a layer, its other parameters, and those outside of the layers."""

    linears: Sequence[Linear]
    norms: int
    outside: int
    head: int


def role_of(name: str, inputs: int, outputs: int, hidden: int, intermediate: int) -> Role:
    """What a linear reads: by its name where that is an attention's alone, else by its shape."""
    own = name.rpartition(".")[2]
    if own in _ATTENTION_IN:  # of a model whose heads are together as wide as its MLP, the shape would say otherwise
        return 0
    if own in ("o_proj", "out_proj"):
        return 1
    if inputs == intermediate and outputs == hidden:
        return 3
    if inputs == hidden and outputs in (intermediate, 2 * intermediate):
        return 2
    return 1 if own in _ATTENTION_OUT else 0


def shape_of(
    config: Mapping[str, Any],
    *,
    r: int = 16,
    target_modules: str | Sequence[str] = "all-linear",
    full: bool = False,
    modules_to_save: Sequence[str] | None = None,
    dora: bool = False,
    weight_bytes: int | None = None,
) -> ModelShape:
    """The sizes that a model of this config has.

    Parameters
    ----------
    config : a config.json, read
    r, target_modules : of the adapter
    full : every weight is trained; nothing of an adapter is of any account
    modules_to_save, dora : of the adapter
    weight_bytes : of a pre-quantised checkpoint, the size of its files

    Raises
    ------
    UnknownArchitecture
        Its layers are not known here.
    ColabMagicsError
        A field that the sizes need is missing or no number; `target_modules` names none of its modules.
    """
    text = _text(config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    if kind not in _FAMILIES or _is_unusual(config, text):
        raise UnknownArchitecture(
            f"The layers of {kind or 'this model'} are not known by formula.",
            "Its config.json names no model_type." if not kind else "",
            "It has to be traced: that needs torch and transformers, and takes some seconds.",
        )
    read = _Fields(text)
    sizes = _sizes(read, kind)
    layout = _layout(read, kind, sizes)
    names = adapted_names([one.name for one in layout.linears], "all-linear" if full else target_modules)
    adapted = [one for one in layout.linears if one.name in names]
    layers = sizes["layers"]
    parameters = layers * (sum(map(_weights_of, layout.linears)) + layout.norms) + layout.outside + layout.head
    linear = [one.inputs * one.outputs for one in layout.linears]
    saved = () if full else tuple(modules_to_save or ())
    if others := [name for name in saved if name.rpartition(".")[2] not in (*_HEADS, *_EMBEDDINGS)]:
        raise UnknownArchitecture(
            f"What modules_to_save: {others[0]} takes is not known by formula.",
            "",
            "It has to be traced: that needs torch and transformers, and takes some seconds.",
        )
    words = sizes["vocabulary"] * sizes["hidden"]
    named = [found for part in (config, text) if isinstance(found := part.get("architectures"), list) and found]
    quantised = config.get("quantization_config") is not None
    windowed = {"sliding_window": _WINDOWS.get(kind), **text}
    return ModelShape(
        architecture=str(named[0][0] if named else kind),
        parameters=parameters,
        linear_parameters=layers * sum(linear),
        largest_linear=max(linear),
        lora_parameters=layers * r * sum(one.inputs + one.outputs for one in adapted),
        layers=layers,
        hidden=sizes["hidden"],
        intermediate=sizes["intermediate"],
        query=sizes["query"],
        key_value=sizes["key_value"],
        vocabulary=sizes["vocabulary"],
        positions=positions_of(config),
        qk_norm=kind in ("qwen3", "gemma3_text"),
        quantised=quantised,
        weight_bytes=weight_bytes if quantised else None,
        heads=sizes["heads"],
        kv_heads=sizes["kv_heads"],
        head_parameters=layout.head,
        gated=kind not in _PLAIN,
        activation=_activation(read, kind),
        readers=roles(one.role for one in layout.linears),
        adapted=roles(one.role for one in adapted),
        rank=r,
        dropouts=2 if any(read.rate(name) for name in DROPOUTS) else 0,
        attention_dropout=any(read.rate(name) for name in ATTENTION_DROPOUTS),
        window=window_of(windowed),
        sliding_layers=sliding_layers(windowed, kind, layers),
        saved_parameters=len({name.rpartition(".")[2] for name in saved}) * words,
        saves_head=any(name.rpartition(".")[2] in _HEADS for name in saved),
        dora=dora and not full,
    )


def positions_of(config: Mapping[str, Any]) -> int | None:
    """How many positions a model of this config has; None where it does not say.

    Raises
    ------
    ColabMagicsError
        What it says is no number of positions.
    """
    return _Fields(_text(config)).optional("max_position_embeddings", "n_positions")


def window_of(text: Any) -> int | None:
    """How many tokens a token sees in the layers that see the fewest; None where every token sees all before it.

    Parameters
    ----------
    text : the language model's config, as a mapping or as an object
    """
    get = text.get if isinstance(text, Mapping) else lambda name, usual=None: getattr(text, name, usual)
    window, kinds = get("sliding_window"), get("layer_types")
    slides = get("use_sliding_window", True) is not False
    if isinstance(kinds, list | tuple):
        slides = "sliding_attention" in kinds
    return window if slides and isinstance(window, int) and not isinstance(window, bool) else None


def sliding_layers(text: Any, kind: str, layers: int) -> int:
    """How many layers see a window alone: as the config lists them, else as the kind's class arranges them.

    Parameters
    ----------
    text : as of `window_of`
    """
    get = text.get if isinstance(text, Mapping) else lambda name, usual=None: getattr(text, name, usual)
    if window_of(text) is None:
        return 0
    kinds = get("layer_types")
    if isinstance(kinds, list | tuple):
        return sum(one == "sliding_attention" for one in kinds)
    if kind == "qwen2":
        return max(0, layers - int(get("max_window_layers", 28)))
    # every so many a layer that sees all
    every = get("sliding_window_pattern") or _EVERY.get(kind)
    return layers - layers // every if isinstance(every, int) and every > 0 else layers


def usual_verdict(shape: ModelShape) -> Verdict:
    """What a probe finds of an architecture known here (held against real probes by the tests)."""
    if shape.architecture.startswith(("Gemma2", "gemma2")):
        why = "its attention scores and its logits are capped"
        return Verdict("eager", why, False, why, False, why)
    why = "as a probe has found of this architecture"
    return Verdict("colab_magics", why, True, why, True, why)


def roles(found: Iterable[int], layers: int = 1) -> tuple[float, float, float, float]:
    """How many linears of a layer read each of the four."""
    counts = Counter(found)
    return counts[0] / layers, counts[1] / layers, counts[2] / layers, counts[3] / layers


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config that has several."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and inner.get("model_type") else config


def _is_unusual(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Whether a model of a known family has parts that the others of its family do not have."""
    if any(isinstance(config.get(name), Mapping) for name in ("vision_config", "audio_config")):
        return True
    narrow = text.get("word_embed_proj_dim", text.get("hidden_size")) != text.get("hidden_size")
    return narrow or bool(text.get("add_cross_attention")) or text.get("layer_norm_elementwise_affine") is False


class _Fields:
    """Reads whole numbers out of a config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        # what the config's class has where the file says nothing
        usual = {"gpt2": ("resid_pdrop", "attn_pdrop"), "opt": ("dropout",)}
        self._usual_dropouts = usual.get(str(config.get("model_type")), ())

    def number(self, *names: str) -> int:
        found = self.optional(*names)
        if found is None:
            raise _unsaid(names[0], "It is not there.")
        return found

    def optional(self, *names: str) -> int | None:
        """The first that is there; one that counts nothing is the config's mistake, and is not passed over."""
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
                raise _unsaid(name, f"It has {name}: {str(value)[:40]!r}.")
            return value
        return None

    def rate(self, name: str) -> float:
        value = self.config.get(name)
        return float(value) if isinstance(value, int | float) else 0.1 if name in self._usual_dropouts else 0.0

    def flag(self, name: str, default: bool) -> bool:
        value = self.config.get(name)
        return value if isinstance(value, bool) else default


def _unsaid(name: str, found: str) -> ColabMagicsError:
    return ColabMagicsError(
        f"The config does not say the model's {name}.",
        found,
        "Without it nothing can be estimated: check that config.json is the model's own.",
    )


def _sizes(read: _Fields, kind: str) -> dict[str, int]:
    hidden = read.number("hidden_size", "n_embd")
    heads = read.number("num_attention_heads", "n_head")
    usual = {key: value for key, value in _CLASS_HAS.get(kind, {}).items() if key not in read.config}
    kv_heads = read.optional("num_key_value_heads") or usual.get("num_key_value_heads", heads)
    width = read.optional("head_dim") or usual.get("head_dim", hidden // heads)
    if not width:
        raise _unsaid("head_dim", f"It has {heads} heads in a width of {hidden}.")
    inner = read.optional("intermediate_size", "n_inner", "ffn_dim")
    if inner is None and kind != "gpt2":
        inner = read.number("intermediate_size", "ffn_dim")  # raises
    return {
        "layers": read.number("num_hidden_layers", "n_layer"),
        "hidden": hidden,
        "intermediate": inner or 4 * hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "query": heads * width,
        "key_value": kv_heads * width,
        "head_dim": width,
        "vocabulary": read.number("vocab_size"),
    }


def _layout(read: _Fields, kind: str, sizes: Mapping[str, int]) -> _Layout:
    h, i, q, kv, v = (sizes[key] for key in ("hidden", "intermediate", "query", "key_value", "vocabulary"))
    if kind == "gpt2":
        linears = [
            Linear("attn.c_attn", 0, h, 3 * h, True),
            Linear("attn.c_proj", 1, h, h, True),
            Linear("mlp.c_fc", 2, h, i, True),
            Linear("mlp.c_proj", 3, i, h, True),
        ]
        outside = (v + read.number("n_positions", "max_position_embeddings")) * h + 2 * h
        return _Layout(linears, 4 * h, outside, 0 if read.flag("tie_word_embeddings", True) else v * h)
    if kind == "gpt_neox":
        linears = [
            Linear("attention.query_key_value", 0, h, 3 * h, read.flag("attention_bias", True)),
            Linear("attention.dense", 1, h, h, read.flag("attention_bias", True)),
            Linear("mlp.dense_h_to_4h", 2, h, i, True),
            Linear("mlp.dense_4h_to_h", 3, i, h, True),
        ]
        return _Layout(linears, 4 * h, v * h + 2 * h, 0 if read.flag("tie_word_embeddings", False) else v * h)
    if kind == "opt":
        biased = read.flag("enable_bias", True)
        names = ("q_proj", "k_proj", "v_proj")
        linears = [
            *(Linear(f"self_attn.{name}", 0, h, h, biased) for name in names),
            Linear("self_attn.out_proj", 1, h, h, biased),
            Linear("fc1", 2, h, i, biased),
            Linear("fc2", 3, i, h, biased),
        ]
        positions = (read.number("max_position_embeddings") + 2) * h
        last = 2 * h if read.flag("do_layer_norm_before", True) else 0
        head = 0 if read.flag("tie_word_embeddings", True) else v * h
        return _Layout(linears, 4 * h, v * h + positions + last, head)
    return _gated(read, kind, sizes, h, i, q, kv, v)


def _gated(
    read: _Fields, kind: str, sizes: Mapping[str, int], h: int, i: int, q: int, kv: int, v: int
) -> _Layout:  # fmt: skip
    """Llama and its relatives."""
    bias = kind not in ("mistral", "qwen2") and read.flag("attention_bias", False)
    mlp_bias = kind in ("llama", "smollm3") and read.flag("mlp_bias", False)
    if kind == "phi3":
        linears = [
            Linear("self_attn.qkv_proj", 0, h, q + 2 * kv),
            Linear("self_attn.o_proj", 1, q, h),
            Linear("mlp.gate_up_proj", 2, h, 2 * i),
            Linear("mlp.down_proj", 3, i, h),
        ]
    else:
        into = bias or kind == "qwen2"
        linears = [
            Linear("self_attn.q_proj", 0, h, q, into),
            Linear("self_attn.k_proj", 0, h, kv, into),
            Linear("self_attn.v_proj", 0, h, kv, into),
            Linear("self_attn.o_proj", 1, q, h, bias),
            Linear("mlp.gate_proj", 2, h, i, mlp_bias),
            Linear("mlp.up_proj", 2, h, i, mlp_bias),
            Linear("mlp.down_proj", 3, i, h, mlp_bias),
        ]
    norms = 4 * h if kind in ("gemma2", "gemma3_text") else 2 * h
    if kind in ("qwen3", "gemma3_text"):
        norms += 2 * sizes["head_dim"]
    tied = read.flag("tie_word_embeddings", kind.startswith("gemma") or kind == "smollm3")
    return _Layout(linears, norms, v * h + h, 0 if tied else v * h)


def _weights_of(one: Linear) -> int:
    return one.inputs * one.outputs + (one.outputs if one.bias else 0)


def _activation(read: _Fields, kind: str) -> str:
    keys = ("hidden_activation", "hidden_act", "activation_function")
    named = next((read.config[key] for key in keys if read.config.get(key)), None)
    usual = {"gpt2": "gelu_new", "gpt_neox": "gelu", "opt": "relu"}
    return str(named or usual.get(kind, "gelu_pytorch_tanh" if kind.startswith("gemma") else "silu"))


def adapted_names(linears: Collection[str], wanted: str | Sequence[str]) -> list[str]:
    """The names of the linear layers that get an adapter, as peft matches them.

    Raises
    ------
    ColabMagicsError
        `wanted` names what the model does not have; says what it has, and the nearest.
    """
    if wanted == "all-linear":
        return list(linears)
    ends = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [end for end in ends if not any(_ends_with(name, end) for name in linears)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in linears})
        close = nearest(missing[0], known)
        raise ColabMagicsError(
            f"target_modules: this model has no {', '.join(missing)}.",
            f"It has: {', '.join(known)}.",
            f"Did you mean {close}?" if close else "",
            "target_modules: all-linear takes them all.",
        )
    return [name for name in linears if any(_ends_with(name, end) for end in ends)]


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
