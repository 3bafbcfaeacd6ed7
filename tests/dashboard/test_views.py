"""Both views over real stores, without a browser: what they show, and that nothing breaks them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.panels import plain

APP = Path(__file__).parents[2] / "dashboard" / "app.py"


def open_view(view: str, **parameters: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    app.switch_page(f"views/{view}.py")
    for name, value in parameters.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Every text on the page that is not inside a table."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "text", "code", "error")
    found = [element.value for kind in kinds for element in app.get(kind)]
    found += [element.value for kind in ("warning", "info") for element in app.get(kind)]
    return "\n".join(found)


def table_with(app: AppTest, column: str) -> pd.DataFrame:
    return next(table.value for table in app.dataframe if column in table.value)


def badges(app: AppTest) -> list[str]:
    return [text.value for text in app.markdown if "-badge[" in text.value]


def charts(app: AppTest) -> list[dict[str, object]]:
    return [json.loads(chart.proto.spec) for chart in app.get("vega_lite_chart")]


@pytest.fixture
def runs(builder, fill_store) -> dict[str, str]:
    return fill_store(builder)


# Runs


def test_the_address_without_a_view_leads_to_the_runs(runs):
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    assert not app.exception
    assert app.title[0].value == "Runs"


def test_runs_are_listed_newest_first_with_their_coverage(runs):
    table = table_with(open_view("runs"), "coverage")
    assert list(table["run_id"]) == [runs["gate"], runs["interrupted"], runs["plain"]]
    assert list(table["coverage"]) == ["3 of 3", "3 of 4", "1 of 1"]
    assert list(table["failed"]) == [1, 0, 0]
    assert [list(verdict) for verdict in table["verdict"]] == [["FAIL"], [], []]


def test_the_list_says_what_is_simulated_and_what_never_ended(runs):
    marks = [list(mark) for mark in table_with(open_view("runs"), "coverage")["marks"]]
    assert marks == [["simulated"], ["simulated", "unfinished"], []]


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({"suite": "accuracy"}, ["plain"]),
        ({"suite": "latency"}, ["gate", "interrupted"]),
        ({"verdict": "FAIL"}, ["gate"]),
        ({"suite": "latency", "verdict": "FAIL"}, ["gate"]),
        ({"suite": "no such suite"}, ["gate", "interrupted", "plain"]),
    ],
)
def test_a_pasted_address_filters_the_list(runs, parameters, kept):
    table = table_with(open_view("runs", **parameters), "coverage")
    assert list(table["run_id"]) == [runs[name] for name in kept]


def test_a_choice_filters_the_list(runs):
    app = open_view("runs")
    app.multiselect(key="suite").set_value(["accuracy"]).run()
    assert list(table_with(app, "coverage")["run_id"]) == [runs["plain"]]


def test_a_filter_that_nothing_fits_says_so(runs):
    app = open_view("runs", verdict="PASS")
    assert "No run fits this filter" in words(app)


def test_a_gate_shows_its_cells_worst_first_and_its_jobs(runs):
    app = open_view("runs", run=runs["gate"])
    cells = table_with(app, "margin")
    assert [verdict[0] for verdict in cells["verdict"]] == [
        "FAIL",
        "INVALID",
        "INCONCLUSIVE",
        "PASS",
    ]
    assert cells["effect"][0].startswith("+1")
    assert cells["effect"][1] == "—"
    assert list(table_with(app, "link")["link"]) == ["job?job=5", "job?job=6", "job?job=7"]
    assert list(table_with(app, "reason")["device"]) == ["board-2"]
    assert app.code[-1].value.startswith("farm gate latency")


def test_a_gate_draws_one_chart_per_unit_of_effect_marked_as_simulated(runs):
    drawn = charts(open_view("runs", run=runs["gate"]))
    assert len(drawn) == 2
    assert all("simulated" in str(chart["title"]) for chart in drawn)


def test_the_head_of_a_run_has_its_verdict_in_words_and_its_badge(runs):
    found = " ".join(badges(open_view("runs", run=runs["gate"])))
    assert "FAIL" in found
    assert "simulated" in found


def test_jobs_of_a_run_show_the_median_of_both_arms(runs):
    latency = table_with(open_view("runs", run=runs["gate"]), "link")["latency"]
    assert " → " in latency[0]
    assert latency[0].endswith(" ms")
    assert latency[2] == "—"


def test_an_interrupted_run_says_what_is_missing(runs):
    app = open_view("runs", run=runs["interrupted"])
    assert app.warning[0].value.startswith("1 of 4 planned jobs without a result")


@pytest.mark.parametrize("name", ["latest", "20250131T14"])
def test_a_run_is_found_by_a_short_name(runs, name):
    assert runs["gate"] in open_view("runs", run=name).header[0].value.replace("\\", "")


def test_an_unknown_run_is_two_lines_and_the_list_stays(runs, tmp_path):
    app = open_view("runs", run="<b>none</b>")
    assert app.error[0].value.startswith(plain("the store 'lab-store' has no run '<b>none</b>'"))
    assert str(tmp_path) not in words(app)
    assert len(table_with(app, "coverage")) == 3


@pytest.mark.parametrize("document", ["{", "[]", '{"schema": "farm.gate/9", "cells": []}'])
def test_a_verdict_that_cannot_be_read_leaves_the_jobs(builder, fill_store, document):
    runs = fill_store(builder)
    with builder.store.transaction() as connection:
        connection.exec_driver_sql("UPDATE verdict SET document = ?", (document,))
    app = open_view("runs", run=runs["gate"])
    assert "the verdict of this run" in app.error[0].value
    assert len(table_with(app, "link")) == 3


# Job


def test_a_job_shows_where_it_ran_and_what_it_measured(runs):
    app = open_view("job", job="5")
    assert app.title[0].value == "Job 5"
    assert {"phone-a", "phone", "ort_python", "cpu", "digits"} <= {t.value for t in app.text}
    measured = table_with(app, "interval")
    p50 = measured[measured["metric"] == "latency.p50"]
    assert list(p50["arm"]) == ["baseline", "candidate"]
    assert list(p50["unit"]) == ["ms", "ms"]
    assert list(p50["n"]) == [10, 10]
    assert list(table_with(app, "sha256")["sha256"]) == ["b" * 12, "c" * 12]
    assert app.code[-1].value.startswith("farm gate latency")
    assert "performance" in list(table_with(app, "name")["value"])


def test_a_job_draws_distribution_samples_and_repeats(runs):
    drawn = charts(open_view("job", job="5"))
    assert len(drawn) == 3
    assert all("simulated" in str(chart["title"]) for chart in drawn)


def test_a_job_says_how_many_samples_it_shows(runs):
    text = words(open_view("job", job="5"))
    assert "2,000 of 6,000 samples shown" in text
    assert "Clipped at p99.9" in text


def test_a_job_on_a_real_device_has_no_mark(runs):
    app = open_view("job", job="1")
    assert not any("simulated" in badge for badge in badges(app))
    assert all("simulated" not in str(chart["title"]) for chart in charts(app))


def test_a_job_offers_its_raw_samples(runs):
    buttons = open_view("job", job="5").get("download_button")
    assert [button.proto.label for button in buttons] == [
        "Raw samples: latency (CSV)",
        "Raw samples: correct (CSV)",
    ]


def test_a_failed_job_shows_its_error_with_the_evidence(runs):
    app = open_view("job", job="7")
    assert any("ERROR" in badge for badge in badges(app))
    assert "died with signal 11" in app.error[0].value
    assert [expander.label for expander in app.expander] == ["stderr", "command"]
    assert "std::bad_alloc" in app.expander[0].code[0].value
    assert "the other arm's model ran" in words(app).replace("\\", "")


def test_a_hostile_name_is_shown_as_it_is_and_rendered_as_nothing(runs, hostile):
    app = open_view("job", job="7")
    assert hostile in list(table_with(app, "sha256")["model"])
    assert hostile not in words(app)
    assert plain(hostile) in app.error[0].value


@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "٣", "9" * 40, "<b>x</b>", "999", "0"])
def test_a_bad_job_number_is_told_and_the_latest_jobs_are_offered(runs, value):
    app = open_view("job", job=value)
    assert len(app.error) == 1
    assert len(table_with(app, "link")) == 7


def test_without_a_number_the_latest_jobs_are_listed(runs):
    app = open_view("job")
    assert app.title[0].value == "Jobs"
    assert table_with(app, "link")["link"].iloc[0] == "job?job=7"


def test_lost_samples_leave_the_rest_of_the_page(builder, fill_store, tmp_path):
    fill_store(builder)
    shutil.rmtree(builder.store.folder / "traces")
    app = open_view("job", job="5")
    assert "raw samples of job 5 cannot be read" in app.error[0].value
    assert str(tmp_path) not in words(app).replace("\\", "")
    assert len(charts(app)) == 1


# Stores that have nothing, or are none


@pytest.mark.parametrize("view", ["runs", "job"])
def test_an_empty_store_shows_how_to_fill_it(builder, view):
    app = open_view(view)
    assert [code.value for code in app.code] == ["farm demo", "farm run latency --model my.onnx"]
    assert not app.error


@pytest.mark.parametrize(("view", "parameters"), [("runs", {}), ("job", {}), ("job", {"job": "3"})])
def test_a_missing_store_is_told_by_its_name_alone(tmp_path, monkeypatch, view, parameters):
    monkeypatch.setenv("FARM_STORE", str(tmp_path / "nowhere"))
    app = open_view(view, **parameters)
    assert app.error[0].value.startswith(plain("there is no store 'nowhere'"))
    assert str(tmp_path) not in words(app).replace("\\", "")
    assert "farm demo" in [code.value for code in app.code]


def test_a_file_that_is_no_store_is_told_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FARM_STORE", str(tmp_path / "broken"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "farm.sqlite").write_bytes(b"no database at all" * 100)
    app = open_view("runs")
    assert plain("the store 'broken' cannot be used") in app.error[0].value
    assert str(tmp_path) not in words(app).replace("\\", "")


def test_a_store_that_is_replaced_is_read_afresh(builder, fill_store, make_builder):
    fill_store(builder)
    assert len(table_with(open_view("runs"), "coverage")) == 3
    folder = builder.store.folder
    builder.store.close()
    folder.rename(folder.with_name("old"))
    make_builder(folder)
    assert "no runs yet" in words(open_view("runs"))
