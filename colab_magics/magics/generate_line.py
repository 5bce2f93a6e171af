"""The line of `%generate`: text in, a frozen value out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from colab_magics.errors import ColabMagicsError
from colab_magics.inference.sampling import Sampling
from colab_magics.magics.asking_line import Read, numbers, one_of, read_words, variable, whole

# option -> what stands for its value, and what reads it
VALUES: Mapping[str, tuple[str, Read]] = {
    "run": ("NAME", str),
    "checkpoint": ("STEP", whole("checkpoint")),
    "model": ("ID_OR_FOLDER", str),
    "on": ("cuda|cpu", one_of("on", ("cuda", "cpu"))),
    "system": ("TEXT", str),
    "prompts": ("VAR", variable("prompts")),
    "out": ("VAR", variable("out")),
    "root": ("DIR", str),
    "batch": ("N", numbers("batch")),
    "prompt_length": ("N,N", numbers("prompt-length")),
    "repeats": ("N", whole("repeats", 1)),
}
FLAGS: Mapping[str, str] = {
    "base": "the model that the run began with",
    "raw": "send the text as it is",
    "lines": "a prompt a line",
    "bench": "how fast it is",
}


@dataclass(frozen=True)
class Asked:
    """One line, read; `text` is the prompt on it."""

    text: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    run: str | None = None
    checkpoint: int | None = None
    model: str | None = None
    on: str | None = None
    system: str | None = None
    prompts: str | None = None
    out: str | None = None
    root: str | None = None
    batch: tuple[int, ...] | None = None
    prompt_length: tuple[int, ...] | None = None
    repeats: int | None = None
    base: bool = False
    raw: bool = False
    lines: bool = False
    bench: bool = False
    help: bool = False


def read(words: Sequence[str]) -> Asked:
    """What the words ask for.

    Raises
    ------
    ColabMagicsError
        An unknown option (the nearest is named), a value that cannot be used, options that contradict each other.
    """
    given, sampling, text = read_words("%generate", words, VALUES, FLAGS)
    asked = Asked(text, sampling, **given)
    if asked.model is not None and (asked.checkpoint is not None or asked.base) and asked.run is None:
        raise ColabMagicsError(
            f"--model {asked.model} and {'--base' if asked.base else '--checkpoint'} do not go together.",
            "A model that no run has made has neither.",
            "Write one of them, or name the run as well: --run NAME --model BASE.",
        )
    if asked.base and asked.checkpoint is not None:
        raise ColabMagicsError(
            "--base and --checkpoint do not go together.",
            "The base is what the run began with, a checkpoint what it had become.",
            "Write one of them; %compare asks both.",
        )
    if asked.raw and asked.system is not None:
        raise ColabMagicsError("--raw takes no --system.", "It sends the text as it is.", "Write one of them.")
    if asked.bench and (asked.text or asked.prompts is not None or asked.lines):
        raise bench_has_no_prompt()
    if not asked.bench:
        for name in ("prompt_length", "repeats"):
            if getattr(asked, name) is not None:
                raise ColabMagicsError(
                    f"--{name.replace('_', '-')} belongs to --bench.", "", "Add --bench, or leave it out."
                )
        if asked.batch is not None and len(asked.batch) > 1:
            raise ColabMagicsError("--batch takes one number here.", "Several are for --bench.", "Write --batch 8.")
    return asked


def bench_has_no_prompt() -> ColabMagicsError:
    """Why a prompt beside `--bench` is refused."""
    return ColabMagicsError(
        "--bench takes no prompt.",
        "It measures with prompts of its own, of the lengths in --prompt-length.",
        "Leave the prompt out, or leave --bench out.",
    )
