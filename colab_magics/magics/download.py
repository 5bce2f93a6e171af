"""How a file that was made gets to the person: a link where the front end has one, else its path."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from colab_magics.errors import clean, redact
from colab_magics.panel import words
from colab_magics.session.detect import on_colab, on_kaggle

_KAGGLE = Path("/kaggle/working")
_MOST_FOR_A_BROWSER = 2 * 2**30  # Colab's download goes through the page, which holds it whole


def offer(path: Path, lines: list[str], *, in_kernel: bool) -> dict[str, str]:
    """What is shown of an export: its lines, and the way to the person's own machine; a display bundle."""
    lines = [redact(clean(line)) for line in lines]
    link = ""
    if on_kaggle():
        if path.is_relative_to(_KAGGLE):
            lines = [*lines, "It is in this notebook's Output: press Save Version, or download it at the right."]
        else:
            lines = [*lines, f"Only what is in {_KAGGLE} leaves Kaggle: name a path there."]
    elif path.is_dir():
        lines = [*lines, "--zip makes one file of it, which can be downloaded."] if on_colab() else lines
    elif on_colab():
        lines = [*lines, _from_colab(path)]
    elif in_kernel:
        link = _link(path)
    text = "\n".join(lines)
    if not link:
        return {"text/plain": text}
    told = "".join(f"<div>{escape(line)}</div>" for line in lines)
    return {"text/plain": text, "text/html": f"<div>{told}{link}</div>"}


def _from_colab(path: Path) -> str:
    """Have Colab's page fetch the file, where it can."""
    by_hand = f"To download it: from google.colab import files; files.download({os.fspath(path)!r})"
    if path.stat().st_size > _MOST_FOR_A_BROWSER:
        return "It is too large for a download through the page: copy it to Drive, or export to hub://your-name/name."
    try:
        from google.colab import files

        files.download(os.fspath(path))
    except Exception:  # no page is open, or Colab has changed it: whatever it raises, the file is there
        return by_hand
    return f"Your browser is asked to download it ({words.size(path.stat().st_size)})."


def _link(path: Path) -> str:
    """A link as Jupyter resolves it: relative to the notebook, which is where a kernel starts; none from elsewhere."""
    try:
        where = path.relative_to(Path.cwd())
    except ValueError:
        return ""
    told = f"Download {path.name} ({words.size(path.stat().st_size)})"
    return f'<a href="{escape(quote(where.as_posix()))}" download="{escape(path.name)}">{escape(told)}</a>'
