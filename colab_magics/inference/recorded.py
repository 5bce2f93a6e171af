"""What came of comparing a run with its base, and how fast it answers: kept in the run's folder for its report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from colab_magics.errors import redact

if TYPE_CHECKING:
    from colab_magics.inference.bench import Bench
    from colab_magics.inference.compare import Compared, Side
    from colab_magics.inference.sampling import Sampling
    from colab_magics.inference.subject import Subject
    from colab_magics.run import Run

COMPARED, ASKED, BENCH = "compare.json", "compare-prompts.json", "bench.json"
PROMPTS = "prompts"


def record(made: Compared, subject: Subject, sampling: Sampling, *, on: str) -> bool:
    """Write it into the run's folder, in the place of an earlier one of its kind.

    Rows and prompts are kept apart: a prompt that was tried out leaves what was measured on rows.

    Parameters
    ----------
    made : of the run's base and its result
    subject : the result
    sampling : how the texts were drawn
    on : what they were compared on, in words; `PROMPTS` for prompts

    Returns
    -------
    Whether it could be written.
    """
    rows = [
        {"prompt": prompt, "reference": reference, "base": base, "tuned": tuned}
        for prompt, reference, base, tuned in zip(
            made.prompts, made.references, made.before.texts, made.after.texts, strict=True
        )
    ]
    told = {
        "on": on,
        "sampling": _sampling_told(sampling),
        "trained_on": made.trained_on,
        "rows": rows,
        "base": _figures(made.before),
        "tuned": _figures(made.after),
        "seconds": made.seconds,
    }
    return _write(told, subject, ASKED if on == PROMPTS else COMPARED)


def record_bench(made: Bench, subject: Subject) -> bool:
    """Write how fast the run's result answers, in the place of what was measured earlier; whether it could be."""
    return _write(made.to_dict(), subject, BENCH)


def recorded_rows(run: Run, on: str) -> int:
    """How many cases an earlier comparison of that kind had, whose place the next one takes; 0 where there is none."""
    try:
        told = json.loads((run.folder / (ASKED if on == PROMPTS else COMPARED)).read_text(encoding="utf-8"))
        return len(told["rows"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _sampling_told(sampling: Sampling) -> dict[str, Any]:
    """How texts were drawn, by the names of transformers' options."""
    return {"do_sample": sampling.do_sample, "max_new_tokens": sampling.new_tokens, **sampling.given}


def _write(told: Mapping[str, Any], subject: Subject, name: str) -> bool:
    told = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "step": subject.step,
        **told,
    }
    assert subject.run is not None, "a model that no run has made has no folder"
    target = subject.run.folder / name
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(redact(json.dumps(told, ensure_ascii=False, indent=1)) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    return True


def _figures(side: Side) -> dict[str, float]:
    """What was measured; nothing of what was not."""
    told = {"loss": side.loss, "perplexity": side.perplexity, "exact_match": side.exact, "score": side.score}
    cut = {"cut": side.cut} if side.cut else {}
    return {name: value for name, value in told.items() if value is not None} | cut
