"""This session: on which platform, since when, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from colab_magics.session.table import Platform


@dataclass(frozen=True)
class Session:
    """The life of this machine, as far as it is known. Seconds.

    Attributes
    ----------
    platform : Platform
        With the user's own values in place of the table's.
    evidence : str
        How the platform was known, in a few words.
    age : float, optional
        Since the machine (or its container) was started; None where that says nothing.
    limit : float, optional
        Its longest life; None where there is none, or none is known.
    limit_from : str
        `table` (an estimate), `set` (by the user), or `passed` (the age is beyond the table's, which was wrong).
    """

    platform: Platform
    evidence: str = ""
    age: float | None = None
    limit: float | None = None
    limit_from: Literal["table", "set", "passed"] = "table"

    @property
    def left(self) -> float | None:
        """Seconds until the session's end; None where nobody knows."""
        if self.age is None or self.limit is None or self.limit_from == "passed":
            return None
        return max(0.0, self.limit - self.age)
