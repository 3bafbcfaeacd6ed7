"""Charts as pure functions: a DataFrame in, an Altair chart out.

Values come in stored units and a `Scale` says how they are shown. Every chart of simulated results
says so in its subtitle; every arm and verdict has a shape or a dash beside its colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import altair as alt
import pandas as pd

from dashboard import palette
from dashboard.gate import INFORMS
from dashboard.samples import LOG_SPREAD, Histogram, JobSamples
from dashboard.units import Scale, counted
from dashboard.wording import simulated_share
from farm.metering import ENERGY_CONDITIONS
from farm.record import Verdict

HEIGHT = 340
ROW_HEIGHT = 48
MOST_CELLS = 40
"""More rows than this make a picture that nobody reads; the table has them all."""

FRAME_HEIGHT = 120
"""What title, legend and axis take of a chart's height, in pixels."""


def latency_histogram(
    histogram: Histogram, scale: Scale, *, simulated: bool, basis: str = ""
) -> alt.LayerChart:
    """The distribution of latency, the arms laid over each other, their medians as lines.

    Args:
        histogram: as `dashboard.samples` makes it.
        scale: how the stored unit is shown.
        simulated: whether the subtitle must say so.
        basis: what durations count where it is not wall time.
    """
    bins = _scaled(histogram.bins, scale, "left", "right").assign(floor=0.0)
    medians = _scaled(histogram.medians, scale, "median")
    arms = sorted(bins["arm"].unique())
    axis = alt.X(
        "left:Q",
        title=f"Latency ({scale.unit})",
        scale=alt.Scale(type="log" if histogram.logarithmic else "linear", nice=False, zero=False),
    )
    bars = _bars(bins, axis, scale.unit)
    lines = (
        alt.Chart(medians)
        .mark_rule(strokeWidth=2)
        .encode(
            x="median:Q",
            color=_arm_color(arms),
            strokeDash=_arm_dash(arms),
            tooltip=[
                alt.Tooltip("arm:N", title="Arm"),
                alt.Tooltip("median:Q", title=f"p50 ({scale.unit})", format=".4~g"),
            ],
        )
    )
    return (bars + lines).properties(
        height=HEIGHT, title=_title(_conditions(simulated, basis), "lines: p50")
    )


def _bars(bins: pd.DataFrame, axis: alt.X, unit: str) -> alt.Chart:
    return (
        alt.Chart(bins)
        .mark_rect(opacity=0.55)
        .encode(
            x=axis,
            x2="right:Q",
            y=alt.Y("share:Q", title="Share of samples", axis=alt.Axis(format="~%")),
            y2="floor:Q",
            color=_arm_color(sorted(bins["arm"].unique())).legend(_legend(outline=0)),
            tooltip=[
                alt.Tooltip("arm:N", title="Arm"),
                alt.Tooltip("left:Q", title=f"From ({unit})", format=".4~g"),
                alt.Tooltip("right:Q", title=f"To ({unit})", format=".4~g"),
                alt.Tooltip("share:Q", title="Share", format=".2%"),
            ],
        )
    )


