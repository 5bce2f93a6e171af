"""One job on every platform and device of the table: whether it fits, how long it takes, what it costs.

Pure: the estimate of its memory is passed in. All prices and limits are the table's, which are dated estimates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from colab_magics.errors import ColabMagicsError
from colab_magics.plan import (
    Choice,
    DataFacts,
    Device,
    Estimate,
    ModelShape,
    Plan,
    Verdict,
    fit,
    from_log,
    make_plan,
    setup_of,
)
from colab_magics.recipe import Recipe
from colab_magics.session.budget import sessions_for
from colab_magics.session.duration import Duration, prior, work_of
from colab_magics.session.table import Accelerator, Platform, Table

Fits = Literal["yes", "tight", "no", "unknown"]
_FITS: Mapping[str, Fits] = {"green": "yes", "amber": "tight", "red": "no"}

_RAM_SHARE = 0.8
_MOST_DRAWN = 2001
_FEW_SESSIONS = 3  # more of them are a nuisance for which people would rather pay
# Before the first step of each session: libraries, and the model's files downloaded and loaded. The projects counted
# five minutes for a model of 1B parameters on a T4.
_SET_UP = 180.0
_DOWNLOAD = 50e6  # bytes a second


@dataclass(frozen=True)
class Job:
    """A training, as the plan event tells it: all that can be said of it without a device.

    Attributes
    ----------
    data : DataFacts
        Its lengths are drawn from the quantiles, and may be fewer than the documents.
    documents, tokens, eval_tokens : int
        Of an epoch, and of one evaluation.
    total_steps : int
        Of the whole run.
    left : float
        The part of it that is still to be done.
    """

    recipe: Recipe
    shape: ModelShape
    verdict: Verdict
    data: DataFacts
    documents: int
    tokens: int
    eval_tokens: int
    total_steps: int
    left: float = 1.0


def job_of(recipe: Recipe, event: Mapping[str, Any], *, done: int = 0) -> Job | None:
    """The job of a `plan` event; None where its log is of a version that did not tell enough.

    Parameters
    ----------
    done : steps that have been taken
    """
    try:
        chosen = Plan.from_dict(event["choices"])
        documents, total = int(event["documents"]), int(chosen["total_steps"])
        quantiles = [float(one) for one in event["lengths"]]
        data = DataFacts(drawn(quantiles, documents), int(event["eval_documents"]), chosen.choices["max_length"])
        shape, verdict = from_log(ModelShape, event["shape"]), from_log(Verdict, event["verdict"])
        tokens, eval_tokens = int(event["tokens_per_epoch"]), int(event["eval_tokens"])
    except (KeyError, TypeError, ValueError):
        return None
    left = max(0.0, 1 - done / total) if total else 0.0
    return Job(recipe, shape, verdict, data, documents, tokens, eval_tokens, total, left)


def drawn(quantiles: list[float], documents: int) -> npt.NDArray[np.int32]:
    """Lengths distributed as the quantiles say: as many as there are documents, or as are enough."""
    at = np.linspace(0, len(quantiles) - 1, max(1, min(documents, _MOST_DRAWN)))
    return np.interp(at, range(len(quantiles)), quantiles).round().astype(np.int32)


@dataclass(frozen=True)
class Offer:
    """The job on one device of one platform.

    Attributes
    ----------
    fits : str
        `yes`; `tight`: the estimate is over 88% of the card; `no`, for the reason in `why`; `unknown` without a job.
    caution : str
        What may be in the way although it fits.
    need, room : int, optional
        Bytes: the estimated peak, and what the device has.
    hours : Duration, optional
        Of training, in seconds; None where the table has no figures for the device.
    set_up : float
        Seconds of each session before its first step.
    sessions : int, optional
        How many it takes; None where no number of them does, or that is not known.
    quota : tuple, optional
        How many weeks' or days' worth of GPU time it uses, as (0.1, "week").
    units, dollars : float, optional
        What the hours come to at the platform's rate; None where that is not known.
    most : float, optional
        The dollars if it takes as long as the band allows.
    """

    platform: Platform
    accelerator: Accelerator
    fits: Fits
    why: str = ""
    caution: str = ""
    need: int | None = None
    room: int | None = None
    plan: Plan | None = None
    hours: Duration | None = None
    set_up: float = 0.0
    sessions: int | None = None
    quota: tuple[float, str] | None = None
    units: float | None = None
    dollars: float | None = None
    most: float | None = None

    @property
    def seconds(self) -> float:
        """All that is used of the device, likely: training, and every session's set-up; endless where not known."""
        return math.inf if self.hours is None else self.hours.mid + self.set_up * (self.sessions or 1)

    @property
    def allowance(self) -> float:
        """Dollars' worth of units that come with the plan each month."""
        return (self.platform.monthly_units or 0.0) * (self.platform.unit_price or 0.0)

    @property
    def beyond(self) -> float | None:
        """Dollars for what the plan's units do not pay."""
        return None if self.dollars is None else max(0.0, self.dollars - self.allowance)

    @property
    def outlay(self) -> float | None:
        """Dollars to be paid where the job is all that is done in that month."""
        return None if self.beyond is None else (self.platform.monthly or 0.0) + self.beyond

    @property
    def most_beyond(self) -> float | None:
        """As `beyond`, if it takes as long as the band allows."""
        return None if self.most is None else max(0.0, self.most - self.allowance)

    @property
    def most_outlay(self) -> float | None:
        """As `outlay`, if it takes as long as the band allows."""
        return None if self.most_beyond is None else (self.platform.monthly or 0.0) + self.most_beyond

    @property
    def possible(self) -> bool:
        """Whether it may be tried there."""
        return self.fits != "no"


