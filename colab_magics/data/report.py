"""What the data holds, as the fields of a `data` event, and those fields as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from colab_magics.data.documents import Documents
from colab_magics.data.prepared import Prepared
from colab_magics.data.sources import Source
from colab_magics.errors import clean

_WIDTH = 100
_MOST_SAMPLE_LINES = 24


def data_event(
    prepared: Prepared, documents: Documents, source: Source | Mapping[str, Any], tokenizer: Any
) -> dict[str, Any]:
    """The fields of the `data` event of one split (without `split`).

    `lengths` are those of the whole documents, before anything was truncated; of a plain text, those of its windows.
    """
    where = source if isinstance(source, Source) else Source.from_dict(source)
    lengths = documents.lengths if prepared.chunkable else prepared.lengths
    p50, p99 = np.percentile(lengths, [50, 99])
    return {
        "source": f"{where.name}:{where.split}" if where.split else where.name,
        "kind_of_source": where.kind,
        "format": prepared.format,
        "rows": prepared.rows,
        "documents": len(documents),
        "split_rows": prepared.split_rows,
        "tokens": documents.tokens,
        "trained_tokens": documents.trained_tokens,
        "lengths": {"p50": round(float(p50)), "p99": round(float(p99)), "max": int(lengths.max())},
        "max_length": documents.max_length,
        "truncated": documents.truncated,
        "dropped": [*prepared.dropped, *documents.dropped],
        "windows": prepared.chunkable,
        "mask_method": prepared.mask_method,
        "notes": list(prepared.notes),
        "fingerprint": prepared.fingerprint,
        "sample": documents.sample(tokenizer),
        "cached": prepared.cached,
        **_judged(documents, tokenizer),
    }


def _judged(documents: Documents, tokenizer: Any) -> dict[str, Any]:
    """What is told besides where answers are judged."""
    if documents.desirable is None:
        return {}
    if documents.together == 2:
        return {"pairs": len(documents) // 2, "rejected": documents.sample(tokenizer, 1)}
    desirable = int(documents.desirable.sum())
    return {"desirable": desirable, "undesirable": len(documents) - desirable}


def report_lines(fields: Mapping[str, Any]) -> list[str]:
    """The fields of a `data` event as text; the trained part of the sample stands in « ».

    Fields that are missing are left out, so that any version's events can be shown.
    """
    kinds = {"path": "a file", "variable": "a notebook variable", "hub": "a data set on the Hub"}
    kind = kinds.get(str(fields.get("kind_of_source")))
    split = f"{fields['split']} data" if fields.get("split") else "data"
    lines = [f"{split}: {fields.get('source', '?')}{f' ({kind})' if kind else ''}"]
    lines.append(f"  format      {fields.get('format', '?')}, loss on: {fields.get('mask_method') or '?'}")
    lines.append(f"  rows        {_counted(fields)}")
    tokens, trained = fields.get("tokens"), fields.get("trained_tokens")
    if tokens:
        share = f", {trained:,} trained ({trained / tokens:.0%})" if trained is not None else ""
        lines.append(f"  tokens      {tokens:,}{share}")
    if lengths := fields.get("lengths"):
        lines.append("  lengths     " + ", ".join(f"{name} {value:,}" for name, value in lengths.items()))
    if fields.get("max_length"):
        lines.append(f"  max_length  {fields['max_length']:,}: {_at_the_end(fields)}")
    lines += [f"  dropped     {dropped(drop)}" for drop in fields.get("dropped", ())]
    lines += [f"  note        {note}" for note in fields.get("notes", ())]
    if fields.get("cached"):
        lines.append("  tokens were found in the cache")
    if fields.get("sample") and fields.get("rejected"):
        lines += ["  one pair, what is compared in « »; preferred:", *_sample_lines(fields["sample"])]
        lines += ["  and rejected:", *_sample_lines(fields["rejected"])]
    elif fields.get("sample"):
        lines += ["  one document, the trained part in « »:", *_sample_lines(fields["sample"])]
    return [clean(line) for line in lines]


def _counted(fields: Mapping[str, Any]) -> str:
    rows, documents = fields.get("rows"), fields.get("documents")
    dropped = sum(int(drop.get("count", 0)) for drop in fields.get("dropped", ()))
    parts = [f"{rows:,} read" if rows is not None else "", f"{dropped:,} dropped" if dropped else ""]
    if fields.get("pairs") is not None:
        parts.append(f"{fields['pairs']:,} pairs of answers to compare")
    elif fields.get("desirable") is not None:
        parts.append(f"{fields['desirable']:,} desirable and {fields['undesirable']:,} undesirable answers")
    elif documents is not None:
        made = "windows of text" if fields.get("windows") else "documents"
        parts.append(f"{documents:,} {made} to train on")
    return ", ".join(part for part in parts if part)


def _at_the_end(fields: Mapping[str, Any]) -> str:
    if fields.get("windows"):
        return "longer texts are cut into windows of that length, nothing is lost"
    truncated = fields.get("truncated")
    what = "answers" if fields.get("pairs") is not None or fields.get("desirable") is not None else "documents"
    return f"{truncated:,} {what} lose their end" if truncated else "nothing is truncated"


def dropped(drop: Mapping[str, Any]) -> str:
    """How many rows were left out, why, and where the first of them stands."""
    example = f" (first: {drop['example']})" if drop.get("example") else ""
    return f"{int(drop.get('count', 0)):,} × {drop.get('reason', '?')}{example}"


def _sample_lines(sample: list[list[Any]]) -> list[str]:
    text = "".join(f"«{part}»" if trained else str(part) for part, trained in sample)
    lines = [line[start : start + _WIDTH] for line in text.split("\n") for start in range(0, max(len(line), 1), _WIDTH)]
    if len(lines) > _MOST_SAMPLE_LINES:
        half = _MOST_SAMPLE_LINES // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half} lines …", *lines[-half:]]
    return [f"  | {line}".rstrip() for line in lines]
