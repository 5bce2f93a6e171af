"""From prompts to texts: what is asked, of whom, where it fits, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from colab_magics.data.asking import Asker, Question, Said
from colab_magics.errors import ColabMagicsError
from colab_magics.inference.decoding import End, Tell, answer, check_lengths, context_of
from colab_magics.inference.importing import import_torch
from colab_magics.inference.loaded import Loaded, Progress, Say, is_loaded, kept, load, open_source, open_tokenizer
from colab_magics.inference.room import at_once, room
from colab_magics.inference.sampling import Sampling
from colab_magics.inference.subject import Subject


@dataclass(frozen=True)
class Where:
    """The place at which a model is asked.

    Attributes
    ----------
    root : Path
        Where runs are kept: those that train need their memory first.
    on : str, optional
        cuda or cpu; the GPU where there is one.
    batch : int, optional
        Texts at once; as many as fit, where nothing is said.
    say, progress : callable
        For sentences, and for how far loading is.
    """

    root: Path
    on: str | None = None
    batch: int | None = None
    say: Say = field(default=lambda _: None, repr=False)
    progress: Progress = field(default=lambda *_: None, repr=False)


@dataclass(frozen=True)
class Generated:
    """What `--out` binds.

    Attributes
    ----------
    label : str
        Who was asked.
    prompts, texts : tuple of str
        A text a place; with `num_return_sequences` a prompt has several places beside each other.
    prompt_tokens, new_tokens : tuple of int
    seconds : float
        From the first prompt's way in to the last text's end; loading is not in it.
    interrupted : bool
        Whether it was ended before its end.
    ends : tuple of str
        Why each text has no more: "end" where the model ended it; "length" where --max-new-tokens did, "context"
        where the context was full; "interrupted", and "not asked" where it had not begun.
    settings : Mapping
        The sampling options that were given.
    """

    label: str
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    seconds: float
    interrupted: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    ends: tuple[End, ...] = ()

    @property
    def text(self) -> str:
        """The first text."""
        return self.texts[0]

    @property
    def tokens_per_second(self) -> float:
        return sum(self.new_tokens) / self.seconds if self.seconds else 0.0

    def __repr__(self) -> str:
        return "\n\n".join(self.texts)


@dataclass(frozen=True)
class Ready:
    """A loaded model, and how many texts it makes at once."""

    loaded: Loaded
    batch: int


def generate(
    subject: Subject,
    said: Sequence[Said],
    sampling: Sampling,
    where: Where,
    *,
    raw: bool = False,
    system: str | None = None,
    tell: Tell | None = None,
) -> Generated:
    """Ask a model.

    Parameters
    ----------
    said : the prompts
    raw : send texts as they are, without template and system prompt
    system : in place of the recipe's
    tell : called as texts grow: (which text, all of it so far)

    Raises
    ------
    ColabMagicsError
        A prompt cannot be asked, or there is no room for the model.
    """
    import_torch(where.say)
    tokenizer = open_tokenizer(subject)
    asker = asker_of(subject, tokenizer, system)
    questions = questions_of(said, (lambda one: asker.raw(_text(one))) if raw else asker)
    if not questions:
        raise ColabMagicsError("There is no prompt.", "The list of prompts is empty.", "Give one at least.")
    ready = get_ready([subject], questions, sampling, where)
    begin = time.perf_counter()
    with ready.loaded.as_subject(subject) as model:
        found = answer(model, tokenizer, questions, sampling, batch=ready.batch, stops=asker.stops, tell=tell)
    each = [question for question in questions for _ in range(sampling.copies)]
    return Generated(
        subject.label,
        tuple(question.shown for question in each),
        tuple(one.text for one in found.answers),
        tuple(len(question.ids) for question in each),
        tuple(one.tokens for one in found.answers),
        time.perf_counter() - begin,
        found.interrupted,
        {**sampling.given, "do_sample": sampling.do_sample},
        tuple(one.end for one in found.answers),
    )


def asker_of(subject: Subject, tokenizer: Any, system: str | None = None) -> Asker:
    """What makes questions as the subject's run made them."""
    wishes = subject.wishes if system is None else replace(subject.wishes, system=system)
    return Asker(tokenizer, wishes, subject.clock, subject.format)


def questions_of(said: Sequence[Said], ask: Callable[[Said], Question]) -> list[Question]:
    """Each prompt as a question.

    Raises
    ------
    ColabMagicsError
        One cannot be asked: of several its number is told.
    """
    questions = []
    for number, one in enumerate(said, 1):
        try:
            questions.append(ask(one))
        except ColabMagicsError as error:
            if len(said) == 1:
                raise
            what = f"Prompt {number} of {len(said)}: {error.what}"
            raise ColabMagicsError(
                what, error.why, *error.next_steps, details=error.details, facts=error.facts
            ) from None
    return questions


def get_ready(subjects: Sequence[Subject], questions: Sequence[Question], sampling: Sampling, where: Where) -> Ready:
    """Everything that can be wrong is wrong before a weight is loaded; then the model is.

    Parameters
    ----------
    subjects : all of one base

    Raises
    ------
    ColabMagicsError
        A prompt is too long, or the model does not fit, or cannot be had.
    """
    subject, device = subjects[-1], device_of(where.on)
    loaded = is_loaded(subject, device)
    source: Any = None if loaded else open_source(subject)
    here = kept() if loaded else None
    limit = context_of(source.config if here is None else here.model.config)
    check_lengths(questions, limit)
    longest = max((len(question.ids) for question in questions), default=1)
    context = longest + sampling.new_tokens if limit is None else min(longest + sampling.new_tokens, limit)
    if not loaded:
        forget_other()
    count = max(1, len(questions) * sampling.copies)
    fits = at_once(
        subject.shape(),
        subject.four_bit,
        room(device, where.root),
        loaded=loaded,
        count=count,
        context=context,
        label=subject.label,
    )
    return Ready(load(subjects, device, where.say, where.progress, source), where.batch or fits)


def forget_other() -> None:
    """Let go of the model that is there, before room for another is looked for."""
    from colab_magics.inference.loaded import forget

    if kept() is not None:
        forget()


def device_of(on: str | None) -> str:
    """cuda or cpu.

    Raises
    ------
    ColabMagicsError
        A GPU was asked for, and torch sees none.
    """
    import torch

    has = torch.cuda.is_available()
    if on == "cuda" and not has:
        raise ColabMagicsError(
            "--on cuda needs a GPU.",
            "torch sees none here.",
            "Choose a runtime with a GPU, or leave --on out.",
        )
    return on or ("cuda" if has else "cpu")


def _text(said: Said) -> str:
    if isinstance(said, str):
        return said
    raise ColabMagicsError(
        "--raw takes text.", "A chat or a row has no text of its own: a template makes it.", "Leave --raw out."
    )
