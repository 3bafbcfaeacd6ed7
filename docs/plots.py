"""Draws the plots of docs/statistics.md: `python docs/plots.py [FOLDER]`.

Everything is simulated with fixed seeds or computed, through the farm's own analysis where it has
one, so the same code draws the same files to the byte. The SVG is written by hand: no plotting
library, no fonts, colours for light and dark that colour-blind readers can tell apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from drivers.virtual.physics import PROFILES, Noise
from farm.analysis.changepoint import Changes, find_changes
from farm.analysis.noise import estimate_noise

Floats = npt.NDArray[np.float64]

FOLDER = Path(__file__).parent / "plots"
SEED = 20_240_617
ALPHA = 0.05
WIDTH = 720

STYLE = """
text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-weight:600;font-size:14px}
.s{font-size:12px;fill:#59636e}.bg{fill:#fff;stroke:#d1d9e0}.grid{stroke:#d1d9e0;fill:none}
.zone{fill:#8c959f;fill-opacity:.16}.axis{stroke:#59636e;fill:none}
.a,.b,.c{fill:none;stroke-width:2.5}.a{stroke:#0072b2}.b{stroke:#d55e00}.c{stroke:#007f5c}
.dash{stroke-dasharray:7 4}.dots{stroke-width:6;stroke-linecap:round}.thin{stroke-width:1.5}
.squares{stroke-width:7;stroke-linecap:square}.small{stroke-width:4;stroke-linecap:round}
.ta{fill:#0072b2}.tb{fill:#c25100}.tc{fill:#007f5c}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.s{fill:#9198a1}.bg{fill:#0d1117;stroke:#3d444d}
.grid{stroke:#3d444d}.axis{stroke:#9198a1}.a{stroke:#56b4e9}.b{stroke:#f0a24a}.c{stroke:#3fd0a4}
.ta{fill:#56b4e9}.tb{fill:#f0a24a}.tc{fill:#3fd0a4}}
""".strip()


class Frame(NamedTuple):
    """Where a panel lies in the picture, and the values at its edges."""

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False

    def x(self, value: float) -> float:
        """Value to pixels."""
        low, high = self.x_range
        if self.log:
            value, low, high = np.log(value), np.log(low), np.log(high)
        return self.left + self.width * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Value to pixels."""
        low, high = self.y_range
        return self.top + self.height * (high - value) / (high - low)


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    """One line of text."""
    words = words.replace("&", "&amp;").replace("<", "&lt;").replace("-", "\N{MINUS SIGN}")
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{words}</text>'


def path(frame: Frame, points: Iterable[tuple[float, float]], css: str) -> str:
    """A line through values."""
    steps = " ".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
    return f'<path class="{css}" d="M{steps}"/>'


def dots(frame: Frame, points: Iterable[tuple[float, float]], css: str) -> str:
    """Marks at values; the class says of which shape."""
    steps = "".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in points)
    return f'<path class="{css}" d="{steps}"/>'


def zone(frame: Frame, x_from: float, x_to: float) -> str:
    """A shaded stretch of the x axis."""
    left, right = frame.x(x_from), frame.x(x_to)
    return (
        f'<rect class="zone" x="{left:.1f}" y="{frame.top:g}" width="{right - left:.1f}" '
        f'height="{frame.height:g}"/>'
    )


def axes(
    frame: Frame,
    title: str,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    labels: tuple[str, str],
    unit: str = " %",
) -> list[str]:
    """Title, grid, ticks and the names of both axes; the y axis is in percent by default."""
    bottom = frame.top + frame.height
    parts = [text(frame.left, frame.top - 28, title, "h")]
    parts.append(text(frame.left, frame.top - 10, labels[1], "s"))
    for tick in y_ticks:
        parts.append(path(frame, [(frame.x_range[0], tick), (frame.x_range[1], tick)], "grid"))
        parts.append(text(frame.left - 7, frame.y(tick) + 4, f"{tick:g}{unit}", "s", "end"))
    parts.append(path(frame, [(x, frame.y_range[0]) for x in frame.x_range], "axis"))
    parts += [text(frame.x(tick), bottom + 18, f"{tick:,g}", "s", "middle") for tick in x_ticks]
    parts.append(text(frame.left + frame.width, bottom + 36, labels[0], "s", "end"))
    return parts


def picture(height: int, what: str, parts: Iterable[str]) -> str:
    """The whole file; `what` is read out where it cannot be seen."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{what}</title><style>{STYLE}</style>",
            f'<rect class="bg" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )


def pooled() -> str:
    """How often a test calls two equal models different, by the inferences per process."""
    counts = (10, 30, 100, 300, 1000)
    shares = _rejections(counts)
    frame = Frame(60, 64, 440, 230, (10, 1000), (0, 100), log=True)
    labels = ("inferences per process", "equal models called different")
    parts = axes(frame, "More inferences, more false certainty", counts, range(0, 101, 25), labels)
    for name, css, colour in (("pooled", "b", "tb"), ("repeats", "a", "ta")):
        line = list(zip(counts, shares[name], strict=True))
        marks = "dots" if css == "a" else "squares"
        parts += [path(frame, line, css), dots(frame, line, f"{css} {marks}")]
        words = f"{name}: {line[-1][1]:.0f} %"
        parts.append(text(512, frame.y(line[-1][1]) + 4, words, colour))
    parts.append(path(frame, [(10, 5), (1000, 5)], "axis dash"))
    parts.append(text(frame.left + 8, frame.y(5) - 9, "promised: 5 %", "s"))
    return picture(350, "False alarms of pooled inferences and of repeats", parts)


def _rejections(counts: Sequence[int], trials: int = 4000) -> dict[str, list[float]]:
    """Percent of two-sided 5 % t-tests that reject, 5 processes against 5 of the same model."""
    rng = np.random.default_rng(SEED)
    level = 0.01 * rng.standard_normal((trials, 2, 5))
    state = rng.standard_normal(level.shape)
    total, squares = np.zeros_like(level), np.zeros_like(level)
    found: dict[str, list[float]] = {"pooled": [], "repeats": []}
    for n in range(1, counts[-1] + 1):
        value = level + 0.05 * state
        total += value
        squares += value**2
        state = 0.4 * state + np.sqrt(1 - 0.4**2) * rng.standard_normal(level.shape)
        if n in counts:
            of_all = squares.sum(2) / (5 * n) - (total.sum(2) / (5 * n)) ** 2
            gap = np.abs(np.diff(total.mean(2), axis=1)[:, 0]) / n
            for name, spread, size in (
                ("pooled", of_all.mean(1) * 5 * n / (5 * n - 1), 5 * n),
                ("repeats", (total / n).var(axis=2, ddof=1).mean(1), 5),
            ):
                bound = special.stdtrit(2 * size - 2, 1 - ALPHA / 2)
                found[name].append(100 * float((gap > bound * np.sqrt(2 * spread / size)).mean()))
    return found


def abba() -> str:
    """The same device, 3 % slower at the end, in two orders."""
    parts = []
    for left, name, order in (
        (60, "AAAA BBBB", "A" * 8 + "B" * 8),
        (420, "ABBA ABBA", "ABBA" * 4),
    ):
        frame = Frame(left, 64, 270, 210, (0, 17), (-0.5, 4))
        labels = ("repeat", "time over the first repeat's")
        parts += axes(frame, f"{name}, two equal models", range(4, 17, 4), range(5), labels)
        means = {}
        for arm, css in (("A", "a squares"), ("B", "b dots")):
            places = [i + 1 for i, letter in enumerate(order) if letter == arm]
            values = [3 * (place - 1) / 15 for place in places]
            means[arm] = float(np.mean(values))
            parts.append(dots(frame, zip(places, values, strict=True), css))
            parts.append(path(frame, [(x, means[arm]) for x in (0, 17)], f"{css[0]} dash thin"))
        gap = round(means["B"] - means["A"], 1) + 0.0  # no minus before nothing
        parts.append(text(left + 12, 88, f"B - A = {gap:.1f} %", "h"))
        parts.append(text(left, 310, "squares A, dots B, dashes their means", "s"))
    return picture(330, "A drift in the order AAAA BBBB and in the order ABBA", parts)


def verdicts() -> str:
    """Intervals against a margin of 5 %."""
    rows = (
        ("PASS", "all of it is below the margin", "c", 1.2, 2.4),
        ("FAIL", "certainly worse, and at or over the margin", "b", 8.2, 2.2),
        ("FAIL", "certainly worse; strict would want more blocks", "b", 6.4, 3.2),
        ("INCONCLUSIVE", "could be harmless, could be too much", "a", 3.6, 4.6),
        ("INCONCLUSIVE", "certainly worse, perhaps by less than the margin", "a", 4.0, 2.4),
        ("INVALID", "no interval: the device throttled", "", 0.0, 0.0),
    )
    frame = Frame(300, 64, 390, 290, (-2, 12), (0, 6))
    parts = [zone(frame, 5, 12), text(20, 36, "Four words, one margin", "h")]
    for tick in range(-2, 13, 2):
        words = f"{tick:+d} %" if tick else "0 %"
        parts.append(text(frame.x(tick), 374, words, "s", "middle"))
    parts.append(path(frame, [(0, 0), (0, 6)], "axis"))
    parts.append(path(frame, [(5, 0), (5, 6)], "axis dash"))
    parts.append(text(frame.x(0), 54, "as before", "s", "middle"))
    parts.append(text(frame.x(5), 54, "margin", "s", "middle"))
    for row, (word, why, css, estimate, reach) in enumerate(rows):
        y = 5.5 - row
        parts.append(text(20, frame.y(y) - 2, word, f"h t{css}"))
        parts.append(text(20, frame.y(y) + 15, why, "s"))
        if reach:
            parts.append(path(frame, [(estimate - reach, y), (estimate + reach, y)], css))
            parts.append(dots(frame, [(estimate, y)], f"{css} dots"))
    parts.append(text(690, 394, "candidate slower than baseline", "s", "end"))
    return picture(408, "The four verdicts as intervals against a margin", parts)


def power() -> str:
    """How often a slowdown of 5 % is shown, by blocks and noise."""
    blocks = np.arange(5, 41)
    frame = Frame(60, 64, 440, 240, (5, 40), (0, 100))
    labels = ("ABBA blocks", "chance that a slowdown of 5 % is shown (lower bound above zero)")
    ticks = (5, 9, 13, 20, 30, 40)
    parts = axes(frame, "Noise is paid for in blocks", ticks, range(0, 101, 20), labels)
    parts.append(path(frame, [(5, 80), (40, 80)], "axis dash"))
    words = "where a curve crosses 80 %, the MDE is 5 %"
    parts.append(text(frame.x(13), frame.y(80) + 18, words, "s"))
    for spread, css, dash, y in ((0.02, "c", "", 99), (0.05, "a", " dash", 91), (0.1, "b", "", 80)):
        bound = special.stdtrit(blocks - 1, 1 - ALPHA / 3)
        shift = np.log1p(0.05) * np.sqrt(blocks) / spread
        chance = 100 * (1 - special.nctdtr(blocks - 1, shift, bound))
        parts.append(path(frame, zip(blocks, chance, strict=True), css + dash))
        parts.append(text(512, frame.y(y) + 4, f"block sd {100 * spread:g} %", f"t{css}"))
    return picture(360, "Power against the number of blocks for three levels of noise", parts)


def looks() -> str:
    """How often an unchanged model is called worse at any of the planned looks."""
    planned = range(1, 8)
    rng = np.random.default_rng(SEED)
    values = rng.standard_normal((100_000, 5 + 4 * (planned[-1] - 1)))
    sums, squares = values.cumsum(axis=1), (values**2).cumsum(axis=1)
    ends = np.arange(5, values.shape[1] + 1, 4)
    mean = sums[:, ends - 1] / ends
    spread = np.sqrt((squares[:, ends - 1] - ends * mean**2) / (ends - 1) / ends)
    frame = Frame(60, 64, 440, 230, (0.7, 7.3), (0, 20))
    title = "Looking again costs alpha, unless it is split"
    labels = ("planned looks, at 5, 9, 13 ... blocks", "unchanged model called worse")
    parts = axes(frame, title, planned, range(0, 21, 5), labels)
    for words, css, marks, split in (
        ("5 % at every look", "b", "squares", False),
        ("5 % split over the looks", "a", "dots", True),
    ):
        line = []
        for count in planned:
            level = ALPHA / count if split else ALPHA
            bound = special.stdtrit(ends[:count] - 1, 1 - level)
            worse = (mean[:, :count] > bound * spread[:, :count]).any(axis=1)
            line.append((count, 100 * float(worse.mean())))
        parts += [path(frame, line, css), dots(frame, line, f"{css} {marks}")]
        parts.append(text(512, frame.y(line[-1][1]) + 4, words, f"t{css}"))
    parts.append(path(frame, [(0.7, 5), (7.3, 5)], "axis dash"))
    return picture(350, "False alarms with more looks, with and without a split alpha", parts)


def changes() -> str:
    """A step and a drift, and what the engine says of them."""
    noise = np.random.default_rng(SEED).standard_normal((2, 150))
    place = np.arange(150)
    step = 20 * (1 + 0.01 * noise[0] + 0.03 * (place >= 90))
    slide = 20 * (1 + 0.01 * noise[1] + 0.05 * np.clip((place - 35) / 80, 0, 1))
    parts = []
    for left, title, series in ((60, "A step", step), (420, "A drift", slide)):
        frame = Frame(left, 64, 270, 210, (0, 150), (19, 22))
        labels = ("revision", "latency, ms")
        parts += axes(frame, title, range(0, 151, 50), (19, 20, 21, 22), labels, unit="")
        found = find_changes(series)
        parts += [zone(frame, drift.start, drift.stop) for drift in found.drifts]
        parts.append(dots(frame, enumerate(series.tolist()), "a small"))
        parts += _reported(frame, found)
    return picture(350, "A step and a drift in a series, with what the engine reports", parts)


def _reported(frame: Frame, found: Changes) -> list[str]:
    """Levels and words of what was found."""
    parts = []
    for step in found.steps:
        levels: list[tuple[float, float]] = [
            (step.index - step.n_before, step.before),
            (step.index, step.before),
            (step.index, step.after),
            (step.index + step.n_after, step.after),
        ]
        parts.append(path(frame, levels, "b"))
        low, high = 100 * step.lo, 100 * step.hi
        words = f"step at {step.index}: {100 * step.effect:+.1f} % ({low:+.1f} to {high:+.1f})"
        parts.append(text(frame.left + 8, frame.top + 16, words, "tb"))
    for drift in found.drifts:
        levels = [(0, drift.before), (drift.start, drift.before)]
        levels += [(drift.stop, drift.after), (frame.x_range[1], drift.after)]
        parts.append(path(frame, levels, "b"))
        words = f"drift from {drift.start} to {drift.stop}: {100 * drift.effect:+.1f} %"
        parts.append(text(frame.left + 8, frame.top + 16, words, "tb"))
    return parts


def devices() -> str:
    """Ten blocks of an unchanged model on each kind of virtual device."""
    parts = []
    for column, (name, profile) in enumerate(PROFILES.items()):
        physics = Noise(profile, SEED + column)
        levels = np.log([[physics.next_level() for _ in range(4)] for _ in range(10)])
        differences = levels[:, 1:3].mean(axis=1) - levels[:, [0, 3]].mean(axis=1)
        noise = estimate_noise(levels, differences, [])
        frame = Frame(60 + 228 * column, 64, 172, 200, (0, 40), (-20, 20))
        labels = ("repeat", "against its usual time")
        parts += axes(frame, f"Virtual {name}", (0, 20, 40), range(-20, 21, 10), labels)
        parts += [zone(frame, at, at + 4) for at in range(0, 40, 8)]
        for low, high in pairwise(range(0, 41, 4)):
            values = 100 * np.expm1(levels.ravel()[low:high])
            points = list(zip(np.arange(low, high) + 0.5, values, strict=True))
            parts += [path(frame, points, "a thin"), dots(frame, points, "a small")]
        for row, words in enumerate(
            (
                f"repeat CV {100 * noise.repeat_cv:.1f} %",
                f"shared in a block {100 * noise.shared:.0f} %",
                f"block sd {100 * noise.block_sd:.1f} %",
            )
        ):
            parts.append(text(frame.left, 320 + 18 * row, words))
    return picture(374, "Noise of three virtual devices over ten blocks", parts)


PLOTS: tuple[Callable[[], str], ...] = (
    pooled,
    abba,
    verdicts,
    power,
    looks,
    changes,
    devices,
)


def main(folder: Path) -> None:
    """Draw all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        (folder / f"{plot.__name__}.svg").write_text(plot(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
