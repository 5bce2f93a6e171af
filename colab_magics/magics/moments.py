"""The moment of a frame: what the kernel knows and the run's events do not."""

from __future__ import annotations

import time

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.activity import ACTIVITY
from colab_magics.magics.session_facts import MACHINE_FLAGS
from colab_magics.panel.moment import Moment
from colab_magics.session.here import Session, this_session


def now_at() -> Moment:
    """The clock, this session, since when no cell was run, and what is red. Takes a tenth of a millisecond."""
    return Moment(now=time.time(), session=_session(), idle=ACTIVITY.idle(), flags=MACHINE_FLAGS.now())


def _session() -> Session | None:
    try:
        return this_session()
    except ColabMagicsError:  # a mistake in the user's own table: %session tells it, the panel goes on without
        return None
