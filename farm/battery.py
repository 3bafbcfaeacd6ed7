"""What a series of looks at a battery says of its pack; knows no device and no store.

A healthy pack loses some 20 % of its capacity in 500 cycles, is as warm as its room while the
phone idles, and loses a few percent of charge in an hour. Every bound below is far outside of
that: a pack that is taken out for nothing costs a person's time, and soon nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median, quantiles

from farm.errors import ConfigError
from farm.model import Device

WINDOW = timedelta(days=120)
"""How far back a judgement looks."""
RECENT = timedelta(days=2)
"""What is judged look by look; before that a few idle looks a day are enough."""

DEFAULT_BAND = "40-70"
MIN_PCT, MAX_PCT = 5, 100

BROKEN = ("dead", "over voltage", "unspecified failure")
"""Words of Android's battery service for a pack that does not recover."""
OVERHEAT = "overheat"

HOT_C = 45.0
"""No idle phone is as warm as that in a room in which people work."""
HOT_LOOKS = 3
HOT_SPAN = timedelta(minutes=20)

WARMER_C = 8.0
"""Above its own trend and that of its neighbours."""
WARMER_ALONE_C = 13.0
"""More than summer and a closed window together, for a pack without neighbours."""
WARM_C = 34.0
"""A pack below that is not worth a word, whatever it was before."""
LATE = timedelta(days=2)
EARLIER = timedelta(days=7)
MIN_LATE, MIN_EARLIER = 4, 14
"""Idle looks that a level of temperature needs."""

WORN_PCT = 60.0
FALL_POINTS = 10.0
"""In 90 days; a healthy pack loses two to three, and its gauge is wrong by two."""
FALL_WINDOW = timedelta(days=90)
SHARES = 3
"""Readings of the capacity that make one."""

DROP_PCT = 10.0
DROP_PCT_PER_HOUR = 25.0
"""An idle phone with its screen on loses at most 10."""
DROPS = 2

