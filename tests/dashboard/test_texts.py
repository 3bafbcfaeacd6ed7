"""Units, addresses, wording and the gate document: the pure parts that the views put together."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

import dashboard
from dashboard import addresses, filters, gate, palette, panels, units, wording
from farm.errors import ConfigError, StoreError
from farm.record import Verdict


@pytest.mark.parametrize(
    ("unit", "values", "text"),
    [
        ("ns", [850.0], "850.0 ns"),
        ("ns", [12_345.0], "12.35 µs"),
        ("ns", [4_123_456.0], "4.123 ms"),
        ("ns", [2.5e9], "2.500 s"),
        ("bytes", [1_900_000], "1.812 MiB"),
        ("ratio", [0.9611], "96.11 %"),
        ("dB", [31.25], "31.25 dB"),
        ("ns", [0.0], "0 ns"),
    ],
)
def test_values_get_the_unit_that_fits(unit, values, text):
    assert units.fit_scale(unit, values).text(values[0]) == text


def test_values_shown_together_share_the_unit_of_the_largest():
    scale = units.fit_scale("ns", [900_000.0, 1_100_000.0])
    assert scale.text(900_000.0) == "0.9000 ms"


def test_what_is_absent_is_a_dash_and_never_a_number():
    scale = units.fit_scale("ns", [float("nan")])
    assert scale.text(None) == scale.text(float("nan")) == units.ABSENT
    assert units.signed(None, "%") == units.moment(None) == units.ABSENT
    assert units.significant(float("inf")) == units.ABSENT


@pytest.mark.parametrize(
    ("finished", "text"),
    [
        ("2025-01-31T12:00:00.850Z", "850 ms"),
        ("2025-01-31T12:00:12.400Z", "12.4 s"),
        ("2025-01-31T12:03:05.000Z", "3 min 05 s"),
        ("2025-01-31T14:14:00.000Z", "2 h 14 min"),
        ("2025-01-31T12:00:59.990Z", "1 min 00 s"),
        (None, units.ABSENT),
    ],
)
def test_durations_read_naturally(finished, text):
    assert units.duration("2025-01-31T12:00:00.000Z", finished) == text


def test_numbers_are_never_in_powers_of_ten():
    assert units.significant(1234567.0) == "1,234,567"
    assert units.significant(0.00012345) == "0.0001234"


def test_a_selection_key_changes_with_the_rows():
    assert addresses.selection_key(["a", "b"]) == addresses.selection_key(["a", "b"])
    assert addresses.selection_key(["a", "b"]) != addresses.selection_key(["b", "a"])


def test_a_query_parameter_is_set_and_taken_away():
    parameters: dict[str, str] = {}
    addresses.put(parameters, "run", "x")
    assert parameters == {"run": "x"}
    addresses.put(parameters, "run", None)
    addresses.put(parameters, "run", None)
    assert parameters == {}


def test_a_job_number_must_fit_the_store():
    assert addresses.job_number("17") == 17
    with pytest.raises(ConfigError):
        addresses.job_number(str(2**63))


def test_what_is_no_number_does_not_reach_the_heading():
    assert addresses.job_title("<b>") == "Job"
    assert addresses.job_title("17") == "Job 17"
    assert addresses.job_title(None) == "Jobs"


def test_a_long_value_is_quoted_in_part():
    with pytest.raises(ConfigError, match="…"):
        addresses.job_number("x" * 10_000)


def test_marks_give_the_share_that_was_simulated():
    assert wording.run_marks(4, 4, "x") == ["simulated"]
    assert wording.run_marks(2, 4, "x") == ["simulated 2 of 4"]
    assert wording.run_marks(0, 4, None) == ["unfinished"]
    assert palette.mark_badge("simulated 2 of 4") is palette.SIMULATED_BADGE


def test_filters_leave_all_where_nothing_is_chosen():
    frame = pd.DataFrame({"suite": ["a", "b", "b"], "verdict": ["PASS", None, "FAIL"]})
    assert len(filters.matching(frame)) == 3
    assert list(filters.matching(frame, ["b"], ["FAIL"])["verdict"]) == ["FAIL"]
    assert filters.matching(frame, ["c"]).empty


@pytest.mark.parametrize(
    "text",
    [
        "<b>x</b>",
        "$(x)|*",
        "# head",
        "[a](b)",
        "`code`",
        ":red[x]",
        ":material/home:",
        "a_b_c",
        "~~x~~",
    ],
)
def test_text_from_outside_is_no_markup(text):
    shown = panels.plain(text)
    assert shown.replace("\\", "").replace("\u2060", "") == text
    assert not re.search(r"(?<!\\)[<>$`*\[\]|~_#]", shown)
    assert not re.search(r":(red|material)", shown)


def test_plain_sentences_and_times_stay_readable():
    assert panels.plain("12:00:05 device: hot") == "12:00:05 device: hot"


def test_cells_are_ordered_by_verdict_then_by_the_use_of_their_margin(cell, document):
    cells = gate.read_cells(
        document(
            [
                cell(verdict=Verdict.PASS, effect=0.1),
                cell(verdict=Verdict.PASS, effect=2.0),
                cell(verdict=Verdict.INCONCLUSIVE),
                cell(verdict=Verdict.FAIL, effect=4.0, margin=3.0),
                cell(verdict=Verdict.FAIL, effect=3.0, margin=1.0),
                cell(verdict=Verdict.INVALID, effect=None),
            ]
        )
    )
    assert list(cells["verdict"]) == ["FAIL", "FAIL", "INVALID", "INCONCLUSIVE", "PASS", "PASS"]
    assert list(cells["effect"].dropna()) == [3.0, 4.0, 0.4, 2.0, 0.1]


def test_what_decides_stands_before_what_informs(cell, document):
    fail = Verdict.FAIL
    informs = cell(verdict=fail, effect=9.0, gate=False)
    cells = gate.read_cells(document([informs, cell(verdict=fail, effect=4.0)]))
    assert list(cells["role"]) == ["decides", "informs"]


def test_cells_are_split_by_the_unit_of_their_effect(cell, document):
    cells = gate.read_cells(
        document([cell(), cell(kind="points"), cell(kind="absolute"), cell(effect=1.0)])
    )
    assert {unit: len(part) for unit, part in gate.by_unit(cells)} == {
        "%": 2,
        "points": 1,
        "ratio": 1,
    }


def test_a_sparse_cell_can_be_read():
    cells = gate.read_cells(
        json.dumps({"schema": "farm.gate/1", "cells": [{"verdict": "INVALID"}]})
    )
    assert cells["verdict"][0] == "INVALID"
    assert cells["effect"].isna()[0]
    assert cells["units"][0] == ""


def test_a_gate_that_judged_nothing_has_no_cells():
    assert gate.read_cells('{"schema": "farm.gate/1", "cells": []}').empty


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "null",
        '{"schema": "farm.gate/1"}',
        '{"schema": "farm.gate/1", "cells": 3}',
        '{"schema": "farm.gate/1", "cells": [{"effect": "much"}]}',
        '{"schema": "farm.gate/1", "cells": [3]}',
    ],
)
def test_what_is_no_gate_document_is_an_error_of_the_store(text):
    with pytest.raises(StoreError):
        gate.read_cells(text)


def test_the_palette_knows_the_backgrounds_of_the_theme():
    path = Path(dashboard.__file__).parent / ".streamlit" / "config.toml"
    theme = tomllib.loads(path.read_text())["theme"]
    grounds = (theme["light"]["backgroundColor"], theme["dark"]["backgroundColor"])
    assert grounds == palette.BACKGROUNDS
