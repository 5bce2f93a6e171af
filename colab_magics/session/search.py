"""Looking for a file of rows in the folders where a platform puts them.

A call on a network mount may never return, not even at a kill. So a child process makes it, and is left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from colab_magics import worker
from colab_magics.errors import ColabMagicsError
from colab_magics.session.folders import Searched, searched

TIMEOUT = 15.0  # seconds: a Drive that was mounted a moment ago takes some to list a folder
_MOST_FOLDERS = 2000


def find(text: str, places: Sequence[Searched], *, timeout: float = TIMEOUT) -> tuple[Path | None, str]:
    """The file that `text` names below the first of the places that has one; and where that was, in words.

    Parameters
    ----------
    text : str
        A file's name, or a path that is relative to a place or to a folder below it.

    Returns
    -------
    The file and the place; or None, and all places that were looked into.

    Raises
    ------
    ColabMagicsError
        One place holds several such files.
    """
    silent: list[str] = []
    dead: set[tuple[str, ...]] = set()
    for place in places:
        if place.may_hang and _mount(place) in dead:  # each would take all the time that a call is given
            silent.append(f"{place.folder} (not asked: on the same mount)")
            continue
        found = _asked(text, place, timeout) if place.may_hang else below(text, place.folder, place.deep)
        if found is None:
            dead.add(_mount(place))
            silent.append(f"{place.folder} (it does not answer)")
        elif len(found) > 1:
            raise ColabMagicsError(
                f"{place.label} has {len(found)} files called {text}.",
                f"They are {', '.join(map(str, found[:3]))}{', …' if len(found) > 3 else ''}.",
                f"Say which one: data: {found[0]}",
            )
        elif found:
            return found[0], f"{place.label}: {found[0]}"
        elif not place.may_hang and not place.folder.is_dir():
            continue
        else:
            silent.append(str(place.folder))
    return None, ", ".join(silent)


def is_here(text: str) -> bool:
    """Whether there is a file that `data:` would take under that name: beside the notebook, or where rows are kept."""
    from colab_magics.session.here import this_session

    cwd = Path.cwd()
    return (cwd / text).is_file() or find(text, searched(this_session().platform, cwd))[0] is not None


def _mount(place: Searched) -> tuple[str, ...]:
    """What hangs as one: networks are mounted at /content/drive, /teamspace/s3_folders, /datasets."""
    return place.folder.parts[:3]


def below(text: str, folder: Path, deep: int) -> list[Path]:
    """The files that `text` names in `folder`, else in the folders one below, and so on; of one level all."""
    level, looked = [folder], 0
    for _ in range(deep + 1):
        found = [one / text for one in level if (one / text).is_file()]
        looked += len(level)
        if found or looked > _MOST_FOLDERS:
            return found
        level = [child for one in level for child in _folders(one)]
    return []


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as items:
        yield from sorted(Path(item.path) for item in items if item.is_dir(follow_symlinks=False))


def _asked(text: str, place: Searched, timeout: float) -> list[Path] | None:
    """What a child process finds; None if it does not answer."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "colab_magics.session.search", text, str(place.folder), str(place.deep)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **worker.importable()},
        start_new_session=True,
    )
    try:
        told, _ = child.communicate(timeout=timeout)
        return [Path(one) for one in json.loads(told)]
    except (subprocess.TimeoutExpired, ValueError):
        return None
    finally:
        child.kill()
        if child.stdout is not None:
            child.stdout.close()
        with suppress(subprocess.TimeoutExpired):  # in a call on a dead mount a kill does not end it
            child.wait(1)


if __name__ == "__main__":
    _text, _folder, _deep = sys.argv[1:]
    print(json.dumps([str(one) for one in below(_text, Path(_folder), int(_deep))]))
