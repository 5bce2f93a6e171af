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
    from colab_magics.run import Run

COMPARED, ASKED, BENCH = "compare.json", "compare-prompts.json", "bench.json"
PROMPTS = "prompts"


def record(made: Compared, run: Run, *, on: str) -> bool:
    """Write it into the run's folder, in the place of an earlier one of its kind.

    Rows and prompts are kept apart: a prompt that was tried out leaves what was measured on rows.

    Parameters
    ----------
    made : of the run's base and its result
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
        "rows": rows,
        "base": _figures(made.before),
        "tuned": _figures(made.after),
        "seconds": made.seconds,
    }
    return _write(told, run, ASKED if on == PROMPTS else COMPARED)


def record_bench(made: Bench, run: Run) -> bool:
    """Write how fast the run's result answers, in the place of what was measured earlier; whether it could be."""
    return _write(made.to_dict(), run, BENCH)


def _write(told: Mapping[str, Any], run: Run, name: str) -> bool:
    steps = [event["step"] for event in run.events() if event["kind"] == "step"]
    told = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "step": steps[-1] if steps else None,
        **told,
    }
    target = run.folder / name
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
    return {name: value for name, value in told.items() if value is not None}
