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
from colab_magics.hub import NoNetwork, check_quantisation, first_line, hub_errors, is_path, no_folder
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
        return ModelSource(name, folder.resolve(), None, read_model_config(name, folder, recipe), sum(weights.values()))
    if is_path(name):
        raise no_folder(name)
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
        with hub_errors(source.id):
            snapshot_download(
                source.id,
                revision=source.revision,
                allow_patterns=list(source.missing),
                tqdm_class=_reporting(report, source.weight_bytes),
            )
    except NoNetwork as error:
        raise error.shown from None


def load_tokenizer(source: ModelSource, recipe: Recipe) -> Any:
    """The model's own tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=recipe.trust_remote_code)
        if tokenizer.vocab_size < 2:  # where there are no files, transformers makes an empty one and says nothing
            raise ValueError("Its files are not there: tokenizer.json, or what its kind has instead.")
        return tokenizer
    except ColabMagicsError:
        raise  # an interrupt, which comes wherever it finds us
    except Exception as error:
        raise ColabMagicsError(
            f"The tokenizer of {source.id} cannot be loaded.", first_line(error), "Use a model that has one."
        ) from None


def _open_hub(recipe: Recipe) -> ModelSource:
    from huggingface_hub import HfApi, snapshot_download

    name = recipe.model
    try:
        with hub_errors(name):
            info = HfApi().model_info(name, revision=recipe.hub_revision, files_metadata=True)
    except NoNetwork as error:
        return _open_cached(recipe, error)
    files = {sibling.rfilename: int(sibling.size or 0) for sibling in info.siblings or []}
    weights = _weights(name, files, recipe)
    others = [*_NEVER, *_PICKLES, "*.safetensors"]
    with hub_errors(name):
        # by the branch's name, so that the cache knows which commit it was when there is no network next time
        folder = Path(
            snapshot_download(
                name, revision=recipe.hub_revision, ignore_patterns=others, tqdm_class=_reporting(None, 0)
            )
        )
    config = read_model_config(name, folder, recipe)
    return ModelSource(name, folder, folder.name, config, sum(weights.values()), tuple(weights))


def _open_cached(recipe: Recipe, error: NoNetwork) -> ModelSource:
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
    return ModelSource(
        recipe.model, folder, folder.name, read_model_config(recipe.model, folder, recipe), sum(weights.values())
    )


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


def read_model_config(name: str, folder: Path, recipe: Recipe) -> Any:
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
                first_line(error),
                "pip install -U transformers (no restart is needed: every run imports afresh)",
            ) from None
        raise ColabMagicsError(
            f"The config of {name} cannot be read.", first_line(error), "Download or copy the model again."
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
    check_quantisation(name, getattr(config, "quantization_config", None))
    return config


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
