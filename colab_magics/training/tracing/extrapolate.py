"""From a trace of a few layers to a model's whole number of them.

What is live at a moment is a sum over layers, so it grows by the same amount with every layer of a kind, moment by
moment: the peak, which may move from one moment to another, does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from colab_magics.training.layers import computed_kinds, layer_count, layer_kinds, layers_before_experts
from colab_magics.training.tracing.ledger import Parts

Moments = dict[str, Parts]
Trace = Callable[[Sequence[int]], Moments]


def whole(config: Any, trace: Trace) -> Moments:
    """The moments of a model with all layers of its config.

    Parameters
    ----------
    trace : traces the model with only the layers of those indices
    """
    text = config.get_text_config()
    count = layer_count(text)
    kinds, dense = layer_kinds(text), layers_before_experts(text)
    if kinds is not None and not dense:
        return _by_kind(kinds, trace)
    first = max(dense, _settled(kinds or computed_kinds(text)))
    base = list(range(first + 2))
    if count <= len(base) + 1:
        return trace(range(count))
    small, large = trace(base), trace([*base, len(base)])
    return _grown(small, [(large, count - len(base))])


def _by_kind(kinds: list[str], trace: Trace) -> Moments:
    """Layers of every kind, twice where there is but one, and each kind once more."""
    first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    last = len(kinds) - 1
    base = sorted({*first, last}) if len(first) > 1 or last == 0 else [0, last]
    if len(kinds) <= len(base) + len(first):
        return trace(range(len(kinds)))
    have, need = Counter(kinds[index] for index in base), Counter(kinds)
    small = trace(base)
    more = []
    for index in first:
        missing = need[kinds[index]] - have[kinds[index]]
        if missing:
            more.append((trace(sorted([*base, index])), missing))
    return _grown(small, more)


def _settled(computed: list[str] | None) -> int:
    """From which layer on all are of one kind."""
    if computed is None:
        return 0
    last = computed[-1]
    return next((index + 1 for index in reversed(range(len(computed))) if computed[index] != last), 0)


def _grown(small: Moments, more: Sequence[tuple[Moments, int]]) -> Moments:
    grown: Moments = {}
    for moment, parts in small.items():
        total = dict(parts)
        for larger, times in more:
            after = larger.get(moment, parts)
            for part in {*parts, *after}:
                total[part] = total.get(part, 0) + times * (after.get(part, 0) - parts.get(part, 0))
        grown[moment] = total
    return grown


def peak_of(moments: Moments) -> tuple[str, Parts]:
    """The moment with the most, and its parts."""
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    return moment, moments[moment]
