"""Charts are pure: what they are given is what they say, in the unit and with the mark it needs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dashboard import charts, gate, palette
from dashboard.samples import summarise
from dashboard.units import Scale
from farm.model import PAIR
from farm.record import Verdict

MS = Scale(divisor=1e6, unit="ms")


@pytest.fixture
def job_samples():
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "arm": ["baseline"] * 3000 + ["candidate"] * 3000,
            "block": 0,
            "position": 0,
            "unit": "ns",
            "value": rng.lognormal(15.2, 0.05, 6000),
        }
    )
    return summarise(frame)


@pytest.fixture
def repeats():
    return pd.DataFrame(
        {
            "arm": ["baseline", "candidate", "candidate", "baseline"] * 2,
            "block": [0, 0, 0, 0, 1, 1, 1, 1],
            "position": [0, 1, 2, 3] * 2,
            "conditions": [[], ["throttled"], [], [], [], [], [], []],
            "value": np.linspace(4e6, 5e6, 8),
            "n": 300,
        }
    )


def data_of(chart) -> list[dict]:
    """All rows that a chart carries."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def title_of(chart) -> str:
    return chart.to_dict()["title"]["text"]


def every_chart(job_samples, repeats, *, simulated, basis=""):
    return [
        charts.latency_histogram(job_samples.histogram, MS, simulated=simulated, basis=basis),
        charts.samples_in_order(job_samples, MS, simulated=simulated, basis=basis),
        charts.repeats_in_order(repeats, MS, simulated=simulated, basis=basis),
    ]


def test_simulated_results_say_so_in_the_picture(job_samples, repeats):
    for chart in every_chart(job_samples, repeats, simulated=True):
        assert title_of(chart).startswith("simulated")
    for chart in every_chart(job_samples, repeats, simulated=False):
        assert "simulated" not in title_of(chart)


def test_time_that_is_not_wall_time_is_named(job_samples, repeats):
    for chart in every_chart(job_samples, repeats, simulated=True, basis="icount"):
        assert "time counted in icount" in title_of(chart)


def test_values_are_in_the_unit_of_the_axis(job_samples, repeats):
    values = [
        row["value"]
        for row in data_of(every_chart(job_samples, repeats, simulated=True)[2])
        if "value" in row
    ]
    assert min(values) == pytest.approx(4.0)
    assert max(values) == pytest.approx(5.0)
    assert '"Latency (ms)"' in every_chart(job_samples, repeats, simulated=True)[0].to_json()


def test_samples_say_how_many_are_shown(job_samples):
    chart = charts.samples_in_order(job_samples, MS, simulated=False)
    assert title_of(chart) == "2,000 of 6,000 samples"
    assert len(data_of(chart)) == 2000


def test_repeats_stand_inside_their_block_in_order(repeats):
    chart = charts.repeats_in_order(repeats, MS, simulated=False)
    places = [row["place"] for row in data_of(chart) if "arm" in row]
    assert places == [0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875]
    assert "throttled" in title_of(chart)


def test_arms_differ_in_shape_as_well_as_in_colour(repeats):
    text = charts.repeats_in_order(repeats, MS, simulated=False).to_json()
    for arm in PAIR:
        assert palette.ARM_COLORS[arm] in text
        assert palette.ARM_SHAPES[arm] in text


def test_a_single_arm_is_drawn_alone(repeats):
    alone = repeats[repeats["arm"] == "candidate"]
    text = charts.repeats_in_order(alone, MS, simulated=False).to_json()
    assert palette.ARM_COLORS["baseline"] not in text


def test_cells_are_drawn_in_the_order_given_each_on_its_row(cell, document):
    cells = gate.read_cells(
        document(
            [
                cell(),
                cell(device_type="watch", effect=None, lo=None, hi=None, verdict=Verdict.INVALID),
                cell(effect=9.0, verdict=Verdict.FAIL),
            ]
        )
    )
    chart = charts.gate_intervals(cells)
    spec = chart.to_dict()
    rows = next(layer["encoding"]["y"] for layer in spec["layer"] if "y" in layer["encoding"])
    assert len(rows["scale"]["domain"]) == len(set(rows["scale"]["domain"])) == 3
    assert rows["scale"]["domain"] == rows["sort"]
    assert "simulated" in title_of(chart)


def test_where_only_some_cells_are_simulated_each_row_says_so(cell, document):
    cells = gate.read_cells(document([cell(), cell(device_type="board", simulated=False)]))
    chart = charts.gate_intervals(cells)
    assert title_of(chart).startswith("simulated 1 of 2")
    labels = {row["device_type"]: row["cell"] for row in data_of(chart) if "cell" in row}
    assert "simulated" in labels["phone"]
    assert "simulated" not in labels["board"]


def test_an_effect_that_could_not_be_given_is_written_not_drawn(cell, document):
    cells = gate.read_cells(document([cell(effect=None, lo=None, hi=None)]))
    chart = charts.gate_intervals(cells)
    assert [row["effect"] for row in data_of(chart) if "effect" in row] == [None]
    assert "no effect could be given" in chart.to_json()


@pytest.mark.parametrize(
    "color",
    [*palette.ARM_COLORS.values(), *palette.VERDICT_COLORS.values(), palette.MARGIN_COLOR],
)
@pytest.mark.parametrize("ground", palette.BACKGROUNDS)
def test_colours_stand_out_from_both_backgrounds(color, ground):
    assert contrast(color, ground) >= 3


def test_every_verdict_and_outcome_has_its_look():
    assert set(palette.VERDICT_BADGES) == set(palette.VERDICT_COLORS) == set(Verdict)
    assert len(set(palette.VERDICT_SHAPES.values())) == len(Verdict)
    assert len({badge.icon for badge in palette.VERDICT_BADGES.values()}) == len(Verdict)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