def repeats_in_order(
    repeats: pd.DataFrame, scale: Scale, *, simulated: bool, basis: str = ""
) -> alt.LayerChart:
    """One statistic of every repeat over the blocks, so that a drift can be seen.

    Args:
        repeats: columns arm, block, position, conditions (list of codes), value, n.
        scale: how the stored unit is shown.
        simulated: whether the subtitle must say so.
        basis: what durations count where it is not wall time.
    """
    places = int(repeats["position"].max()) + 1
    frame = _scaled(repeats, scale, "value").assign(
        place=repeats["block"] + (repeats["position"] + 0.5) / places,
        # A meter's trouble is none of a latency.
        codes=[
            ", ".join(code for code in codes if code not in ENERGY_CONDITIONS)
            for codes in repeats["conditions"]
        ],
    )
    blocks = int(frame["block"].max()) + 1
    arms = sorted(frame["arm"].unique())
    whole = alt.Scale(domain=[0, blocks], nice=False)
    ticks = alt.Axis(values=_ticks(blocks), labelExpr="floor(datum.value)", grid=False)
    base = alt.Chart(frame).encode(
        x=alt.X("place:Q", title="Block" if places > 1 else "Repeat", scale=whole, axis=ticks),
        y=alt.Y("value:Q", title=f"p50 ({scale.unit})", scale=alt.Scale(zero=False, padding=12)),
        color=_arm_color(arms),
        tooltip=_repeat_tooltip(scale.unit),
    )
    links = base.mark_line(opacity=0.35, strokeWidth=1)
    points = base.mark_point(filled=True, size=70, opacity=0.95).encode(shape=_arm_shape(arms))
    rings = (
        base.transform_filter("datum.codes != ''")
        .mark_point(size=230, strokeWidth=2, filled=False, shape="circle")
        .encode(color=alt.value(palette.MARGIN_COLOR))
    )
    marked = frame.loc[frame["codes"] != "", "codes"]
    ring = f"ring: {', '.join(sorted(set(marked)))}" if len(marked) else ""
    return (_upright(range(blocks + 1), 0.25) + links + rings + points).properties(
        height=HEIGHT, title=_title(_conditions(simulated, basis), ring)
    )


def samples_in_order(
    samples: JobSamples, scale: Scale, *, simulated: bool, basis: str = ""
) -> alt.LayerChart:
    """The raw samples in the order taken, thinned out so that every spike survives."""
    frame = _scaled(samples.shown, scale, "value")
    arms = sorted(frame["arm"].unique())
    low, high = float(frame["value"].min()), float(frame["value"].max())
    logarithmic = low > 0 and high / low > LOG_SPREAD
    base = alt.Chart(frame).encode(
        x=alt.X(
            "order:Q",
            title="Inference, in the order taken",
            scale=alt.Scale(nice=False, domain=[0, samples.total]),
            axis=alt.Axis(format=",d", tickCount=5),
        ),
        y=alt.Y(
            "value:Q",
            title=f"Latency ({scale.unit})",
            scale=alt.Scale(
                type="log" if logarithmic else "linear", zero=False, nice=False, padding=8
            ),
            axis=alt.Axis(tickCount=5),
        ),
        color=_arm_color(arms),
        detail=["block:N", "position:N"],
        tooltip=[
            alt.Tooltip("arm:N", title="Arm"),
            alt.Tooltip("order:Q", title="Sample", format=","),
            alt.Tooltip("block:Q", title="Block"),
            alt.Tooltip("value:Q", title=f"Latency ({scale.unit})", format=".4~g"),
        ],
    )
    # The line fills the band between the fastest and the slowest, which points alone leave empty.
    lines = base.mark_line(strokeWidth=1, opacity=0.55)
    points = base.mark_point(filled=True, size=8, opacity=0.8).encode(shape=_arm_shape(arms))
    shown = f"{len(frame):,} of {counted(samples.total, 'sample')}"
    title = _title(_conditions(simulated, basis), shown)
    return (lines + points).properties(height=HEIGHT, title=title)


def power_over_time(
    parts: pd.DataFrame,
    scale: Scale,
    *,
    arm: str,
    block: int,
    levels: Mapping[str, float],
    simulated: bool,
) -> alt.LayerChart:
    """What a meter saw of one window: least to largest as a band, the mean as a line.

    Args:
        parts: as `dashboard.power.parts_of` makes them.
        scale: how W are shown.
        arm, block: whose window it is.
        levels: powers in W by what they are, drawn from side to side: when they were is not known.
        simulated: whether the subtitle must say so.
    """
    frame = _scaled(parts, scale, "least", "mean", "largest")
    color = palette.ARM_COLORS[arm]
    end = float(frame["begin"].max())
    base = alt.Chart(frame).encode(
        x=alt.X(
            "begin:Q",
            title="Seconds since the recording began",
            scale=alt.Scale(domain=[0, end], nice=False),
            axis=alt.Axis(tickCount=10),
        ),
        tooltip=[
            alt.Tooltip("begin:Q", title="From (s)", format=".3f"),
            *(
                alt.Tooltip(f"{name}:Q", title=f"{name.title()} ({scale.unit})", format=".4~g")
                for name in ("least", "mean", "largest")
            ),
        ],
    )
    power = alt.Y("mean:Q", title=f"Power ({scale.unit})", scale=alt.Scale(zero=True))
    band = base.mark_area(opacity=0.3, interpolate="step-after", color=color).encode(
        y=alt.Y("least:Q"), y2="largest:Q"
    )
    line = base.mark_line(strokeWidth=1.5, interpolate="step-after", color=color).encode(y=power)
    # Areas and lines tell only of their first point; these carry the tooltip and show nothing.
    points = base.mark_point(filled=True, size=120, opacity=0, color=color).encode(y=power)
    words = (f"{arm}, block {block}", "band: least to largest", "line: mean")
    return (band + line + _levels(levels, scale, end) + points).properties(
        height=HEIGHT, title=_title(_conditions(simulated, ""), *words)
    )