OUT = (
    "take it out of the rack and off its charger, and look for swelling (a lifted screen or back, "
    "a phone that rocks on a table); do not press, charge or open it; have the pack replaced"
)
WORN = (
    "look for swelling (a lifted screen or back, a phone that rocks on a table) and have the pack "
    "replaced"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a device told of its battery at one moment; what it did not tell is None or empty.

    Attributes:
        taken: when.
        idle: whether nothing was measured on the device meanwhile.
        level_pct: charge.
        temperature_c: of the pack.
        health: the device's own word, `good` for example.
        cycles: full charges so far.
        capacity_pct: what a full charge holds now, of what it held when new.
    """

    taken: datetime
    idle: bool
    level_pct: float | None = None
    temperature_c: float | None = None
    health: str = ""
    cycles: int | None = None
    capacity_pct: float | None = None


Neighbours = Callable[[], Iterable[Sequence[Look]]]
"""Gives series of looks, each at another pack; asked only when it matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A sign that a pack is not to be trusted: what was seen, and what a person shall do."""

    saw: str
    act: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where a battery shall be kept, in percent of its charge."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


def read_band(device: Device) -> Band:
    """The charge band of a device, from the option `charge_band`.

    Raises:
        ConfigError: it is no band.
    """
    text = dict(device.options).get("charge_band", DEFAULT_BAND)
    low, dash, high = text.partition("-")
    if dash and low.strip().isdecimal() and high.strip().isdecimal():
        band = Band(low=int(low), high=int(high))
        if MIN_PCT <= band.low < band.high <= MAX_PCT:
            return band
    raise ConfigError(
        f"charge_band '{text}' is no band",
        device=device.name,
        hint=f"two numbers of percent, {MIN_PCT} to {MAX_PCT}, the lower first, such as "
        f"'charge_band: {DEFAULT_BAND}'",
    )


def judge(looks: Sequence[Look], neighbours: Neighbours = tuple) -> tuple[Suspicion, ...]:
    """What is suspicious about a pack, the more urgent first.

    Args:
        looks: at one pack, of the last `WINDOW`, earliest first; before `RECENT` a few idle ones
            a day are enough.
        neighbours: gives the looks at the other packs of the lab: a warm room warms all.
    """
    if not looks:
        return ()
    found = (
        _sick(looks), _hot(looks), _warmer(looks, neighbours), _dropping(looks), _worn(looks),
        _falling(looks),
    )  # fmt: skip
    return tuple(filter(None, found))


def describe(looks: Sequence[Look]) -> str:
    """The latest of what is known of a pack, and where its capacity goes; empty if nothing is."""
    level, temperature, health, cycles, capacity = (
        next(
            (told for look in reversed(looks) if (told := getattr(look, name)) not in (None, "")),
            None,
        )
        for name in ("level_pct", "temperature_c", "health", "cycles", "capacity_pct")
    )
    told = (
        None if level is None else f"at {level:.0f} %",
        None if temperature is None else f"{temperature:.1f} degC",
        health,
        None if cycles is None else f"{cycles} cycles",
        None if capacity is None else f"holds {capacity:.0f} % of what it held when new",
    )
    fall = _fall(looks)
    change = [] if fall is None else [f"{-fall[0]:+.1f} points in {fall[1].days} days"]
    return ", ".join([*filter(None, told), *change])


def _sick(looks: Sequence[Look]) -> Suspicion | None:
    """The phone's own word. Overheating can pass, so once is not enough."""
    words = [look.health for look in looks if look.health][-2:]
    if words and words[-1] in BROKEN:
        return Suspicion(saw=f"the phone calls its battery '{words[-1]}'", act=OUT)
    if words == [OVERHEAT, OVERHEAT]:
        return Suspicion(saw=f"the phone twice called its battery '{OVERHEAT}'", act=OUT)
    return None


def _idle_c(looks: Sequence[Look]) -> list[tuple[datetime, float]]:
    """Temperatures of the idle pack."""
    return [
        (look.taken, look.temperature_c)
        for look in looks
        if look.idle and look.temperature_c is not None
    ]


def _hot(looks: Sequence[Look]) -> Suspicion | None:
    """Heat that nothing asked for, look after look; a job that has just ended cools in between."""
    last = _idle_c(looks)[-HOT_LOOKS:]
    if len(last) < HOT_LOOKS or last[-1][0] - last[0][0] < HOT_SPAN:
        return None
    coolest = min(celsius for _, celsius in last)
    if coolest < HOT_C:
        return None
    return Suspicion(
        saw=f"at least {coolest:.0f} degC in {HOT_LOOKS} idle looks in a row, {HOT_C:.0f} at most",
        act=OUT,
    )


def _warming(looks: Sequence[Look]) -> tuple[float, float] | None:
    """How warm the pack was in the weeks before and is now, while idle; None if unknown.

    Jobs and chargers warm a pack for a while, so its cooler quarter tells.
    """
    found = _idle_c(looks)
    late = [celsius for taken, celsius in found if looks[-1].taken - taken <= LATE]
    earlier = [celsius for taken, celsius in found if looks[-1].taken - taken >= EARLIER]
    if len(late) < MIN_LATE or len(earlier) < MIN_EARLIER:
        return None
    return quantiles(earlier, n=4)[0], quantiles(late, n=4)[0]


def _warmer(looks: Sequence[Look], neighbours: Neighbours) -> Suspicion | None:
    """A pack that has become warmer than it was, unlike its neighbours: it leaks inside."""
    found = _warming(looks)
    if found is None:
        return None
    before, after = found
    if after < WARM_C or after - before < WARMER_C:
        return None
    others = [pair[1] - pair[0] for other in neighbours() if (pair := _warming(other))]
    needed = WARMER_C + max(0.0, median(others)) if others else WARMER_ALONE_C
    if after - before < needed:
        return None
    unlike = f", and {len(others)} others in the lab did not" if others else ""
    return Suspicion(
        saw=f"{after:.0f} degC while idle, {before:.0f} in the weeks before{unlike}", act=OUT
    )


def _shares(looks: Sequence[Look]) -> list[tuple[datetime, float]]:
    """The capacity over time, one value a day: a gauge learns more rarely than that."""
    days = {
        look.taken.date(): (look.taken, look.capacity_pct)
        for look in looks
        if look.capacity_pct is not None
    }
    return list(days.values())


def _worn(looks: Sequence[Look]) -> Suspicion | None:
    last = [share for _, share in _shares(looks)[-SHARES:]]
    if len(last) < SHARES or median(last) >= WORN_PCT:
        return None
    return Suspicion(
        saw=f"holds {median(last):.0f} % of what it held when new, {WORN_PCT:.0f} at least",
        act=WORN,
    )


def _fall(looks: Sequence[Look]) -> tuple[float, timedelta] | None:
    """By how many points the capacity fell, and in what time; None before there is a trend."""
    shares = _shares(looks)
    shares = [(taken, share) for taken, share in shares if shares[-1][0] - taken <= FALL_WINDOW]
    if len(shares) < 2 * SHARES:
        return None
    first, last = shares[:SHARES], shares[-SHARES:]
    fall = median(share for _, share in first) - median(share for _, share in last)
    return fall, last[-1][0] - first[0][0]


def _falling(looks: Sequence[Look]) -> Suspicion | None:
    found = _fall(looks)
    if found is None or found[0] < FALL_POINTS:
        return None
    fall, span = found
    return Suspicion(
        saw=f"lost {fall:.0f} points of its capacity in {span.days} days, "
        f"{FALL_POINTS:.0f} are too many",
        act=WORN,
    )


def _dropping(looks: Sequence[Look]) -> Suspicion | None:
    """Charge that vanishes while nothing uses it."""
    recent = [look for look in looks if looks[-1].taken - look.taken <= RECENT]
    drops = []
    for before, after in pairwise(recent):
        if not (before.idle and after.idle) or before.level_pct is None or after.level_pct is None:
            continue
        drop = before.level_pct - after.level_pct
        hours = (after.taken - before.taken) / timedelta(hours=1)
        if drop >= DROP_PCT and drop >= DROP_PCT_PER_HOUR * hours:
            drops.append(
                f"{before.level_pct:.0f} to {after.level_pct:.0f} % in {60 * hours:.0f} min"
            )
    if len(drops) < DROPS:
        return None
    return Suspicion(saw=f"loses charge while idle: {', '.join(drops[-DROPS:])}", act=OUT)
