"""A window of a virtual device in real time, for meters that watch its rail meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from drivers.virtual.physics import Profile
from drivers.virtual.rail import Rail
from farm.metering import CHIPS_APART, MARK, Span, SpanKind

START_LOAD = 0.5
"""A process that starts waits for its disk half of the time."""
POWER_CV = 0.02
"""Coefficient of variation of the power from step to step of a window."""
STEP_NS = 2_000_000
"""The power of a window has steps no shorter than that: an hour of them must fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTruth:
    """What the rail really gave in one window beside a meter; no measurement may look at it.

    Attributes:
        start_ns, end_ns: of the window, on this machine's wall clock.
        energy_j: what idling would have taken included.
    """

    model_sha256: str
    inferences: int
    start_ns: int
    end_ns: int
    energy_j: float
    idle_w: float


class Timeline:
    """What a device will do from a moment on, one thing after the other.

    Args:
        start_ns: the moment, on this machine's monotonic clock.
        profile: what idling and computing draw.

    Attributes:
        end_ns: when all of it is over.
        spans: those that have a name, on the same clock.
    """

    def __init__(self, start_ns: int, profile: Profile) -> None:
        self._profile = profile
        self._t_ns: list[int] = []
        self._power_w: list[float] = []
        self._pin: list[bool] = []
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self.end_ns = start_ns
        self.spans: list[Span] = []

    def spend(self, duration_s: float, *, load: float) -> None:
        """Spend time with so much to do: 0 for nothing, 1 for computing all the time."""
        idle_w, busy_w = self._profile.idle_w, self._profile.busy_w
        self._step(self.end_ns, idle_w + load * (busy_w - idle_w))
        self.end_ns += round(duration_s * 1e9)

    def rest(self, duration_s: float) -> None:
        """Idle, and say so."""
        start_ns = self.end_ns
        self.spend(duration_s, load=0)
        self._name(SpanKind.IDLE, start_ns)

    def mark(self, chip_s: float) -> None:
        """The pattern that meters look for."""
        start_ns = self.end_ns
        for chip in MARK:
            self.spend(chip_s, load=chip)
        self._name(SpanKind.MARK, start_ns)

    def infer(
        self, durations_ns: npt.NDArray[np.int64], noise: np.random.Generator, *, pin: bool
    ) -> None:
        """Inferences back to back.

        Args:
            durations_ns: of each, shape [n].
            noise: of what they draw.
            pin: whether a pin is high meanwhile.
        """
        start_ns = self.end_ns
        ends = start_ns + np.cumsum(durations_ns)
        starts = ends - durations_ns
        first = np.diff((starts - start_ns) // STEP_NS, prepend=-1) > 0  # inference of each step
        levels = self._profile.busy_w * (1 + POWER_CV * noise.standard_normal(int(first.sum())))
        for t_ns, power_w in zip(starts[first].tolist(), levels.tolist(), strict=True):
            self._step(t_ns, max(power_w, self._profile.idle_w), pin=pin)
        self.end_ns = int(ends[-1])
        self._name(SpanKind.WINDOW, start_ns, inferences=len(durations_ns))

    def happen(self, rail: Rail) -> None:
        """Let a rail show all of it; returns when it is over. The device idles from then on."""
        rail.plan(
            [*self._t_ns, self.end_ns],
            [*self._power_w, self._profile.idle_w],
            [*self._pin, False],
        )
        while (left_ns := self.end_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)

    def told(self) -> list[list[Any]]:
        """The spans as the loadgen writes them: kind, start and end by the wall clock, number."""
        wall_ns = self._wall_ns
        return [
            [span.kind.value, span.start_ns + wall_ns, span.end_ns + wall_ns, span.inferences]
            for span in self.spans
        ]

    def truths(self, model_sha256: str, rail: Rail) -> Iterator[EnergyTruth]:
        """What a rail gave in every window."""
        wall_ns = self._wall_ns
        for span in self.spans:
            if span.kind is SpanKind.WINDOW:
                yield EnergyTruth(
                    model_sha256=model_sha256,
                    inferences=span.inferences,
                    start_ns=span.start_ns + wall_ns,
                    end_ns=span.end_ns + wall_ns,
                    energy_j=rail.energy_j(span.start_ns, span.end_ns),
                    idle_w=self._profile.idle_w,
                )

    def _step(self, t_ns: int, power_w: float, *, pin: bool = False) -> None:
        self._t_ns.append(t_ns)
        self._power_w.append(power_w)
        self._pin.append(pin)

    def _name(self, kind: SpanKind, start_ns: int, *, inferences: int = 0) -> None:
        span = Span(kind=kind, start_ns=start_ns, end_ns=self.end_ns, inferences=inferences)
        self.spans.append(span)


def plan_window(
    start_ns: int,
    profile: Profile,
    spec: Mapping[str, Any],
    durations_ns: npt.NDArray[np.int64],
    noise: np.random.Generator,
) -> Timeline:
    """A process of the loadgen beside a meter, from its start on (`farm.metering.Metered`).

    Args:
        start_ns: when it starts.
        profile: of the device.
        spec: what the loadgen is told.
        durations_ns: of the inferences of the window, shape [n].
        noise: of what they draw.
    """
    metered = spec["metered"]
    idle_s, chip_s = float(metered["idle_s"]), float(metered["chip_s"])
    timeline = Timeline(start_ns, profile)
    timeline.spend(profile.start_s, load=START_LOAD)
    timeline.spend(spec["load"]["warmup_s"], load=1)
    timeline.rest(idle_s)
    if chip_s:
        timeline.mark(chip_s)
        timeline.spend(CHIPS_APART * chip_s, load=0)
    timeline.infer(durations_ns, noise, pin=bool(metered["gpio"]))
    if chip_s:
        timeline.spend(CHIPS_APART * chip_s, load=0)
        timeline.mark(chip_s)
    timeline.rest(idle_s)
    return timeline
