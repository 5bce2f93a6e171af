"""Alterations of a checkpoint's folder, by seed: each changes at least one byte, and is undone afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from checkpoints.scenes import OTHER_RUN, RUN, save
from colab_magics.checkpoints.manifest import MANIFEST, Broken
from colab_magics.checkpoints.verify import newest_verified, verify

PAGE = 4096


@dataclass(frozen=True)
class Scene:
    """A run's checkpoints: the newest is the one that is altered."""

    checkpoints: Path
    newest: Path
    older: Path
    others: Path

    @staticmethod
    def make(folder: Path) -> Scene:
        checkpoints, elsewhere = folder / "checkpoints", folder / "another-run"
        checkpoints.mkdir()
        elsewhere.mkdir()
        older, newest = save(checkpoints, 1, numbers=2000), save(checkpoints, 2, numbers=2000)
        return Scene(checkpoints, newest, older, save(elsewhere, 2, run=OTHER_RUN, numbers=2000))

    def a_file(self, rng: random.Random) -> Path:
        return rng.choice(sorted(self.newest.iterdir()))


def flip_a_bit(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    _edit(path, rng.randrange(path.stat().st_size), lambda old: bytes([old[0] ^ 1 << rng.randrange(8)]), 1)


def cut_off_the_end(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    size = path.stat().st_size
    os.truncate(path, rng.choice([0, size - 1, rng.randrange(size), size // PAGE * PAGE if size % PAGE else 0]))


def lengthen(scene: Scene, rng: random.Random) -> None:
    with scene.a_file(rng).open("ab") as file:
        file.write(rng.choice([b"\0", b"\n", b" ", bytes(PAGE), rng.randbytes(rng.randint(1, 100))]))


def zero_a_page(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    _edit(path, rng.randrange(0, path.stat().st_size, PAGE), lambda old: bytes(len(old)), PAGE)


def zero_the_end(scene: Scene, rng: random.Random) -> None:
    """The size was written, the bytes were not: delayed allocation, after a loss of power."""
    path = scene.a_file(rng)
    size = path.stat().st_size
    begin = rng.randrange(size)
    _edit(path, begin, lambda old: bytes(len(old)), size - begin)


def overwrite(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    begin = rng.randrange(path.stat().st_size)
    _edit(path, begin, lambda old: bytes(byte ^ rng.randint(1, 255) for byte in old), rng.randint(1, 600))


def move_a_piece(scene: Scene, rng: random.Random) -> None:
    """Two neighbouring pieces of a file change places: all bytes are there, in another order."""
    path = scene.newest / rng.choice(["adapter_model.safetensors", "optimizer.safetensors"])
    length = rng.choice([1, 4, 512])
    begin = rng.randrange(path.stat().st_size - 2 * length)
    _edit(path, begin, lambda old: old[length:] + old[:length], 2 * length)


def swap_two_files(scene: Scene, rng: random.Random) -> None:
    one, other = rng.sample(sorted(scene.newest.iterdir()), 2)
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)


def lose_a_file(scene: Scene, rng: random.Random) -> None:
    scene.a_file(rng).unlink()


def add_a_file(scene: Scene, rng: random.Random) -> None:
    name = rng.choice(["scaler.json", "state.json~", ".hidden", "MANIFEST.json.tmp", "model-00001.safetensors", "é"])
    (scene.newest / name).write_bytes(rng.choice([b"", b"x"]))


def call_a_file_otherwise(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    path.rename(path.with_name(rng.choice([path.name.upper() + "_", path.name + ".part", "x" + path.name])))


def take_a_file_of_the_older(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    shutil.copyfile(scene.older / path.name, path)


def take_a_file_of_another_run(scene: Scene, rng: random.Random) -> None:
    """Same step, same attempt; only the manifest differs, so that nothing else is taken."""
    shutil.copyfile(scene.others / MANIFEST, scene.newest / MANIFEST)


def take_all_of_the_older(scene: Scene, rng: random.Random) -> None:
    for path in sorted(scene.newest.iterdir()):
        shutil.copyfile(scene.older / path.name, path)


def call_the_older_newer(scene: Scene, rng: random.Random) -> None:
    shutil.rmtree(scene.newest)
    shutil.copytree(scene.older, scene.newest)


def edit_the_manifest(scene: Scene, rng: random.Random) -> None:
    path = scene.newest / MANIFEST
    told = json.loads(path.read_text())
    name = rng.choice(sorted(told["files"]))
    rng.choice(
        [
            lambda: told.update(step=told["step"] + rng.randint(1, 9)),
            lambda: told.update(attempt=told["attempt"] + 1),
            lambda: told.update(run=f"{rng.getrandbits(64):016x}"),
            lambda: told.update(hash=f"{rng.getrandbits(256):064x}"),
            lambda: told.pop(rng.choice(sorted(told))),
            lambda: told["files"].pop(name),
            lambda: told["files"][name].update(size=told["files"][name]["size"] + 1),
            lambda: told["files"][name].update(blake2b=f"{rng.getrandbits(256):064x}"),
            lambda: told["files"].update({"more.json": {"size": 0, "blake2b": "0" * 64}}),
            lambda: told.setdefault("metrics", {}).update(eval_loss=rng.random()),
        ]
    )()
    path.write_text(json.dumps(told, indent=1) + "\n")


def edit_the_manifest_to_mean_the_same(scene: Scene, rng: random.Random) -> None:
    path = scene.newest / MANIFEST
    text = path.read_text()
    path.write_text(
        rng.choice(
            [
                json.dumps(json.loads(text)),
                text + "\n",
                text.rstrip("\n"),
                text.replace('"step": 2', '"step": 7, "step": 2'),
                text.replace("optimizer", "\\u006fptimizer"),
                text.replace("\n", "\r\n"),
            ]
        ),
        newline="",
    )


def put_something_else_in_a_files_place(scene: Scene, rng: random.Random) -> None:
    path = scene.a_file(rng)
    same_bytes = scene.checkpoints.parent / "elsewhere"
    shutil.copyfile(path, same_bytes)
    path.unlink()
    rng.choice([path.mkdir, lambda: path.symlink_to(same_bytes), lambda: os.mkfifo(path)])()


MUTATIONS: tuple[tuple[Callable[[Scene, random.Random], None], int], ...] = (
    (flip_a_bit, 30),
    (cut_off_the_end, 10),
    (lengthen, 5),
    (zero_a_page, 10),
    (zero_the_end, 5),
    (overwrite, 5),
    (move_a_piece, 5),
    (swap_two_files, 4),
    (lose_a_file, 3),
    (add_a_file, 3),
    (call_a_file_otherwise, 3),
    (take_a_file_of_the_older, 3),
    (take_a_file_of_another_run, 1),
    (take_all_of_the_older, 1),
    (call_the_older_newer, 1),
    (edit_the_manifest, 6),
    (edit_the_manifest_to_mean_the_same, 3),
    (put_something_else_in_a_files_place, 2),
)
"""What is done, and how often of 100."""


@contextmanager
def mutated(scene: Scene, seed: int) -> Iterator[str]:
    """The newest checkpoint, altered as this seed says; what was done. It is as before afterwards."""
    rng = random.Random(seed)
    kept = {path.name: path.read_bytes() for path in scene.newest.iterdir()}
    (mutation,) = rng.choices([one for one, _ in MUTATIONS], [weight for _, weight in MUTATIONS])
    mutation(scene, rng)
    try:
        yield mutation.__name__
    finally:
        for path in scene.newest.iterdir():
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.name not in kept or path.is_symlink() or not path.is_file():
                path.unlink()
        for name, data in kept.items():
            (scene.newest / name).write_bytes(data)


@dataclass(frozen=True)
class Found:
    """What became of many alterations.

    Attributes
    ----------
    done : Counter
        Name of the mutation -> how often.
    unchanged : int
        Those that happened to put the same bytes there again; they are not counted as done.
    missed : list of (seed, name)
        Those after which the altered checkpoint was used, or something else than the one before it.
    clean, false_alarms : int
        How often the unaltered one was verified, and was called broken.
    """

    done: Counter[str]
    unchanged: int
    missed: list[tuple[int, str]]
    clean: int
    false_alarms: int


def survey(folder: Path, seeds: range) -> Found:
    """Alter a checkpoint once for each seed, and see whether it is found."""
    scene = Scene.make(folder)
    kept = {path.name: path.read_bytes() for path in scene.newest.iterdir()}
    done: Counter[str] = Counter()
    missed, unchanged, clean, false_alarms = [], 0, 0, 0
    for seed in seeds:
        with mutated(scene, seed) as name:
            found = newest_verified(scene.checkpoints, run=RUN)
            if _same(scene, kept):
                unchanged += 1
                continue
            done[name] += 1
            if found.entry is None or found.entry.folder != scene.older or len(found.skipped) != 1:
                missed.append((seed, name))
        if seed % 5 == 0:
            clean += 1
            try:
                verify(scene.newest, run=RUN)
            except Broken:
                false_alarms += 1
    return Found(done, unchanged, missed, clean, false_alarms)


def _same(scene: Scene, kept: dict[str, bytes]) -> bool:
    names = {path.name: path for path in scene.newest.iterdir()}
    return names.keys() == kept.keys() and all(
        path.is_file() and not path.is_symlink() and path.read_bytes() == kept[name] for name, path in names.items()
    )


def _edit(path: Path, begin: int, change: Callable[[bytes], bytes], length: int) -> None:
    with path.open("r+b") as file:
        file.seek(begin)
        old = file.read(length)
        file.seek(begin)
        file.write(change(old))
