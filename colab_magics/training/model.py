"""The model: measured while it is still only a config, then loaded straight to its final dtype and device."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.architecture import (
    ATTENTION_DROPOUTS,
    DROPOUTS,
    adapted_names,
    role_of,
    roles,
    sliding_layers,
    window_of,
)
from colab_magics.plan import ModelShape, Plan
from colab_magics.recipe import Recipe
from colab_magics.training import attention
from colab_magics.training.oom import is_out_of_memory
from colab_magics.training.source import ModelSource
from colab_magics.training.torchao import hide_old_torchao

_GATES = ("gate_proj", "gate_up_proj", "w1", "gate_and_up")
_INNER = ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim")
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def describe(source: ModelSource, recipe: Recipe) -> ModelShape:
    """Build the model without memory (on the meta device) and read its sizes.

    Raises
    ------
    ColabMagicsError
        When `target_modules` names modules that the model does not have; names those that it has.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config, trust_remote_code=recipe.trust_remote_code)
    text = source.config.get_text_config()
    head = model.get_output_embeddings()
    linears = {name: module for name, module in _linears(model) if module is not head}
    adapted = _adapted(linears, recipe)
    quantised = getattr(source.config, "quantization_config", None) is not None
    heads = int(getattr(text, "num_attention_heads", 0) or 1)
    hidden = int(text.hidden_size)
    head_dim = int(getattr(text, "head_dim", None) or hidden // heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    experts = int(getattr(text, "num_experts_per_tok", None) or 1)
    intermediate = int(next((n for key in _INNER if (n := getattr(text, key, None))), 4 * hidden))
    sizes = [module.weight.numel() for module in linears.values()]
    layers = int(text.num_hidden_layers)
    reads = {name: role_of(name, *_in_and_out(module), hidden, intermediate) for name, module in linears.items()}
    untied = head is not None and head.weight is not model.get_input_embeddings().weight
    saved = _saved(model, recipe)
    return ModelShape(
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear_parameters=sum(sizes),
        largest_linear=max(sizes, default=0),
        lora_parameters=sum(recipe.r * sum(linears[name].weight.shape) for name in adapted),
        layers=layers,
        hidden=hidden,
        intermediate=intermediate * experts,
        query=heads * head_dim,
        key_value=kv_heads * head_dim,
        vocabulary=int(text.vocab_size),
        positions=getattr(text, "max_position_embeddings", None),
        qk_norm=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        quantised=quantised,
        weight_bytes=source.weight_bytes if quantised else None,
        heads=heads,
        kv_heads=kv_heads,
        head_parameters=head.weight.numel() if untied else 0,
        gated=any(own in name for name in linears for own in _GATES),
        activation=str(next((given for key in _ACTIVATIONS if (given := getattr(text, key, None))), "silu")),
        readers=roles(reads.values(), layers),
        adapted=roles((reads[name] for name in adapted), layers),
        rank=recipe.r,
        dropouts=2 if any(getattr(text, key, 0) for key in DROPOUTS) else 0,
        attention_dropout=any(getattr(text, key, 0) for key in ATTENTION_DROPOUTS),
        window=window_of(text),
        sliding_layers=sliding_layers(text, str(getattr(text, "model_type", "")), layers),
        saved_parameters=sum(parameter.numel() for module in saved for parameter in module.parameters()),
        saves_head=any(module is head for module in saved),
        dora=recipe.use_dora and recipe.method != "full",
    )


def _saved(model: nn.Module, recipe: Recipe) -> list[nn.Module]:
    """The modules that are trained whole beside the adapters."""
    names = recipe.modules_to_save or [] if recipe.method != "full" else []
    return [
        module
        for name, module in model.named_modules()
        if any(name == one or name.endswith(f".{one}") for one in names)
    ]


def _in_and_out(module: nn.Module) -> tuple[int, int]:
    """Widths of what a linear reads and writes; a Conv1D keeps its weight the other way around."""
    outputs, inputs = module.weight.shape if isinstance(module, nn.Linear) else reversed(module.weight.shape)
    return int(inputs), int(outputs)


def adapted_shapes(source: ModelSource, recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Of each module that gets an adapter, by its name, the shape of its weights; nothing is loaded."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config, trust_remote_code=recipe.trust_remote_code)
    head = model.get_output_embeddings()
    linears = {name: module for name, module in _linears(model) if module is not head}
    return {name: tuple(linears[name].weight.shape) for name in _adapted(linears, recipe)}


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from transformers.pytorch_utils import Conv1D

    return ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))


def _adapted(linears: dict[str, nn.Module], recipe: Recipe) -> list[str]:
    """The names of the modules that get an adapter."""
    return list(linears) if recipe.method == "full" else adapted_names(linears, recipe.target_modules)


