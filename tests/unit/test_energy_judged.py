"""From windows beside a meter to metrics, and from metrics to verdicts that a meter can support."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from farm.comparing import compare
from farm.energy import figures, meter_facts
from farm.harvest import Harvest, result_of
from farm.judging import judge
from farm.metering import ClockDomain, EnergyWindow, MeterFacts, Recording
from farm.metrics import METRICS
from farm.model import (
    PAIR,
    Address,
    Arm,
    ArmModel,
    Artifact,
    Device,
    Job,
    Load,
    Measure,
    Workload,
)
from farm.policy import Policy
from farm.record import JobResult, Measurement, Outcome, Reading, Repeat, Verdict
from farm.rules import Rule

NOW = datetime(2026, 1, 1, tzinfo=UTC)
METER = Address.parse("ppk2://A1?mode=ampere&volts=3.3")
DEVICE = Device(name="b-1", type="b", address=Address.parse("local://"), meter=METER)
FACTS = MeterFacts(
    meter_class="js220", model="JS220", serial="7", clock=ClockDomain.METER, rate_hz=1e5
)
WINDOW = EnergyWindow(
    energy_j=20.0, inferences=1000, duration_s=10.0, idle_w=0.5, peak_w=3.0, method="wire",
    time_error_s=1e-5, alignment=1e-6, filter=0.0, samples=1_000_000, lost=0, saturated=0,
)  # fmt: skip


def recording(window: EnergyWindow = WINDOW) -> Recording:
    return Recording(
        path=Path("x"), sha256="0" * 64, samples=10, lost=0, energy_j=25.0,
        preview=np.zeros((1, 3)), window=window,
    )  # fmt: skip


def told(window: EnergyWindow = WINDOW, device: Device = DEVICE, **readings: float) -> object:
    """What a window says beside readings; the battery gives 0.05 C meanwhile."""
    before = tuple(Reading(t_ns=0, name=n, unit="", value=v) for n, v in readings.items())
    after = tuple(
        replace(r, value=r.value - 0.05) if r.name == "battery_charge" else r for r in before
    )
    return figures(
        window, recording(window), FACTS, device, before=before, after=after, share_correct=0.8
    )


class TestFigures:
    def test_a_window_becomes_metrics_in_joules_and_watts(self) -> None:
        found = {m.metric: m.value for m in told().measurements}
        assert found == pytest.approx(
            {
                "energy.per_inference": 0.02,
                "energy.net_per_inference": 0.015,
                "energy.per_correct": 0.025,
                "energy.mean_power": 2.0,
                "energy.peak_power": 3.0,
                "energy.idle_power": 0.5,
                "energy.inferences_per_joule": 50.0,
            }
        )

    def test_an_unknown_rest_leaves_the_net_unknown(self) -> None:
        found = {m.metric for m in told(replace(WINDOW, idle_w=None)).measurements}
        assert "energy.per_inference" in found
        assert not found & {"energy.net_per_inference", "energy.idle_power"}

    def test_a_declared_battery_and_rate_tell_how_long_it_lasts(self) -> None:
        duty = (("battery_wh", "3.6"), ("inferences_per_hour", "3600"))
        found = told(device=replace(DEVICE, options=duty)).measurements
        (life,) = [m for m in found if m.metric == "energy.battery_life"]
        assert life.value == pytest.approx(3.6 / (0.5 + 0.015))

    @pytest.mark.parametrize("code", ["meter_stalled", "meter_edges", "meter_misaligned"])
    def test_a_window_that_nobody_can_place_has_no_energy(self, code: str) -> None:
        found = told(replace(WINDOW, conditions=(code,)))
        assert found.measurements == ()
        assert found.conditions == (code,)

    def test_a_battery_in_the_path_is_corrected_for(self) -> None:
        found = told(battery=50.0, battery_charge=9000.0, battery_voltage=4.0)  # gives 0.2 of 25 J
        assert found.conditions == ()
        assert found.window.energy_j == pytest.approx(20.0 * 1.008)
        assert found.battery >= 0.004

    def test_a_battery_that_gives_too_much_is_no_figure_to_judge_by(self) -> None:
        found = told(battery=50.0, battery_charge=9000.0, battery_voltage=8.0)  # 0.4 of 25 J
        assert found.conditions == ("battery_term",)

    def test_a_gauge_that_counts_in_large_steps_is_no_help(self) -> None:
        before = (
            Reading(t_ns=0, name="battery", unit="pct", value=50.0),
            Reading(t_ns=0, name="battery_charge", unit="C", value=3600.0),  # 1,000 mAh
            Reading(t_ns=0, name="battery_voltage", unit="V", value=4.0),
        )
        found = figures(
            WINDOW, recording(), FACTS, DEVICE, before=before, after=before, share_correct=None
        )
        assert found.conditions == ("battery_unknown",)

    def test_a_battery_that_does_not_tell_its_charge_is_unknown(self) -> None:
        assert told(battery=50.0).conditions == ("battery_unknown",)

    def test_a_battery_out_of_the_path_does_not_matter(self) -> None:
        device = replace(DEVICE, options=(("battery", "bypassed"),))
        assert told(device=device, battery=50.0).conditions == ()


def job() -> Job:
    model = Artifact(path=Path("m.onnx"), sha256="0" * 64, size_bytes=1)
    return Job(
        workload=Workload(name="w", digest="d"), device=DEVICE, runtime="r", accelerator="cpu",
        load=Load(), measures=(Measure.LATENCY, Measure.ENERGY),
        arms=tuple(ArmModel(arm=arm, name=arm, artifact=model) for arm in PAIR), rounds=5,
    )  # fmt: skip


def result(change: float, noise: float, facts: MeterFacts, *conditions: str) -> JobResult:
    """Windows of a candidate that takes so much more energy, and as long."""
    rng = np.random.default_rng(11)
    harvest = Harvest(job=job(), started=NOW, meter=facts)
    for slot in job().slots():
        energy_j = 0.02 * (1 + change * (slot.arm is Arm.CANDIDATE)) * (1 + noise * rng.normal())
        window = replace(WINDOW, energy_j=1000 * energy_j)
        latency = 1e6 * (1 + 0.001 * rng.normal())
        harvest.repeats.append(
            Repeat(
                arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
                conditions=conditions,
                measurements=(
                    Measurement(metric="energy.per_inference", unit="J", value=energy_j),
                    Measurement(metric="latency.p50", unit="ns", value=latency),
                ),
                recording=recording(window),
            )
        )  # fmt: skip
    return result_of(harvest, Outcome.COMPLETED, None)


def verdicts(found: JobResult, margin: float, *, across: bool = False) -> dict[str, Verdict]:
    rules = (
        Rule(metric=METRICS["energy.per_inference"], gate=True, margin=margin, across_units=across),
        Rule(metric=METRICS["latency.p50"], gate=True, margin=0.05),
    )
    policy = Policy(path=Path("p"), sha256="p", alpha=0.05, looks=(5,), rules=rules)
    judged = judge(policy, compare([found], policy))
    return {cell.rule.metric.name: cell.verdict for cell in judged.cells}


class TestJudged:
    def test_three_percent_more_are_caught_with_a_joulescope(self) -> None:
        assert verdicts(result(0.03, 0.005, FACTS), 0.02)["energy.per_inference"] is Verdict.FAIL
        assert verdicts(result(0.0, 0.005, FACTS), 0.02)["energy.per_inference"] is Verdict.PASS

    def test_across_units_a_ppk2_can_tell_nothing_of_three_percent(self) -> None:
        ppk2 = replace(FACTS, meter_class="ppk2", model="PPK2")
        for change in (0.0, 0.03):
            found = verdicts(result(change, 0.005, ppk2), 0.02, across=True)
            assert found["energy.per_inference"] is Verdict.INCONCLUSIVE

    @pytest.mark.parametrize("code", ["meter_lost", "short_window", "meter_mismatch"])
    def test_what_is_wrong_with_the_meter_spoils_energy_and_nothing_else(self, code: str) -> None:
        found = verdicts(result(0.03, 0.005, FACTS, code), 0.02)
        assert found["energy.per_inference"] is Verdict.INVALID
        assert found["latency.p50"] is Verdict.PASS

    def test_windows_in_other_ranges_are_not_compared(self) -> None:
        harvest = Harvest(job=job(), started=NOW, meter=FACTS)
        for slot in job().slots():
            ranges = (0.9, 0.1) if slot.arm is Arm.BASELINE else (0.5, 0.5)
            harvest.repeats.append(
                Repeat(
                    arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
                    recording=recording(replace(WINDOW, ranges=ranges)),
                )
            )  # fmt: skip
        found = result_of(harvest, Outcome.COMPLETED, None)
        spoiled = [repeat.arm for repeat in found.repeats if "meter_ranges" in repeat.conditions]
        assert set(spoiled) == {Arm.CANDIDATE}
        assert any(note.startswith("meter_ranges: ") for note in found.notes)

    @pytest.mark.parametrize("connected", [0.0, 1.0])
    def test_usb_data_beside_a_meter_is_told(self, connected: float) -> None:
        harvest = Harvest(job=job(), started=NOW, meter=FACTS)
        slot = next(job().slots())
        reading = Reading(t_ns=0, name="usb_data", unit="bool", value=connected)
        harvest.repeats.append(
            Repeat(
                arm=slot.arm, block=slot.block, position=slot.position, started=NOW,
                readings=(reading,), recording=recording(),
            )
        )  # fmt: skip
        notes = result_of(harvest, Outcome.COMPLETED, None).notes
        assert any(note.startswith("usb_data: ") for note in notes) is bool(connected)

    def test_a_summary_carries_its_budget(self) -> None:
        (energy,) = [
            m
            for m in result(0.0, 0.005, FACTS).summary(Arm.CANDIDATE).measurements
            if m.metric == "energy.per_inference"
        ]
        assert {term.name for term in energy.budget} >= {"gain", "repeat"}
        assert energy.lo is not None
        assert energy.hi is not None
        assert energy.lo < energy.value < energy.hi


def test_what_moves_every_energy_is_a_circumstance() -> None:
    facts = {fact.name: fact.value for fact in meter_facts(replace(FACTS, firmware="1.2"))}
    assert facts == {"meter": "JS220 7", "meter_firmware": "1.2"}
