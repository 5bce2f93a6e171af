"""Models on the Hub: what can go wrong there, in sentences, and a model's config without anything else of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError

LOGIN = "Set HF_TOKEN in the environment or in Colab's or Kaggle's secrets, or run `hf auth login`."
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the Hub's client takes either
_TOO_MANY = 429  # requests


@dataclass(frozen=True)
class ConfigFile:
    """A model's config.json.

    Attributes
    ----------
    folder : Path
        Where it is.
    config : dict
        What it says.
    weight_bytes : int
        Of the model's weight files, as far as that is known.
    """

    folder: Path
    config: dict[str, Any]
    weight_bytes: int


def read_config(model: str, revision: str | None = None) -> ConfigFile:
    """The config of a model, of which nothing else is downloaded; needs neither torch nor transformers.

    Raises
    ------
    ColabMagicsError
        There is no such folder or model, no network, no permission, or no config that can be read.
    """
    from colab_magics.demo import model_path

    folder = model_path() if model == "demo" else Path(model).expanduser()
    if folder.is_dir():
        sizes = [file.stat().st_size for file in folder.iterdir() if file.name.endswith(".safetensors")]
        return ConfigFile(folder.resolve(), _read(folder / "config.json", model), sum(sizes))
    if is_path(model):
        raise no_folder(model)
    return _from_hub(model, revision)


def is_path(model: str) -> bool:
    """Whether a model's name can only be that of a folder."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1


def no_folder(model: str) -> ColabMagicsError:
    return ColabMagicsError(
        f"There is no folder {model}.",
        "A name like this cannot be a Hub id.",
        "Give a folder that exists, a Hub id (org/name), or demo.",
    )


def _from_hub(model: str, revision: str | None) -> ConfigFile:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        with hub_errors(model):
            kept = try_to_load_from_cache(model, "config.json", revision=revision)
            if not isinstance(kept, str):
                size = _weights_there(model, revision)
                path = Path(hf_hub_download(model, "config.json", revision=revision))
                return ConfigFile(path.parent, _read(path, model), size)
    except NoNetwork as error:
        raise error.shown from None
    folder = Path(kept).parent
    config = _read(Path(kept), model)
    size = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    if not size and config.get("quantization_config") is not None:
        # of such a model its files alone tell the size; with the config kept and the weights not, the Hub knows them
        with suppress(NoNetwork, ColabMagicsError), hub_errors(model):
            size = _weights_there(model, revision)
    return ConfigFile(folder, config, size)


def quantised_by(config: Any) -> str | None:
    """What a checkpoint was quantised with that carries no adapter here; bitsandbytes' 4 bits do.

    Parameters
    ----------
    config : the `quantization_config` of a model's config, a mapping or an object of transformers
    """
    if config is None:
        return None
    fields = config if isinstance(config, dict) else config.to_dict()
    kind = fields.get("quant_method")
    kind = str(getattr(kind, "value", kind) or "bitsandbytes")
    return None if kind == "bitsandbytes" and fields.get("load_in_4bit") else kind


def check_quantisation(model: str, config: Any) -> None:
    """Of quantised checkpoints only bitsandbytes' 4-bit ones can carry an adapter here.

    Raises
    ------
    ColabMagicsError
        For every other.
    """
    kind = quantised_by(config)
    if kind is not None:
        raise ColabMagicsError(
            f"{model} is quantised with {kind}, which cannot be trained here.",
            "Of quantised checkpoints only bitsandbytes' 4-bit ones carry an adapter here.",
            "Name the 16-bit model; method: qlora quantises it while it loads.",
        )


