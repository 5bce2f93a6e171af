"""Where a run's durable copy goes, and what is there already: settled in the kernel, before anything is started.

The kernel itself touches no mount that may hang: a child process looks, and has a timeout.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_magics.checkpoints.mounts import COLAB_DRIVE, absolute, is_local, mounts
from colab_magics.checkpoints.places import FOLDER, VARIABLE, default_replica, places
from colab_magics.checkpoints.verify import newest_verified, set_aside
from colab_magics.errors import ColabMagicsError
from colab_magics.recipe.rules import holds_a_key
from colab_magics.run import Run
from colab_magics.session.detect import on_colab
from colab_magics.session.here import this_session

_ON_DRIVE = COLAB_DRIVE / "MyDrive" / FOLDER
_OFF = ("none", "off")
_RENEWALS = 3.2  # of a lease, that a living session would have made while it is watched
_PAUSE = 10.0  # seconds between two looks

Said = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """A run in a place that is not the root.

    Attributes
    ----------
    remote : RemoteRun
    read_only : bool
        A finished version's output: what goes on from it is a new run.
    """

    remote: Any
    where: str
    read_only: bool = False


def replica_of(recipe: str | None, configured: str) -> str | None:
    """Where copies go: the recipe's word, else `%config`'s, else the environment's, else a Drive that is mounted."""
    said = next((one for one in (recipe, configured, os.environ.get(VARIABLE)) if one), "")
    if said.strip().lower() in _OFF:
        return None
    found = default_replica(os.environ, recipe=recipe, configured=configured, among=mounts())
    return None if found is None else found.where


@dataclass(frozen=True)
class Rooms:
    """Where runs are written, and `copies`: the folder that was named as their root and can only hold copies."""

    root: Path
    copies: str | None = None

    @property
    def said(self) -> str:
        """The line that tells a person that runs are not where he said; empty where they are."""
        if self.copies is None:
            return ""
        return f"{self.copies} is no local disk: the run is kept in {self.root}, and copied there."


def rooms(root: Path) -> Rooms:
    """The root to which runs are written, and the place of their copies where that is what `root` must be.

    On a network or FUSE file system (a mounted Drive) a write may hang, and "saved" may mean nothing. So the run goes
    to the local disk, and the folder that was named becomes its replica.
    """
    if is_local(root):
        return Rooms(root)
    beside = Path.cwd() / "runs"
    if not is_local(beside):
        beside = Path.home() / ".cache" / "colab_magics" / "runs"
    return Rooms(beside, os.fspath(root))


def protect(where: str | None, root: Path, say: Said) -> None:
    """Have the replica's Drive mounted, or say in a line that nothing protects the run.

    Mounting asks in the browser, so it is done here, in the kernel's main thread, before anything trains.

    Raises
    ------
    ColabMagicsError
        The place holds a key, or is where the runs themselves are, or the Drive was not mounted.
    """
    if where is not None:
        _check_place(where, root)
    if where is None:
        if on_colab():
            say(
                f"This run dies with the machine. To keep it, add: replica: {_ON_DRIVE} "
                "(Drive is then mounted, and asks once)."
            )
        elif (here := this_session().platform).stays_if:
            say(f"{here.persistent} outlives the session only if {here.stays_if}. To keep a run, add: replica: hf://…")
        return
    below_drive = "://" not in where and Path(where).is_relative_to(COLAB_DRIVE)
    if where == str(_ON_DRIVE) and on_colab():
        say(f"Checkpoints are copied to {where}; replica: none switches that off.")
    if not below_drive or any(mount.is_drive for mount in mounts()):
        return
    if not on_colab():
        return  # the worker's preflight says that nothing is mounted there
    mount_drive(
        "Drive was not mounted, and the run's replica is on it.",
        "Run the cell again and allow it, or leave replica: out (the run then dies with the machine).",
    )


def mount_drive(otherwise: str, todo: str) -> None:
    """Have Colab mount the Drive, which asks in the browser: in the kernel's main thread, and nowhere else.

    Raises
    ------
    ColabMagicsError
        It was not allowed, or did not come about; `otherwise` and `todo` are its first and last sentence.
    """
    from google.colab import drive

    try:
        drive.mount(str(COLAB_DRIVE))
    except Exception as error:
        raise ColabMagicsError(otherwise, f"Colab says: {str(error) or type(error).__name__}.", todo) from None


