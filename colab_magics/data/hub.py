"""Data sets on the Hub, by `datasets`; its errors in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from colab_magics.data.rows import Row
from colab_magics.data.sources import Source
from colab_magics.errors import ColabMagicsError, clean
from colab_magics.hub import chain, silence

_UNREACHABLE = {
    "ConnectionError",
    "ConnectError",
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "TimeoutException",
    "TransportError",
}
_TOKEN = "Set HF_TOKEN in the environment or in Colab's or Kaggle's secrets, or run `hf auth login`"


def hub_rows(source: Source, limit: int | None) -> Iterator[Row]:
    """The rows of a Hub data set; with a limit they are streamed, without one the data set is downloaded and kept.

    Code that a data set ships is never run: `datasets` of today cannot, and that of Colab does not unless asked to.

    Raises
    ------
    ColabMagicsError
        Unknown id or split, no network, or a data set that needs a login.
    """
    import datasets

    config, _, split = (source.split or "train").rpartition(":")
    try:
        _reach(source.name)
        rows = datasets.load_dataset(source.name, config or None, split=split, streaming=limit is not None)
        for number, fields in enumerate(islice(rows, limit), 1):
            yield Row(f"row {number}", dict(fields))
    except ColabMagicsError:
        raise
    except Exception as error:  # datasets raises a dozen types, which change with its version
        raise explained(source, split, error) from error


def _reach(name: str) -> None:
    """Fail at once without a network: `datasets` would try again for 24 s. What was downloaded before needs none."""
    from datasets import config
    from huggingface_hub import HfApi, constants

    owner, _, repository = name.partition("/")
    kept = (
        Path(constants.HF_HUB_CACHE, f"datasets--{owner}--{repository}"),
        Path(config.HF_DATASETS_CACHE, f"{owner}___{repository}"),
    )
    if any(path.exists() for path in kept):
        return
    try:
        HfApi().dataset_info(name, timeout=5)
    except Exception as error:
        if _kinds(error) & _UNREACHABLE:
            raise
        # Whatever else it is, `datasets` says it better.


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for link in chain(error) for kind in type(link).__mro__}


def explained(source: Source, split: str, error: BaseException) -> ColabMagicsError:
    """The error of `datasets` in our words: by its type's name and its text, for the types move between versions."""
    kinds = _kinds(error)
    said = " ".join(clean(link) for link in chain(error))
    first = clean(error).strip().splitlines()[0][:200] if clean(error).strip() else type(error).__name__
    if "gated" in said.lower() or "GatedRepoError" in kinds or "401" in said or "403" in said:
        return ColabMagicsError(
            f"{source.name} needs a login",
            "The data set is gated or private.",
            f"Ask for access at https://huggingface.co/datasets/{source.name}",
            _TOKEN,
        )
    if "Unknown split" in said or "Bad split" in said:
        return ColabMagicsError(
            f"{source.name} has no split {split!r}", first, f"Name one that it has: data: {source.name}:SPLIT"
        )
    if "Config name is missing" in said or ("BuilderConfig" in said and "not found" in said):
        return ColabMagicsError(
            f"{source.name} has several configurations", first, f"Name one: data: {source.name}:CONFIG:{split}"
        )
    if kinds & _UNREACHABLE:
        found = silence(error)
        return ColabMagicsError(f"{found.what} for {source.name}", found.why, found.step, "Or give a file.")
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "FileNotFoundError"}:
        return ColabMagicsError(
            f"{source.name} is no file here, no variable, and no data set on the Hub",
            first,
            "Check the spelling.",
            f"If it is private: {_TOKEN[0].lower()}{_TOKEN[1:]}",
        )
    if "trust_remote_code" in said or "scripts are no longer supported" in said:
        return ColabMagicsError(
            f"{source.name} is loaded by a script of its own, which is not run",
            first,
            "Load it yourself and name the variable.",
        )
    return ColabMagicsError(
        f"{source.name} could not be loaded",
        f"{type(error).__name__}: {first}",
        "Try datasets.load_dataset in a cell, and name its variable.",
    )


def revision(name: str) -> str | None:
    """The commit that the Hub has for a data set now; None if it does not answer."""
    import huggingface_hub

    try:
        info: Any = huggingface_hub.HfApi().dataset_info(name, timeout=5)
    except Exception:
        return None
    return str(info.sha) if info.sha else None
