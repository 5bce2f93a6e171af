"""Real trainings that are killed at random moments and gone on with: `python benchmarks/kills.py --kills 2000`.

A course is a recipe and the end that it comes to when nobody disturbs it. Each trial starts it anew, sends SIGKILL at
a moment drawn from the seed, resumes as the cell does, and compares what it ends in with the undisturbed end: the
result's weights, and the last checkpoint's weights, optimizer states and random states, byte by byte. The workers are
real ones, forked from a process that has done the importing; what they save takes a third of their training time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from colab_magics import worker
from colab_magics.checkpoints.commit import DELETING, STAGING
from colab_magics.checkpoints.tensors import laid_out, read_tensors
from colab_magics.checkpoints.verify import Entry, entries, newest_verified
from colab_magics.recipe import Recipe
from colab_magics.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
WARM = REPOSITORY / "tests" / "warm"
ROWS = REPOSITORY / "colab_magics" / "demo" / "pirate.jsonl"
DEMO = REPOSITORY / "colab_magics" / "demo" / "model"
SHORT: Mapping[str, Any] = {
    "data": "demo",
    "max_steps": 12,
    "save_every": "2 steps",
    "lora_dropout": 0.1,
    "effective_batch_size": 2,
    "per_device_train_batch_size": 1,
    "max_train_samples": 16,
    "max_length": 64,
    # found out by a measurement otherwise, and two machines may find different things
    "packing": False,
}
_PATIENCE = 120.0  # seconds for a run of one
_executable = threading.Lock()


@dataclass(frozen=True)
class Workers:
    """How workers are started: with this for `sys.executable`, and these variables."""

    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path, attempt: int, *arguments: str) -> subprocess.Popen[bytes]:
        with _executable:
            was, sys.executable = sys.executable, self.python
            try:
                return worker.spawn(folder, attempt, arguments=arguments, env=self.environment)
            finally:
                sys.executable = was


@contextmanager
def warm_workers(folder: Path) -> Iterator[Workers]:
    """Workers that are forked from a process that has imported everything: one starts in 0.2 seconds, not in 10."""
    path, python = folder / "socket", sys.executable
    environment = {**os.environ, **worker.importable(), "OMP_NUM_THREADS": "1"}
    command = [python, str(WARM / "zygote.py"), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as zygote:
        try:
            assert zygote.stdout is not None
            if zygote.stdout.readline() != "ready\n":
                raise RuntimeError("the process that workers are forked from could not import them")
            yield Workers(str(WARM / "python"), {"WARM_SOCKET": str(path), "WARM_REAL_PYTHON": python})
        finally:
            zygote.kill()


def _one_layer_of_the_demo(folder: Path) -> Path:
    """A model with a real tokenizer whose steps take 15 ms: the time of a trial is that of its deaths, not of sums."""
    shutil.copytree(DEMO, folder)
    tensors = read_tensors(DEMO / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layers." not in name or ".layers.0." in name}
    (folder / "model.safetensors").write_bytes(b"".join(laid_out(kept, {"format": "pt"})))
    config = json.loads((DEMO / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": config["layer_types"][:1]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@dataclass(frozen=True)
class Trial:
    """One run that was disturbed.

    Attributes
    ----------
    deaths : int
        How often it was killed or stopped.
    phase : str
        What the last of them met: "preparing", "training", or "ending" (after the last step).
    torn : int
        How many of them left a commit or a deletion half done.
    lost : int
        The most steps that one of them cost.
    unable, different : str
        Why it could not go on to its end; in what it differs from the undisturbed run. Empty if all is well.
    """

    deaths: int
    phase: str
    torn: int
    unable: str = ""
    different: str = ""
    lost: int = 0


@dataclass(frozen=True)
class Course:
    """A recipe, how its workers are started, and how it ends undisturbed."""

    folder: Path
    workers: Workers
    recipe: Recipe
    rows: Path = ROWS

    @staticmethod
    def run(
        folder: Path,
        workers: Workers,
        recipe: Mapping[str, Any] = SHORT,
        rows: Path = ROWS,
        *,
        template_begins: str = "",
        once: bool = False,
    ) -> Course:
        """Train it undisturbed, twice: the first one fills the cache, and the second must end as it did.

        Parameters
        ----------
        template_begins : str
            What the model's chat template shall begin with.
        once : bool
            Not twice: where the recipe gives another end at another time.
        """
        model = _one_layer_of_the_demo(folder / "model")
        template = model / "chat_template.jinja"
        template.write_text(template_begins + template.read_text())
        variables = {
            **workers.environment,
            "COLAB_MAGICS_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        course = Course(folder, Workers(workers.python, variables), Recipe(model=str(model), **recipe), rows)
        for name in ("undisturbed",) if once else ("again", "undisturbed"):
            run = course.fresh(name)
            if code := course.start(run).wait(_PATIENCE):
                raise RuntimeError(f"the undisturbed run ended with {code}: {_why(run)}")
        if not once and (different := course.difference(course.folder / "again")):
            raise RuntimeError(f"two undisturbed runs differ: {different}")
        return course

    @property
    def undisturbed(self) -> Run:
        return Run(self.folder / "undisturbed")

    def fresh(self, name: str) -> Path:
        """A run's folder with its recipe; nothing is started."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(self.recipe.to_yaml(), encoding="utf-8")
        source = {"kind": "path", "name": str(self.rows), "path": str(self.rows)}
        inputs = {"train": source} | ({"eval": source} if self.recipe.eval_data else {})
        (folder / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
        return folder

    def start(self, run: Path) -> subprocess.Popen[bytes]:
        """The next attempt: it goes on from the newest checkpoint, or begins if there is none yet."""
        there = any(entry.manifest is not None for entry in entries(run / "checkpoints"))
        resume = ("--resume", str(run / "checkpoints")) if there else ()
        return self.workers.start(run, Run(run).attempts + 1, *resume)

    @property
    def seconds(self) -> float:
        """How long the undisturbed run took, from the worker's first event to its last."""
        times = [_time(event) for event in self.undisturbed.events()]
        return times[-1] - times[0]

    @property
    def preparing(self) -> float:
        """How much of it was over when the training began."""
        events = self.undisturbed.events()
        return next(_time(event) for event in events if event.get("phase") == "training") - _time(events[0])

    @property
    def step(self) -> float:
        """Seconds of one step, and of what is saved meanwhile."""
        return (self.seconds - self.preparing) / self.recipe.max_steps

    @property
    def share_saving(self) -> float:
        """The part of the training time during which a checkpoint was being written."""
        saved = [event for event in self.undisturbed.events() if event.get("action") == "saved"]
        return float(sum(event["seconds"] for event in saved) / (self.seconds - self.preparing))

    def difference(self, run: Path) -> str:
        """In what a finished run differs from the undisturbed one; empty if in nothing."""
        ours, theirs = Run(run), self.undisturbed
        if ours.losses != theirs.losses:
            return "the losses"
        adapter = self.recipe.method != "full"
        weights = "adapter_model.safetensors" if adapter else "model.safetensors"
        name = f"{'adapter' if adapter else 'model'}/{weights}"
        if (ours.folder / name).read_bytes() != (theirs.folder / name).read_bytes():
            return name
        mine, other = newest_verified(ours.checkpoints).entry, newest_verified(theirs.checkpoints).entry
        if mine is None or other is None or mine.step != other.step:
            return "the last checkpoint"
        return _difference(mine, other, weights)


def _difference(mine: Entry, other: Entry, weights: str) -> str:
    for name in (weights, "optimizer.safetensors"):
        if (mine.folder / name).read_bytes() != (other.folder / name).read_bytes():
            return f"{name} of the last checkpoint"
    states = [json.loads((entry.folder / "state.json").read_text()) for entry in (mine, other)]
    for key in ("progress", "arrangement", "schedule", "optimizer"):
        if states[0][key] != states[1][key]:
            return f"{key} of the last checkpoint"
    return ""


def _time(event: Mapping[str, Any]) -> float:
    from datetime import datetime

    return datetime.fromisoformat(event["time"]).timestamp()


def _why(run: Path) -> str:
    failed = [event for event in Run(run).events() if event["kind"] == "failed"]
    return str(failed[-1]["error"]) if failed else "it said nothing"


@dataclass(frozen=True)
class Moment:
    """When an attempt is disturbed: so many seconds after it has done so many steps (None: after its first event).

    By steps and not by the clock alone, so that on a busy machine too it is the training that is met.
    """

    steps: int | None
    delay: float


def _comes(moment: Moment, run: Path, process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the moment; the worker's pid, or None if it has ended before."""
    attempt = worker.read_info(run) or {}
    reader, pid, training, steps, until = Run(run).reader(), 0, False, 0, None
    try:
        while process.poll() is None:
            for event in reader.read():
                if event["attempt"] == attempt.get("attempt"):
                    pid = pid or int(event.get("pid", 0))
                    training = training or event.get("phase") == "training"
                    steps += event["kind"] == "step"
            if until is None and pid and (moment.steps is None or (training and steps >= moment.steps)):
                until = time.monotonic() + moment.delay
            if until is not None and time.monotonic() >= until:
                return pid
            time.sleep(0.004 if until is None else min(0.004, max(0.0, until - time.monotonic())))
    finally:
        reader.close()
    return None


def killed(course: Course, name: str, moments: Iterable[Moment]) -> Trial | None:
    """Kill one attempt after the other, then go on to the end; None if one had ended before it was killed."""
    run, deaths, torn, phase = course.fresh(name), 0, 0, ""
    for moment in moments:
        process = course.start(run)
        pid = _comes(moment, run, process)
        if pid is None:
            if process.wait() == 0:
                shutil.rmtree(run)
                return None
            return Trial(deaths, phase, torn, unable=_why(run))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        process.wait(_PATIENCE)
        deaths += 1
        torn += _left_half_done(run)
        phase = _phase(course, run)
    return _ended(course, run, Trial(deaths, phase, torn))


def begun_and_killed(course: Course, name: str, moment: Moment) -> Path:
    """A run that was killed at the moment, as it lies there; one checkpoint at least must have been made."""
    run = course.fresh(name)
    process = course.start(run)
    pid = _comes(moment, run, process)
    if pid is None:
        raise RuntimeError(f"it had ended before: {_why(run)}")
    os.kill(pid, signal.SIGKILL)
    process.wait(_PATIENCE)
    if not entries(run / "checkpoints"):
        raise RuntimeError("it had no checkpoint yet")
    return run


def stopped(course: Course, name: str, moment: Moment, how: Literal["stop", "stop-now", "SIGTERM"]) -> Trial | None:
    """Stop it in an orderly way: the newest checkpoint must be whole and of the last step. Then go on to the end."""
    run = course.fresh(name)
    process = course.start(run)
    pid = _comes(moment, run, process)
    if pid is None:
        shutil.rmtree(run)
        return None
    if how == "SIGTERM":
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    else:
        worker.Control(run).send(how)
    process.wait(_PATIENCE)
    phase, torn = _phase(course, run), _left_half_done(run)
    if Run(run).state == "finished":
        shutil.rmtree(run)
        return None
    found = newest_verified(run / "checkpoints")
    done, saved = len(Run(run).losses), found.entry.step if found.entry is not None else 0
    unable = ""
    if found.skipped:
        unable = f"{found.skipped[0].name} is not whole: {found.skipped[0].broken}"
    elif done != saved:
        unable = f"{done} steps were done, and the newest checkpoint is of step {saved}"
    trial = Trial(1, phase, torn, unable)
    return trial if unable else _ended(course, run, trial)


def _left_half_done(run: Path) -> int:
    try:
        names = os.listdir(run / "checkpoints")
    except OSError:
        return 0
    return int(any(name.startswith((STAGING, DELETING)) for name in names))


def _phase(course: Course, run: Path) -> str:
    events = [event for event in Run(run).events() if event["attempt"] == Run(run).attempts]
    if not any(event.get("phase") == "training" for event in events):
        return "preparing"
    done = max((int(event["step"]) for event in events if event["kind"] == "step"), default=0)
    return "ending" if done == course.recipe.max_steps else "training"


def _ended(course: Course, run: Path, trial: Trial) -> Trial:
    """Go on to the end, and compare."""
    unable = different = ""
    lost = 0
    if code := course.start(run).wait(_PATIENCE):
        unable = f"it ended with {code}: {_why(run)}"
    else:
        different = course.difference(run)
        lost = max((event["lost_steps"] for event in Run(run).events() if event["kind"] == "resumed"), default=0)
    if not unable and not different:
        shutil.rmtree(run)
    return Trial(trial.deaths, trial.phase, trial.torn, unable, different, lost)


@dataclass(frozen=True)
class Figures:
    """What a series of trials came to."""

    what: str
    trials: tuple[Trial, ...]
    seed: int
    seconds: float

    @property
    def bad(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.unable or trial.different]

    def __str__(self) -> str:
        unable = sum(bool(trial.unable) for trial in self.trials)
        different = sum(bool(trial.different) for trial in self.trials)
        phases = Counter(trial.phase for trial in self.trials)
        met = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
        torn = sum(trial.torn for trial in self.trials)
        lost = max((trial.lost for trial in self.trials), default=0)
        deaths = sum(trial.deaths for trial in self.trials)
        # the rule of three: without a failure in n trials, this is what remains possible
        bound = "" if self.bad else f" (at most {min(1.0, 3 / deaths):.2%} fail, with 95% confidence)"
        return (
            f"{self.what}: N={len(self.trials)}, unable to resume {unable}, other weights {different}{bound}; "
            f"commits or deletions cut short {torn}, most steps lost {lost}, met: {met}; "
            f"seed {self.seed}, {self.seconds:.0f} s"
        )


def series(
    what: str, number: int, seed: int, trial: Callable[[str, random.Random], Trial | None], *, at_once: int = 2
) -> Figures:
    """Run `number` trials, each with random numbers of its own; one that ended too soon is drawn again."""
    begin = time.monotonic()

    def one(index: int) -> Trial:
        drawn = random.Random(f"{seed} {what} {index}")
        for again in range(50):
            if (done := trial(f"{what.replace(' ', '-')}-{index}-{again}", drawn)) is not None:
                return done
        raise RuntimeError("every one of 50 runs had ended before it was disturbed")

    with ThreadPoolExecutor(at_once) as threads:
        trials = tuple(threads.map(one, range(number)))
    return Figures(what, trials, seed, time.monotonic() - begin)


def random_kills(course: Course, number: int, seed: int) -> Figures:
    """One kill a run, at a moment anywhere between its start and its end."""

    def trial(name: str, drawn: random.Random) -> Trial | None:
        if drawn.random() < 0.1:
            return killed(course, name, [Moment(None, drawn.uniform(0, course.preparing))])
        steps = drawn.randint(0, course.recipe.max_steps)
        return killed(course, name, [Moment(steps, drawn.uniform(0, 2 * course.step))])

    return series("kill -9", number, seed, trial)


def kills_in_a_row(course: Course, deaths: int, seed: int, number: int = 1) -> Figures:
    """Runs that are killed so many times each. The course must have three steps and more for each death."""

    def trial(name: str, drawn: random.Random) -> Trial | None:
        moments = [Moment(drawn.randint(0, 4), drawn.uniform(0, course.step)) for _ in range(deaths)]
        return killed(course, name, moments)

    return series(f"{deaths} kills in a row", number, seed, trial)


def random_stops(course: Course, number: int, seed: int) -> Figures:
    """Orders to stop, after the step or in the middle of it, and SIGTERM, while it trains."""

    def trial(name: str, drawn: random.Random) -> Trial | None:
        moment = Moment(drawn.randint(0, course.recipe.max_steps), drawn.uniform(0, course.step))
        how: tuple[Literal["stop", "stop-now", "SIGTERM"], ...] = ("stop", "stop-now", "SIGTERM")
        return stopped(course, name, moment, drawn.choice(how))

    return series("interrupts", number, seed, trial)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--in-a-row", type=int, default=10, help="kills of one run")
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, warm_workers(Path(made)) as workers:
        home = Path(made)
        (home / "short").mkdir()
        (home / "long").mkdir()
        short = Course.run(home / "short", workers)
        print(f"{short.share_saving:.0%} of the training time is spent saving", flush=True)
        figures = []
        if options.kills:
            figures.append(_told(random_kills(short, options.kills, options.seed)))
        if options.in_a_row:
            long = Course.run(home / "long", workers, {**SHORT, "max_steps": 3 * options.in_a_row + 12})
            figures.append(_told(kills_in_a_row(long, options.in_a_row, options.seed)))
        if options.stops:
            figures.append(_told(random_stops(short, options.stops, options.seed)))
    return int(any(one.bad for one in figures))


def _told(figures: Figures) -> Figures:
    print(figures, flush=True)
    for trial in figures.bad[:5]:
        print(f"  {trial}")
    return figures


if __name__ == "__main__":
    sys.exit(main())
