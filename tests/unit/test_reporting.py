"""Papers: what a number looks like, what text may not do to a table, and what JSON may not say."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.analysis.compare import Effect
from farm.cells import Cell, Unit
from farm.judging import GateVerdict
from farm.metrics import METRICS
from farm.papers import (
    as_junit,
    as_markdown,
    format_bounds,
    format_effect,
    format_interval,
    format_value,
)
from farm.policy import Policy
from farm.record import Verdict
from farm.reporting import as_json, gate_document
from farm.rules import Rule

Document = dict[str, Any]

HOSTILE = "<script>|`x`|*y* [z](u) \\ \n\x1b[2J"
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


def cell(**changes: Any) -> Document:
    """A cell that passes."""
    return {
        "workload": "digits", "device_type": "phone", "metric": "latency.p50", "unit": "ns",
        "units": [], "simulated": False, "gate": True, "n": 5, "confidence": 0.95,
        "effect": 0.4, "lo": -0.6, "hi": 1.4, "margin": 5.0, "mde": 0.9,
        "effect_kind": "ratio_pct", "verdict": "PASS", "reasons": [], "waiver": None, **changes,
    }  # fmt: skip


def gate(*cells: Document, **changes: Any) -> Document:
    """A gate document."""
    return {
        "schema": "farm.gate/1", "verdict": "PASS", "exit_code": 0, "run": "r", "candidate": "new",
        "baseline": "old", "policy_sha256": "e" * 64, "notes": [], "skips": [],
        "cells": list(cells), **changes,
    }  # fmt: skip


def measurement(**changes: Any) -> Document:
    """A measurement."""
    return {
        "metric": "latency.p50", "unit": "ns", "value": 2e6, "lo": 1.9e6, "hi": 2.1e6, "n": 5,
        **changes,
    }  # fmt: skip


def job(**changes: Any) -> Document:
    """A job that completed."""
    return {
        "device": "phone-1", "device_type": "phone", "workload": "digits",
        "model": {"name": "new", "sha256": "a" * 64}, "outcome": "COMPLETED", "simulated": False,
        "notes": [], "error": None, "measurements": [measurement()], **changes,
    }  # fmt: skip


def broken(code: str = "wrong_output", message: str = "NaN", **changes: Any) -> Document:
    """A job that did not complete."""
    error = {"code": code, "message": message, "hint": ""}
    return job(**{"outcome": "ERROR", "error": error, "measurements": [], **changes})


def run(*jobs: Document, skips: tuple[Document, ...] = (), **changes: Any) -> Document:
    """A run document."""
    about = {
        "id": "20250101-000000-abcdef", "kind": "run", "suite": "quick", "revision": "",
        "branch": "", "purpose": "ad-hoc", "started": "2025-01-01T00:00:00.000Z",
        "finished": "2025-01-01T00:01:00.000Z", "planned": len(jobs), "command": "farm run quick",
        **changes,
    }  # fmt: skip
    numbered = [{**entry, "job": number} for number, entry in enumerate(jobs, 1)]
    return {"schema": "farm.run/1", "run": about, "skips": list(skips), "jobs": numbered}


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "ns", "-"),
        (0.0, "ns", "0 ns"),
        (999.0, "ns", "999 ns"),
        (1000.0, "ns", "1 us"),
        (1_234_567.0, "ns", "1.235 ms"),
        (-1_500.0, "ns", "-1.5 us"),
        (9e12, "ns", "9000 s"),
        (1023.0, "bytes", "1023 B"),
        (1024.0, "bytes", "1 KiB"),
        (3 * 2.0**30, "bytes", "3 GiB"),
        (5 * 2.0**40, "bytes", "5120 GiB"),
        (0.9876, "ratio", "98.76 %"),
        (1.0, "ratio", "100.00 %"),
        (0.0, "ratio", "0.00 %"),
        (35.1234, "dB", "35.12 dB"),
    ],
)
def test_a_value_is_shown_in_a_fitting_unit(value: float | None, unit: str, shown: str) -> None:
    assert format_value(value, unit) == shown


def test_an_interval_has_both_ends_or_is_a_dash() -> None:
    assert format_interval(measurement()) == "1.9 ms .. 2.1 ms"
    assert format_interval(measurement(lo=None, hi=None)) == "-"
    assert format_interval(measurement(lo=0.0, hi=0.5, unit="ratio")) == "0.00 % .. 50.00 %"
    assert format_interval(measurement(lo=999.0, hi=1001.0)) == "999 ns .. 1.001 us"


def test_an_effect_has_its_sign_and_unit_and_a_margin_has_no_sign() -> None:
    found = cell(effect=-1.5, margin=5.0, mde=0.91)
    assert [format_effect(found, key) for key in ("effect", "margin", "mde")] == [
        "-1.50 %", "5 %", "0.91 %",
    ]  # fmt: skip
    points = cell(effect=2.0, effect_kind="points")
    assert format_effect(points, "effect") == "+2.00 pts"
    assert format_effect(cell(effect=0.0), "effect") == "+0.00 %"
    assert format_bounds(cell(lo=0.0)) == "+0.00 .. +1.40"


def test_what_was_not_measured_is_a_dash_in_every_column() -> None:
    empty = cell(effect=None, lo=None, hi=None, mde=None, verdict="INVALID")
    assert [format_effect(empty, "effect"), format_effect(empty, "mde")] == ["-", "-"]
    assert format_bounds(empty) == "-"
    row = _rows(as_markdown(gate(empty, verdict="INVALID")))[-1]
    assert row[:5] == ["phone", "latency.p50", "-", "-", "5 %"]
    for paper in (as_markdown, as_junit):
        text = paper(gate(empty, verdict="INVALID"))
        assert "None" not in text
        assert "nan" not in text.lower()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_says_null_and_refuses_what_it_cannot_say(bad: float) -> None:
    assert json.loads(as_json({"x": None})) == {"x": None}
    with pytest.raises(ValueError, match="JSON"):
        as_json({"cells": [{"lo": bad}]})


@given(ANY_TEXT)
def test_any_text_survives_json(text: str) -> None:
    assert json.loads(as_json({"name": text}))["name"] == text


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("latency.p50", "ratio_pct"),
        ("size.model_bytes", "ratio_pct"),
        ("accuracy.top1", "points"),
    ],
)
def test_a_gate_document_scales_effects_and_leaves_gaps_null(metric: str, kind: str) -> None:
    effect = Effect(estimate=0.125, lo=-0.25, hi=0.5, n=7, mde=0.0625)
    entry = _judged(metric, effect)
    assert entry["effect_kind"] == kind
    numbers = [entry[key] for key in ("effect", "lo", "hi", "mde", "margin", "n", "blocks")]
    assert numbers == [12.5, -25.0, 50.0, 6.25, 15.0, 7, 7]
    assert entry["units"] == [{"device": "a", "blocks": 7, "effect": 12.5}]
    assert entry["confidence"] == 0.975
    gap = _judged(metric, None)
    assert [gap[key] for key in ("effect", "lo", "hi", "mde", "n")] == [None, None, None, None, 0]
    assert gap["units"] == [{"device": "a", "blocks": 0, "effect": None}]


def _judged(metric: str, effect: Effect | None) -> Document:
    """The entry of a cell in its document, as JSON has it."""
    rule = Rule(metric=METRICS[metric], gate=True, margin=0.15)
    unit = Unit(
        device="a", blocks=effect.n if effect else 0, effect=effect.estimate if effect else None
    )
    made = Cell(
        workload="digits", device_type="phone", runtime="ort_python", accelerator="cpu",
        load_digest="", alpha=0.025, scenario="single_stream", time_basis="wall",
        simulated=True, rule=rule, units=(unit,), margin=0.15,
        effect=effect, verdict=Verdict.PASS if effect else Verdict.INVALID,
    )  # fmt: skip
    policy = Policy(path=Path("p"), sha256="e" * 64, alpha=0.025, looks=(5,), rules=(rule,))
    verdict = GateVerdict(verdict=made.verdict, policy=policy, cells=(made,))
    document: Document = json.loads(as_json(gate_document(verdict)))
    (entry,) = document["cells"]
    return dict(entry)


def test_markdown_lets_no_text_be_markup() -> None:
    skip = {"device": HOSTILE, "what": HOSTILE, "reason": HOSTILE}
    documents = [
        run(job(device=HOSTILE, model={"name": HOSTILE, "sha256": "a"})),
        run(broken(message=HOSTILE)),
        run(skips=(skip,)),
        run(suite=HOSTILE, revision=HOSTILE),
        gate(cell(device_type=HOSTILE, reasons=[HOSTILE]), candidate=HOSTILE, baseline=HOSTILE),
    ]
    for document in documents:
        text = as_markdown(document)
        assert not re.search(r"(?<!\\)<script", text), text
        assert "`x`" not in text
        assert "[z](u)" not in text
        assert "\x1b" not in text
        assert {len(row) for row in _rows(text)} <= {6, 7}


@given(ANY_TEXT)
def test_no_name_breaks_a_row_or_gets_lost(name: str) -> None:
    document = run(job(model={"name": name, "sha256": "a"}), broken(message=name))
    header, _, measured, failed = _rows(as_markdown(document))
    assert len(header) == len(measured) == len(failed) == 6
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    assert re.sub(r"\\(.)", r"\1", measured[1]) == printable.strip()


def _rows(markdown: str) -> list[list[str]]:
    """The cells of every row of its tables, still escaped."""
    rows = [line for line in markdown.split("\n") if line.startswith("|")]
    return [[part.strip() for part in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize(("confidence", "shown"), [(0.95, "95"), (0.975, "97.5"), (0.999, "99.9")])
def test_markdown_rounds_no_confidence_up(confidence: float, shown: str) -> None:
    last = as_markdown(gate(cell(confidence=confidence))).strip().splitlines()[-1]
    assert re.search(r"one-sided at ([\d.]+) ?%", last)[1] == shown  # type: ignore[index]


@given(ANY_TEXT)
def test_junit_is_xml_whatever_the_text(text: str) -> None:
    for document in (
        gate(cell(workload=text, device_type=text, verdict="FAIL", reasons=[text]), verdict="FAIL"),
        run(
            job(model={"name": text, "sha256": "a"}, device=text, workload=text),
            broken(code="bug", message=text),
        ),
    ):
        suite = ET.fromstring(as_junit(document).encode())
        assert len(suite) == len(document.get("cells", document.get("jobs")))


def test_junit_counts_failures_and_errors_apart() -> None:
    verdicts = ["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
    cells = [cell(metric=f"m.{verdict}", verdict=verdict) for verdict in verdicts]
    informs = cell(metric="m.informs", verdict="FAIL", gate=False)
    suite = ET.fromstring(as_junit(gate(*cells, informs, verdict="FAIL")))
    assert _counts(suite) == {"tests": 4, "failures": 2, "errors": 1}
    marks = {case.get("name", "").split(" ")[0]: [mark.tag for mark in case] for case in suite}
    assert marks == {
        "m.PASS": [], "m.FAIL": ["failure"], "m.INCONCLUSIVE": ["failure"], "m.INVALID": ["error"],
    }  # fmt: skip
    suite = ET.fromstring(as_junit(run(job(), broken(), broken("lease_timeout", "in use"))))
    assert _counts(suite) == {"tests": 3, "failures": 0, "errors": 2}


@pytest.mark.parametrize("kind", ["run", "gate"])
def test_junit_of_what_was_interrupted_is_not_green(kind: str) -> None:
    suite = ET.fromstring(as_junit(run(job(), kind=kind, planned=2, finished=None)))
    counts = _counts(suite)
    assert counts["failures"] + counts["errors"] > 0
    assert counts["tests"] == len(suite)


def _counts(suite: ET.Element) -> dict[str, int]:
    return {key: int(suite.get(key, "-1")) for key in ("tests", "failures", "errors")}


@pytest.mark.parametrize("paper", [as_markdown, as_junit, as_json])
@pytest.mark.parametrize("document", [run(job(simulated=True)), gate(cell(simulated=True))])
def test_every_paper_says_what_is_simulated(paper: Any, document: Document) -> None:
    assert "simulated" in paper(document)
