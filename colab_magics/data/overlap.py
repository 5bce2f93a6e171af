"""Which documents are among others, token for token: a score on rows that were trained tells what is known by heart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from colab_magics.data.documents import Documents
from colab_magics.data.tokenise import Tokens


def among(tokens: Iterable[Tokens], documents: Documents) -> int:
    """How many of these are one of the documents; of 100,000 of them it takes a fraction of a second."""
    there = {_key(documents[number][0]) for number in range(len(documents))}
    return sum(_key(one) in there for one in tokens)


def learnt_by_heart(count: int, of: int) -> str:
    """What it means that so many of the held-out documents are trained."""
    which = "all" if count == of else f"{count:,} of {of:,}"
    verb = "is" if count == 1 else "are"
    return f"{which} {verb} among the trained documents: there a score tells what is known by heart"


def _key(tokens: Tokens) -> bytes:
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