def _levels(levels: Mapping[str, float], scale: Scale, end: float) -> alt.LayerChart:
    frame = pd.DataFrame(
        {
            "level": list(levels.values()),
            "label": [f"{name}: {scale.text(watts)}" for name, watts in levels.items()],
            "end": end,
        }
    )
    base = alt.Chart(_scaled(frame, scale, "level")).encode(y="level:Q")
    rules = base.mark_rule(color=palette.QUIET, strokeDash=[5, 4])
    labels = base.mark_text(
        color=palette.QUIET, align="right", baseline="bottom", dx=-4, dy=-3, fontSize=12
    )
    return rules + labels.encode(x="end:Q", text="label:N")


def gate_intervals(cells: pd.DataFrame) -> alt.LayerChart:
    """The effect of every cell with its bounds against its margin, in the order given.

    Args:
        cells: as `dashboard.gate.read_cells`, all in one unit of effect.
    """
    frame = cells.assign(cell=_cell_labels(cells))
    unit = str(frame["effect_unit"].iloc[0])
    worse = alt.X("lo:Q", title=f"Effect ({unit}), worse to the right", scale=alt.Scale(padding=16))
    base = alt.Chart(frame).encode(y=_cell_rows(frame), tooltip=_cell_tooltip(unit))
    margins = base.mark_tick(
        color=palette.MARGIN_COLOR, thickness=3, size=ROW_HEIGHT * 0.7, orient="vertical"
    ).encode(x="margin:Q")
    colors = _verdict_scale(frame["verdict"], palette.VERDICT_COLORS)
    shapes = _verdict_scale(frame["verdict"], palette.VERDICT_SHAPES)
    spans = base.mark_rule(strokeWidth=3, opacity=0.75).encode(
        x=worse, x2="hi:Q", color=alt.Color("verdict:N", scale=colors, legend=_legend())
    )
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x="effect:Q",
        color=alt.Color("verdict:N", scale=colors, legend=_legend()),
        shape=alt.Shape("verdict:N", scale=shapes, legend=_legend()),
    )
    absent = (
        base.transform_filter("!isValid(datum.effect)")
        .mark_text(text="no effect could be given", color=palette.QUIET, align="left", dx=8)
        .encode(x=alt.datum(0.0))
    )
    share = simulated_share(int(frame["simulated"].sum()), len(frame))
    title = _title(share, "upright tick: the margin")
    return (_upright([0], 1) + spans + margins + points + absent).properties(
        height=ROW_HEIGHT * len(frame) + FRAME_HEIGHT, title=title
    )


def _cell_rows(frame: pd.DataFrame) -> alt.Y:
    """One row per cell, in the order given, even where there is nothing to draw."""
    return alt.Y(
        "cell:N",
        sort=list(frame["cell"]),
        title=None,
        scale=alt.Scale(domain=list(frame["cell"])),
        axis=alt.Axis(
            labelExpr="split(datum.label, '\\n')",
            labelLimit=170,
            labelOverlap=False,
            labelOffset=-6,
            ticks=False,
        ),
    )


