"""The figures of docs/reliability.md: `python benchmarks/reliability COMMAND`.

calls      a death, a loss of power and each disk error at every call of commit, discard and sweep
mutations  alterations of a checkpoint, by seed
kills      kill -9 of whole trainings at random moments, ours and HF Trainer
full       a disk that ends in the middle of a save, ours and HF Trainer
bits       one flipped bit in a checkpoint, ours and HF Trainer
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkpoints.acts import Act

ROOT = Path(__file__).resolve().parents[2]
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/reliability", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("calls")
    mutations = commands.add_parser("mutations")
    mutations.add_argument("--count", type=int, default=10_000)
    kills = commands.add_parser("kills")
    kills.add_argument("--count", type=int, default=20)
    bits = commands.add_parser("bits")
    full = commands.add_parser("full")
    full.add_argument("--left", type=int, nargs="*", default=[1, 12, 30], help="megabytes")
    for command in (mutations, kills):
        command.add_argument("--first-seed", type=int, default=0)
    for command in (kills, bits, full):
        command.add_argument("--only", choices=("ours", "hf"))
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        failures = {"calls": calls, "mutations": mutate, "kills": kill, "bits": flip, "full": fill}[options.command](
            options, Path(folder)
        )
    print(f"{time.monotonic() - begin:.0f} s")
    return 1 if failures else 0


def calls(_: argparse.Namespace, folder: Path) -> int:
    from checkpoints.acts import ACTS, COMMIT
    from checkpoints.kills import deaths_in_a_row, deaths_of, errors_of, power_failures_of
    from checkpoints.straced import strace_refuses, system_calls_of

    refused = strace_refuses()
    if refused:
        print(f"skipped: kill -9 at each system call, because {refused}")
    failures = 0
    ways = {"death": deaths_of, "power fails": power_failures_of, "disk error": errors_of}
    for name, way in (ways if refused else ways | {"strace kill -9": system_calls_of}).items():
        points = unusable = 0
        for number, act in enumerate(ACTS):
            place = folder / f"{name}-{number}"
            place.mkdir()
            for what, scene in way(act, place):
                points += 1
                unusable += _is_unusable(scene, act, what)
        print(f"{name:15} {points:6,} points, {unusable} unusable")
        failures += unusable
    (folder / "row").mkdir()
    points = unusable = 0
    for what, scene in deaths_in_a_row(folder / "row"):
        points += 1
        unusable += _is_unusable(scene, COMMIT, what)
    print(f"{'two deaths':15} {points:6,} points, {unusable} unusable")
    return failures + unusable


def _is_unusable(scene: Path, act: Act, what: str) -> bool:
    from checkpoints.acts import check_after_a_death

    try:
        check_after_a_death(scene, act)
    except AssertionError as wrong:
        print(f"  {what}: {wrong}")
        return True
    return False


def mutate(options: argparse.Namespace, folder: Path) -> int:
    from checkpoints.mutations import survey

    last = options.first_seed + options.count
    found = survey(folder, range(options.first_seed, last))
    for name, count in found.done.most_common():
        print(f"  {count:6,} {name.replace('_', ' ')}")
    print(
        f"{found.done.total():,} alterations (seeds {options.first_seed} to {last - 1}), {len(found.missed)} missed; "
        f"{found.clean:,} looks at the unaltered one, {found.false_alarms} false alarms"
    )
    for seed, name in found.missed:
        print(f"  missed: seed {seed}, {name}")
    return len(found.missed) + found.false_alarms


def contenders(only: str | None) -> list:
    """Ours and HF Trainer, everything imported and no torch operation executed: what is forked from here can train."""
    from hf_trainer import HFTrainer
    from ours import ColabMagics
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
    from transformers.models.qwen3 import modeling_qwen3

    import colab_magics.training.attempt
    import colab_magics.training.result

    assert all((AutoModelForCausalLM, AutoTokenizer, Trainer, modeling_qwen3, colab_magics.training.attempt))
    return [made() for name, made in (("hf", HFTrainer), ("ours", ColabMagics)) if only in (None, name)]


def kill(options: argparse.Namespace, folder: Path) -> int:
    from trainings import kill_and_resume, uninterrupted

    failures = 0
    for number, contender in enumerate(contenders(options.only)):
        place = folder / str(number)
        place.mkdir()
        calm = uninterrupted(contender, place / "calm")
        print(f"{contender.name}: {calm.saving_share:.0%} of the time is spent saving", flush=True)
        last = options.first_seed + options.count
        for trials in kill_and_resume(contender, calm, place, range(options.first_seed, last)):
            unable = trials.unable.total()
            if trials.done % 10 == 0 or trials.done == options.count:
                print(
                    f"  {trials.done} kills (seeds from {options.first_seed}): {unable} could not resume "
                    f"({unable / trials.done:.1%}), {len(trials.different)} ended in other weights "
                    f"{trials.different[:5] or ''}; {trials.seconds / trials.done:.1f} s each",
                    flush=True,
                )
        if not unable + len(trials.different):
            print(f"    at most {3 / trials.done:.1%} of all kills, with 95% confidence")
        for why, count in trials.unable.most_common():
            print(f"    {count} × {why}")
        if contender.name.startswith("colab_magics"):
            failures += unable + len(trials.different)
    return failures


def flip(options: argparse.Namespace, folder: Path) -> int:
    from trainings import flip_bits, uninterrupted

    failures = 0
    for number, contender in enumerate(contenders(options.only)):
        place = folder / str(number)
        place.mkdir()
        for name, outcome in flip_bits(contender, uninterrupted(contender, place / "calm"), place):
            print(f"{contender.name}: a flipped bit in {name}: {outcome}", flush=True)
            failures += contender.name.startswith("colab_magics") and not outcome.startswith("the weights")
    return failures


def fill(options: argparse.Namespace, folder: Path) -> int:
    from trainings import fill_the_disk, small_disk, uninterrupted

    (folder / "small").mkdir()
    try:
        with small_disk(folder / "small"):
            pass
    except OSError as error:
        print(f"skipped: {error}")
        return 0
    failures = 0
    for number, contender in enumerate(contenders(options.only)):
        place = folder / str(number)
        place.mkdir()
        calm = uninterrupted(contender, place / "calm")
        for left in options.left:
            (place / str(left)).mkdir()
            for line in fill_the_disk(contender, calm, place / str(left), left):
                print(f"{contender.name}, {left} MB left: {line}", flush=True)
                failures += contender.name.startswith("colab_magics") and ("could not" in line or "OTHER" in line)
    return failures


if __name__ == "__main__":
    sys.exit(main())
