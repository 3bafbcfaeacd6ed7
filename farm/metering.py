"""What power meters tell: samples, what they are worth, and what a device did meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farm.errors import ConfigError
from farm.model import Device


class ClockDomain(StrEnum):
    """Whose clock a time was read from."""

    HOST = "host"
    """The controller's monotonic clock."""
    DEVICE = "device"
    """The device's wall clock: nanoseconds since 1970."""
    METER = "meter"
    """The meter's own: its samples are evenly spaced, and their first is set to the host's."""


class VoltageSource(StrEnum):
    """Where the voltage behind a power comes from."""

    MEASURED = "measured"
    SET = "set"
    DECLARED = "declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterClass:
    """What meters of a kind are worth, from data sheets and published comparisons.

    Attributes:
        name: as policies call it.
        gain: limit of the error of a reading, a fraction; any value inside is equally likely.
        voltage: the same for a voltage that is set or declared; 0 where the meter senses it.
        same_unit: the smallest margin that it can support on one unit with one meter.
        across_units: the same between units or meters; None where it can support none.
    """

    name: str
    gain: float
    voltage: float = 0.0
    same_unit: float
    across_units: float | None


METER_CLASSES = {
    kind.name: kind
    for kind in (
        MeterClass(name="js220", gain=0.005, same_unit=0.005, across_units=0.01),
        MeterClass(name="js110", gain=0.01, same_unit=0.01, across_units=0.02),
        MeterClass(name="lpm01a", gain=0.02, voltage=0.01, same_unit=0.01, across_units=0.04),
        MeterClass(name="km003c", gain=0.01, same_unit=0.01, across_units=0.02),
        MeterClass(name="c3", gain=0.01, same_unit=0.01, across_units=0.02),
        MeterClass(name="supply", gain=0.02, same_unit=0.02, across_units=0.04),
        MeterClass(name="fnb58", gain=0.015, same_unit=0.02, across_units=0.03),
        MeterClass(name="tc66c", gain=0.015, same_unit=0.02, across_units=0.03),
        MeterClass(name="um25c", gain=0.02, same_unit=0.02, across_units=0.04),
        MeterClass(name="ina", gain=0.03, same_unit=0.02, across_units=0.05),
        MeterClass(name="rapl", gain=0.05, same_unit=0.03, across_units=0.1),
        MeterClass(name="ppk2", gain=0.1, voltage=0.01, same_unit=0.02, across_units=0.15),
        MeterClass(name="odpm", gain=0.1, same_unit=0.03, across_units=None),
        MeterClass(name="gauge", gain=0.15, same_unit=0.05, across_units=None),
    )
}
"""Every class of meter by name. No number of windows averages a calibration away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterFacts:
    """What a meter says of itself.

    Attributes:
        meter_class: a name of `METER_CLASSES`.
        model: as its maker calls it.
        serial: its serial number; empty if it has none that can be read.
        firmware: its version, empty if it does not tell.
        calibration: sixteen hexadecimal digits over its constants; empty if it keeps them.
        calibrated: when, an ISO date; empty if nobody knows.
        clock: whose clock times its samples.
        rate_hz: samples per second, nominal.
        regular: whether samples come exactly so far apart, so that what is lost can be counted.
        lag_s: how long it takes to settle after a step, 0 if it follows at once.
        voltage: where the voltage comes from.
        voltage_v: it, where it is set or declared.
        in_path: whether the current flows through it, from outside of the device.
        simulated: whether it is a virtual one.
    """

    meter_class: str
    model: str
    serial: str = ""
    firmware: str = ""
    calibration: str = ""
    calibrated: str = ""
    clock: ClockDomain
    rate_hz: float
    regular: bool = False
    lag_s: float = 0.0
    voltage: VoltageSource = VoltageSource.MEASURED
    voltage_v: float | None = None
    in_path: bool = True
    simulated: bool = False


_NONE = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Samples in the order taken, a second's worth at most.

    Attributes:
        t_ns: when the interval of each sample ended, shape [n]; on the host's monotonic clock as
            far as the meter knows it, in steps of the clock that times its samples.
        power_w: mean power since the sample before, shape [n]; NaN where the meter could not tell.
        logic: 1 where the wired input is high, shape [n]; empty without a wire.
        range: index of the measuring range, shape [n]; empty for a meter with one range.
        lost: samples that are known to be missing here.
        saturated: samples at full scale.
    """

    t_ns: npt.NDArray[np.int64]
    power_w: npt.NDArray[np.float64]
    logic: npt.NDArray[np.uint8] = field(default_factory=lambda: _NONE)
    range: npt.NDArray[np.uint8] = field(default_factory=lambda: _NONE)
    lost: int = 0
    saturated: int = 0

    @classmethod
    def empty(cls) -> Chunk:
        """No samples."""
        return cls(t_ns=np.empty(0, np.int64), power_w=np.empty(0, np.float64))


class SpanKind(StrEnum):
    """What a device did for a while."""

    IDLE = "idle"
    """Nothing, with the model loaded."""
    MARK = "mark"
    """The pattern `MARK`: load where there is a 1."""
    WINDOW = "window"
    """Inferences back to back; a wired pin is high for just as long."""


