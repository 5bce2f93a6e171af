"""Ways to pay for a project, and what of a job each comes to."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from colab_magics.session.offers import Offer

FILE = Path(__file__).with_name("scenarios.toml")
_WEEKS_A_MONTH = 52 / 12


@dataclass(frozen=True)
class Scenario:
    """Where a project is trained first, where else, and what it means to spend a month.

    Attributes
    ----------
    first, second : tuple of str
        Keys of platforms.
    dollars : float
    """

    key: str
    title: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    dollars: float


@dataclass(frozen=True)
class Outcome:
    """What a scenario comes to.

    Attributes
    ----------
    first, second : Offer, optional
        The best offers of its places; None where none fits.
    usual, most : float, optional
        Dollars in a month with this job: where the first place does it all, as likely; and where it takes as long as
        the band allows, and the second has to do it again.
    times : float, optional
        How many such jobs a month's free hours or units hold at the first place; None where nothing bounds them.
    """

    scenario: Scenario
    first: Offer | None
    second: Offer | None
    usual: float | None
    most: float | None
    times: float | None

    @property
    def within(self) -> bool | None:
        """Whether the most that it comes to is what was meant to be spent."""
        return None if self.most is None else self.most <= self.scenario.dollars + 0.005


@lru_cache(maxsize=1)
def scenarios() -> tuple[str, tuple[Scenario, ...]]:
    """(as of, the scenarios), in their order."""
    read = tomllib.loads(FILE.read_text(encoding="utf-8"))
    as_of = read.pop("as_of")
    return as_of, tuple(
        Scenario(key, one["title"], tuple(one["first"]), tuple(one["second"]), float(one["dollars"]))
        for key, one in read.items()
    )


def outcome(scenario: Scenario, offers: Sequence[Offer]) -> Outcome:
    """What the scenario comes to, given all offers in their order.

    At the first place the fastest device is taken of those that cost nothing beyond the plan, else the cheapest; at
    the second the fastest that what is left of the money pays for, else the cheapest. It must do so also where the job
    takes as long as the band allows.
    """
    first = _best(offers, scenario.first, 0.0)
    fee = (first.platform.monthly or 0.0) if first is not None else 0.0
    second = _best(offers, scenario.second, scenario.dollars - fee, but=first)
    usual = first.outlay if first is not None else second.outlay if second is not None else None
    outlays = [place.most_outlay for place in (first, second) if place is not None]
    most = sum(one for one in outlays if one is not None) if outlays else None
    return Outcome(scenario, first, second, usual, most, _times(first) if first is not None else None)


def _best(offers: Sequence[Offer], places: Sequence[str], dollars: float, but: Offer | None = None) -> Offer | None:
    there = [
        offer
        for offer in offers
        if offer.platform.key in places
        and offer.possible
        and offer.hours is not None
        and offer.beyond is not None
        and offer.accelerator.capability is not None
        and (but is None or offer.platform.key != but.platform.key)
    ]
    certain = [offer for offer in there if offer.fits != "tight" and not offer.caution] or there
    paid = [offer for offer in certain if (offer.most_beyond or 0.0) <= max(0.0, dollars)]
    if paid:
        return min(paid, key=lambda offer: (offer.seconds, offer.dollars, places.index(offer.platform.key)))
    return min(certain, key=lambda offer: (offer.most_beyond, offer.seconds), default=None)


def _times(offer: Offer) -> float | None:
    if offer.quota is not None and offer.quota[1] == "week" and offer.quota[0]:
        return _WEEKS_A_MONTH / offer.quota[0]
    if offer.dollars and offer.allowance:
        return offer.allowance / offer.dollars
    return None
