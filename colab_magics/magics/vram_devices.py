"""The devices that `--gpu` names: of the table, of a size, or what is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from colab_magics.errors import ColabMagicsError
from colab_magics.plan import Device
from colab_magics.session.table import Accelerator, Table, accelerator_of

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_UNITS = {"gib": 2**30, "gb": 10**9, "g": 10**9, "mib": 2**20, "mb": 10**6}
_LIKE = (8, 0)  # of a card of which only the size is known
OTHERS = ("T4", "L4", "A100-40")  # beside the one that is asked about


_SEVERAL = re.compile(r"([2-9])\s*[x×]?\s*(?=[a-z])(.+)|(.+?)\s*[x×]\s*([2-9])", re.IGNORECASE)
_NEAR = 0.75  # of the letters: H200 and H100


def devices(written: Sequence[str], table: Table) -> list[Device]:
    """A device for each name: `T4`, `Tesla T4`, `24GB`, `cpu`; of `T4x2` one, as we train on one.

    Raises
    ------
    ColabMagicsError
        A name that the table does not have; the nearest is named.
    """
    return [_device(name, table) for name in written]


def card(key: str, table: Table) -> Device:
    """A card of the table, with nobody on it."""
    return _of(table.accelerators[key])


def unsupported(targets: Sequence[Device], table: Table) -> frozenset[str]:
    """The names of those that today's torch has no kernels for."""
    titles = {one.title for one in table.accelerators.values() if not one.supported}
    return frozenset(one.name for one in targets if one.name in titles)


def _device(name: str, table: Table) -> Device:
    size = _SIZE.fullmatch(name.strip())
    if size is not None:
        total = round(float(size[1]) * _UNITS[size[2].lower()])
        if total < 2**30:
            raise ColabMagicsError(
                f"--gpu {name} is too small for a GPU.", "CUDA alone takes a part of that.", "Write --gpu 24GB."
            )
        return Device("cuda", f"GPU of {name.strip()}", total, total, 0, _LIKE)
    several = _SEVERAL.fullmatch(name.strip())
    if several is not None:
        one = _device(several[2] or several[3], table)
        return replace(one, name=f"{one.name}, one of {several[1] or several[4]}")
    word = _plain(name)
    keys = {_plain(key): key for key in table.accelerators}
    found = table.accelerators.get(keys.get(word, "")) or accelerator_of(name, table)
    if found is None:
        begun = [key for key in table.accelerators if _plain(key.partition("-")[0]) == word]
        found = table.accelerators[begun[0]] if begun else None
    if found is None:
        if _NUMBER.fullmatch(name.strip()):
            raise ColabMagicsError(f"--gpu {name} has no unit.", "A size has one.", f"Write --gpu {name.strip()}GB.")
        close = get_close_matches(word, keys, n=1, cutoff=_NEAR)
        raise ColabMagicsError(
            f"There is no GPU {name} in the table.",
            f"There is {', '.join(table.accelerators)}.",
            "A size will do: --gpu 24GB.",
            f"Did you mean {keys[close[0]]}?" if close else "",
        )
    if found.capability is None:
        from colab_magics.memory.devices import this_device

        return this_device(cuda=False)
    return _of(found)


def _plain(name: str) -> str:
    """As it is compared: `RTX 4090`, `rtx-4090` and `RTX4090` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _of(accelerator: Accelerator) -> Device:
    memory = accelerator.memory
    return Device("cuda", accelerator.title, memory, memory, 0, accelerator.capability)
