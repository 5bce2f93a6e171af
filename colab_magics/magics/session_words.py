"""How hours, money and bytes of a session are written."""

from __future__ import annotations

from colab_magics.session.duration import Duration
from colab_magics.session.offers import Offer

_UNITS = ((86_400.0, 3.0, "days"), (3600.0, 1.5, "h"), (60.0, 1.5, "min"), (1.0, 0.0, "s"))


def spoken(seconds: float) -> str:
    """A time as an estimate is written, in two figures: `42 s`, `35 min`, `2.4 h`, `5.3 days`."""
    value, unit = _in_its_unit(seconds)
    return f"{_figures(value)} {unit}"


def band(made: Duration) -> str:
    """`2.4 h (1.2 to 4.8)`."""
    if made.mid < 1:
        return "under 1 s"
    value, unit = _in_its_unit(made.mid)
    size = next(amount for amount, _, name in _UNITS if name == unit)
    if made.low == made.high:
        return f"{_figures(value)} {unit}"
    return f"{_figures(value)} {unit} ({_figures(made.low / size)} to {_figures(made.high / size)})"


def hours(given: Duration) -> str:
    """A time that the user gave: always in hours, `100 h`, `7 h (6 to 8)`."""
    if given.low == given.high:
        return f"{_figures(given.mid / 3600)} h"
    return f"{_figures(given.mid / 3600)} h ({_figures(given.low / 3600)} to {_figures(given.high / 3600)})"


def _in_its_unit(seconds: float) -> tuple[float, str]:
    for size, least, unit in _UNITS:
        if seconds >= least * size:
            return seconds / size, unit
    return seconds, "s"


def _figures(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


def dollars(value: float) -> str:
    """`$0.42`, `$128`; `free`; below half a cent `under $0.01`."""
    if value == 0:
        return "free"
    if value < 0.005:
        return "under $0.01"
    return f"${value:,.2f}" if value < 100 else f"${value:,.0f}"


def count(value: float) -> str:
    """Units: `0.3`, `12`."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def money(offer: Offer) -> str:
    """What an offer costs, and what of a plan's monthly units it uses."""
    if offer.dollars is None or offer.beyond is None:
        return "not known" if offer.possible and offer.hours is not None else ""
    units = f"{count(offer.units)} units, " if offer.units is not None else ""
    fee = offer.platform.monthly
    if fee is None:
        return f"{units}{dollars(offer.dollars)}"
    plan = f"the {dollars(fee)} a month" if fee else "the free credits"
    if not offer.beyond:
        return f"{units}{dollars(offer.dollars)} of {plan}"
    return f"{units}{dollars(offer.beyond)} beyond {plan}"


def share(amount: float, period: str) -> str:
    """Of a week's or a day's GPU time: `3% of a week`, `2.5 weeks`."""
    if amount <= 1:
        return f"{max(1, round(100 * amount))}% of a {period}"
    return f"{_figures(amount)} {period}s"


def sessions(offer: Offer) -> str:
    """How many sessions it takes."""
    if offer.hours is None:
        return ""
    return "none is long enough" if offer.sessions is None else str(offer.sessions)


def gib(value: int) -> str:
    """Bytes: `14.4 GiB`."""
    return f"{value / 2**30:.1f} GiB"
