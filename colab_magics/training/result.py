"""The result of a run: an adapter or a model that others can load as it stands."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colab_magics.recipe import Recipe
from colab_magics.training.model import compute_in, import_peft, nf4
from colab_magics.training.quiet import Counted, quiet_libraries
from colab_magics.training.source import ModelSource
from colab_magics.training.torchao import hide_old_torchao


def save_result(
    folder: Path,
    model: nn.Module,
    tokenizer: Any,
    *,
    source: ModelSource,
    recipe: Recipe,
    facts: Mapping[str, Any],
) -> Path:
    """Write `adapter/` (or `model/` for full fine-tuning) into the run's folder; a half-written one is never seen.

    Parameters
    ----------
    folder : the run's folder
    facts : what the model card tells besides the recipe: label -> value

    Returns
    -------
    The folder written.
    """
    target = folder / ("adapter" if hasattr(model, "peft_config") else "model")
    staging = folder / f".{target.name}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    if hasattr(model, "peft_config"):
        # "auto" would ask the Hub whether the base model's vocabulary changed; ours never does
        model.save_pretrained(staging, safe_serialization=True, save_embedding_layers=False)
    else:
        model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    (staging / "README.md").write_text(model_card(source, recipe, facts), encoding="utf-8")
    if target.exists():
        old = folder / f".{target.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)
    return target


def model_card(source: ModelSource, recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """A README that says what was trained on what, with the complete recipe."""
    adapter = recipe.method != "full"
    head = ["---", f"base_model: {source.id}", "library_name: " + ("peft" if adapter else "transformers")]
    head += ["pipeline_tag: text-generation", "tags:", "- colab_magics", *(["- lora"] if adapter else []), "---"]
    revision = f" at commit `{source.revision}`" if source.revision else ""
    table = ["| | |", "|---|---|", *(f"| {label} | {value} |" for label, value in facts.items())]
    body = [
        f"# {source.id}, fine-tuned",
        "",
        f"Trained from `{source.id}`{revision} with colab_magics.",
        "",
        *table,
        "",
        "## Recipe",
        "",
        "```yaml",
        recipe.to_yaml().rstrip(),
        "```",
        "",
    ]
    return "\n".join([*head, "", *body])


def load_for_inference(folder: Path, *, method: str | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """A saved result and its tokenizer, in eval mode, on the GPU (16 bit) if there is one, else in fp32 on the CPU.

    Parameters
    ----------
    folder : an `adapter/` or `model/` that `save_result` wrote
    method : how it was trained; on a GPU, what "qlora" trained stands on the 4-bit base that it was trained on
    trust_remote_code : as the recipe says
    """
    hide_old_torchao()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"dtype": dtype_on(device), "trust_remote_code": trust_remote_code}
    if device.type == "cuda":
        options["device_map"] = {"": 0}
    with quiet_libraries():
        if (folder / "adapter_config.json").is_file():
            from peft import AutoPeftModelForCausalLM

            if method == "qlora" and torch.cuda.is_available() and not _quantised(folder, trust_remote_code):
                options["quantization_config"] = nf4(options["dtype"])
            model = AutoPeftModelForCausalLM.from_pretrained(folder, **options)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def dtype_on(device: torch.device) -> torch.dtype:
    """In what a model is asked: fp32 on a CPU, on a GPU bf16 where it has that (from capability 8.0 on), else fp16."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def load_base(
    source: ModelSource,
    device: torch.device,
    *,
    four_bit: bool = False,
    trust_remote_code: bool = False,
    counted: Counted | None = None,
) -> Any:
    """A model without an adapter, in eval mode, as `load_for_inference` would have it below one.

    Parameters
    ----------
    source : whose weights are on this machine
    four_bit : in 4 bits on a GPU, as qlora trained it
    counted : told how many tensors are loaded
    """
    hide_old_torchao()
    from transformers import AutoModelForCausalLM

    dtype, options = dtype_on(device), dict[str, Any]()
    quantised = getattr(source.config, "quantization_config", None) is not None
    if device.type != "cpu":
        options["device_map"] = {"": device}
    if four_bit and not quantised and device.type != "cpu":
        options["quantization_config"] = nf4(dtype)
    with quiet_libraries(counted):
        model = AutoModelForCausalLM.from_pretrained(
            source.folder, config=source.config, dtype=dtype, trust_remote_code=trust_remote_code, **options
        )
    if quantised or "quantization_config" in options:
        compute_in(model, dtype)
    return model.requires_grad_(False).eval()


def put_adapter(model: Any, folder: Path, name: str) -> Any:
    """The model with that adapter on it, by that name, and switched to it; a model that has one already gets another.

    Returns
    -------
    A `peft.PeftModel`; its layers are those of the model that was given.
    """
    import_peft(bitsandbytes=True)  # a notebook's process: what peft finds now it remembers
    with quiet_libraries():
        if hasattr(model, "peft_config"):
            model.load_adapter(folder, adapter_name=name)
            model.set_adapter(name)
        else:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
    return model.requires_grad_(False).eval()


def _quantised(adapter: Path, trust_remote_code: bool) -> bool:
    """Whether the adapter's base model comes quantised, and so needs no telling how."""
    from peft import PeftConfig
    from transformers import AutoConfig

    base = PeftConfig.from_pretrained(adapter)
    config = AutoConfig.from_pretrained(
        base.base_model_name_or_path, revision=base.revision, trust_remote_code=trust_remote_code
    )
    return getattr(config, "quantization_config", None) is not None
