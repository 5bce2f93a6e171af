"""Where a model's files come from: a folder, the demo model in this package, or the Hub.

Config and tokenizer come first and cost little; the weights only once everything else has been checked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe

Report = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS = (".safetensors", ".gguf", *(pattern.removeprefix("*") for pattern in _PICKLES))
# What neither a tokenizer nor a causal LM reads: other frameworks' weights and copies of the same ones.
_NEVER = [
    "*.onnx*",
    "*.msgpack",
    "*.h5",
    "*.gguf",
    "*.tflite",
    "*.mlmodel",
    "*.ot",
    "original/*",
    "onnx/*",
    "openvino*",
]
_OTHER_HEADS = ("ForMaskedLM", "Classification", "QuestionAnswering", "ForPreTraining", "MultipleChoice")


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are.

    `id` is what the user knows it by, `revision` its commit on the Hub (None for a folder), `weight_bytes` the size of
    its weight files, `missing` what `fetch_weights` still has to bring.
    """

    id: str
    folder: Path
    revision: str | None
    config: Any
    weight_bytes: int
    missing: tuple[str, ...] = ()


def open_model(recipe: Recipe, *, to_train: bool = True) -> ModelSource:
    """Find the model and read its config; no weight is read or downloaded.

    Tokens come from the environment or the Hub's own login file.

    Parameters
    ----------
    to_train : without it a folder may lack its weights, which a plan does not need: they may not be uploaded yet

    Raises
    ------
    ColabMagicsError
        When there is no such model, no network, no permission, no safetensors, or it is no causal language model.
    """
    name = recipe.model
    folder = Path(__file__).parents[1] / "demo" / "model" if name == "demo" else Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ColabMagicsError(
                f"There is no model in the folder {name}.",
                "It has no config.json.",
                "Give a folder that save_pretrained wrote.",
            )
        files = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        planned = not to_train and not any(file.endswith(_WEIGHTS) for file in files)
        weights = {} if planned else _weights(name, files, recipe)
        return ModelSource(name, folder.resolve(), None, _config(name, folder, recipe), sum(weights.values()))
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise ColabMagicsError(
            f"There is no folder {name}.",
            "A name like this cannot be a Hub id.",
            "Give a folder that exists, a Hub id (org/name), or demo.",
        )
    return _open_hub(recipe)


def fetch_weights(source: ModelSource, report: Report | None = None) -> None:
    """Download what `open_model` left on the Hub; at once where nothing is missing.

    Parameters
    ----------
    report : called as bytes arrive, with (done, total)
    """
    if not source.missing:
        return
    from huggingface_hub import snapshot_download

    try:
        with _hub_errors(source.id):
            snapshot_download(
                source.id,
                revision=source.revision,
                allow_patterns=list(source.missing),
                tqdm_class=_reporting(report, source.weight_bytes),
            )
    except _NoNetwork as error:
        raise error.shown from None


