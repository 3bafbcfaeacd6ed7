"""What a virtual device is made of: speed, noise, heat and charge, all from one seed.

    latency = seconds per unit of work x work of the model x level x spread x throttling

- *level*: log-normal, one factor per repeat. Its variance is split: a share is common to the four
  repeats of a block, the rest is each repeat's own. That is what makes ABBA blocks worth having.
- *spread*: log-normal, per inference, plus a tail: a small share of inferences takes longer.
- *heat*: one thermal resistance and one capacity. Above a temperature the device slows down.
- *charge*: a battery between a charger and the load, for devices that have one.

All of it is simulated, and every result that comes from it says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_REPEATS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The constants of one type of virtual device.

    Attributes:
        seconds_per_unit: time per thousand multiply-accumulates.
        level_cv: coefficient of variation between repeats.
        shared: share of the level's variance that is common to a block.
        spread_cv: coefficient of variation inside a repeat.
        tail_rate: share of inferences in the tail.
        tail_factor: how much longer those take.
        ambient_c: temperature of the room.
        heat_c_per_w: thermal resistance.
        heat_time_s: thermal time constant.
        volts: of its supply.
        idle_w, busy_w: power while waiting and while computing.
        throttle_at_c: above this it slows down ...
        throttle_factor: ... by this much.
        battery_wh: capacity, 0 without a battery.
        charger_w: power that comes in.
        link_s: time of one round trip to the controller.
        link_bytes_per_s: speed of a transfer.
        start_s: time to start a process and load a runtime.
        base_rss_bytes: memory of a process with a loaded runtime and no model.
    """

    seconds_per_unit: float
    level_cv: float
    shared: float
    spread_cv: float
    tail_rate: float
    tail_factor: float
    ambient_c: float = 24.0
    heat_c_per_w: float = 9.0
    heat_time_s: float = 120.0
    volts: float = 5.0
    idle_w: float = 0.6
    busy_w: float = 3.0
    throttle_at_c: float = 62.0
    throttle_factor: float = 1.5
    battery_wh: float = 0.0
    charger_w: float = 5.0
    link_s: float = 0.005
    link_bytes_per_s: float = 30e6
    start_s: float = 0.6
    base_rss_bytes: float = 60e6


PROFILES = {
    "phone": Profile(
        seconds_per_unit=1.1e-6,
        level_cv=0.05,
        shared=0.8,
        spread_cv=0.06,
        tail_rate=0.02,
        tail_factor=2.5,
        volts=3.85,
        battery_wh=17.0,
    ),
    "board": Profile(
        seconds_per_unit=2.6e-6,
        level_cv=0.02,
        shared=0.7,
        spread_cv=0.03,
        tail_rate=0.005,
        tail_factor=3.0,
        idle_w=2.5,
        busy_w=6.0,
        heat_c_per_w=6.0,
        link_s=0.002,
        link_bytes_per_s=60e6,
    ),
    "camera": Profile(
        seconds_per_unit=9e-6,
        level_cv=0.01,
        shared=0.5,
        spread_cv=0.01,
        tail_rate=0.001,
        tail_factor=4.0,
        idle_w=0.4,
        busy_w=1.1,
        base_rss_bytes=25e6,
    ),
}
"""Types of virtual devices by the place in their address: `virtual://phone`."""


class Noise:
    """The random parts, drawn in the order of the repeats."""

    def __init__(self, profile: Profile, seed: int) -> None:
        self._profile = profile
        self._rng = np.random.default_rng(seed)
        self._repeats = 0
        self._block_level = 0.0

    def next_level(self) -> float:
        """The factor of the next repeat; every fourth one begins a new block."""
        sigma = _log_sigma(self._profile.level_cv)
        if self._repeats % BLOCK_REPEATS == 0:
            self._block_level = sigma * math.sqrt(self._profile.shared) * self._rng.normal()
        self._repeats += 1
        own = sigma * math.sqrt(1 - self._profile.shared) * self._rng.normal()
        return math.exp(self._block_level + own)

    def spread(self, n: int) -> npt.NDArray[np.float64]:
        """Factors of n inferences of one repeat; their median is 1 but for the tail."""
        factors = np.exp(_log_sigma(self._profile.spread_cv) * self._rng.standard_normal(n))
        tail = self._rng.random(n) < self._profile.tail_rate
        return np.where(tail, factors * self._profile.tail_factor, factors)


@dataclass(slots=True)
class Body:
    """The state that outlasts a process: temperature and charge."""

    profile: Profile
    temperature_c: float
    battery_pct: float = 65.0

    def steady_c(self, power_w: float) -> float:
        """Where the temperature goes at this power."""
        return self.profile.ambient_c + self.profile.heat_c_per_w * power_w

    def temperatures(
        self, elapsed_s: npt.NDArray[np.float64], power_w: float
    ) -> npt.NDArray[np.float64]:
        """Temperature after so many seconds at this power."""
        goal = self.steady_c(power_w)
        return goal + (self.temperature_c - goal) * np.exp(-elapsed_s / self.profile.heat_time_s)

    def pass_time(self, duration_s: float, power_w: float) -> None:
        """Spend time at a power."""
        self.temperature_c = float(self.temperatures(np.array(duration_s), power_w))
        if self.profile.battery_wh:
            gained_wh = (self.profile.charger_w - power_w) * duration_s / 3600
            level = self.battery_pct + 100 * gained_wh / self.profile.battery_wh
            self.battery_pct = min(100.0, max(0.0, level))


def _log_sigma(cv: float) -> float:
    """The sigma of the logarithm that gives a log-normal this coefficient of variation."""
    return math.sqrt(math.log1p(cv * cv))
