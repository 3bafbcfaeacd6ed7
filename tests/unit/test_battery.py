"""Healthy packs are left alone for years; packs that go bad are noticed in time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from farm.battery import RECENT, WINDOW, Band, Look, describe, judge, read_band
from farm.errors import ConfigError
from farm.model import Address, Device

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
STEP_H = 4
PER_DAY = 24 // STEP_H
TWO_YEARS = 730
HEALTHY = 12
RACK = 4
SICK = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A pack in a rack; the defaults are a healthy one in a room that follows the seasons.

    Attributes:
        room: seed of the room, which packs share.
        fade: points of capacity lost in a year.
        ill: day on which something begins to go wrong; None for a healthy pack.
        warming: degrees per day from then on.
        failing: points of capacity per day from then on.
        leaking: points of charge that vanish between two looks from then on, one time in three.
    """

    seed: int
    room: int = 0
    days: int = TWO_YEARS
    fade: float = 8.0
    ill: int | None = None
    warming: float = 0.0
    failing: float = 0.0
    leaking: float = 0.0

    def looks(self) -> list[Look]:
        """Every few hours, as `farm charge` and sessions take them."""
        rng = np.random.default_rng(self.seed)
        weather = np.random.default_rng(self.room)
        phase, usual = weather.uniform(0, 1), weather.uniform(19, 24)
        heat_waves = weather.integers(0, self.days, 4)
        found, level, charging = [], 65.0, False
        for index in range(self.days * PER_DAY):
            day = index / PER_DAY
            sick = max(0.0, day - self.ill) if self.ill is not None else 0.0
            idle = rng.random() < 0.7
            level += 12.0 if charging else -rng.uniform(0.5, 3.0) * STEP_H
            level = float(np.clip(level, 38, 72))
            charging = level <= 42 or (charging and level < 70)
            room = usual + 4 * np.sin(2 * np.pi * (day / 365 + phase))
            room += 2 * np.sin(2 * np.pi * day) + 5 * bool(np.any(abs(day - heat_waves) < 4))
            just_used = rng.random() < 0.1
            heat = (3 if charging else 0) + (8 if just_used or not idle else 0)
            celsius = room + 3 + heat + self.warming * sick + rng.normal(0, 0.7)
            capacity = 97 - self.fade * day / 365 - self.failing * sick + rng.normal(0, 1)
            drop = self.leaking if sick and rng.random() < 0.3 else 0.0
            taken = BEGIN + timedelta(hours=STEP_H * index)
            found.append(
                Look(
                    taken=taken,
                    idle=idle,
                    level_pct=round(level),
                    temperature_c=round(celsius, 1),
                    health="good",
                    cycles=int(day / 3),
                    capacity_pct=round(capacity),
                )
            )
            if drop:  # somebody looks again soon after
                found.append(
                    replace(found[-1], taken=taken + timedelta(minutes=15), idle=True,
                            level_pct=round(level - drop))
                )  # fmt: skip
        return found