def _check_place(where: str, root: Path) -> None:
    if holds_a_key(where):
        raise ColabMagicsError(
            "The replica's address holds a key or a password.",
            "It is written into files that are copied and shown.",
            "Leave it out: s3fs, gcsfs and their like read credentials from the environment, or from their own files.",
        )
    path = absolute(where.removeprefix("file://")) if "://" not in where or where.startswith("file://") else None
    if path is not None and path.is_relative_to(absolute(root)):
        raise ColabMagicsError(
            f"The replica {where} lies where the runs are.",
            f"A copy in {root} would overwrite what is copied.",
            "Name another folder: a mounted Drive, another disk. replica: none copies nothing.",
        )


def complete(run: Run, copies: list[Found], say: Said) -> None:
    """Fetch the newest checkpoint from the replica where those here are gone, broken or older; the broken are kept."""
    found = next((one for one in copies if one.remote.name == run.name and one.remote.id == run.id), None)
    if found is None or run.state in ("running", "finished"):
        return
    there = next(((one.attempt, one.step) for one in found.remote.checkpoints if one.whole), None)
    search = newest_verified(run.checkpoints, run=run.id)
    if there is None or (search.entry is not None and search.entry.age_order >= there):
        return
    for entry in search.skipped:
        say(f"{entry.name} is broken here ({entry.broken}), and is set aside.")
        with suppress(OSError):
            set_aside(entry)
    bring(found, run.folder.parent, say, need_whole=False)


def held(where: str | None, say: Said) -> list[Found]:
    """The runs that the replica holds; none where there is no replica, or it does not answer (which is said)."""
    if where is None:
        return []
    from colab_magics.checkpoints.remote import look

    try:
        return [Found(remote, where) for remote in look(where, may_be_new=True)]
    except ColabMagicsError as error:
        say(f"The replica was not looked into: {error.what}")
        return []


def bring(found: Found, root: Path, say: Said, *, need_whole: bool = True) -> Run:
    """Fetch a run into the root, and say what came.

    Raises
    ------
    ColabMagicsError
        None of its checkpoints is whole, and one is needed.
    """
    from colab_magics.checkpoints.remote import fetch
    from colab_magics.magics.checkpoint_fetch import Progress
    from colab_magics.panel import words

    remote = found.remote
    say(f"Fetching {remote.name} from {found.where}.")
    came = fetch(found.where, remote.name, root, progress=Progress())
    for name, reason in came.skipped:
        say(f"Passed over {name} there: {reason}.")
    if came.checkpoint is None and need_whole:
        raise ColabMagicsError(
            f"{remote.name} has no whole checkpoint in {found.where}.",
            "Its copy had not come so far." if not came.skipped else "Each was checked byte by byte.",
            f"%%finetune {remote.name} starts over from step 0.",
        )
    at = f"checkpoint {came.checkpoint}" if came.checkpoint else "no checkpoint"
    say(f"{remote.name} came with {at}, {words.size(came.bytes)}.")
    return Run(came.folder)


def until_free(found: Found, say: Said, *, renewals: float = _RENEWALS, pause: float = _PAUSE) -> None:
    """Return once nobody else is at the run: its lease is watched for as long as three renewals would take.

    A machine that was disconnected a minute ago looks like one that is at work. It renews its lease again and again if
    it is; nothing that its clock or ours says is asked.

    Raises
    ------
    ColabMagicsError
        It was renewed: somebody trains the run.
    """
    lease = found.remote.lease
    if lease is None:
        return
    patience = renewals * min(lease.every, 600.0)  # a shared folder may say anything
    if lease.is_of_this_machine:
        raise trained_elsewhere(found)
    from colab_magics.checkpoints.remote import look, release

    name = found.remote.name
    say(
        f"{name} was copied to {found.where} by {lease.holder} not long ago. Watching for {patience / 60:.0f} minutes "
        f"whether it still is; interrupt and use --fork {name}-2 to begin at once."
    )
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(pause)
        now = next((one.lease for one in look(found.where) if one.name == name), None)
        if now is None:
            return
        if (now.session, now.time) != (lease.session, lease.time):
            raise trained_elsewhere(found)
    if not release(found.where, name, lease):
        raise trained_elsewhere(found)


def trained_elsewhere(found: Found) -> ColabMagicsError:
    """A run whose lease somebody holds."""
    return ColabMagicsError(
        f"{found.remote.name} is being trained elsewhere.",
        f"{found.remote.lease.holder} copies to {found.where}.",
        "Stop it there first; a machine that is gone is known by its silence.",
        f"Or begin a run of your own from its newest checkpoint: --fork {found.remote.name}-2.",
    )


def search(root: Path, configured: str, say: Said) -> list[Found]:
    """The runs in every place but the root where one may have been left; each place is looked into once."""
    wanted = replica_of(None, configured)
    found = held(wanted, say)
    for place in places(root, os.environ, among=mounts()):
        if not place.is_root and place.where != wanted:
            found += [Found(one.remote, one.where, place.read_only) for one in held(place.where, say)]
    return found