def _weights_there(model: str, revision: str | None) -> int:
    """Bytes of a model's weight files on the Hub."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(model, revision=revision, files_metadata=True)
    files = {one.rfilename: int(one.size or 0) for one in info.siblings or []}
    return sum(size for name, size in files.items() if name.startswith("model") and name.endswith(".safetensors"))


def _read(path: Path, model: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ColabMagicsError(
            f"There is no model in the folder {model}.",
            "It has no config.json.",
            "Give a folder that save_pretrained wrote.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ColabMagicsError(
            f"The config of {model} cannot be read.", first_line(error), "Download or copy the model again."
        ) from None
    if not isinstance(config, dict):
        raise ColabMagicsError(
            f"The config of {model} cannot be read.",
            f"config.json holds a {type(config).__name__}, and no mapping.",
            "Download or copy the model again.",
        )
    return config


@dataclass(frozen=True)
class Silence:
    """Why the Hub gave nothing: what happened (a clause, which others go on with), why, and what to do."""

    what: str
    why: str
    step: str


def silence(error: BaseException) -> Silence:
    """Whether the Hub was not asked, did not answer, or answered with an error, as the Hub's client tells it."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        name = next((one for one in _OFFLINE if one in os.environ), _OFFLINE[0])
        return Silence(
            "The Hub cannot be reached",
            f"Offline mode is on: {name} was set when the Hub's library was loaded, and it is read once.",
            f"Restart the kernel, and write %env {name}=0 in its first cell.",
        )
    for link in chain(error):
        status = getattr(link.response, "status_code", 0) if isinstance(link, errors.HfHubHTTPError) else 0
        if status >= 500 or status == _TOO_MANY:
            own = " of its own" if status >= 500 else ""
            return Silence(
                f"The Hub answered with an error{own} (HTTP {status})",
                first_line(link),
                "Try again later; https://status.huggingface.co tells how it stands.",
            )
        if status:
            return Silence(
                f"The Hub refuses what it was asked (HTTP {status})",
                first_line(link),
                "Mend what it names, and try again.",
            )
    return Silence(
        "The Hub cannot be reached",
        first_line(error),
        "Check the network (on Kaggle: Settings, Internet on).",
    )


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of, the newest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class NoNetwork(Exception):
    """The Hub gave nothing, for the reason in `silence`; `shown` is what to say if no local copy helps."""

    def __init__(self, name: str, error: BaseException) -> None:
        self.silence = found = silence(error)
        self.shown = ColabMagicsError(
            f"{found.what}, and {name} is not on this machine.",
            found.why,
            found.step,
            "Or give a folder; model: demo needs no network.",
        )
        super().__init__(str(self.shown))


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn the Hub's exceptions into sentences."""
    from huggingface_hub import errors

    signed_in = _token_known()
    try:
        yield
    except errors.GatedRepoError:
        raise ColabMagicsError(
            f"{name} is gated: its owner has to let you in.",
            "Your token has no access yet." if signed_in else "No Hub token was found.",
            f"Ask for access at https://huggingface.co/{name}",
            "" if signed_in else LOGIN,
        ) from None
    except errors.RevisionNotFoundError:
        raise ColabMagicsError(
            f"{name} has no such revision.",
            "hub_revision names none of its commits, branches or tags.",
            "Check hub_revision, or leave it out.",
            facts={"missing": "revision"},
        ) from None
    except errors.RepositoryNotFoundError:
        raise ColabMagicsError(
            f"There is no model {name}: no such folder here, and no such id on the Hub that you may see.",
            "A private model looks the same as a missing one.",
            "Check the spelling (org/name).",
            "" if signed_in else LOGIN,
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise ColabMagicsError(
            f"{name} is on the Hub, and has no config.json.",
            "It is no model that transformers loads: GGUF files come without one, and so do adapters.",
            "Name the model that it was made from.",
        ) from None
    except errors.HFValidationError:
        raise ColabMagicsError(
            f"There is no model {name}.",
            "It is no folder, and cannot be a Hub id.",
            "Give a folder, org/name, or demo.",
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise NoNetwork(name, error) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            raise ColabMagicsError(
                f"The Hub refuses {name} (HTTP {status}).", "The token is wrong or has no access.", LOGIN
            ) from None
        raise NoNetwork(name, error) from None
    except OSError as error:
        if error.errno == 28:  # no space left
            raise ColabMagicsError(
                f"The disk is full: {name} could not be downloaded.",
                first_line(error),
                "Make room, or set HF_HOME to a larger disk.",
            ) from None
        raise NoNetwork(name, error) from None
    except ColabMagicsError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("http"):  # httpx and its successors: all of transport
            raise NoNetwork(name, error) from None
        raise


def _token_known() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def first_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    sentence = first if len(first) <= 200 else first[:200].rpartition(". ")[0] or first[:199] + "…"
    return sentence or type(error).__name__