MARK = (1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1)
"""A Barker code: it looks like itself at one place only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What a device did, and when on the clock of its `Measured`.

    Attributes:
        inferences: how many, in a window.
    """

    kind: SpanKind
    start_ns: int
    end_ns: int
    inferences: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """How a window is run so that its place in a meter's samples can be found.

    rest `idle_s`, then the mark, rest for `CHIPS_APART` chips, the window, rest for as many chips,
    the mark again, rest `idle_s`. Without a mark the window lies between the two rests.

    Attributes:
        idle_s: how long the device rests before and after.
        chip_s: length of one element of the mark, longer for a model that does not fit into it; 0
            for no mark.
        wire: whether a pin is wired to the meter and shall be high during the window.
    """

    idle_s: float
    chip_s: float = 0.0
    wire: bool = False


CHIPS_APART = 4
"""Rest between a mark and the window, in chips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyWindow:
    """What a meter's samples say of one repeat.

    Attributes:
        energy_j: of the windows together, what idling would have taken included.
        inferences: in them.
        duration_s: of them together.
        idle_w: mean power while the device rested before and after; None if nobody saw it rest.
        peak_w: largest mean power of a millisecond in them, or of a sample of a slower meter.
        method: how they were found: `wire`, `marks` or `clock`.
        time_error_s: standard error of where they begin and end.
        alignment: standard uncertainty of the energy from that, a fraction.
        filter: the same from what a meter makes of its own switching of ranges.
        samples: in the windows.
        lost: samples that are missing there.
        saturated: samples at full scale there.
        ranges: share of the samples per measuring range; empty for a meter with one.
        conditions: why it may not be judged, by code; those of `UNUSABLE` make it no figure at all.
    """

    energy_j: float
    inferences: int
    duration_s: float
    idle_w: float | None
    peak_w: float
    method: str
    time_error_s: float
    alignment: float
    filter: float
    samples: int
    lost: int
    saturated: int
    ranges: tuple[float, ...] = ()
    conditions: tuple[str, ...] = ()

    @property
    def per_inference_j(self) -> float:
        """Energy of one inference."""
        return self.energy_j / self.inferences

    @property
    def mean_w(self) -> float:
        """Mean power in the windows."""
        return self.energy_j / self.duration_s

    @property
    def net_per_inference_j(self) -> float | None:
        """Energy of one inference above idle; None where idling was not seen."""
        if self.idle_w is None:
            return None
        return (self.energy_j - self.idle_w * self.duration_s) / self.inferences


UNUSABLE = frozenset({"meter_stalled", "meter_edges", "meter_misaligned", "meter_negative"})
"""Conditions of a window of which nobody knows where it lies in the samples, or what they mean."""

METER_MISMATCH = "meter_mismatch"
"""The meter was found to see something else than the device that it is bound to."""

ENERGY_CONDITIONS = UNUSABLE | {
    METER_MISMATCH, "meter_lost", "meter_saturated", "meter_ranges", "short_window", "battery_term",
    "battery_unknown",
}  # fmt: skip
"""Conditions of a repeat that make its energy unusable in a gate, and nothing else of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """The samples of a meter over one window, as a file; a window may not fit into memory.

    Attributes:
        path: where it lies until the store takes it.
        sha256: digest of its bytes.
        samples: how many it has.
        lost: how many more the meter is known to have lost; they are in no place of it.
        energy_j: over all of it.
        preview: least, mean and largest power of equal parts of it in W, shape [parts, 3].
        spans: what the device did meanwhile.
        window: what was found in it.
        battery: standard uncertainty of its energy from a battery in the path, a fraction.
    """

    path: Path
    sha256: str
    samples: int
    lost: int
    energy_j: float
    preview: npt.NDArray[np.float64]
    spans: tuple[Span, ...] = ()
    window: EnergyWindow | None = None
    battery: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of an uncertainty budget.

    Attributes:
        name: `gain`, `voltage`, `alignment`, `lost`, `filter`, `battery`, `repeat`.
        relative: standard uncertainty as a fraction of the value.
        cancels: whether it is the same in both arms of a comparison on one unit and meter.
    """

    name: str
    relative: float
    cancels: bool = False


def combined(terms: Iterable[Term], *, compared: bool) -> float:
    """The standard uncertainties of terms together, as a fraction.

    Args:
        terms: of one budget; they are independent of each other.
        compared: of two figures from one unit and meter: leave out what cancels.
    """
    return float(np.sqrt(sum(t.relative**2 for t in terms if not (compared and t.cancels))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What a device does in the field, to tell how long its battery lasts there.

    Attributes:
        battery_wh: what its battery holds.
        inferences_per_hour: how often it runs the model; it idles in between.
    """

    battery_wh: float
    inferences_per_hour: float


BYPASSED = "bypassed"
"""The option `battery` of a device whose battery is out of the path of its current."""


def read_duty(device: Device) -> Duty | None:
    """The duty that the inventory declares, from `battery_wh` and `inferences_per_hour`.

    Raises:
        ConfigError: one of them is no number above zero, or alone; or `battery` is no known word.
    """
    if (battery := device.option("battery")) not in ("", BYPASSED):
        raise ConfigError(
            f"battery '{battery}' means nothing",
            device=device.name,
            hint=f"write 'battery: {BYPASSED}' where a dummy battery or the meter feeds it",
        )
    texts = [device.option(name) for name in ("battery_wh", "inferences_per_hour")]
    if not any(texts):
        return None
    try:
        battery_wh, per_hour = map(float, texts)
    except ValueError:
        battery_wh = per_hour = 0.0
    if not (0 < battery_wh < np.inf and 0 < per_hour < np.inf):
        raise ConfigError(
            "'battery_wh' and 'inferences_per_hour' are two numbers above zero",
            device=device.name,
            hint="for example 'battery_wh: 3.7' and 'inferences_per_hour: 60'",
        )
    return Duty(battery_wh=battery_wh, inferences_per_hour=per_hour)
