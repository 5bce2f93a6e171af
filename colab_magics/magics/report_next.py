"""What to do next, each piece of advice from a fact of the run that it names."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from colab_magics.magics.report_facts import Facts
from colab_magics.panel import words
from colab_magics.panel.fields import amount, count, items, mapping, number

_RISEN = 1.01  # of the best evaluation: less may be noise
_FALLS = 0.98  # the mean loss of the last eighth, against the eighth before it
_SPARE = 0.6  # of the card, at its peak


def advice(facts: Facts) -> list[str]:
    """Sentences, the most pressing first."""
    found = [*_end(facts), *_learning(facts), *_data(facts), *_memory(facts), *_safety(facts), *_delivery(facts)]
    return found or ["Nothing in its log asks for anything."]


def _end(facts: Facts) -> Iterator[str]:
    done, total = facts.shown.step, facts.shown.total_steps
    if facts.state == "unfinished":
        of = f" of {total:,}" if total else ""
        yield f"It ended at step {done:,}{of}: %checkpoint resume {facts.name} goes on."
    elif facts.state == "failed":
        why = " ".join(line for line in facts.shown.failure if not line.startswith("→ ")) or "nobody knows why"
        yield f"It failed{f' at step {done:,}' if done else ''}: {why}"
        yield from (line.removeprefix("→ ") for line in facts.shown.failure if line.startswith("→ "))
    elif facts.state == "running":
        yield "It is still training: %report once more at its end."


def _learning(facts: Facts) -> Iterator[str]:
    scored = [(int(one["step"]), loss) for one in facts.evals if (loss := number(one, "loss")) is not None]
    best = min(scored, key=lambda one: one[1], default=None)
    risen = best is not None and scored[-1][1] > _RISEN * best[1]
    if risen and best is not None:
        held = best[0] in {int(one["step"]) for one in facts.of("checkpoint") if one.get("action") == "saved"}
        yield (
            f"The evaluation was best at step {best[0]:,} ({words.number(best[1])}) and has risen to "
            f"{words.number(scored[-1][1])}: "
            + (f"%export {facts.name} --checkpoint {best[0]} delivers that one; " if held else "")
            + "fewer epochs, or early_stopping, would have ended there."
        )
    losses = [loss for one in facts.steps if (loss := number(one, "loss")) is not None]
    eighth = len(losses) // 8
    if not risen and eighth >= 5 and facts.state == "finished":
        last, before = statistics.fmean(losses[-eighth:]), statistics.fmean(losses[-2 * eighth : -eighth])
        if 0 < last < _FALLS * before:
            yield (
                f"The loss was still falling (mean of the last {eighth:,} steps {words.number(last)}, of those before "
                f"{words.number(before)}): more epochs may help."
            )
    if facts.shown.odd_losses:
        yield f"{facts.shown.odd_losses:,} losses were not finite: a smaller learning_rate, or precision: fp32."
    if facts.steps and not scored:
        yield "Nothing says how it does on rows that it has not seen: add eval_data."
    told = next((one for one in reversed(facts.of("data")) if one.get("split") == "eval"), {})
    if familiar := count(told, "among_trained"):
        yield f"{familiar:,} of the evaluation's documents are trained as well: take them out of one of the two."


def _data(facts: Facts) -> Iterator[str]:
    train = next((one for one in reversed(facts.of("data")) if one.get("split") == "train"), {})
    cut, documents, longest = count(train, "truncated"), count(train, "documents"), mapping(train.get("lengths"))
    if cut and documents:
        most = count(longest, "max")
        texts = "documents" if facts.shown.samples == "documents" else "answers"
        yield (
            f"{cut:,} of {documents:,} {texts} ({cut / documents:.0%}) lose their end at max_length "
            f"{train.get('max_length')}" + (f": the longest has {most:,} tokens." if most else ".")
        )
    dropped = sum(count(mapping(one), "count") or 0 for one in items(train.get("dropped")))
    if dropped:
        yield f"{dropped:,} rows were dropped: the section on data says why."


def _memory(facts: Facts) -> Iterator[str]:
    on = mapping(facts.newest("plan").get("on"))
    total = amount(on, "total")
    peak = max((peak for one in facts.steps if (peak := amount(one, "peak"))), default=None)
    if on.get("kind") == "cuda" and total and peak is not None and peak < _SPARE * total:
        yield (
            f"Its steps took at most {words.size(peak)} of {words.size(total)}: a larger model, a longer max_length or "
            f"a larger micro-batch fits (%vram estimate {facts.name})."
        )


def _safety(facts: Facts) -> Iterator[str]:
    lost = sum(count(one, "lost_steps") or 0 for one in facts.of("resumed"))
    if lost:
        yield f"{lost:,} steps were lost to interruptions: a smaller save_every loses fewer."
    saved = any(one.get("action") == "saved" for one in facts.of("checkpoint"))
    if saved and facts.shown.copied is None:
        yield "No copy of it is anywhere else: replica: names a Drive, a disk or a bucket that outlives this machine."


def _delivery(facts: Facts) -> Iterator[str]:
    if not facts.newest("finished").get("path"):
        return
    if not facts.compared:
        yield f"Base and tuned were not compared: {facts.comparing}"
    if not facts.exports:
        yield f"It was not delivered yet: %export {facts.name}, with --merge for a whole model."
