"""The base's weights, unquantised, at the commit that the adapter was trained on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.demo import model_path
from colab_magics.errors import ColabMagicsError
from colab_magics.hub import NoNetwork, hub_errors, no_folder
from colab_magics.sizes import size
from colab_magics.training.merging.changes import Adapter
from colab_magics.training.source import ModelSource, fetch_weights

INDEX = "model.safetensors.index.json"
_QUANTISED = re.compile(r"(-unsloth)?-bnb-4bit$")
Said = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """Which base is asked for; None: the one that the adapter names, at the commit that it names."""

    base: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Base:
    """A base model's files.

    Attributes
    ----------
    id : str
        As a person calls it.
    revision : str, optional
        Its commit on the Hub; None for a folder.
    config : dict
        Its config.json.
    weights : tuple of Path
        Its .safetensors files, those that the index names; empty until they are fetched.
    missing : tuple of str
        Those that are still on the Hub, of `bytes` in all.
    """

    id: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    bytes: int = 0


def find_base(adapter: Adapter, wish: Wish, say: Said) -> Base:
    """The base, with its config alone; no weights are downloaded.

    Raises
    ------
    ColabMagicsError
        There is none, it has changed since the training, or it is quantised and nobody says from what.
    """
    name, revision = wish.base or adapter.base, wish.revision
    if not wish.base:
        revision = revision or adapter.revision
    if not name:
        raise ColabMagicsError(
            "The adapter does not say what it was trained on.",
            "Its adapter_config.json has no base_model_name_or_path.",
            "Name the base: --base org/name, or a folder.",
        )
    trained = adapter.revision if name == adapter.base else None
    base = _open(name, revision, trained, asked=bool(wish.base))
    if not base.config.get("quantization_config"):
        return base
    if wish.base:
        raise ColabMagicsError(
            f"{name} is quantised.",
            "An adapter is added to 16-bit weights: rounded to 4 bits once more, it would not be what was trained.",
            "Name the model that it was made from: --base org/name.",
        )
    whole = _made_from(base)
    if whole is None:
        raise ColabMagicsError(
            f"{name} is quantised, and does not say from what.",
            "An adapter is added to 16-bit weights: its own are gone.",
            "Name the model that it was made from: --base org/name, or a folder.",
        )
    say(f"{name} is quantised: the adapter is added to {whole}, from which it was made.")
    unquantised = _open(whole, None, None)
    if unquantised.config.get("quantization_config"):
        raise ColabMagicsError(
            f"{name} was made from {whole}, which is quantised as well.",
            "An adapter is added to 16-bit weights.",
            "Name the 16-bit model: --base org/name, or a folder.",
        )
    return unquantised


def _made_from(base: Base) -> str | None:
    """The 16-bit model from which a quantised one was made: as its config says, else by its name."""
    told = base.config.get("_name_or_path")
    if isinstance(told, str) and told.count("/") == 1 and not told.startswith(("/", ".", "~")) and told != base.id:
        return _QUANTISED.sub("", told)
    plain = _QUANTISED.sub("", base.id)
    return plain if plain != base.id else None


def _open(name: str, revision: str | None, trained: str | None, *, asked: bool = False) -> Base:
    folder = model_path() if name == "demo" else Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(name, folder.resolve(), None)
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        gone = no_folder(name)
        raise ColabMagicsError(
            gone.what,
            "It is what --base names." if asked else "The adapter was trained on it.",
            "Name where it is: --base FOLDER, or --base org/name.",
        )
    return _of_hub(name, revision, trained)


def _of_folder(name: str, folder: Path, revision: str | None) -> Base:
    weights = _weights(folder)
    if not weights:
        raise _no_weights(name)
    return Base(
        name, folder, revision, _config(folder, name), weights, bytes=sum(one.stat().st_size for one in weights)
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    """The weight files that are read: of the same weights twice in a folder, those of transformers."""
    try:
        named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return tuple(folder / one for one in sorted(set(named)))
    except (OSError, ValueError, KeyError, AttributeError):
        found = sorted(folder.glob("*.safetensors"))
        return tuple([one for one in found if one.name.startswith("model")] or found)


def _no_weights(name: str) -> ColabMagicsError:
    return ColabMagicsError(
        f"{name} has no .safetensors files.",
        "Pickles are not read, and nothing else holds weights.",
        "Name a copy of the base that has them: --base org/name, or a folder.",
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ColabMagicsError(
            f"The config of {name} cannot be read.", str(error), "Name a copy of the base: --base FOLDER."
        ) from None
    return config if isinstance(config, dict) else {}


def _of_hub(name: str, revision: str | None, trained: str | None) -> Base:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        with hub_errors(name):
            try:
                info = HfApi().model_info(name, revision=revision, files_metadata=True)
            except RevisionNotFoundError:
                if revision is None or revision != trained:
                    raise ColabMagicsError(
                        f"{name} has no revision {revision}.",
                        "It is none of its commits, branches or tags.",
                        "Check --base-revision.",
                    ) from None
                now = HfApi().model_info(name).sha
                raise ColabMagicsError(
                    f"{name} has changed since the training.",
                    f"The adapter was trained on commit {trained}; that one is gone, and the newest is {now}.",
                    f"If its weights are the same: --base-revision {now}.",
                    "Else name a copy of the old one: --base FOLDER.",
                ) from None
            files = {one.rfilename: int(one.size or 0) for one in info.siblings or []}
            small = ["config.json", "generation_config.json", INDEX, "*.txt", "*.model", "tokenizer*", "*.jinja"]
            folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=small))
    except NoNetwork as error:
        return _of_cache(name, revision, error)
    safe = [one for one in files if one.endswith(".safetensors") and "/" not in one]
    weights = [one for one in safe if one.startswith("model")] or safe
    if not weights:
        raise _no_weights(name)
    missing = tuple(one for one in weights if not (folder / one).exists())
    there = tuple(folder / one for one in weights)
    return Base(name, folder, info.sha, _config(folder, name), there, missing, sum(files[one] for one in weights))


def _of_cache(name: str, revision: str | None, error: NoNetwork) -> Base:
    """The copy that the training has downloaded, where there is no network."""
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(kept, str):
        raise error.shown
    base = _of_folder(name, Path(kept).parent, Path(kept).parent.name)
    if not all(one.exists() for one in base.weights):
        raise error.shown
    return base


def bring_weights(base: Base, report: Callable[[int, int], None], *, into: Path, least: int) -> None:
    """Download what is missing of the base's weights.

    Parameters
    ----------
    into : where the merged model will be made
    least : bytes that it will take there at the least: no gigabyte is downloaded in vain

    Raises
    ------
    ColabMagicsError
        The disk has no room for the weights, or not for both.
    """
    if not base.missing:
        return
    same = base.folder.stat().st_dev == into.stat().st_dev
    # `into` has a name that nobody has given it and nobody will find
    for place, shown, needed in (
        (base.folder, base.folder, base.bytes + (least if same else 0)),
        (into, into.parent, least),
    ):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise ColabMagicsError(
                f"The disk is too full for {base.id} and what is made of it.",
                f"At least {size(needed)} are needed, and {size(free)} are free in {shown}.",
                "Make room, name a path on another disk (--to PATH), or set HF_HOME to one.",
            )
    fetch_weights(ModelSource(base.id, base.folder, base.revision, None, base.bytes, base.missing), report)