def offers(
    table: Table,
    job: Job | None,
    estimate: Estimate,
    *,
    hours: Duration | None = None,
    platforms: Collection[str] = (),
    accelerators: Collection[str] = (),
) -> list[Offer]:
    """What each platform offers for the job, the one that a user would choose first.

    Parameters
    ----------
    job : what is to be trained; None: only `hours` of a device
    estimate : peak bytes of a model and a setup
    hours : seconds of GPU, the same on each; None: estimated from the job
    platforms, accelerators : only these; empty: all (of the accelerators, all but a CPU that would take for ever)
    """
    found = []
    for platform in table.platforms.values():
        if platforms and platform.key not in platforms:
            continue
        for key in platform.accelerators:
            accelerator = table.accelerators[key]
            if accelerators and key not in accelerators:
                continue
            if accelerator.capability is None and platform.ram is None:
                continue  # a CPU of which nothing is known
            offer = _offer(platform, accelerator, job, estimate, hours)
            if accelerators or accelerator.capability is not None or _is_quick(offer, hours):
                found.append(offer)
    return sorted(found, key=_preference)


def _is_quick(offer: Offer, hours: Duration | None) -> bool:
    """Whether a CPU is worth a row: where it is free, and done in one session."""
    return hours is None and offer.possible and offer.sessions == 1 and offer.outlay == 0


def _preference(offer: Offer) -> tuple[Any, ...]:
    """What fits before what does not; few sessions before many; then the cheapest, then the fastest."""
    fit = ("yes", "unknown", "tight", "no").index(offer.fits)
    outlay = math.inf if offer.outlay is None else round(offer.outlay, 2)
    many = (offer.sessions or 1) > _FEW_SESSIONS
    dollars = math.inf if offer.dollars is None else offer.dollars
    unsure = bool(offer.caution)
    return (
        fit,
        outlay == math.inf,
        unsure,
        many,
        outlay,
        offer.seconds,
        dollars,
        offer.platform.key,
        offer.accelerator.key,
    )