def load_tokenizer(source: ModelSource, recipe: Recipe) -> Any:
    """The model's own tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=recipe.trust_remote_code)
        if tokenizer.vocab_size < 2:  # where there are no files, transformers makes an empty one and says nothing
            raise ValueError("Its files are not there: tokenizer.json, or what its kind has instead.")
        return tokenizer
    except Exception as error:
        raise ColabMagicsError(
            f"The tokenizer of {source.id} cannot be loaded.", _first_line(error), "Use a model that has one."
        ) from None


def _open_hub(recipe: Recipe) -> ModelSource:
    from huggingface_hub import HfApi, snapshot_download

    name = recipe.model
    try:
        with _hub_errors(name):
            info = HfApi().model_info(name, revision=recipe.hub_revision, files_metadata=True)
    except _NoNetwork as error:
        return _open_cached(recipe, error)
    files = {sibling.rfilename: int(sibling.size or 0) for sibling in info.siblings or []}
    weights = _weights(name, files, recipe)
    others = [*_NEVER, *_PICKLES, "*.safetensors"]
    with _hub_errors(name):
        # by the branch's name, so that the cache knows which commit it was when there is no network next time
        folder = Path(
            snapshot_download(
                name, revision=recipe.hub_revision, ignore_patterns=others, tqdm_class=_reporting(None, 0)
            )
        )
    config = _config(name, folder, recipe)
    return ModelSource(name, folder, folder.name, config, sum(weights.values()), tuple(weights))


def _open_cached(recipe: Recipe, error: _NoNetwork) -> ModelSource:
    """The copy that an earlier run downloaded, where there is no network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(recipe.model, "config.json", revision=recipe.hub_revision)
    if not isinstance(found, str):
        raise error.shown
    folder = Path(found).parent
    files = {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    index = folder / "model.safetensors.index.json"
    wanted = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    if not any(file.endswith(".safetensors") for file in files) or not wanted <= set(files):
        raise error.shown  # an earlier download was broken off
    weights = _weights(recipe.model, files, recipe)
    return ModelSource(recipe.model, folder, folder.name, _config(recipe.model, folder, recipe), sum(weights.values()))


def _weights(name: str, files: dict[str, int], recipe: Recipe) -> dict[str, int]:
    """The weight files that will be read, and their sizes."""
    safe = {file: size for file, size in files.items() if file.endswith(".safetensors") and "/" not in file}
    if safe:
        # some repositories carry the same weights twice: the author's own "consolidated" file beside these
        return {file: size for file, size in safe.items() if file.startswith("model")} or safe
    pickles = {file: size for file, size in files.items() if file.startswith("pytorch_model") and file.endswith(".bin")}
    if pickles and recipe.allow_pickle:
        return pickles
    if pickles:
        raise ColabMagicsError(
            f"{name} has its weights only as pickle files ({next(iter(pickles))}).",
            "Loading a pickle can run any code that its author put in.",
            "Use a copy of the model with .safetensors files.",
            "Add allow_pickle: true (or --allow-pickle), if you trust its author.",
        )
    gguf = " It has GGUF files, which are for inference." if any(file.endswith(".gguf") for file in files) else ""
    raise ColabMagicsError(
        f"{name} has no weights that can be trained.",
        f"It has no .safetensors files.{gguf}",
        "Name the model that it was made from." if gguf else "Check that it was copied or uploaded whole.",
    )


def _config(name: str, folder: Path, recipe: Recipe) -> Any:
    """The model's config, checked to be a causal language model's."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=recipe.trust_remote_code)
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise ColabMagicsError(
                f"{name} brings its own code, which is not run.",
                "Such code can do anything that you can do.",
                "Add trust_remote_code: true, if you have read it.",
            ) from None
        if "does not recognize this architecture" in text or "model type" in text:
            import transformers

            raise ColabMagicsError(
                f"{name} is of an architecture that transformers {transformers.__version__} does not know.",
                _first_line(error),
                "pip install -U transformers (no restart is needed: every run imports afresh)",
            ) from None
        raise ColabMagicsError(
            f"The config of {name} cannot be read.", _first_line(error), "Download or copy the model again."
        ) from None
    architectures = list(getattr(config, "architectures", None) or [])
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or remote
    others = any(other in architecture for architecture in architectures for other in _OTHER_HEADS)
    # BertModel, and every other without a head that says the next token
    headless = not remote and any(name.endswith("Model") and "LMHead" not in name for name in architectures)
    if not causal or others or headless:
        raise ColabMagicsError(
            f"{name} is not a causal language model.",
            f"It is a {', '.join(architectures) or config.model_type}.",
            "Use a model whose architecture ends in ForCausalLM.",
        )
    _check_quantisation(name, config)
    return config


def _check_quantisation(name: str, config: Any) -> None:
    """Of quantised checkpoints only bitsandbytes' 4-bit ones can carry an adapter here."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    fields = found if isinstance(found, dict) else found.to_dict()
    kind = fields.get("quant_method")
    kind = str(getattr(kind, "value", kind) or "bitsandbytes")
    if kind == "bitsandbytes" and fields.get("load_in_4bit"):
        return
    raise ColabMagicsError(
        f"{name} is quantised with {kind}, which cannot be trained here.",
        "Of quantised checkpoints only bitsandbytes' 4-bit ones carry an adapter here.",
        "Name the 16-bit model; method: qlora quantises it while it loads.",
    )


class _NoNetwork(Exception):
    """The Hub could not be reached; `shown` is what to say if no local copy helps."""

    def __init__(self, shown: ColabMagicsError) -> None:
        super().__init__(str(shown))
        self.shown = shown


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn the Hub's exceptions into sentences."""
    from huggingface_hub import errors

    login = "Set HF_TOKEN in the environment or in Colab's or Kaggle's secrets, or run `hf auth login`."
    signed_in = _token_known()
    try:
        yield
    except errors.GatedRepoError:
        raise ColabMagicsError(
            f"{name} is gated: its owner has to let you in.",
            "Your token has no access yet." if signed_in else "No Hub token was found.",
            f"Ask for access at https://huggingface.co/{name}",
            "" if signed_in else login,
        ) from None
    except errors.RevisionNotFoundError:
        raise ColabMagicsError(
            f"{name} has no such revision.",
            "hub_revision names none of its commits, branches or tags.",
            "Check hub_revision, or leave it out.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise ColabMagicsError(
            f"There is no model {name}: no such folder here, and no such id on the Hub that you may see.",
            "A private model looks the same as a missing one.",
            "Check the spelling (org/name).",
            "" if signed_in else login,
        ) from None
    except errors.HFValidationError:
        raise ColabMagicsError(
            f"There is no model {name}.",
            "It is no folder, and cannot be a Hub id.",
            "Give a folder, org/name, or demo.",
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise _NoNetwork(_unreachable(name, error)) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            raise ColabMagicsError(
                f"The Hub refuses {name} (HTTP {status}).", "The token is wrong or has no access.", login
            ) from None
        raise _NoNetwork(_unreachable(name, error)) from None
    except OSError as error:
        if error.errno == 28:  # no space left
            raise ColabMagicsError(
                f"The disk is full: {name} could not be downloaded.",
                _first_line(error),
                "Make room, or set HF_HOME to a larger disk.",
            ) from None
        raise _NoNetwork(_unreachable(name, error)) from None
    except ColabMagicsError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("http"):  # httpx and its successors: all of transport
            raise _NoNetwork(_unreachable(name, error)) from None
        raise


def _unreachable(name: str, error: BaseException) -> ColabMagicsError:
    return ColabMagicsError(
        f"The Hub cannot be reached, and {name} is not on this machine.",
        _first_line(error),
        "Check the network (on Kaggle: Settings, Internet on), or give a folder.",
        "model: demo needs no network.",
    )


def _token_known() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _first_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    sentence = first if len(first) <= 200 else first[:200].rpartition(". ")[0] or first[:199] + "…"
    return sentence or type(error).__name__


def _reporting(report: Report | None, total: int) -> type:
    """A progress bar class that draws nothing and tells the bytes done.

    The Hub's client opens two bars that count bytes (received, and written); the further one is told.
    """
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    counts: dict[int, int] = {}

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            if self.counts_bytes and report is not None:
                counts[id(self)] = counts.get(id(self), 0) + int(n or 0)
                report(min(total, max(counts.values())), total)

    return Reporting


@contextmanager
def imported_meanwhile(source: ModelSource) -> Iterator[None]:
    """Import the model's code in a thread while the block reads and tokenises, which leaves Python's lock free.

    What the import raises is left to whoever needs the module: it is raised again there, with a name.
    """

    def import_code() -> None:
        with suppress(Exception):
            import_module(type(source.config).__module__.replace(".configuration_", ".modeling_"))

    thread = threading.Thread(target=import_code, name="imports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
