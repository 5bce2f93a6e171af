"""The one model that this process keeps to be asked, and the adapters on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from colab_magics.errors import ColabMagicsError
from colab_magics.hub import no_folder
from colab_magics.inference.adapters import check_adapter
from colab_magics.inference.subject import ADAPTER, Subject
from colab_magics.memory.held import hold
from colab_magics.recipe import Recipe

Say = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]
Base = tuple[str, str | None, str, bool]


@dataclass
class Loaded:
    """A base in memory, with the adapters of one subject or of two.

    Attributes
    ----------
    base : tuple
        Which model it is: the folder, the commit, the device, whether in 4 bits.
    model : torch.nn.Module
        With adapters a `peft.PeftModel`.
    names : dict
        What peft calls the adapters that are on it, by their files.
    """

    base: Base
    model: Any = field(repr=False)
    names: dict[tuple[str, int, int], str] = field(default_factory=dict)

    @contextmanager
    def as_subject(self, subject: Subject) -> Iterator[Any]:
        """The model as that subject: its adapter switched on, or all of them off."""
        off = subject.adapter is None and bool(self.names)
        if subject.adapter is not None:
            self.model.set_adapter(self.names[_file(subject.adapter)])
            self.model.requires_grad_(False)
        with self.model.disable_adapter() if off else nullcontext():
            yield self.model

    def put_on(self, subjects: Sequence[Subject]) -> None:
        """Have the adapters of these subjects on the base, and no others."""
        from colab_magics.training.result import put_adapter

        wanted = {_file(one.adapter): one.adapter for one in subjects if one.adapter is not None}
        for file, folder in wanted.items():
            if file not in self.names:
                name = f"adapter{next(_NUMBERS)}"  # peft takes no name with a dot in it
                self.model = put_adapter(self.model, folder, name)
                self.names[file] = name
        for file in [file for file in self.names if file not in wanted]:
            if len(self.names) > 1:  # peft keeps one: of a base alone it is switched off
                self.model.delete_adapter(self.names.pop(file))


_NUMBERS = itertools.count(1)
_kept: Loaded | None = None


def kept() -> Loaded | None:
    """The model that is in memory now."""
    return _kept


def forget() -> None:
    """Let go of it, and give its memory back."""
    from colab_magics.memory.release import release_ours

    release_ours()


def is_loaded(subject: Subject, device: str) -> bool:
    """Whether the base that the subject stands on is in memory."""
    return _kept is not None and _kept.base == _base(subject, device)


def load(subjects: Sequence[Subject], device: str, say: Say, progress: Progress, source: Any = None) -> Loaded:
    """The base of these subjects, with their adapters; only what is missing is loaded.

    Parameters
    ----------
    subjects : all of one base
    device : cuda or cpu
    say : for what is worth a sentence
    progress : told of downloads and loading: (what, done, total)
    source : the base's, where it has been opened already

    Raises
    ------
    ColabMagicsError
        The base cannot be had, or an adapter is not for it.
    """
    global _kept  # noqa: PLW0603 - a kernel has one memory
    first, base = subjects[0], _base(subjects[0], device)
    source = source or open_source(first)
    for one in subjects:
        if one.adapter is not None and (_kept is None or _file(one.adapter) not in _kept.names):
            run = one.run.name if one.run is not None else None
            check_adapter(one.adapter, source, one.label, run=run, trust_remote_code=one.trusted)
    if _kept is None or _kept.base != base:
        forget()
        _kept = Loaded(base, _load_base(first, source, device, say, progress))
    try:
        _kept.put_on(subjects)
    except Exception as error:
        forget()
        raise _not_taken(subjects, error) from None
    hold(f"%generate's model of {subjects[-1].label}", _kept.model, _drop)
    return _kept


def open_source(subject: Subject) -> Any:
    """The base's `ModelSource`: where its files are; nothing is loaded."""
    from colab_magics.training.source import open_model

    if subject.base_is_gone:
        raise _base_gone(subject)
    recipe = Recipe(
        model=subject.base,
        hub_revision=subject.revision,
        allow_pickle=subject.recipe is not None and subject.recipe.allow_pickle,
        trust_remote_code=subject.trusted,
    )
    try:
        return open_model(recipe)
    except ColabMagicsError as error:
        if subject.adapter is None or error.facts.get("missing") != "revision":
            raise
    gone = str(subject.revision)[:12]
    raise ColabMagicsError(
        f"{subject.base} has changed: commit {gone}, which {subject.label} was trained on, is gone.",
        "The adapter was made for the weights of that commit.",
        "--run NAME --model FOLDER names a copy of them.",
        f"--run NAME --model {subject.base} puts it on what is there now: texts may be worse, or no texts at all.",
    )


