"""Strict reading: what is refused, on which line, and which word the reader should have used."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from farm.document import MAX_BYTES, read_document
from farm.errors import ConfigError
from farm.inventory import read_inventory
from farm.policy import read_policy
from farm.suite import read_suite
from farm.workload import read_workload


def suite(path: Path) -> object:
    return read_suite(str(path))


def table(path: Path):
    return read_document(path, "farm.test/1")


def outcome(read: Callable[[], object]) -> object:
    try:
        return read()
    except ConfigError as error:
        return error


READERS = {
    "inventory": read_inventory,
    "policy": read_policy,
    "suite": suite,
    "workload": read_workload,
}
SUITE = "schema: farm.suite/1\nname: s\ndescription: d\nmeasure: [latency]\n"
POLICY = "schema: farm.policy/1\nmetrics:\n  latency.p50: {gate: true, margin: 5 %}\n"
WORKLOAD = "schema: farm.workload/1\n"
TEST = "schema: farm.test/1\n"


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("content", "line", "complaint"),
    [
        pytest.param(b"", 1, "the file is empty", id="empty"),
        pytest.param(b"# later\n", 1, "the file is empty", id="comment only"),
        pytest.param(b"# first\n- a\n- b\n", 2, "found a list", id="list"),
        pytest.param(b"word\n", 1, "found a single value", id="single value"),
        pytest.param(b"name: x\n", 1, "found none", id="no schema"),
        pytest.param(b"a: 1\nschema: farm.other/1\n", 2, "farm.other/1", id="other schema"),
        pytest.param(b"schema: 1\n", 1, "expected text, found '1'", id="schema of wrong type"),
        pytest.param(b'schema: "a\\nb"\n', 1, "expected a document", id="schema of two lines"),
        pytest.param(b"a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a'", id="duplicate key"),
        pytest.param(
            b'"a\\nb": 1\n"a\\nb": 2\n', 2, "duplicate key", id="duplicate key of 2 lines"
        ),
        pytest.param(b"[a]: 1\n", 1, "expected a word", id="key that is a list"),
        pytest.param(b"a: 1\nb: \xe9\n", 2, "not UTF-8 text (byte 0xe9)", id="not UTF-8"),
        pytest.param("a: 1\n".encode("utf-16"), 1, "not UTF-8", id="UTF-16"),
        pytest.param(b"a: 1\nb: \x07\n", 2, "#x0007", id="control character"),
        pytest.param(b"a: 1\n\tb: 2\n", 2, "cannot start any token", id="tab"),
        pytest.param(b"a: 1\nb: *nowhere\n", 2, "undefined alias", id="undefined alias"),
        pytest.param(b"a: 1\n---\nb: 2\n", 2, "another document", id="two documents"),
        pytest.param(b"a: [1, 2\nb: 3\n", 2, "expected ',' or ']'", id="open bracket"),
        pytest.param(b"a: " + b"[" * 5000 + b"]" * 5000, 1, "nested", id="nested too deeply"),
        pytest.param(b"#" * (MAX_BYTES + 1), 1, "too long", id="too large"),
    ],
)
def test_every_reader_refuses_what_is_not_its_document(reader, content, line, complaint, refusal):
    found = refusal(reader, content)
    assert complaint in found.text
    assert found.line == line


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_file_that_cannot_be_read_is_named(reader, tmp_path):
    with pytest.raises(ConfigError, match=r"^cannot read '.*absent\.yaml': No such file"):
        reader(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("reader", "content", "line", "wrong", "right"),
    [
        (read_policy, POLICY + "alfa: 0.05\n", 4, "alfa", "alpha"),
        (read_policy, POLICY.replace("}", ", gates: true}"), 3, "gates", "gate"),
        (suite, SUITE + "repeat: 3\n", 5, "repeat", "repeats"),
        (suite, SUITE + "load:\n  threads: 1\n  warmups: 1\n", 7, "warmups", "warmup_s"),
    ],
    ids=["policy", "rule of a policy", "suite", "load of a suite"],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(
    reader, content, line, wrong, right, refusal
):
    found = refusal(reader, content)
    assert (found.line, found.text) == (line, f"unknown key '{wrong}'")
    assert found.hint == f"did you mean '{right}'?"


@pytest.mark.parametrize(
    ("reader", "content", "line", "wrong", "right"),
    [
        (read_policy, POLICY.replace("margin", "margn"), 3, "margn", "margin"),
        (suite, SUITE.replace("measure", "mesure"), 4, "mesure", "measure"),
        (read_workload, WORKLOAD + "nmae: w\n", 2, "nmae", "name"),
    ],
    ids=["rule of a policy", "suite", "workload"],
)
def test_a_misspelt_key_that_is_required_is_named_as_well(
    reader, content, line, wrong, right, refusal
):
    found = refusal(reader, content)
    assert found.line == line
    assert wrong in found.text + found.hint
    assert right in found.text + found.hint


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("name", "5", "expected text, found '5'"),
        ("name", "", "expected text, found ''"),
        ("name", "[s]", "expected text"),
        ("name", "2024-01-01", "expected text, found '2024-01-01'"),
        ("name", "!!python/object:os.system x", "expected text"),
        ("measure", "latency", "'measure' must be a list"),
        ("measure", "[[latency]]", "expected a word"),
        ("measure", "[latencies]", "unknown measure 'latencies'"),
        ("repeats", "five", "expected a whole number, found 'five'"),
        ("repeats", "1.5", "expected a whole number, found '1.5'"),
        ("repeats", "true", "expected a whole number, found 'true'"),
        ("load", "3", "'load' must be a table of keys"),
        ("load", "", "'load' must be a table of keys"),
        ("load", "{warmup_s: soon}", "expected a number, found 'soon'"),
        ("load", "{warmup_s: false}", "expected a number, found 'false'"),
        ("load", '{scenario: "single\\nstream"}', "unknown scenario"),
        ('"two\\nlines"', "1", "unknown key"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_on_its_line(key, value, complaint, refusal):
    lines = [line for line in SUITE.splitlines() if not line.startswith(f"{key}:")]
    found = refusal(suite, "\n".join([*lines, f"{key}: {value}"]))
    assert complaint in found.text
    assert found.line == len(lines) + 1


def test_a_word_that_yaml_takes_for_something_else_is_refused_with_its_quotes(refusal):
    assert refusal(suite, SUITE.replace("name: s", "name: 12:30")).hint == 'write "12:30" in quotes'


@pytest.mark.parametrize("kind", ["text", "integer", "number", "flag", "texts", "table"])
@pytest.mark.parametrize(
    "value",
    [
        "!!timestamp x",
        "!!bool x",
        "!!int x",
        '!!int ""',
        '!!float ""',
        "!!binary x",
        "1" + "0" * 400,
    ],
    ids=["timestamp", "bool", "int", "empty int", "empty float", "binary", "400 digits"],
)
def test_no_scalar_however_tagged_escapes_as_another_error(kind, value, tmp_path):
    path = tmp_path / "document.yaml"
    path.write_text(f"{TEST}key: {value}\n")
    found = outcome(lambda: getattr(table(path), kind)("key"))
    if isinstance(found, ConfigError):
        assert found.message.startswith(f"{path}:2: ")
    else:
        assert (kind, type(found)) in {("integer", int), ("number", float), ("text", str)}


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.sampled_from("ab:-#[]{}&*!|>%@`'\"? \n\t,0.~<\u00e9\u2028"), max_size=40))
@example("? \n")
@example("&a [*a]")
@example("a: &x {b: *x}")
def test_no_text_however_odd_escapes_as_another_error(tmp_path, text):
    path = tmp_path / "document.yaml"
    path.write_text(POLICY + text)
    found = outcome(lambda: read_policy(path))
    if isinstance(found, ConfigError):
        assert re.fullmatch(rf"{re.escape(str(path))}:\d+: .+", found.message)


def test_an_environment_variable_is_put_in_place(monkeypatch, tmp_path):
    monkeypatch.setenv("FARM_TEST_PLACE", "shelf 4")
    path = tmp_path / "document.yaml"
    path.write_text(f"{TEST}key: 'at ${{env:FARM_TEST_PLACE}}, left of ${{env:FARM_TEST_PLACE}}'\n")
    assert table(path).text("key") == "at shelf 4, left of shelf 4"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("FARM_TEST_PLAICE", "did you mean 'FARM_TEST_PLACE'?"),
        ("QQ0ZZ9", "export QQ0ZZ9 before the command"),
    ],
)
def test_an_unset_environment_variable_is_refused(name, hint, monkeypatch, refusal):
    monkeypatch.setenv("FARM_TEST_PLACE", "shelf 4")
    found = refusal(suite, f"{SUITE}workload: ${{env:{name}}}\n")
    assert (found.line, found.text) == (5, f"environment variable {name} is not set")
    assert found.hint == hint


def test_a_byte_order_mark_is_no_part_of_the_document(tmp_path):
    path = tmp_path / "document.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + POLICY.encode())
    assert read_policy(path).looks == (5, 9, 13)


def test_an_absent_table_reads_as_an_empty_one(tmp_path):
    path = tmp_path / "document.yaml"
    path.write_text(TEST)
    inner = table(path).table("load")
    assert inner.keys() == ()
    assert inner.integer("threads", default=3) == 3
    with pytest.raises(ConfigError, match=r"document.yaml:1: 'threads' is missing"):
        inner.integer("threads")
