"""Token after token: batches by length, each token told as it comes, and what came kept when somebody interrupts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from colab_magics.data.asking import Question
from colab_magics.errors import ColabMagicsError
from colab_magics.inference.sampling import Sampling

Tell = Callable[[int, str], None]
"""Called with the number of a text (questions in their order, copies beside each other) and all of it so far."""

_BETWEEN = 0.05  # seconds between two tellings: more often nobody can read
_HALF = "\ufffd"  # what a tokenizer makes of bytes whose rest is still to come


End = Literal["end", "length", "context", "interrupted", "not asked"]
"""Why a text has no more: the model ended it, max_new_tokens or the context did, or somebody interrupted."""


@dataclass(frozen=True)
class Answer:
    """One text; `tokens` counts those that the model gave, the closing one left out."""

    text: str
    tokens: int
    end: End


@dataclass
class Arriving:
    """transformers' streamer, for batches too: called on the thread that generates, with each row's new token.

    Attributes
    ----------
    rows : list of list of int
        The tokens of each text so far.
    began : float
        When the prompt went in; `times` when each token came, on the same clock.
    """

    ends: set[int]
    width: int
    tell: Callable[[Arriving], None] = lambda _: None
    rows: list[list[int]] = field(init=False)
    times: list[float] = field(default_factory=list)
    began: float = 0.0
    _closed: list[bool] = field(init=False)
    _prompt: bool = True

    def __post_init__(self) -> None:
        self.rows = [[] for _ in range(self.width)]
        self._closed = [False] * self.width

    def put(self, tokens: Any) -> None:
        """The prompt first, then [rows] of new tokens."""
        if self._prompt:
            self._prompt, self.began = False, time.perf_counter()
            return
        self.times.append(time.perf_counter())
        for row, token in enumerate(tokens.reshape(-1).tolist()):
            self._closed[row] = self._closed[row] or token in self.ends
            if not self._closed[row]:
                self.rows[row].append(token)
        self.tell(self)

    def ends_by(self, otherwise: End) -> list[End]:
        """Why each text has no more, where those that the model has not ended were ended by `otherwise`."""
        return ["end" if closed else otherwise for closed in self._closed]

    def end(self) -> None:
        """All rows are at their end."""


@dataclass(frozen=True)
class Answers:
    """Of each question its copies, beside each other; those that were not begun when it was interrupted are empty."""

    answers: tuple[Answer, ...]
    interrupted: bool = False


def answer(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    sampling: Sampling,
    *,
    batch: int,
    stops: set[int],
    tell: Tell | None = None,
) -> Answers:
    """Ask the model.

    Parameters
    ----------
    batch : how many texts are in memory at once, at most
    stops : tokens that close an answer, besides those that the model itself names
    tell : called as texts grow, on this thread

    Raises
    ------
    ColabMagicsError
        A prompt is longer than the model's context; memory ran out at one text.
    """
    limit = context_of(model.config)
    check_lengths(questions, limit)
    done: list[Answer | None] = [None] * (len(questions) * sampling.copies)
    # a KeyboardInterrupt holds the frames in which it was raised, and with them the cache: it is left behind here
    try:
        with seeded(sampling.seed):
            for part in in_batches(questions, max(1, batch // sampling.copies)):
                _ask_part(model, tokenizer, questions, part, sampling, stops, limit, done, tell)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
    return Answers(tuple(one if one is not None else Answer("", 0, "not asked") for one in done), interrupted)


def context_of(config: Any) -> int | None:
    """The most tokens that a model was made for, as far as its config says."""
    text = config.get_text_config()
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    return int(found) if found else None


def check_lengths(questions: Sequence[Question], limit: int | None) -> None:
    """Nothing where all prompts leave room for an answer.

    Raises
    ------
    ColabMagicsError
        One does not: its number and its length are named.
    """
    for number, question in enumerate(questions, 1):
        if limit is not None and len(question.ids) >= limit:
            which = "The prompt" if len(questions) == 1 else f"Prompt {number}"
            raise ColabMagicsError(
                f"{which} is {len(question.ids):,} tokens long, and the model's context is {limit:,}.",
                "The answer must fit into the context as well.",
                "Shorten it, or ask a model with a longer context.",
            )


def in_batches(questions: Sequence[Question], size: int) -> Iterator[list[int]]:
    """Their numbers, the longest first: those of one batch are of nearly one length, and what does not fit shows
    before any work is done."""
    order = sorted(range(len(questions)), key=lambda number: -len(questions[number].ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> dict[str, Any]:
    """`input_ids` and `attention_mask` [rows, longest]: the prompts end at one place, where the answers begin."""
    import torch

    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}


@contextmanager
def _masked() -> Iterator[None]:
    """transformers takes a mask without a hole away before the model sees it, and then advises to pass one."""

    def said_for_nothing(record: logging.LogRecord) -> bool:
        return "passing in an `attention_mask`" not in record.getMessage()

    library = logging.getLogger("transformers.modeling_utils")
    library.addFilter(said_for_nothing)
    try:
        yield
    finally:
        library.removeFilter(said_for_nothing)


def pad_of(tokenizer: Any) -> int:
    """A token to fill rows with; which one is of no account, for nothing looks at it."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a seed, and leave the notebook's own random state as it was."""
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _ask_part(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    part: Sequence[int],
    sampling: Sampling,
    stops: set[int],
    limit: int | None,
    done: list[Answer | None],
    tell: Tell | None,
) -> None:
    """One batch; after an out-of-memory its halves."""
    from colab_magics.training.oom import OutOfMemory, attempt, release

    copies = sampling.copies
    places = [number * copies + copy for number in part for copy in range(copies)]
    longest = max(len(questions[number].ids) for number in part)
    fresh = sampling.new_tokens if limit is None else min(sampling.new_tokens, limit - longest)
    config = sampling.config(model, new_tokens=fresh, stops=stops, pad=pad_of(tokenizer))
    ends = set(config.eos_token_id or [])
    full: End = "length" if fresh == sampling.new_tokens else "context"

    def told(arriving: Arriving) -> None:
        now = arriving.times[-1]
        if tell is not None and now - told_at[0] >= _BETWEEN:
            told_at[0] = now
            for place, row in zip(places, arriving.rows, strict=True):
                tell(place, tokenizer.decode(row, skip_special_tokens=True).rstrip(_HALF))

    told_at = [0.0]
    arriving = Arriving(ends, len(places), told)

    def asking() -> Any:
        inputs = left_padded([questions[number].ids for number in part], pad_of(tokenizer), model.device)
        # beams end in another order than they began: there is nothing to tell before the end
        streamer = arriving if sampling.beams == 1 else None
        with _masked():
            return model.generate(**inputs, generation_config=config, streamer=streamer)

    reached: End = "interrupted"
    try:
        output = attempt(asking, "generating")
        reached = full
    finally:
        for place, row, end in zip(places, arriving.rows, arriving.ends_by(reached), strict=True):
            done[place] = Answer(tokenizer.decode(row, skip_special_tokens=True), len(row), end)
    if isinstance(output, OutOfMemory):
        release()
        if len(part) == 1:
            raise _no_memory(output, longest, fresh, copies)
        for half in (part[: len(part) // 2], part[len(part) // 2 :]):
            _ask_part(model, tokenizer, questions, half, sampling, stops, limit, done, tell)
        return
    if sampling.beams > 1:
        for place, row in zip(places, output[:, longest:].tolist(), strict=True):
            at = next((at for at, token in enumerate(row) if token in ends), len(row))
            text = tokenizer.decode(row[:at], skip_special_tokens=True)
            done[place] = Answer(text, at, "end" if at < len(row) else full)
    if tell is not None:
        for place in places:
            if (said := done[place]) is not None:
                tell(place, said.text)


def _no_memory(failure: Any, prompt: int, fresh: int, copies: int) -> ColabMagicsError:
    several = f", {copies} times" if copies > 1 else ""
    return ColabMagicsError(
        f"Memory ran out at one prompt of {prompt:,} tokens with up to {fresh:,} new ones{several}.",
        failure.first_line,
        "Give a smaller --max-new-tokens, or a shorter prompt.",
        "--on cpu asks the model in the machine's memory, slowly.",
    )