def _cell_labels(cells: pd.DataFrame) -> list[str]:
    """Two lines per cell; what would be the same for two cells is told apart by where they ran."""
    mixed = cells["simulated"].nunique() > 1  # else the title says it for all
    informs = (cells["role"] == INFORMS).map({True: f" ({INFORMS})", False: ""})
    marked = (cells["simulated"] & mixed).map({True: f" ({palette.SIMULATED})", False: ""})
    labels = cells["metric"] + informs + "\n" + cells["device_type"] + marked
    doubled = labels.duplicated(keep=False)
    longer = labels + " " + cells["workload"] + " " + cells["runtime"] + "/" + cells["accelerator"]
    labels = labels.where(~doubled, longer)
    seen: dict[str, int] = {}
    unique = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return unique


def _cell_tooltip(unit: str) -> list[alt.Tooltip]:
    numbers = (
        ("effect", "Effect"),
        ("lo", "lo"),
        ("hi", "hi"),
        ("margin", "Margin"),
        ("mde", "MDE"),
    )
    return [
        alt.Tooltip("metric:N", title="Metric"),
        alt.Tooltip("device_type:N", title="Device type"),
        alt.Tooltip("verdict:N", title="Verdict"),
        *(
            alt.Tooltip(f"{name}:Q", title=f"{label} ({unit})", format=".2f")
            for name, label in numbers
        ),
        alt.Tooltip("reasons:N", title="Reasons"),
    ]


def _repeat_tooltip(unit: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("arm:N", title="Arm"),
        alt.Tooltip("block:Q", title="Block"),
        alt.Tooltip("value:Q", title=f"p50 ({unit})", format=".4~g"),
        alt.Tooltip("n:Q", title="Samples", format=","),
        alt.Tooltip("codes:N", title="Conditions"),
    ]


def _upright(places: Iterable[float], opacity: float) -> alt.Chart:
    """Quiet lines from bottom to top: zero, or the edges of blocks."""
    lines = pd.DataFrame({"place": [float(place) for place in places]})
    return alt.Chart(lines).mark_rule(color=palette.QUIET, opacity=opacity).encode(x="place:Q")


def _verdict_scale(verdicts: pd.Series, looks: Mapping[str, str]) -> alt.Scale:
    present = [str(verdict) for verdict in Verdict if (verdicts == verdict).any()]
    return alt.Scale(domain=present, range=[looks[verdict] for verdict in present])


def _legend(*, outline: float = 1) -> alt.Legend:
    """Above the picture, where a narrow window has room for it; in full colour."""
    return alt.Legend(
        orient="top", title=None, symbolOpacity=1, symbolSize=110, symbolStrokeWidth=outline
    )


def _arm_color(arms: Sequence[str]) -> alt.Color:
    return alt.Color(
        "arm:N",
        scale=alt.Scale(domain=list(arms), range=[palette.ARM_COLORS[arm] for arm in arms]),
        legend=_legend(),
    )


def _arm_shape(arms: Sequence[str]) -> alt.Shape:
    return alt.Shape(
        "arm:N",
        scale=alt.Scale(domain=list(arms), range=[palette.ARM_SHAPES[arm] for arm in arms]),
        legend=_legend(),
    )


def _arm_dash(arms: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash(
        "arm:N",
        scale=alt.Scale(domain=list(arms), range=[palette.ARM_DASHES[arm] for arm in arms]),
        legend=None,
    )


def _ticks(blocks: int) -> list[float]:
    """At most about ten ticks, each in the middle of its block."""
    step = max(1, -(-blocks // 10))
    return [block + 0.5 for block in range(0, blocks, step)]


def _scaled(frame: pd.DataFrame, scale: Scale, *columns: str) -> pd.DataFrame:
    return frame.assign(**{column: frame[column] / scale.divisor for column in columns})


def _conditions(simulated: bool, basis: str) -> str:
    """What must be said of every picture of one job."""
    words = [palette.SIMULATED] * simulated + [f"time counted in {basis}"] * bool(basis)
    return " · ".join(words)


def _title(*words: str) -> alt.TitleParams:
    """A quiet line of conditions that stays with the picture; the page has the heading."""
    text = " · ".join(word for word in words if word)
    return alt.TitleParams(text=text, anchor="start", fontSize=13, fontWeight=400, offset=6)
