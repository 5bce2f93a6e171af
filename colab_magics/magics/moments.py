"""The moment of a frame: what the kernel knows and the run's events do not."""

from __future__ import annotations

import time

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.activity import ACTIVITY
from colab_magics.magics.session_facts import MACHINE_FLAGS
from colab_magics.panel.moment import Moment
from colab_magics.panel.state import PanelState
from colab_magics.session.flags import Usage
from colab_magics.session.here import Session, this_session


def now_at(state: PanelState) -> Moment:
    """The clock, this session, since when no cell was run, and what is red. Takes a fifth of a millisecond."""
    now = time.time()
    gpus = state.memory.gpus if state.memory is not None else ()
    used = [Usage(gpu.name or f"GPU {gpu.index}", gpu.used, gpu.total) for gpu in gpus if gpu.used and gpu.total]
    trains = None if state.ended or state.began_clock is None else (state.name, now - state.began_clock)
    return Moment(now, _session(), ACTIVITY.idle(), MACHINE_FLAGS.now(used, trains))


def _session() -> Session | None:
    try:
        return this_session()
    except ColabMagicsError:  # a mistake in the user's own table: %session tells it, the panel goes on without
        return None
