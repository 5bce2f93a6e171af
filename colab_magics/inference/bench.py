"""How fast a model answers: prefill and decode apart, each token's latency, and what the memory would allow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from colab_magics.data.asking import Question
from colab_magics.errors import ColabMagicsError
from colab_magics.inference.decoding import Arriving, context_of, left_padded, pad_of
from colab_magics.inference.generate import Where, get_ready
from colab_magics.inference.importing import import_torch
from colab_magics.inference.loaded import open_tokenizer
from colab_magics.inference.sampling import Sampling
from colab_magics.inference.subject import Subject
from colab_magics.memory.devices import this_device
from colab_magics.memory.inference import cache_per_token
from colab_magics.plan import ModelShape
from colab_magics.session.settings import user_file
from colab_magics.session.table import accelerator_of, load_table

_OTHER_MEMORY = {"pcie", "nvl"}  # an 80 GB card of that kind has another memory than the one in the table
BATCHES, LENGTHS, NEW_TOKENS, REPEATS = (1, 4, 8), (128, 1024), 64, 3


@dataclass(frozen=True)
class Timing:
    """One batch size at one prompt length; medians of the repeats, after a warm-up. Seconds; tokens a second.

    Attributes
    ----------
    first : float
        From the prompt's way in to the first token.
    prefill : float
        Tokens of the prompts a second, up to the first token.
    decode : float
        New tokens a second after the first, of the whole batch.
    p50, p90, p99 : float
        Of the time between two tokens of one text, over all repeats.
    limit : float, optional
        New tokens a second, if the memory's bandwidth were all that counts: each step reads all weights once, and
        what the batch has cached.
    """

    batch: int
    prompt_length: int
    new_tokens: int
    first: float
    prefill: float
    decode: float
    p50: float
    p90: float
    p99: float
    limit: float | None = None


@dataclass(frozen=True)
class Bench:
    """What `--out` binds.

    Attributes
    ----------
    device : str
        As its maker calls it.
    bandwidth : float, optional
        Bytes a second; None where no limit is known.
    weights : int
        Bytes that are read for each step.
    skipped : tuple of str
        What was not measured, and why.
    """

    label: str
    device: str
    dtype: str
    rows: tuple[Timing, ...]
    weights: int
    bandwidth: float | None
    repeats: int
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def bench(
    subject: Subject,
    where: Where,
    *,
    batches: Sequence[int] = BATCHES,
    lengths: Sequence[int] = LENGTHS,
    new_tokens: int = NEW_TOKENS,
    repeats: int = REPEATS,
    tell: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Measure.

    Parameters
    ----------
    lengths : of the prompts, in tokens, which are drawn at random from the vocabulary
    tell : told what is measured next

    Raises
    ------
    ColabMagicsError
        Nothing of it fits into the model's context, or into memory.
    """
    import_torch(where.say)
    tokenizer = open_tokenizer(subject)
    drawn = _drawn(tokenizer, max(lengths))
    shortest = [Question("", drawn[: min(lengths)])] * min(batches)
    sampling = Sampling({"max_new_tokens": new_tokens, "min_new_tokens": new_tokens})
    ready = get_ready([subject], shortest, sampling, where)
    shape = subject.shape()
    bandwidth, name = _bandwidth(ready.loaded.model)
    rows, skipped = [], []
    with ready.loaded.as_subject(subject) as model:
        weights = _read_each_step(model)
        measure = _Measure(model, tokenizer, sampling, repeats, weights, bandwidth, shape)
        limit = context_of(model.config)
        for length in sorted(lengths):
            if limit is not None and length + new_tokens > limit:
                skipped.append(f"{length:,} tokens with {new_tokens:,} new ones are beyond the context of {limit:,}")
                continue
            for batch in sorted(batches):
                tell(f"batch {batch}, prompts of {length:,} tokens")
                made = measure(drawn[:length], batch)
                if isinstance(made, str):
                    skipped.append(f"batch {batch} at {length:,} tokens ran out of memory ({made})")
                else:
                    rows.append(made)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    if not rows:
        raise ColabMagicsError("Nothing could be measured.", f"{skipped[0]}.", "Give a smaller --prompt-length.")
    return Bench(subject.label, name, dtype, tuple(rows), weights, bandwidth, repeats, tuple(skipped))


@dataclass(frozen=True)
class _Measure:
    model: Any
    tokenizer: Any
    sampling: Sampling
    repeats: int
    weights: int
    bandwidth: float | None
    shape: ModelShape | None

    def __call__(self, prompt: Sequence[int], batch: int) -> Timing | str:
        """The timing, or how memory ran out."""
        from colab_magics.training.oom import OutOfMemory, attempt, release

        runs: list[Arriving] = []
        for number in range(self.repeats + 1):
            found = attempt(lambda: self._once(prompt, batch), "generating")
            if isinstance(found, OutOfMemory):
                release()
                return found.first_line
            if number:  # the first one warms up: kernels are chosen and compiled, the allocator grows
                runs.append(found)
        new, length = self.sampling.new_tokens, len(prompt)
        gaps = sorted(gap for one in runs for gap in _gaps(one.times))
        first = median(one.times[0] - one.began for one in runs)
        decoding = median(one.times[-1] - one.times[0] for one in runs)
        return Timing(
            batch,
            length,
            new,
            first,
            batch * length / first,
            batch * (new - 1) / decoding if decoding else 0.0,
            _share(gaps, 0.5),
            _share(gaps, 0.9),
            _share(gaps, 0.99),
            self._limit(batch, length + new / 2),
        )

    def _once(self, prompt: Sequence[int], batch: int) -> Arriving:
        config = self.sampling.config(
            self.model, new_tokens=self.sampling.new_tokens, stops=set(), pad=pad_of(self.tokenizer)
        )
        arriving = Arriving(set(), batch)
        inputs = left_padded([prompt] * batch, pad_of(self.tokenizer), self.model.device)
        self.model.generate(**inputs, generation_config=config, streamer=arriving)
        return arriving

    def _limit(self, batch: int, context: float) -> float | None:
        if self.bandwidth is None:
            return None
        cached = batch * context * cache_per_token(self.shape) if self.shape is not None else 0.0
        return batch * self.bandwidth / (self.weights + cached)


def _gaps(times: Sequence[float]) -> Iterator[float]:
    return (after - before for before, after in pairwise(times))


def _share(ordered: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _drawn(tokenizer: Any, count: int) -> tuple[int, ...]:
    """Tokens at random, none of them special, the same ones each time."""
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(min(len(tokenizer), 50_000)) if token not in special]
    return tuple(random.Random(0).choices(ordinary, k=count))


def _read_each_step(model: Any) -> int:
    """Bytes of the weights that every new token needs: of an input embedding that is no head as well, one row."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    alone = head is not None and head.weight is not table.weight
    read = {id(one): one for one in model.parameters() if not (alone and one is table.weight)}
    return sum(one.numel() * one.element_size() for one in read.values())


def _bandwidth(model: Any) -> tuple[float | None, str]:
    """Of the device that the model is on; None where the table does not know it, or it is a CPU."""
    device = this_device(cuda=model.device.type == "cuda")
    if model.device.type != "cuda":
        return None, device.name
    import torch

    name = device.name if device.kind == "cuda" else torch.cuda.get_device_name(0)
    found = accelerator_of(name, load_table(user_file()))
    if _OTHER_MEMORY & set(name.lower().split()) and found is not None and found.memory > 70 * 2**30:
        found = None
    return (None if found is None else found.bandwidth), name
