"""Any log draws: no order and no value of events makes the panel raise, grow, or say what its owner must not run."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.panel.details import details, details_text
from colab_magics.panel.html import MOST_BYTES, html
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.panel.text import line, text
from colab_magics.session.here import Session
from colab_magics.session.table import Platform

from .test_drawing import Tags

pytestmark = pytest.mark.face

KINDS = (
    "started progress data model plan step eval memory checkpoint replica warning oom recovered resumed stopping "
    "finished failed unheard_of"
).split()
NAMES = (
    "time attempt name device phase done total unit split source format documents tokens dropped lengths sample id "
    "method parameters trainable_parameters choices estimate duration step total_steps epoch loss learning_rate "
    "tokens_per_second seconds perplexity token_accuracy devices allocated reserved peak host rss used utilisation "
    "temperature power index low mid high value reason count message micro_batch error what why next path action bytes "
    "stall stall_share state where checkpoint bytes_left first_loss last_loss skipped changes differs p50 p99 max"
).split()

numbers = st.one_of(
    st.integers(-3, 300), st.integers(), st.floats(), st.sampled_from([0, 1e308, -1e308, 2**70, 5e-324, "nan", "inf"])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=30), st.just("<b>&" * 200))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)),
    max_leaves=12,
)
events = st.fixed_dictionaries(
    {"kind": st.sampled_from(KINDS)},
    optional={"time": st.one_of(values, st.datetimes().map(lambda one: one.isoformat() + "+00:00"))},
).flatmap(lambda base: st.dictionaries(st.sampled_from(NAMES), values, max_size=12).map(lambda more: {**more, **base}))
# steps that follow on one another: what a real run is mostly made of
runs = st.builds(
    lambda losses, total, memory: [
        {"kind": "step", "time": f"2026-11-21T06:{step // 60:02d}:{step % 60:02d}Z", "step": step, "loss": loss,
         "total_steps": total, "allocated": memory, "reserved": memory, "peak": memory}
        for step, loss in enumerate(losses, 1)
    ],
    st.lists(st.one_of(numbers, st.none()), max_size=300), numbers, numbers,
)  # fmt: skip
logs = st.builds(lambda first, run, last: [*first, *run, *last], st.lists(events, max_size=8), runs,
                 st.lists(events, max_size=8))  # fmt: skip
times = st.one_of(st.none(), st.floats(0, 1e12))
moments = st.builds(
    Moment,
    now=times,
    session=st.one_of(
        st.none(),
        st.builds(
            Session,
            st.builds(Platform, st.just("p"), st.text(max_size=100), st.just("2026-08-19"), limit=times, idle=times),
            age=times,
            limit=times,
            limit_from=st.sampled_from(["table", "set", "passed"]),
        ),
    ),
    idle=times,
    flags=st.lists(st.text(max_size=300), max_size=9).map(tuple),
)


@settings(deadline=None, max_examples=100)
@given(logs, moments)
def test_any_log_draws_in_every_form_and_stays_small(log: list[dict[str, Any]], moment: Moment) -> None:
    state = PanelState().fold_all(log)
    for seen in (state, state.put_aside(), state.ended_without_a_word(stopped=False)):
        frame = html(seen, moment)
        assert len(frame.encode()) < MOST_BYTES
        tags = Tags()
        tags.feed(frame)
        assert tags.open == []
        assert "\x1b" not in text(seen, moment) + line(seen, moment) + frame
    assert len(details(state).encode()) < MOST_BYTES
    details_text(state)


@settings(deadline=None, max_examples=25)
@given(logs, moments)
def test_the_same_state_and_moment_are_the_same_frame(log: list[dict[str, Any]], moment: Moment) -> None:
    first, again = (PanelState().fold_all(log) for _ in range(2))
    assert html(first, moment) == html(again, moment)
    assert text(first, moment) == text(again, moment)