def _base_gone(subject: Subject) -> ColabMagicsError:
    if subject.run is None and subject.adapter is None:
        return no_folder(subject.base)
    if subject.run is None:
        return ColabMagicsError(
            f"There is no folder {subject.base}.",
            f"It is the base of the adapter {subject.label}, by its adapter_config.json.",
            "Put it there again, or name where it is now as base_model_name_or_path in that file.",
        )
    return ColabMagicsError(
        f"There is no folder {subject.base}.",
        f"It is what {subject.run.name} was trained on: without it its adapter says nothing.",
        f"--run {subject.run.name} --model FOLDER names where it is now; a Hub id will do as well.",
    )


def open_tokenizer(subject: Subject) -> Any:
    """The tokenizer that the subject was trained with."""
    where = Path(subject.tokenizer).expanduser()
    here = subject.tokenizer != "demo" and where.is_dir()
    # a model on the Hub is opened first: what keeps one out there is told by that
    return _tokenizer(str(where if here else open_source(subject).folder), subject.trusted)


@lru_cache(maxsize=2)  # a large one takes a second
def _tokenizer(folder: str, trusted: bool) -> Any:
    from transformers import AutoTokenizer

    from colab_magics.hub import first_line

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    except Exception as error:
        raise ColabMagicsError(
            f"The tokenizer in {folder} cannot be loaded.", first_line(error), "Name a model that has one."
        ) from None


def _load_base(subject: Subject, source: Any, device: str, say: Say, progress: Progress) -> Any:
    import torch

    from colab_magics.training.oom import OutOfMemory, attempt
    from colab_magics.training.result import load_base
    from colab_magics.training.source import fetch_weights

    if (changed := _changed_since(subject, source)) is not None:
        say(changed)
    fetch_weights(source, lambda done, total: progress("downloading", done, total))
    where = torch.device("cuda:0" if device == "cuda" else "cpu")

    def loading() -> Any:
        return load_base(
            source,
            where,
            four_bit=subject.four_bit,
            trust_remote_code=subject.trusted,
            counted=lambda done, total: progress("loading", done, total),
        )

    model = attempt(loading, "loading")
    if isinstance(model, OutOfMemory):
        raise ColabMagicsError(
            f"There was no room to load {subject.label}.",
            model.first_line,
            "%vram shows who holds the memory." if device == "cpu" else "--on cpu loads it there.",
        )
    return model


def _changed_since(subject: Subject, source: Any) -> str | None:
    """A word where the base's files are younger than the run: its adapter was made for what they were."""
    if subject.run is None or subject.adapter is None:
        return None
    if source.revision is not None:
        return _moved_on(source)
    began = subject.clock.timestamp()
    newest = max((file.stat().st_mtime for file in Path(source.folder).glob("*.safetensors")), default=0.0)
    if newest <= began or subject.base == "demo":
        return None
    return (
        f"{source.id} was written after {subject.run.name} had begun: if its weights have changed, the adapter was "
        "made for others."
    )


def _moved_on(source: Any) -> str | None:
    """A word where the Hub has a newer commit than the one that the adapter was trained on, which is taken."""
    from huggingface_hub import HfApi

    with suppress(Exception):  # no network, no permission: the commit that is needed is here all the same
        newest = HfApi().model_info(source.id, timeout=3).sha
        if newest and newest != source.revision:
            taken = f"its commit {source.revision[:12]}, which the adapter was trained on, is asked"
            return f"{source.id} has changed since: {taken}."
    return None


def _base(subject: Subject, device: str) -> Base:
    return subject.base, subject.revision, device, subject.four_bit and device == "cuda"


def _file(folder: Path) -> tuple[str, int, int]:
    """What tells an adapter from another, also from one that was written to the same place later."""
    found = (folder / ADAPTER).stat()
    return str(folder), found.st_mtime_ns, found.st_size


def _drop() -> None:
    global _kept  # noqa: PLW0603
    _kept = None


def _not_taken(subjects: Sequence[Subject], error: Exception) -> ColabMagicsError:
    from colab_magics.hub import first_line

    named = next(one for one in reversed(subjects) if one.adapter is not None)
    return ColabMagicsError(
        f"The adapter of {named.label} could not be put on {named.base}.",
        first_line(error),
        f"%checkpoint verify {named.run.name} looks at the run's checkpoints." if named.run is not None else "",
    )
