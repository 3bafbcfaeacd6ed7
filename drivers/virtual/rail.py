"""What a virtual device draws and where its pin stands, over the time of this machine.

Devices write it, a run ahead where they know what will happen; virtual meters read it as the real
ones read a wire. Its integral is the truth about energy.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

KEPT_NS = 600 * 10**9
"""What is older than that is forgotten, by the time of what is written."""

Times = npt.NDArray[np.int64]


class Rail:
    """A supply of constant voltage with steps of power; safe to use from several threads.

    Times are nanoseconds of this machine's monotonic clock.

    Attributes:
        volts: its voltage.
    """

    def __init__(self, *, volts: float, idle_w: float) -> None:
        self.volts = volts
        self._lock = threading.Lock()
        self._t_ns: list[int] = [0]
        self._power_w: list[float] = [idle_w]
        self._pin: list[bool] = [False]

    def step(self, t_ns: int, power_w: float, *, pin: bool = False) -> None:
        """From that time on it draws so much, until a later step; what was planned is void."""
        self.plan([t_ns], [power_w], [pin])

    def plan(self, t_ns: Sequence[int], power_w: Sequence[float], pin: Sequence[bool]) -> None:
        """Steps in the order of time; whatever was planned from the first of them on is void.

        Args:
            t_ns: when each begins, ascending.
            power_w: what is drawn from there on.
            pin: whether the pin is high from there on.
        """
        with self._lock:
            keep = max(1, bisect_left(self._t_ns, t_ns[0]))
            old = max(0, bisect_right(self._t_ns, t_ns[0] - KEPT_NS) - 1)
            self._t_ns[:] = [*self._t_ns[old:keep], *t_ns]
            self._power_w[:] = [*self._power_w[old:keep], *power_w]
            self._pin[:] = [*self._pin[old:keep], *pin]

    def mean_power_w(self, edges_ns: Times) -> npt.NDArray[np.float64]:
        """Mean power of the intervals between edges, shape [n] of [n + 1] edges, ascending."""
        energies = self._energy_since(int(edges_ns[0]), edges_ns)
        spans: npt.NDArray[np.float64] = np.diff(energies) / (np.diff(edges_ns) / 1e9)
        return spans

    def energy_j(self, start_ns: int, end_ns: int) -> float:
        """What was drawn between two times."""
        return float(self._energy_since(start_ns, np.array([end_ns], np.int64))[0])

    def pin_at(self, t_ns: Times) -> npt.NDArray[np.uint8]:
        """Where the pin stands, 1 for high, shape [n]."""
        times, _, pins = self._part(int(t_ns[0]), int(t_ns[-1]))
        found: npt.NDArray[np.uint8] = pins[np.searchsorted(times, t_ns, side="right") - 1]
        return found

    def _energy_since(self, start_ns: int, t_ns: Times) -> npt.NDArray[np.float64]:
        times, powers, _ = self._part(start_ns, int(t_ns[-1]))
        ends = np.append(times[1:], max(int(t_ns[-1]), int(times[-1]) + 1)) - start_ns
        energies = np.concatenate([[0.0], np.cumsum(powers * np.diff(ends, prepend=0) / 1e9)])
        found: npt.NDArray[np.float64] = np.interp(t_ns - start_ns, np.append(0, ends), energies)
        return found

    def _part(
        self, start_ns: int, end_ns: int
    ) -> tuple[Times, npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
        """The steps that matter between two times; the first is moved to the start."""
        with self._lock:
            first = max(0, bisect_right(self._t_ns, start_ns) - 1)
            last = max(first + 1, bisect_right(self._t_ns, end_ns))  # of what is forgotten, one
            times = np.array(self._t_ns[first:last], np.int64)
            powers = np.array(self._power_w[first:last])
            pins = np.array(self._pin[first:last], np.uint8)
        times[0] = start_ns
        return times, powers, pins


_rails: dict[str, Rail] = {}
_lock = threading.Lock()


def rail_of(device: str, *, volts: float = 5.0, idle_w: float = 0.0) -> Rail:
    """The rail of the virtual device of that name, the same for everybody in this process.

    Args:
        device: its name in the inventory.
        volts, idle_w: how it begins; the first to ask, which is the device itself, decides.
    """
    with _lock:
        if device not in _rails:
            _rails[device] = Rail(volts=volts, idle_w=idle_w)
        return _rails[device]
