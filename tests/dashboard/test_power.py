"""What a meter saw on the page of a job: recordings, windows and what their energy is worth."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from dashboard import charts, columns, power, tables, units, wording
from farm.analysis.energy_budget import budget, energy_over_repeats
from farm.metering import (
    Chunk,
    ClockDomain,
    EnergyWindow,
    MeterFacts,
    Span,
    SpanKind,
    VoltageSource,
)
from farm.model import Address, Arm, Device
from farm.record import JobResult, Measurement
from farm.store import reader
from farm.store.rows import read_job
from farm.store.samples import SampleWriter
from tests.dashboard.test_views import badges, open_view, table_with, words
from tests.dashboard.test_views import charts as drawn

METER = MeterFacts(
    meter_class="ppk2",
    model="Nordic PPK2",
    serial="E1B2C3D4",
    clock=ClockDomain.METER,
    rate_hz=1000,
    voltage=VoltageSource.SET,
    voltage_v=3.3,
    simulated=True,
)
WINDOW = EnergyWindow(
    energy_j=0.5,
    inferences=400,
    duration_s=0.5,
    idle_w=0.25,
    peak_w=1.1,
    method="marks",
    time_error_s=1e-4,
    alignment=1e-4,
    filter=0.0,
    samples=500,
    lost=0,
    saturated=0,
)
SPANS = tuple(
    Span(kind=kind, start_ns=start, end_ns=end, inferences=n)
    for kind, start, end, n in (
        (SpanKind.IDLE, 0, 250_000_000, 0),
        (SpanKind.WINDOW, 250_000_000, 750_000_000, 400),
        (SpanKind.IDLE, 750_000_000, 1_000_000_000, 0),
    )
)
CHARTS_WITHOUT = 3


def metered(builder, *, meter=METER, conditions=(), lost=0, **job) -> JobResult:
    """A job with a recording of a second for each of its repeats, each a little above the last."""
    job = {"simulated": False, "rounds": 2} | job
    result = builder.completed(
        Device(name="phone-a", type="phone", address=Address.parse("virtual://phone-a")), **job
    )
    power_w = np.where((np.arange(1000) >= 250) & (np.arange(1000) < 750), 1.0, 0.25)
    repeats = []
    for n, repeat in enumerate(result.repeats):
        writer = SampleWriter(builder.store.folder / "traces")
        ends_ns = (7 * 10**12 + np.arange(1000) * 10**6).astype(np.int64)
        writer.write(Chunk(t_ns=ends_ns, power_w=power_w, lost=lost))
        window = replace(WINDOW, energy_j=0.5 + 0.001 * n, lost=lost, conditions=conditions)
        recording = replace(writer.finish(), spans=SPANS, window=window)
        repeats.append(replace(repeat, recording=recording, conditions=conditions))
    return replace(result, repeats=tuple(repeats), arms=_arms(result, repeats), meter=meter)


def _arms(result, repeats):
    arms = []
    for summary in result.arms:
        windows = [r.recording.window for r in repeats if r.arm is summary.arm]
        values = np.array([window.per_inference_j for window in windows])
        terms = budget(windows, values, METER)
        energy = energy_over_repeats("energy.per_inference", values, terms)
        arms.append(replace(summary, measurements=(*summary.measurements, energy)))
    return tuple(arms)


@pytest.fixture
def keep(builder):
    """Writes one metered job with what a test changes of it."""

    def write(**changes):
        run_id = builder.begin("energy")
        builder.add_job(run_id, 0, metered(builder, **changes))
        builder.finish(run_id)

    return write


def windows_of(recordings):
    found = power.read_power(recordings)
    assert found is not None
    return found.windows


# The page


def test_a_job_with_a_meter_shows_its_windows_and_draws_one(keep):
    keep()
    app = open_view("job", job="1")
    table = table_with(app, "method")
    assert list(table["energy"]) == ["1.250 mJ", "1.252 mJ"]
    assert list(table["mean"]) == ["1.000 W", "1.002 W"]
    assert list(table["idle"]) == ["0.2500 W"] * 2
    assert list(table["method"]) == ["marks"] * 2
    assert list(table["lost"]) == ["0"] * 2
    assert {"Nordic PPK2", "E1B2C3D4", "ppk2, ±10 %", "set, 3.3 V"} <= {t.value for t in app.text}
    picture = drawn(app)[CHARTS_WITHOUT]
    assert picture["title"]["text"].startswith("simulated · candidate, block 0")
    assert len(drawn(app)) == CHARTS_WITHOUT + 1


def test_a_pasted_address_and_a_choice_draw_another_window(keep):
    keep()
    app = open_view("job", job="1", window="2")
    assert "block 1" in drawn(app)[CHARTS_WITHOUT]["title"]["text"]
    app.selectbox(key="window").set_value("1").run()
    assert "block 0" in drawn(app)[CHARTS_WITHOUT]["title"]["text"]


def test_the_uncertainty_has_its_terms_and_both_intervals(keep):
    keep(slower=1.1)
    app = open_view("job", job="1")
    terms = table_with(app, "cancels").set_index("term")
    assert terms.loc["gain", "candidate"] == terms.loc["gain", "baseline"] == "5.8 %"
    assert terms["cancels"].to_dict()["gain"] == "yes"
    assert terms["cancels"].to_dict()["repeat"] == "no"
    intervals = table_with(app, "comparable")
    assert list(intervals["arm"]) == ["baseline", "candidate"]
    for absolute, comparable in zip(intervals["absolute"], intervals["comparable"], strict=True):
        assert width(comparable) < width(absolute)


def test_a_job_without_a_meter_shows_nothing_of_power(builder, fill_store):
    fill_store(builder)
    app = open_view("job", job="5")
    assert not {"Power", "Uncertainty of the energy of an inference"} & {
        element.value for element in app.subheader
    }
    assert not app.selectbox


def test_only_a_virtual_meter_is_marked(keep):
    keep(meter=replace(METER, simulated=False))
    app = open_view("job", job="1")
    assert not any("simulated" in badge for badge in badges(app))
    assert "simulated" not in str(drawn(app)[CHARTS_WITHOUT]["title"])


def test_hostile_names_are_shown_as_they_are_and_no_such_window_is_the_first(keep, hostile):
    keep(meter=replace(METER, model=hostile, serial=hostile), conditions=(hostile,))
    app = open_view("job", job="1", window=hostile)
    assert "block 0" in drawn(app)[CHARTS_WITHOUT]["title"]["text"]
    assert [text.value for text in app.text].count(hostile) == 2  # text is never markup
    assert list(table_with(app, "method")["conditions"]) == [hostile] * 2
    assert all(hostile not in element.value for element in (*app.markdown, *app.caption))


def test_lost_recordings_leave_the_figures(keep, builder, tmp_path):
    keep()
    shutil.rmtree(builder.store.folder / "traces")
    app = open_view("job", job="1")
    assert any("samples of the meter cannot be read" in error.value for error in app.error)
    assert str(tmp_path) not in words(app).replace("\\", "")
    assert len(table_with(app, "method")) == 2
    assert len(table_with(app, "cancels")) > 0


# What was kept, and what can be shown of it


def test_a_window_of_which_nobody_knows_where_it_lies_has_no_figures(keep, builder):
    keep(conditions=("meter_misaligned",))
    windows = windows_of(reader.recordings(builder.store, 1))
    assert (
        windows[["energy_j", "mean_w", "idle_w", "duration_s", "inferences"]].isna().all(axis=None)
    )
    table = tables.windows_table(windows).frame
    assert set(table["energy"]) == set(table["mean"]) == {units.ABSENT}
    assert set(table["conditions"]) == {"meter_misaligned"}


def test_what_was_not_seen_or_not_kept_is_a_dash(keep, builder):
    keep()
    recordings = reader.recordings(builder.store, 1)
    unseen = {**recordings["window"][0], "idle_w": None}
    windows = windows_of(recordings.assign(window=[unseen, {}]))
    table = tables.windows_table(windows).frame
    assert list(table["idle"]) == [units.ABSENT] * 2
    assert list(table["energy"]) == ["1.250 mJ", units.ABSENT]


def test_lost_samples_are_told_in_the_table_and_under_the_picture(keep, builder):
    keep(lost=7)
    windows = windows_of(reader.recordings(builder.store, 1))
    assert list(tables.windows_table(windows).frame["lost"]) == ["7 (7 in the window)"] * 2
    assert windows["gaps"].all()
    assert "leaves no gap" in wording.preview_note(500, 1000, gaps=True)
    assert "gap" not in wording.preview_note(500, 1000, gaps=False)


def test_a_recording_is_as_long_as_its_samples_say(keep, builder):
    keep()
    recordings = reader.recordings(builder.store, 1)
    assert reader.recorded_s(builder.store, recordings["sha256"][0]) == pytest.approx(0.999)


def test_parts_hold_until_the_next_begins():
    parts = power.parts_of([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]], 5.0)
    assert list(parts["begin"]) == [0.0, 2.5, 5.0]
    assert list(parts["largest"]) == [0.3, 3.0, 3.0]


def test_the_picture_is_in_the_unit_of_its_axis_and_has_its_levels():
    chart = charts.power_over_time(
        power.parts_of([[0.001, 0.002, 0.003]], 1.0),
        units.fit_scale("W", [0.002]),
        arm=Arm.CANDIDATE,
        block=0,
        levels={"idle": 0.001},
        simulated=False,
    )
    rows = [row for rows in chart.to_dict()["datasets"].values() for row in rows]
    assert [row["mean"] for row in rows if "mean" in row] == [2.0, 2.0]
    assert [row["label"] for row in rows if "label" in row] == ["idle: 1.000 mW"]
    assert '"Power (mW)"' in chart.to_json()


def test_spans_are_told_by_their_lengths_and_never_placed():
    spans = [[span.kind, span.start_ns, span.end_ns, span.inferences] for span in SPANS]
    assert wording.spans_note(spans).endswith("idle 0.500 s in 2 parts, window 0.500 s.")


def test_a_single_repeat_has_a_budget_and_no_interval():
    values = np.array([WINDOW.per_inference_j])
    energy = energy_over_repeats("energy.per_inference", values, budget([WINDOW], values, METER))
    both = [("baseline", energy), ("candidate", replace(energy, budget=energy.budget[:1]))]
    row = tables.intervals_table(both).frame.iloc[0]
    assert row["absolute"] == row["comparable"] == units.ABSENT
    table = tables.budget_table(both)
    assert table.frame["candidate"].tolist()[1:] == [units.ABSENT] * (len(energy.budget) - 1)
    assert set(table.columns) == {*columns.TERM, *columns.CANCELS, "baseline", "candidate"}


def test_an_energy_without_a_budget_is_no_matter_of_uncertainty(builder):
    device = Device(name="x", type="x", address=Address.parse("virtual://x"))
    result = builder.completed(device, rounds=1)
    energy = Measurement(metric="energy.per_inference", unit="J", value=1e-3)
    arms = tuple(replace(a, measurements=(*a.measurements, energy)) for a in result.arms)
    builder.add_job(builder.begin("energy"), 0, replace(result, arms=arms))
    assert not wording.energies(read_job(builder.store, 1))


def width(interval: str) -> float:
    lo, hi = interval.split(" … ")
    return float(hi) - float(lo)


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [("J", 1.322e-3, "1.322 mJ"), ("J", 4.2e-8, "42.00 nJ"), ("W", 0.4, "400.0 mW")],
)
def test_joules_and_watts_get_the_unit_that_fits(unit, value, text):
    assert units.fit_scale(unit, [value]).text(value) == text
