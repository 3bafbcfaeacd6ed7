"""The quantities that the farm measures: name, unit, direction, and how two are compared.

Names are `<family>.<statistic>`. A metric is declared before it is measured; a name that is not
declared here cannot be gated, stored or drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from farm.errors import ConfigError, nearest_hint


class Direction(StrEnum):
    """Which way is better."""

    LOWER = "lower"
    HIGHER = "higher"


class Method(StrEnum):
    """How two measurements of a metric are compared; decides the unit of the effect as well."""

    BLOCKS = "blocks"
    """One positive value per repeat; log ratio over ABBA blocks; effect in percent."""
    PAIRED_ITEMS = "paired_items"
    """Right or wrong per item, the same items in both arms; effect in percentage points."""
    EXACT = "exact"
    """A number without noise; effect in percent, any change is real."""
    NONE = "none"
    """Described, never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One declared quantity.

    Attributes:
        name: `<family>.<statistic>`.
        unit: unit of the value: `ns`, `bytes`, `ratio`, `dB`.
        direction: which way is better.
        method: how a gate compares two arms.
        min_samples: the fewest samples inside one repeat for which the statistic is supported.
        doc: one sentence for people.
        bases: the time bases in which it exists, as in `farm.record.TimeBasis`; empty for all. What
            does not exist on a device is not missing there.
    """

    name: str
    unit: str
    direction: Direction
    method: Method
    doc: str
    min_samples: int = 1
    bases: tuple[str, ...] = ()

    def exists_in(self, time_basis: str) -> bool:
        """Whether a device that counts so can have it; yes where nobody knows what it counts."""
        return not self.bases or not time_basis or time_basis in self.bases

    @property
    def family(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]


def _duration(name: str, min_samples: int, doc: str) -> Metric:
    return Metric(
        name=name,
        unit="ns",
        direction=Direction.LOWER,
        method=Method.BLOCKS,
        min_samples=min_samples,
        doc=doc,
        bases=("wall", "cycles"),
    )


def _exact(
    name: str, unit: str, direction: Direction, doc: str, bases: tuple[str, ...] = ()
) -> Metric:
    return Metric(
        name=name, unit=unit, direction=direction, method=Method.EXACT, doc=doc, bases=bases
    )


def _described(name: str, unit: str, direction: Direction, doc: str) -> Metric:
    return Metric(name=name, unit=unit, direction=direction, method=Method.NONE, doc=doc)


def _energy(name: str, unit: str, doc: str, direction: Direction = Direction.LOWER) -> Metric:
    return Metric(name=name, unit=unit, direction=direction, method=Method.BLOCKS, doc=doc)


# The floors of the tails are the smallest samples that LoadGen's early stopping accepts at 99 %
# confidence: below them a percentile is a guess, and the farm leaves it out.
_DECLARED = (
    _duration("latency.p50", 1, "Median time of one inference in the steady state."),
    _duration("latency.p90", 64, "Nine of ten inferences are at least this fast."),
    _duration("latency.p95", 130, "Nineteen of twenty inferences are at least this fast."),
    _duration("latency.p99", 662, "Ninety-nine of a hundred inferences are at least this fast."),
    _duration(
        "latency.p99.9", 6636, "All but one in a thousand inferences are at least this fast."
    ),
    _exact(
        "compute.instructions",
        "instructions",
        Direction.LOWER,
        "Instructions of one inference, counted by an emulator; no measure of time.",
        bases=("icount",),
    ),
    Metric(
        name="compute.cycles",
        unit="cycles",
        direction=Direction.LOWER,
        method=Method.BLOCKS,
        doc="Processor cycles of one inference, median over a repeat.",
        bases=("cycles",),
    ),
    Metric(
        name="accuracy.top1",
        unit="ratio",
        direction=Direction.HIGHER,
        method=Method.PAIRED_ITEMS,
        doc="Share of items whose highest output is the labelled class.",
    ),
    _exact(
        "accuracy.auc",
        "ratio",
        Direction.HIGHER,
        "Area under the curve of true over false alarms, for a score per item.",
    ),
    _exact(
        "drift.bit_exact",
        "ratio",
        Direction.HIGHER,
        "Share of items whose outputs equal the golden ones to the bit.",
    ),
    _described(
        "drift.top1_agreement",
        "ratio",
        Direction.HIGHER,
        "Share of items on which the float reference says the same.",
    ),
    _described(
        "drift.cosine",
        "ratio",
        Direction.HIGHER,
        "Mean cosine between outputs and those of the float reference.",
    ),
    _described(
        "drift.sqnr",
        "dB",
        Direction.HIGHER,
        "Signal of the float reference over the deviation from it.",
    ),
    Metric(
        name="memory.peak_rss",
        unit="bytes",
        direction=Direction.LOWER,
        method=Method.BLOCKS,
        doc="Largest resident memory of the process that ran the model, runtime included.",
    ),
    _exact("memory.arena", "bytes", Direction.LOWER, "Memory for the tensors of one inference."),
    _exact("memory.stack_peak", "bytes", Direction.LOWER, "Stack that one inference used at most."),
    _duration("coldstart.load", 1, "From the model's file to a session, in a fresh process."),
    _duration("coldstart.first_inference", 1, "The first inference of a fresh process."),
    _described(
        "compile.seconds",
        "s",
        Direction.LOWER,
        "Time to compile the model for its accelerator, once per model, unit and runtime.",
    ),
    _described(
        "placement.nodes",
        "ratio",
        Direction.HIGHER,
        "Share of the nodes that ran on the accelerator asked for.",
    ),
    _described(
        "placement.time",
        "ratio",
        Direction.HIGHER,
        "Share of the nodes' time on the accelerator asked for.",
    ),
    _energy(
        "energy.per_inference",
        "J",
        "Energy of one inference as the meter sees it: what idling would have taken is part of it.",
    ),
    _energy(
        "energy.net_per_inference",
        "J",
        "Energy of one inference above idle with the model loaded.",
    ),
    _energy("energy.per_correct", "J", "Energy of one inference over the share of right answers."),
    _energy("energy.mean_power", "W", "Mean power while inferences run back to back."),
    _energy("energy.peak_power", "W", "Largest power of a millisecond meanwhile."),
    _energy("energy.idle_power", "W", "Mean power with the model loaded, before and after."),
    _energy(
        "energy.inferences_per_joule",
        "1/J",
        "Inferences that one joule pays for.",
        Direction.HIGHER,
    ),
    _energy(
        "energy.battery_life",
        "h",
        "How long the declared battery lasts at the declared rate of inferences; an estimate.",
        Direction.HIGHER,
    ),
    _exact("size.model_bytes", "bytes", Direction.LOWER, "Size of the model file."),
    _exact("size.image_bytes", "bytes", Direction.LOWER, "Model image as it lies in a slot."),
    _exact("size.text", "bytes", Direction.LOWER, "Code of the model image."),
    _exact("size.rodata", "bytes", Direction.LOWER, "Constants of the model image, weights first."),
    _exact("size.data", "bytes", Direction.LOWER, "Variables of the model image that begin set."),
    _exact("size.bss", "bytes", Direction.LOWER, "Memory of the model image that begins cleared."),
    _described(
        "deploy.push_seconds", "s", Direction.LOWER, "Time to bring the model to the device."
    ),
    _exact(
        "update.corrupt_refused",
        "ratio",
        Direction.HIGHER,
        "Share of damaged images that the device refused.",
    ),
    _exact(
        "update.mismatch_refused",
        "ratio",
        Direction.HIGHER,
        "Share of images for another ABI, processor or place that the device refused.",
    ),
    _exact(
        "update.fault_rolls_back",
        "ratio",
        Direction.HIGHER,
        "Share of crashing images after which the confirmed model answered.",
    ),
    _exact(
        "update.hang_rolls_back",
        "ratio",
        Direction.HIGHER,
        "Share of hanging images after which the confirmed model answered.",
    ),
    _exact(
        "update.power_cut_survived",
        "ratio",
        Direction.HIGHER,
        "Share of power cuts during an update after which the confirmed model answered.",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}
"""Every declared metric by name."""

LATENCY_QUANTILES: dict[str, float] = {
    "latency.p50": 0.5,
    "latency.p90": 0.9,
    "latency.p95": 0.95,
    "latency.p99": 0.99,
    "latency.p99.9": 0.999,
}
"""The share of samples at or below each latency percentile."""

COLDSTART = ("coldstart.load", "coldstart.first_inference")
"""One value each per fresh process."""


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: no such metric; the hint names the nearest one.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise ConfigError(f"unknown metric '{name}'", hint=nearest_hint(name, METRICS)) from None
