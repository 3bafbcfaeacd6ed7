"""What the tables show: frames of the store turned into columns for people, with their settings.

Pure functions; a view hands the result to `panels.show_table`. Names that come from outside
(models, devices, suites) stay plain cell text, which no table renders as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dashboard import addresses, columns, palette, units, wording
from dashboard.columns import Columns
from dashboard.units import Scale
from farm.analysis.energy_budget import comparable_interval
from farm.errors import Evidence
from farm.metrics import METRICS
from farm.record import Fact, Measurement, Skip
from farm.store.rows import StoredJob, StoredModel

ROW_PX = 35
"""Height of a table's row, as Streamlit draws it."""

_SECONDS = Scale(divisor=1, unit="s")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A frame to show and the settings of its columns, by column name."""

    frame: pd.DataFrame
    columns: Columns


def runs_table(runs: pd.DataFrame) -> Table:
    """The list of runs; `runs` as `farm.store.reader.runs`."""
    ran = runs["completed"] + runs["failed"]
    frame = pd.DataFrame(
        {
            "started": runs["started"].map(units.moment),
            "verdict": [
                _verdict(kind, verdict)
                for kind, verdict in zip(runs["kind"], runs["verdict"], strict=True)
            ],
            "marks": [
                wording.run_marks(simulated, jobs, finished)
                for simulated, jobs, finished in zip(
                    runs["simulated"], ran, runs["finished"], strict=True
                )
            ],
            "suite": runs["suite"],
            "kind": runs["kind"],
            "coverage": [
                f"{n} of {planned}" for n, planned in zip(ran, runs["planned"], strict=True)
            ],
            "completed": runs["completed"],
            "failed": runs["failed"],
            "branch": runs["branch"],
            "commit": runs["commit"].str[:10],
            "purpose": runs["purpose"],
            "run_id": runs["run_id"],
        }
    )
    marks = {mark: palette.mark_badge(mark) for row in frame["marks"] for mark in row}
    looks = {**columns.RUNS, "marks": columns.badges("Marks", marks, width=180)}
    return Table(frame=frame, columns=looks)


def jobs_table(jobs: pd.DataFrame) -> Table:
    """A list of jobs with links; `jobs` as `farm.store.reader.jobs`, with latency or without."""
    frame = pd.DataFrame(
        {
            "link": [addresses.job_link(job_id) for job_id in jobs["job_id"]],
            "outcome": [[outcome] for outcome in jobs["outcome"]],
            "marks": [[palette.SIMULATED] if flag else [] for flag in jobs["simulated"]],
            "device": jobs["device"],
            "device_type": jobs["device_type"],
            "workload": jobs["workload"],
            "runtime": jobs["runtime"],
            "accelerator": jobs["accelerator"].replace("", units.ABSENT),
            "started": jobs["started"].map(units.moment),
            "took": [
                units.duration(started, finished)
                for started, finished in zip(jobs["started"], jobs["finished"], strict=True)
            ],
            "attempts": jobs["attempts"],
        }
    )
    if "latency" in jobs:
        frame.insert(6, "latency", [_latency(arms) for arms in jobs["latency"]])
    return Table(frame=frame, columns=columns.JOBS)


def cells_table(cells: pd.DataFrame) -> Table:
    """The cells of a gate in the order given; `cells` as `dashboard.gate.read_cells`."""
    effects = {
        name: [
            units.signed(value, unit)
            for value, unit in zip(cells[name], cells["effect_unit"], strict=True)
        ]
        for name in ("effect", "lo", "hi", "margin", "mde")
    }
    frame = pd.DataFrame(
        {
            "verdict": [[verdict] for verdict in cells["verdict"]],
            "metric": cells["metric"],
            "device_type": cells["device_type"],
            "effect": effects["effect"],
            "interval": [
                _span(lo, hi) for lo, hi in zip(effects["lo"], effects["hi"], strict=True)
            ],
            "margin": [text.removeprefix("+") for text in effects["margin"]],
            "mde": [text.removeprefix("+") for text in effects["mde"]],
            "role": cells["role"],
            "evidence": cells["evidence"],
            "marks": [[palette.SIMULATED] if flag else [] for flag in cells["simulated"]],
            "reasons": cells["reasons"],
            "units": cells["units"],
            "workload": cells["workload"],
            "place": cells["runtime"] + " / " + cells["accelerator"],
        }
    )
    return Table(frame=frame, columns=columns.CELLS)


def list_height(rows: int, *, most: int = 10) -> int | Literal["content"]:
    """Height of a table in pixels: its rows, or as many as `most`, and then it scrolls."""
    return "content" if rows <= most else ROW_PX * (most + 1)


def skips_table(skips: Sequence[Skip]) -> Table:
    """What a plan left out, and why."""
    rows = [(skip.device, skip.what, skip.reason) for skip in skips]
    return _table(rows, columns.SKIPS)


def models_table(models: Sequence[StoredModel]) -> Table:
    """The models of a job, one row per arm."""
    scale = units.fit_scale("bytes", [model.size_bytes for model in models])
    rows = [
        (
            str(model.arm),
            model.name,
            units.short_digest(model.sha256),
            scale.text(model.size_bytes),
        )
        for model in models
    ]
    return _table(rows, columns.MODELS)


def measurements_table(job: StoredJob) -> Table:
    """Every statistic over the whole job, the arms of one metric under each other."""
    found: dict[str, list[tuple[str, Measurement]]] = {}
    for model in job.models:
        for measurement in model.measurements:
            found.setdefault(measurement.metric, []).append((str(model.arm), measurement))
    rows = []
    for metric in sorted(found, key=_declared_order):
        taken = [measurement for _, measurement in found[metric]]
        scale = units.fit_scale(taken[0].unit, [m.value for m in taken])
        for arm, m in found[metric]:
            interval = _ends(m.lo, m.hi, scale)
            rows.append((metric, arm, scale.number(m.value), scale.unit, interval, m.n))
    return _table(rows, columns.MEASUREMENTS)


def windows_table(windows: pd.DataFrame) -> Table:
    """The windows of a job; `windows` as `dashboard.power` makes them."""
    joules = units.fit_scale("J", windows["energy_j"])
    watts = units.fit_scale("W", windows["mean_w"])
    frame = pd.DataFrame(
        {
            "number": windows["number"],
            "arm": windows["arm"],
            "block": windows["block"],
            "energy": windows["energy_j"].map(joules.text),
            "mean": windows["mean_w"].map(watts.text),
            "idle": windows["idle_w"].map(watts.text),
            "inferences": [
                units.ABSENT if units.is_absent(n) else f"{n:,.0f}" for n in windows["inferences"]
            ],
            "took": windows["duration_s"].map(_SECONDS.text),
            "method": windows["method"],
            "lost": [
                f"{lost:,} ({inside:,} in the window)" if lost else "0"
                for lost, inside in zip(windows["lost"], windows["lost_inside"], strict=True)
            ],
            "conditions": [", ".join(codes) or units.ABSENT for codes in windows["conditions"]],
        }
    )
    return Table(frame=frame, columns=columns.WINDOWS)


def intervals_table(energies: Sequence[tuple[str, Measurement]]) -> Table:
    """What an inference takes, per arm, with both of its intervals."""
    scale = units.fit_scale("J", [m.value for _, m in energies])
    rows = [
        (
            arm,
            scale.number(m.value),
            scale.unit,
            _ends(m.lo, m.hi, scale),
            _ends(*(comparable_interval(m) or (None, None)), scale),
            m.n,
        )
        for arm, m in energies
    ]
    return _table(rows, columns.INTERVALS)


def budget_table(energies: Sequence[tuple[str, Measurement]]) -> Table:
    """The standard uncertainties of every arm's energy, a row per term and a column per arm."""
    budgets = {arm: {term.name: term for term in m.budget} for arm, m in energies}
    terms = {name: term for terms in budgets.values() for name, term in terms.items()}
    per_arm = columns.standard_uncertainties(list(budgets))
    rows = [
        (
            name,
            wording.TERMS.get(name, units.ABSENT),
            *(wording.standard_uncertainty(terms.get(name)) for terms in budgets.values()),
            "yes" if term.cancels else "no",
        )
        for name, term in terms.items()
    ]
    return _table(rows, columns.TERM | per_arm | columns.CANCELS)


