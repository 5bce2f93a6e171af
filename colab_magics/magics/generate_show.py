"""How texts are shown while they come: one is printed as it grows, many stand in a table."""

from __future__ import annotations

import time
from typing import Any

from colab_magics.errors import clean
from colab_magics.inference.decoding import End
from colab_magics.inference.generate import Generated
from colab_magics.magics.grid import Grid, Page

_BETWEEN = 0.5  # seconds between two frames of a table, and two words of progress
_PATIENCE = 1.0  # seconds of loading that need no word
_SHOWN = 200  # characters of a prompt
_NOT_ASKED = "not asked"


class Printed:
    """One text, printed piece by piece."""

    def __init__(self) -> None:
        self._done = ""

    def tell(self, _place: int, text: str) -> None:
        """The text so far."""
        text = clean(text)
        if text.startswith(self._done):
            print(text[len(self._done) :], end="", flush=True)
            self._done = text

    def finish(self, made: Generated) -> None:
        """The text, and how fast it came."""
        self.tell(0, made.text)
        print(f"\n\n{speed(made)}")
        if said := cuts(made)[0]:
            print(f"[{said}]")


class Tabled:
    """Many texts in one table, which is drawn again as they grow; where nothing can be drawn again, at the end."""

    def __init__(self, prompts: list[str], *, moving: bool) -> None:
        self._prompts, self._texts = prompts, [""] * len(prompts)
        self._moving, self._drawn = moving, time.monotonic()
        self._handle: Any = None

    def tell(self, place: int, text: str) -> None:
        """One text so far."""
        self._texts[place] = text
        now = time.monotonic()
        if self._moving and now - self._drawn >= _BETWEEN:
            self._drawn = now
            begun = sum(map(bool, self._texts))
            self._draw(page(self._prompts, self._texts, f"{begun} of {len(self._texts)} texts"))

    def finish(self, made: Generated) -> None:
        """All texts."""
        asked = sum(end != "not asked" for end in made.ends)
        done = page(made.prompts, made.texts, f"{asked:,} texts of {made.label}", [speed(made)], cuts(made))
        if self._moving:
            self._draw(done)
        else:
            print(done.text())

    def _draw(self, shown: Page) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(shown.bundle(), raw=True, display_id=True)
        else:
            self._handle.update(shown.bundle(), raw=True)


def page(prompts: Any, texts: Any, title: str, foot: Any = (), cut: Any = None) -> Page:
    """Prompts and texts beside each other; those that were never asked are counted, and not listed."""
    rows = [
        (str(number), shortened(prompt), text, why)
        for number, (prompt, text, why) in enumerate(zip(prompts, texts, cut or [""] * len(texts), strict=True), 1)
        if why != _NOT_ASKED
    ]
    if len(rows) < len(texts):
        foot = [*foot, f"{len(texts) - len(rows):,} of {len(texts):,} were not asked any more."]
    return Page(title, grids=[Grid(("", "prompt", "text", "not whole"), tuple(rows))], foot=foot)


def cuts(made: Generated) -> list[str]:
    """Of each text why it is not whole; nothing of one that the model has ended."""
    return [_cut(end, tokens) for end, tokens in zip(made.ends, made.new_tokens, strict=True)]


def _cut(end: End, tokens: int) -> str:
    match end:
        case "end":
            return ""
        case "length":
            return f"cut at {tokens:,} tokens: --max-new-tokens N allows more"
        case "context":
            return f"cut at {tokens:,} tokens: the context is full"
        case "interrupted":
            return f"interrupted after {tokens:,} tokens"
        case "not asked":
            return _NOT_ASKED


def shortened(text: str, most: int = _SHOWN) -> str:
    """Its beginning."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def speed(made: Generated) -> str:
    """Who said how much, and how fast."""
    tokens = sum(made.new_tokens)
    return f"[{made.label}: {tokens:,} tokens in {made.seconds:.1f} s, {made.tokens_per_second:.1f} tokens/s]"


class Loading:
    """How far a download or a loading is, in one line that is wiped when it is over; a short one is not told."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._width = 0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._began < _PATIENCE or now - self._told < _BETWEEN:
            return
        self._told = now
        said = f"{what} {done / total:.0%}" if total else what
        self._width = max(self._width, len(said))
        print(f"\r{said.ljust(self._width)}", end="", flush=True)

    def over(self) -> None:
        """Wipe the line."""
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", flush=True)
            self._width = 0
