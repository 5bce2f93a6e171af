"""What a person sees when something goes wrong: what happened, why, what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

# CSI/OSC sequences and every control character but tab and newline: text from data, models and logs must not
# be able to draw on the user's terminal.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What tokens and keys begin with: Hugging Face's (user, organisation), GitHub's, AWS's; and passwords in addresses.
_SECRET = re.compile(
    r"\b(hf_|api_org_|gh[pousr]_)[A-Za-z0-9]{8,}|\b(github_pat_)\w{8,}|\b(AKIA|ASIA)[A-Z0-9]{12,}"
    r"|(://)[^/\s:@]+:[^/\s@]+(?=@)"
)

MOST_LINES = 8
_NEAR = 0.7  # of difflib's ratio: below, words of a few letters in common are "near" (nosuch, noepoch: 0.62)


def clean(text: object) -> str:
    """`text` without ANSI sequences and control characters (tabs and newlines stay)."""
    return _CONTROL.sub("", _ANSI.sub("", str(text)))


def redact(text: str) -> str:
    """`text` with every token and key that is known by its look cut to its prefix."""
    return _SECRET.sub(lambda found: f"{next(filter(None, found.groups()))}***", text)


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that is spelt most like `word`, if any is close."""
    by_folded = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word.lower(), list(by_folded), n=1, cutoff=_NEAR)
    return by_folded[found[0]] if found else None


def _ended(sentence: str) -> str:
    """`sentence` with a full stop, where nothing ends it yet: libraries' own words come without one."""
    sentence = clean(sentence).rstrip()
    return sentence if sentence.endswith((".", "!", "?", ":", "…")) else f"{sentence}."


class ColabMagicsError(Exception):
    """Everything that we expect to go wrong leaves through this type.

    Parameters
    ----------
    what : str
        What happened, one sentence.
    why : str
        The reason, one sentence.
    next_steps : str
        What to do next, most useful first.
    details : sequence of str
        Lines shown between the reason and the next steps (found columns, counts, the end of a log).
    facts : mapping
        Fields that a `failed` event has besides the error, for who looks further than the sentences.
    """

    says_its_name: ClassVar[bool] = False  # of most kinds the name is for code, and no word of a person's

    def __init__(
        self,
        what: str,
        why: str = "",
        *next_steps: str,
        details: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_steps = tuple(step for step in next_steps if step)
        self.details = tuple(details)
        self.facts = dict(facts or {})

    def lines(self) -> list[str]:
        """One to eight lines, safe to print anywhere: no ANSI, no control characters, no tokens."""
        head = f"{type(self).__name__}: {self.what}" if self.says_its_name else self.what
        first = [_ended(head), *([_ended(self.why)] if self.why else [])]
        last = [f"→ {step}" for step in self.next_steps]
        room = max(0, MOST_LINES - len(first) - len(last))
        details = [line for detail in self.details for line in detail.splitlines()][-room:] if room else []
        lines = [*first, *(f"  {line}" for line in details), *last]
        flat = (" ".join(clean(line).split("\n")) for line in lines)
        return [redact(line.rstrip()) for line in flat][:MOST_LINES]

    def _render_traceback_(self) -> list[str]:
        # IPython 7.34 and 9 both ask the exception itself; no traceback follows.
        return self.lines()

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """How the error travels in a `failed` event."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "why": self.why,
            "next": list(self.next_steps),
            "details": list(self.details),
        }

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> ColabMagicsError:
        """The error that `to_dict` wrote; an unknown type becomes the base type."""
        types = {"Interrupted": Interrupted}
        kind = types.get(str(fields.get("type")), ColabMagicsError)
        return kind(
            str(fields.get("what", "unknown error")),
            str(fields.get("why", "")),
            *map(str, fields.get("next", ())),
            details=[str(line) for line in fields.get("details", ())],
        )


class Interrupted(ColabMagicsError):
    """The user interrupted the cell; the run was stopped in good order."""

    says_its_name = True