def environment_table(environment: Sequence[Fact]) -> Table:
    """The recorded circumstances of a job, by name."""
    rows = sorted((fact.name, fact.value) for fact in environment)
    return _table(rows, columns.ENVIRONMENT)


def shown_evidence(evidence: Iterable[Evidence]) -> list[Evidence]:
    """The exhibits that have something in them."""
    return [exhibit for exhibit in evidence if exhibit.text.strip()]


def _table(rows: Sequence[tuple[object, ...]], looks: Columns) -> Table:
    return Table(frame=pd.DataFrame(rows, columns=list(looks)), columns=looks)


def _declared_order(metric: str) -> tuple[int, str]:
    names = list(METRICS)
    return (names.index(metric) if metric in names else len(names), metric)


def _latency(arms: Sequence[tuple[str, str, float]]) -> str:
    """`4.10 → 4.52 ms`: baseline first, which is also first in the alphabet."""
    if not arms:
        return units.ABSENT
    in_order = sorted(arms)
    scale = units.fit_scale(in_order[0][1], [value for _, _, value in in_order])
    return " → ".join(scale.number(value) for _, _, value in in_order) + f" {scale.unit}"


def _ends(lo: float | None, hi: float | None, scale: Scale) -> str:
    return _span(*(units.ABSENT if x is None else scale.number(x) for x in (lo, hi)))


def _span(lo: str, hi: str) -> str:
    return units.ABSENT if units.ABSENT in (lo, hi) else f"{lo} … {hi}"


def _verdict(kind: str, verdict: object) -> list[str]:
    """A gate's verdict; a gate without one says so, a plain run is not judged and says nothing."""
    if isinstance(verdict, str):
        return [verdict]
    return [columns.NOT_JUDGED] if kind == "gate" else []