def device_of(platform: Platform, accelerator: Accelerator) -> Device:
    """The device as a worker there would see it, with nobody else on it."""
    ram = platform.ram or 0
    if accelerator.capability is None:
        return Device("cpu", accelerator.title, ram, int(_RAM_SHARE * ram), int(_RAM_SHARE * ram))
    return Device("cuda", accelerator.title, accelerator.memory, accelerator.memory, ram, accelerator.capability)


def _offer(
    platform: Platform, accelerator: Accelerator, job: Job | None, estimate: Estimate, hours: Duration | None
) -> Offer:
    offer = Offer(platform, accelerator, "unknown")
    if not accelerator.supported:
        return replace(offer, fits="no", why="today's torch has no kernels for it")
    if job is not None:
        offer = _planned(offer, job, estimate)
    if hours is not None:
        offer = replace(offer, hours=hours, set_up=0.0)
    return _priced(offer) if offer.possible else replace(offer, hours=None)


def _planned(offer: Offer, job: Job, estimate: Estimate) -> Offer:
    """The plan there, whether it fits, and how long it takes."""
    device = device_of(offer.platform, offer.accelerator)
    try:
        plan = make_plan(job.recipe, job.shape, device, job.data, job.verdict, estimate)
    except ColabMagicsError as error:
        return replace(offer, fits="no", why=error.what.rstrip("."))
    plan = plan.choosing(total_steps=Choice(job.total_steps, ""))
    peak = estimate(job.shape, setup_of(plan, job.recipe, job.shape, job.data.lengths, device))
    found = fit(peak, device, cap=job.recipe.max_memory_bytes)
    fits = _FITS[found.colour]
    work = work_of(
        plan, job.data.lengths, documents=job.documents, tokens=job.tokens, eval_tokens=job.eval_tokens
    )  # fmt: skip
    made = prior(job.shape, plan, offer.accelerator, work)
    files, disk = job.shape.weight_bytes or 2 * job.shape.parameters, offer.platform.disk
    caution = ""
    if disk is not None and files > disk:
        caution = f"the model's files are {files / 1e9:.0f} GB, the disk {disk / 1e9:.0f} GB"
    return replace(
        offer,
        fits=fits,
        why="it needs more memory" if fits == "no" else "",
        caution=caution,
        need=found.need,
        room=found.room,
        plan=plan,
        hours=made.times(job.left) if made is not None else None,
        set_up=_SET_UP + files / _DOWNLOAD,
    )


def _priced(offer: Offer) -> Offer:
    """The offer with what its hours come to."""
    platform, key = offer.platform, offer.accelerator.key
    hours = offer.hours
    if hours is None:
        return offer
    units, dollars = rate(platform, key)
    limit = None if platform.limit is None else platform.limit - offer.set_up
    offer = replace(offer, sessions=sessions_for(hours.mid, limit))
    seconds = offer.seconds
    longest = hours.high + offer.set_up * (sessions_for(hours.high, limit) or 1)
    return replace(
        offer,
        quota=quota(platform, offer.accelerator, seconds),
        units=None if units is None else units * seconds / 3600,
        dollars=None if dollars is None else dollars * seconds / 3600,
        most=None if dollars is None else dollars * longest / 3600,
    )


def rate(platform: Platform, accelerator: str) -> tuple[float | None, float | None]:
    """(compute units, dollars) an hour; None where the table does not say."""
    units = platform.units.get(accelerator)
    dollars = platform.dollars.get(accelerator)
    if dollars is None and units is not None and platform.unit_price is not None:
        dollars = units * platform.unit_price
    return units, dollars


def quota(platform: Platform, accelerator: Accelerator, seconds: float) -> tuple[float, str] | None:
    """How much of the platform's GPU time that is: (weeks, "week") or (days, "day"); None where none is counted."""
    if accelerator.capability is None:
        return None
    if platform.weekly:
        return seconds / platform.weekly, "week"
    return (seconds / platform.daily, "day") if platform.daily else None
