"""The line of `%compare`: text in, a frozen value out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from colab_magics.errors import ColabMagicsError
from colab_magics.inference.sampling import Sampling
from colab_magics.magics.asking_line import Read, numbers, one_of, read_words, variable, whole


def _rows(text: str) -> int:
    return 0 if text == "all" else whole("rows", 1)(text)


def _threshold(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ColabMagicsError(
            f"--threshold {text} is no number.", "A text with a lower score has failed.", "Write --threshold 0.5."
        ) from None


# option -> what stands for its value, and what reads it
VALUES: Mapping[str, tuple[str, Read]] = {
    "run": ("NAME", str),
    "checkpoint": ("STEP", whole("checkpoint")),
    "with": ("RUN", str),
    "checkpoints": ("STEP,STEP", numbers("checkpoints")),
    "model": ("ID_OR_FOLDER", str),
    "data": ("FILE", str),
    "rows": ("N|all", _rows),
    "prompts": ("VAR", variable("prompts")),
    "score": ("FUNCTION", variable("score")),
    "threshold": ("X", _threshold),
    "failures": ("FILE", str),
    "system": ("TEXT", str),
    "batch": ("N", whole("batch", 1)),
    "on": ("cuda|cpu", one_of("on", ("cuda", "cpu"))),
    "out": ("VAR", variable("out")),
    "root": ("DIR", str),
}
FLAGS: Mapping[str, str] = {"lines": "a prompt a line"}


@dataclass(frozen=True)
class Asked:
    """One line, read; `text` is the prompt on it, `rows` 0 means all."""

    text: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    run: str | None = None
    checkpoint: int | None = None
    other: str | None = None
    checkpoints: tuple[int, ...] | None = None
    model: str | None = None
    data: str | None = None
    rows: int | None = None
    prompts: str | None = None
    score: str | None = None
    threshold: float = 0.5
    failures: str | None = None
    system: str | None = None
    batch: int | None = None
    on: str | None = None
    out: str | None = None
    root: str | None = None
    lines: bool = False
    help: bool = False


def read(words: Sequence[str]) -> Asked:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown option (the nearest is named), a value that cannot be used, options that contradict each other.
    """
    given, sampling, text = read_words("%compare", words, VALUES, FLAGS)
    given["other"] = given.pop("with", None)
    asked = Asked(text, sampling, **given)
    if asked.checkpoints is not None and len(asked.checkpoints) != 2:
        raise ColabMagicsError(
            f"--checkpoints takes two steps, and {len(asked.checkpoints)} were given.",
            "Two are compared.",
            "Write --checkpoints 50,100; --checkpoint 50 compares one with the base.",
        )
    ways = [f"--{name}" for name, value in (("with", asked.other), ("checkpoints", asked.checkpoints)) if value]
    ways += ["--checkpoint"] if asked.checkpoint is not None and ways else []
    if len(ways) > 1:
        raise ColabMagicsError(
            f"{' and '.join(ways)} do not go together.", "Each says which two are compared.", "Write one of them."
        )
    if asked.sampling.copies > 1:
        raise ColabMagicsError(
            "%compare takes no --num-return-sequences.", "It sets one text beside another.", "Leave it out."
        )
    if asked.data is not None and (asked.prompts is not None or asked.text):
        raise ColabMagicsError(
            "There are --data and prompts.", "Rows have their prompts in them.", "Write one of them."
        )
    if asked.threshold != 0.5 and asked.score is None:
        raise ColabMagicsError(
            "--threshold belongs to --score.", "Without a score a text is right or wrong.", "Add --score FUNCTION."
        )
    return asked
