"""When the session ends, as whoever trains knows it: what the line said, else what this session's limit is now.

A guess that is too early costs a stop and a resume; one that is too late costs nothing that the saves have not kept. So
the table's limit counts although it is an estimate, and where the session has outlived it no other is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from colab_magics.errors import ColabMagicsError
from colab_magics.session.budget import SAVE_BEFORE, STOP_BEFORE
from colab_magics.session.clock import BootClock, Clock
from colab_magics.session.here import Session, this_session
from colab_magics.session.settings import user_file

_CLOCK = BootClock()
_BETWEEN_LOOKS = 1.0  # seconds: a step may take a thousandth of it

Origin = Literal["given", "set", "table", "passed"]


def session_told() -> dict[str, Any]:
    """What the `started` event says of the session; nothing where the user's file is not as it must be."""
    try:
        here = this_session()
    except ColabMagicsError:
        return {}
    return {"platform": here.platform.key, "session_age": here.age, "session_limit": here.limit}


class EarlySave:
    """The save before the session's end: due once, and again where the end was put off and comes near once more."""

    def __init__(self) -> None:
        self._done = False

    def is_due(self, left: float | None) -> bool:
        """Whether it is to be taken now, with so many seconds left (None: nobody knows); asking counts as taken."""
        near = left is not None and left <= SAVE_BEFORE
        due, self._done = near and not self._done, near
        return due


class Deadline:
    """How long this session still lives. Asked again and again, because the limit may be set while the worker trains.

    Parameters
    ----------
    given : float, optional
        What `--deadline` says: seconds from now. It wins over all else.
    session : callable
        This session, as it is known at the moment.
    clock : Clock
        Goes on while the machine sleeps.
    tell : callable
        Is told once, in a sentence, why the session can no longer be asked.
    """

    def __init__(
        self,
        given: float | None = None,
        *,
        session: Callable[[], Session] = this_session,
        clock: Clock = _CLOCK,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session, self._clock, self._tell = session, clock.now, tell
        self._end = clock.now() + given if given is not None else None
        self._given = given is not None
        self._looked_at = float("-inf")
        self._known: Session | None = None
        self._silent = False

    def left(self) -> float | None:
        """Seconds until the session's end, 0 where that is past; None where nobody knows."""
        now = self._clock()
        if not self._given and now - self._looked_at >= _BETWEEN_LOOKS:
            self._looked_at = now
            self._look(now)
        return None if self._end is None else max(0.0, self._end - now)

    def _look(self, now: float) -> None:
        try:
            self._known = self._session()
        except ColabMagicsError as error:  # somebody is writing the file: what was known before counts
            if not self._silent:
                self._tell(f"{error.what} {error.why} What was known of the session before counts.")
            self._silent = True
            return
        self._silent = False
        left = self._known.left
        self._end = now + left if left is not None else None

    @property
    def origin(self) -> Origin | None:
        """Who says when the end is; None where nobody does."""
        if self._given:
            return "given"
        return self._known.limit_from if self._known is not None and self._known.limit is not None else None

    def warning(self) -> str | None:
        """What a person should know before anything is trained; None where there is time enough."""
        left = self.left()
        if left is None or left > SAVE_BEFORE:
            return None
        when = "after its first step" if left <= STOP_BEFORE else f"in about {(left - STOP_BEFORE) / 60:.0f} min"
        ends = f"ends in about {left / 60:.0f} min" if left > 0 else "is past its limit"
        said = f"This session {ends}{self._by()}. The training will be stopped {when}"
        return f"{said}, in good order. {self.advice()}".rstrip()

    def advice(self) -> str:
        """What to do where the end is not near; empty where the line itself has said when it is."""
        here = self._known
        if self._given or here is None or here.limit is None:
            return ""
        if here.limit_from == "set":  # perhaps long ago, or by another hand
            return f"{user_file()} says so; %session unset {here.limit_key} forgets it."
        return f"If yours lives longer: %session set limit {2 * here.limit / 3600:g}h."

    def _by(self) -> str:
        here = self._known
        if self._given or here is None or here.limit is None or here.limit_from == "set":
            return ""
        return f" ({here.platform.title}: {here.limit / 3600:.4g} h, an estimate as of {here.platform.as_of})"