def load_model(source: ModelSource, recipe: Recipe, plan: Plan, device: torch.device) -> nn.Module:
    """Load the weights, once, where and as they will be used, and put the adapter on.

    Returns
    -------
    A transformers model (`method: full`) or a `peft.PeftModel`; only what is trained requires a gradient, in fp32.
    """
    dtype = torch.float32 if plan["method"] == "full" else DTYPES[plan["precision"]]
    model = _pretrained(source, recipe, plan, device, dtype)
    if plan["method"] == "qlora":
        compute_in(model, dtype)
    if plan["method"] == "full":
        return model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    import_peft(bitsandbytes=plan["method"] == "qlora")
    with _without_bitsandbytes():  # a quantised model has it in already
        adapted = with_adapter(model, recipe)
    config = adapted.peft_config["default"]
    # what `AutoPeftModelForCausalLM` will ask for: the model as the user named it, at the commit that was trained on
    config.base_model_name_or_path = source.id if source.revision else os.fspath(source.folder)
    config.revision = source.revision
    return adapted


def load_reference(source: ModelSource, recipe: Recipe, plan: Plan, device: torch.device) -> nn.Module:
    """The model as it is, which nothing changes: beside one that is trained in all its weights, by comparison."""
    model = _pretrained(source, recipe, plan, device, DTYPES[plan["precision"]])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _pretrained(source: ModelSource, recipe: Recipe, plan: Plan, device: torch.device, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM

    attention.register()
    options: dict[str, Any] = {}
    if device.type != "cpu":
        options["device_map"] = {"": device}
    if plan["method"] == "qlora" and getattr(source.config, "quantization_config", None) is None:
        options["quantization_config"] = nf4(DTYPES[plan["precision"]])
    try:
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            source.folder,
            config=source.config,
            dtype=dtype,
            attn_implementation=plan["attention"],
            use_safetensors=None if recipe.allow_pickle else True,
            trust_remote_code=recipe.trust_remote_code,
            **options,
        )
    except OSError as error:
        if is_out_of_memory(error):  # a file that could not be mapped
            raise
        raise ColabMagicsError(
            f"The weights of {source.id} could not be loaded.", str(error).partition("\n")[0]
        ) from None
    except RuntimeError as error:
        if is_out_of_memory(error) or (kept := _kept_for_the_report(error)) is None:
            raise
        raise torch.OutOfMemoryError(kept) from error


def _kept_for_the_report(error: BaseException) -> str | None:
    """The out-of-memory behind a failed loading: transformers logs what quantising a weight raised, and raises else.

    It goes on with the next weight meanwhile, and what it has kept is in the frame that raises at the end.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    report = frames[-1].f_locals.get("loading_info") if frames else None
    texts = getattr(report, "conversion_errors", None) or {}
    lines = (line for text in texts.values() for line in str(text).splitlines())
    return next((line for line in lines if is_out_of_memory(RuntimeError(line))), None)


def import_peft(*, bitsandbytes: bool) -> None:
    """Import peft, and bitsandbytes only where it is needed."""
    hide_old_torchao()
    if bitsandbytes or "peft" in sys.modules:
        import_module("peft")
        return
    with _without_bitsandbytes():
        import_module("peft")


@contextmanager
def _without_bitsandbytes() -> Iterator[None]:
    """peft imports bitsandbytes if it is there: itself on its way in, and once more when it makes its first adapter.

    That imports torch's compiler: 1.5 of the 7 seconds before a first step, and 36 MiB. peft remembers whether it is
    there; that is forgotten, for the next model may be quantised.
    """
    if "bitsandbytes" in sys.modules:
        yield
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        asked = sys.modules.get("peft.import_utils")
        for name in ("is_bnb_available", "is_bnb_4bit_available"):
            getattr(getattr(asked, name, None), "cache_clear", lambda: None)()


def nf4(dtype: torch.dtype) -> Any:
    """How qlora loads a base model: 4-bit normal floats, their scales quantised as well."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Make a quantised model compute in `dtype`; transformers keeps the bf16 that the checkpoint was made with."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = dtype
            module.compute_type_is_set = True
            state = getattr(module.weight, "quant_state", None)
            if state is not None:
                state.dtype = dtype
    for parameter in model.parameters():  # not the buffers: rotary frequencies are fp32 and must stay so
        # with a bnb_4bit_quant_storage the packed 4-bit weights pass for floating-point numbers, which they are not
        if parameter.is_floating_point() and not isinstance(parameter, Params4bit):
            parameter.data = parameter.data.to(dtype)


def with_adapter(model: nn.Module, recipe: Recipe) -> Any:
    """The model with the recipe's adapter on it, in fp32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=recipe.target_modules,
        modules_to_save=recipe.modules_to_save,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
    )
    torch.manual_seed(recipe.seed)
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            # peft does so for adapters alone: the copies that modules_to_save makes keep the base's 16 bit
            parameter.data = parameter.data.float()
    return adapted


def causal_lm(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def set_gradient_checkpointing(model: nn.Module, on: bool) -> None:
    """Recompute each layer in backward, or keep its activations."""
    base: Any = causal_lm(model)
    # transformers 5.23 renamed it
    switch = "activation" if hasattr(base, "activation_checkpointing_enable") else "gradient"
    if getattr(base, f"is_{switch}_checkpointing") == on:
        return
    if on:
        getattr(base, f"{switch}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(base, f"{switch}_checkpointing_disable")()