class Kept:
    """Looks as the store gives them: of older days, the last idle one by each tens of hours."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self.looks = looks
        idle = [look for look in looks if look.idle]
        self._days = list(
            {f"{look.taken:%j-%Y} {look.taken.hour // 10}": look for look in idle}.values()
        )

    def until(self, now: datetime) -> list[Look]:
        def when(look: Look) -> datetime:
            return look.taken

        whole = bisect_left(self.looks, now - RECENT, key=when)
        first = bisect_left(self._days, now - WINDOW, key=when)
        last = bisect_left(self._days, now - RECENT, key=when)
        return [
            *self._days[first:last],
            *self.looks[whole : bisect_right(self.looks, now, key=when)],
        ]


def first_alarm(
    pack: Pack, others: Sequence[Pack] = (), every: int = 1
) -> tuple[float, str] | None:
    """After how many days a pack is suspicious first, and what is told of it."""
    kept, neighbours = Kept(pack.looks()), [Kept(other.looks()) for other in others]
    for look in kept.looks[::every]:
        now = look.taken
        if found := judge(kept.until(now), lambda now=now: [o.until(now) for o in neighbours]):
            return (now - BEGIN) / timedelta(days=1), found[0].saw
    return None


def test_healthy_packs_are_left_alone_for_two_years() -> None:
    alarms = {}
    for seed in range(HEALTHY):
        room = seed // RACK
        rack = range(RACK * room, RACK * room + RACK)
        others = [Pack(seed=other, room=room) for other in rack if other != seed]
        if alarm := first_alarm(Pack(seed=seed, room=room), others, every=3):
            alarms[seed] = alarm
    assert alarms == {}


def test_a_healthy_pack_alone_in_its_room_is_left_alone_for_two_years() -> None:
    alarms = {
        seed: alarm
        for seed in range(HEALTHY)
        if (alarm := first_alarm(Pack(seed=seed, room=seed), every=3))
    }
    assert alarms == {}


@pytest.mark.parametrize(
    ("sign", "within_days", "words"),
    [
        ({"warming": 0.5}, 45, "while idle"),
        ({"failing": 0.4}, 45, "points of its capacity"),
        ({"leaking": 20.0}, 10, "loses charge"),
    ],
)
def test_a_pack_that_goes_bad_is_noticed(
    sign: dict[str, float], within_days: float, words: str
) -> None:
    for seed in range(SICK):
        alarm = first_alarm(Pack(seed=seed, days=200, ill=100, **sign))  # type: ignore[arg-type]
        assert alarm is not None, seed
        day, saw = alarm
        assert 100 <= day <= 100 + within_days, (seed, day)
        assert words in saw


def look(minutes: float, **told: object) -> Look:
    return Look(taken=BEGIN + timedelta(minutes=minutes), **{"idle": True, **told})  # type: ignore[arg-type]


def saw(*looks: Look) -> list[str]:
    return [suspicion.saw for suspicion in judge(looks)]


def test_nothing_is_known_of_a_pack_that_nobody_looked_at() -> None:
    assert judge(()) == ()
    assert describe(()) == ""
    assert judge([look(0)]) == ()


@pytest.mark.parametrize("word", ["dead", "over voltage", "unspecified failure"])
def test_a_pack_that_the_phone_gives_up_is_suspicious_at_once(word: str) -> None:
    assert saw(look(0, health="good"), look(15, health=word)) == [
        f"the phone calls its battery '{word}'"
    ]
    (suspicion,) = judge([look(0, health=word)])
    assert "take it out of the rack" in suspicion.act
    assert "swelling" in suspicion.act


def test_overheating_may_pass_once() -> None:
    assert saw(look(0, health="overheat")) == []
    assert saw(look(0, health="overheat"), look(15, health="good")) == []
    assert saw(look(0, health="overheat"), look(15, health=""), look(30, health="overheat")) != []


@pytest.mark.parametrize("word", ["good", "cold", "unknown", ""])
def test_other_words_are_no_reason(word: str) -> None:
    assert saw(look(0, health=word), look(15, health=word)) == []


def test_heat_must_last_while_the_phone_idles() -> None:
    hot = [look(minutes, temperature_c=47.0) for minutes in (0, 15, 30)]
    assert "at least 47 degC" in saw(*hot)[0]
    assert saw(*hot[:2]) == []
    assert saw(*hot[:2], look(30, temperature_c=44.0)) == []
    assert saw(*(look(minutes, temperature_c=47.0) for minutes in (0, 1, 2))) == []
    assert saw(*(replace(one, idle=False) for one in hot)) == []


def test_a_worn_pack_is_suspicious_after_three_days_of_it() -> None:
    days = [look(1440 * day, capacity_pct=58.0) for day in range(3)]
    assert "holds 58 %" in saw(*days)[0]
    assert saw(*days[:2]) == []
    assert saw(*days[:2], look(2880, capacity_pct=61), look(4320, capacity_pct=62)) == []
    assert saw(*(look(minute, capacity_pct=58.0) for minute in range(9))) == []


def test_charge_that_a_job_used_is_no_loss() -> None:
    drops = [look(0, level_pct=70), look(10, level_pct=50), look(20, level_pct=30)]
    assert saw(*drops) == ["loses charge while idle: 70 to 50 % in 10 min, 50 to 30 % in 10 min"]
    assert saw(*drops[:2]) == []
    assert saw(drops[0], replace(drops[1], idle=False), drops[2]) == []
    assert saw(look(0, level_pct=70), look(600, level_pct=40), look(1200, level_pct=10)) == []


def test_a_warm_room_warms_all_and_excuses_each() -> None:
    def pack(rise: float) -> list[Look]:
        warm = (look(360 * n, temperature_c=25 + (rise if n > 100 else 0)) for n in range(120))
        return list(warm)

    assert [found.saw for found in judge(pack(12), lambda: [pack(0), pack(1), pack(11)])] == [
        "37 degC while idle, 25 in the weeks before, and 3 others in the lab did not"
    ]
    assert judge(pack(12), lambda: [pack(11), pack(0), pack(10)]) == ()
    assert judge(pack(12)) == ()
    assert len(judge(pack(14))) == 1


def test_the_latest_of_everything_is_told_with_the_trend() -> None:
    looks = [look(1440 * day, capacity_pct=90.0 - day / 10) for day in range(31)]
    looks += [look(50_000, level_pct=62, temperature_c=27.0, health="good"), look(50_001, cycles=7)]
    assert describe(looks) == (
        "at 62 %, 27.0 degC, good, 7 cycles, holds 87 % of what it held when new, "
        "-2.8 points in 30 days"
    )
    assert describe([look(0, level_pct=0.0)]) == "at 0 %"


def device(band: str) -> Device:
    options = (("charge_band", band),) if band else ()
    return Device(name="p", type="t", address=Address.parse("local:"), options=options)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("", Band(low=40, high=70)),
        ("20-80", Band(low=20, high=80)),
        ("5 - 100", Band(low=5, high=100)),
    ],
)
def test_a_band_is_read(text: str, band: Band) -> None:
    assert read_band(device(text)) == band


@pytest.mark.parametrize(
    "text", ["70-40", "40-40", "4-70", "40-101", "40", "-", "a-b", "40-70-90", "²-70"]
)
def test_what_is_no_band_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no band") as caught:
        read_band(device(text))
    assert "40-70" in caught.value.hint
