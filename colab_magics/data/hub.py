"""Data sets on the Hub, by `datasets`; its errors in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from colab_magics.data.rows import Row
from colab_magics.data.sources import Source
from colab_magics.errors import ColabMagicsError, clean

_UNREACHABLE = {
    "ConnectionError",
    "ConnectError",
    "OfflineModeIsEnabled",
    "LocalEntryNotFoundError",
    "TimeoutException",
}
_TOKEN = "set HF_TOKEN in the environment or in Colab's or Kaggle's secrets, or run `hf auth login`"


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
        rows = datasets.load_dataset(source.name, config or None, split=split, streaming=limit is not None)
        for number, fields in enumerate(islice(rows, limit), 1):
            yield Row(f"row {number}", dict(fields))
    except ColabMagicsError:
        raise
    except Exception as error:  # datasets raises a dozen types, which change with its version
        raise explained(source, split, error) from error


def explained(source: Source, split: str, error: BaseException) -> ColabMagicsError:
    """The error of `datasets` in our words: by its type's name and its text, for the types move between versions."""
    kinds = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    said = " ".join(clean(link) for link in _chain(error))
    first = clean(error).strip().splitlines()[0][:200] if clean(error).strip() else type(error).__name__
    if "gated" in said.lower() or "GatedRepoError" in kinds or "401" in said or "403" in said:
        return ColabMagicsError(
            f"{source.name} needs a login",
            "the data set is gated or private",
            f"ask for access at https://huggingface.co/datasets/{source.name}",
            _TOKEN,
        )
    if "Unknown split" in said or "Bad split" in said:
        return ColabMagicsError(
            f"{source.name} has no split {split!r}", first, f"name one that it has: data: {source.name}:SPLIT"
        )
    if "Config name is missing" in said or ("BuilderConfig" in said and "not found" in said):
        return ColabMagicsError(
            f"{source.name} has several configurations", first, f"name one: data: {source.name}:CONFIG:{split}"
        )
    if kinds & _UNREACHABLE:
        return ColabMagicsError(
            f"the Hub cannot be reached for {source.name}",
            first,
            "check the network (on Kaggle: Settings → Internet on), or give a file",
        )
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "FileNotFoundError"}:
        return ColabMagicsError(
            f"{source.name} is no file here, no variable, and no data set on the Hub",
            first,
            "check the spelling",
            f"if it is private: {_TOKEN}",
        )
    if "trust_remote_code" in said or "scripts are no longer supported" in said:
        return ColabMagicsError(
            f"{source.name} is loaded by a script of its own, which is not run",
            first,
            "load it yourself and name the variable",
        )
    return ColabMagicsError(f"{source.name} could not be loaded", f"{type(error).__name__}: {first}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def revision(name: str) -> str | None:
    """The commit that the Hub has for a data set now; None if it does not answer."""
    import huggingface_hub

    try:
        info: Any = huggingface_hub.HfApi().dataset_info(name, timeout=5)
    except Exception:
        return None
    return str(info.sha) if info.sha else None
