"""Two models on the same cases: their texts, their loss on the answers, exact matches, and a score of one's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from colab_magics.data.asking import Question
from colab_magics.errors import ColabMagicsError, clean
from colab_magics.inference.cases import Case
from colab_magics.inference.decoding import Answer, End, answer
from colab_magics.inference.generate import Where, device_of, get_ready
from colab_magics.inference.loaded import is_loaded
from colab_magics.inference.sampling import Sampling
from colab_magics.inference.subject import Subject

Score = Callable[[str, str, str | None], Any]
_CHUNK = 1024  # rows of the head at once, where no plan says another number
FAILURE = frozenset({"prompt", "completion", "asked", "said", "said_before", "score"})
"""What a row of a failures file holds, and how such a file is known again."""


@dataclass(frozen=True)
class Side:
    """One of the two models; a place a case, None where there is nothing to measure.

    Attributes
    ----------
    losses : tuple of float
        Nats a token of the answer.
    loss, perplexity : float, optional
        Over all tokens of all answers, as the run's own evaluation has it.
    exact : float, optional
        The share of texts that are the reference, white space around them aside.
    scores : tuple of float
        By the user's own function; `score` is their mean.
    ends : tuple of str
        Why each text has no more, as `Generated.ends` has it.
    """

    label: str
    texts: tuple[str | None, ...]
    losses: tuple[float | None, ...]
    loss: float | None = None
    perplexity: float | None = None
    exact: float | None = None
    scores: tuple[float | None, ...] = ()
    score: float | None = None
    ends: tuple[End | None, ...] = ()

    @property
    def cut(self) -> int:
        """How many texts were cut before their end: they are not the reference, and may score low for nothing."""
        return sum(end in ("length", "context") for end in self.ends)


@dataclass(frozen=True)
class Compared:
    """What `--out` binds: the prompts, the references, both sides, and the cases that `after` gets wrong.

    Attributes
    ----------
    trained_on : int, optional
        How many of the cases are rows that the run was trained on; None where that is not known.
    """

    prompts: tuple[str, ...]
    references: tuple[str | None, ...]
    before: Side
    after: Side
    seconds: float
    failures: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    trained_on: int | None = None


def compare(
    subjects: tuple[Subject, Subject],
    tokenizer: Any,
    cases: Sequence[Case],
    stops: set[int],
    sampling: Sampling,
    where: Where,
    *,
    score: Score | None = None,
    threshold: float = 0.5,
    tell: Callable[[str], None] = lambda _: None,
) -> Compared:
    """Ask both, the one with the adapter switched off where one base serves them; else one after the other.

    Parameters
    ----------
    stops : tokens that close an answer
    score : of (prompt, text, reference); a number or a bool
    threshold : below it a text has failed
    tell : told what is under way

    Raises
    ------
    ColabMagicsError
        There is no room for one of the models, or the score cannot be had.
    KeyboardInterrupt
        It was interrupted.
    """
    begin = time.perf_counter()
    questions = [case.question for case in cases if case.question is not None]
    # of two with one base both adapters are on it; of others never more than one is in memory
    device = device_of(where.on)
    shared = _stands_on(subjects[0], device) == _stands_on(subjects[1], device)
    order = list(subjects)
    if not shared and is_loaded(subjects[1], device):
        order.reverse()  # what is there already is asked first
    sides: dict[int, Side] = {}
    for subject in order:
        tell(f"asking {subject.label}")
        ready = get_ready(subjects if shared else [subject], questions, sampling, where)
        with ready.loaded.as_subject(subject) as model:
            found = answer(model, tokenizer, questions, sampling, batch=ready.batch, stops=stops)
            if found.interrupted:
                raise KeyboardInterrupt
            losses = [_loss(model, subject, case) for case in cases]
        said = iter(found.answers)
        texts = [next(said) if case.question is not None else None for case in cases]
        sides[id(subject)] = _side(subject.label, cases, texts, losses, score)
        del ready, model
    before, after = (sides[id(subject)] for subject in subjects)
    return Compared(
        tuple(case.question.shown if case.question is not None else "" for case in cases),
        tuple(case.question.reference if case.question is not None else None for case in cases),
        before,
        after,
        time.perf_counter() - begin,
        tuple(_failures(cases, before, after, tokenizer, threshold)),
    )


def _stands_on(subject: Subject, device: str) -> tuple[Any, ...]:
    return subject.base, subject.revision, subject.four_bit and device == "cuda"


def _side(
    label: str,
    cases: Sequence[Case],
    answers: Sequence[Answer | None],
    losses: Sequence[tuple[float, int] | None],
    score: Score | None,
) -> Side:
    texts = [None if one is None else one.text for one in answers]
    counted = [one for one in losses if one is not None]
    tokens = sum(count for _, count in counted)
    loss = sum(mean * count for mean, count in counted) / tokens if tokens else None
    right = [_is_right(case.question, text) for case, text in zip(cases, texts, strict=True)]
    known = [one for one in right if one is not None]
    scores = [
        None if score is None or text is None or case.question is None else _scored(score, case.question, text)
        for case, text in zip(cases, texts, strict=True)
    ]
    given = [one for one in scores if one is not None]
    return Side(
        label,
        tuple(texts),
        tuple(None if one is None else one[0] for one in losses),
        loss,
        None if loss is None else math.exp(min(loss, 700.0)),
        sum(known) / len(known) if known else None,
        tuple(scores) if score is not None else (),
        sum(given) / len(given) if given else None,
        tuple(None if one is None else one.end for one in answers),
    )


def _is_right(question: Question | None, text: str | None) -> bool | None:
    if question is None or question.reference is None or text is None:
        return None
    return text.strip() == question.reference.strip()


def _scored(score: Score, question: Question, text: str) -> float:
    name = getattr(score, "__name__", "score")
    try:
        found = score(question.shown, text, question.reference)
    except Exception as error:
        raise ColabMagicsError(
            f"The score {name} failed on the prompt {question.shown[:60]!r}.",
            f"{type(error).__name__}: {clean(error)}",
            f"Try it alone: {name}(prompt, text, reference).",
        ) from None
    try:
        value = float(found)
        if math.isnan(value):  # it is below no threshold: what has gone wrong would count as right
            raise ValueError
    except (TypeError, ValueError):
        raise ColabMagicsError(
            f"The score {name} gave {type(found).__name__} {str(found)[:40]!r} on {question.shown[:60]!r}, "
            "which is no number.",
            "It is called as score(prompt, text, reference).",
            "Return a number, or True and False.",
        ) from None
    return value


def _loss(model: Any, subject: Subject, case: Case) -> tuple[float, int] | None:
    """Mean loss and how many tokens count, by the very code that evaluates while a run trains."""
    if case.document is None:
        return None
    from torch import nn

    from colab_magics.training.evaluate import evaluate
    from colab_magics.training.loss import HeadLoss, HiddenLoss
    from colab_magics.training.model import causal_lm
    from colab_magics.training.oom import Arrangement, OutOfMemory
    from colab_magics.training.result import dtype_on

    plan, lm, dtype = subject.plan, causal_lm(model), dtype_on(model.device)
    chunk = int(plan.get("loss_chunk") or _CHUNK)
    hidden = plan.get("loss") == "hidden" and type(lm.get_output_embeddings()) is nn.Linear
    loss = HiddenLoss(lm, chunk, dtype) if hidden else HeadLoss(lm, chunk)
    autocast = None if model.device.type == "cpu" else dtype
    arrangement = Arrangement(1, packed=False, gradient_checkpointing=False, loss_chunk=chunk)
    found = evaluate(model, loss, [case.document], arrangement, model.device, autocast)
    if isinstance(found, OutOfMemory):
        tokens = len(case.document[0])
        raise ColabMagicsError(
            f"Memory ran out at a row of {tokens:,} tokens.", found.first_line, "--on cpu scores it there, slowly."
        )
    assert not isinstance(found, str), "no order was given"
    count = int(case.document[1][1:].sum())
    return (found.loss, count) if count else None


def _failures(
    cases: Sequence[Case], before: Side, after: Side, tokenizer: Any, threshold: float
) -> list[dict[str, Any]]:
    """The cases that the second model gets wrong, as rows that `data:` reads: the very text that was asked, and the
    answer that it should have had."""
    rows = []
    for number, case in enumerate(cases):
        question, text = case.question, after.texts[number]
        if question is None or text is None:
            continue
        score = after.scores[number] if after.scores else None
        failed = score < threshold if score is not None else _is_right(question, text) is False
        if failed:
            rows.append(
                {
                    "prompt": tokenizer.decode(list(question.ids), skip_special_tokens=False),
                    "completion": _completion(case, tokenizer),
                    "asked": question.shown,
                    "said": text,
                    "said_before": before.texts[number],
                    "score": score,
                }
            )
    return rows


def _completion(case: Case, tokenizer: Any) -> str:
    """The reference with the token that closes it, as it stands in the data; empty where there is none."""
    if case.document is None or case.question is None:
        return (case.question.reference if case.question is not None else None) or ""
    # as a part of the whole: by itself a tokenizer may leave out the space that an answer begins with
    whole = str(tokenizer.decode(case.document[0].tolist(), skip_special_tokens=False))
    asked = str(tokenizer.decode(list(case.question.ids), skip_special_tokens=False))
    return whole.removeprefix(asked)
