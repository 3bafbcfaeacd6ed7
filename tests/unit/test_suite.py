"""Suites: by name or by file, their defaults, and loads that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.errors import ConfigError
from farm.model import Load, Measure, Scenario
from farm.plugins import find_suites
from farm.suite import read_suite

LEAST = "schema: farm.suite/1\nname: s\ndescription: d\nmeasure: [latency]\n"
FULL = """\
schema: farm.suite/1
name: digits
description: Reads digits.
workload: workloads/digits
measure: [latency, accuracy, memory]
runtimes: [ort_python]
accelerators: [cpu, npu]
repeats: 7
load:
  scenario: offline
  min_duration_s: 2
  min_queries: 100
  max_duration_s: 30.5
  warmup_s: 0
  threads: 4
"""


def read(path: Path) -> object:
    return read_suite(str(path))


def test_a_suite_is_read_as_written(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(FULL)
    suite = read_suite(str(path))
    assert (suite.name, suite.description, suite.repeats) == ("digits", "Reads digits.", 7)
    assert suite.workload == tmp_path / "workloads" / "digits"
    assert suite.policy_path == tmp_path / "digits.policy.yaml"
    assert suite.measures == (Measure.LATENCY, Measure.ACCURACY, Measure.MEMORY)
    assert (suite.runtimes, suite.accelerators) == (("ort_python",), ("cpu", "npu"))
    assert suite.load == Load(
        scenario=Scenario.OFFLINE,
        min_duration_s=2.0,
        min_queries=100,
        max_duration_s=30.5,
        warmup_s=0.0,
        threads=4,
    )


def test_what_a_suite_leaves_out_has_a_default(tmp_path):
    path = tmp_path / "least.yaml"
    path.write_text(LEAST)
    suite = read_suite(str(path))
    assert (suite.workload, suite.load, suite.repeats) == (None, Load(), 5)
    assert (suite.runtimes, suite.accelerators) == ((), ("cpu",))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("repeats: 0", "'repeats' must be at least 1"),
        ("repeats: -3", "'repeats' must be at least 1"),
        ("load: {threads: 0}", "'threads' must be at least 1"),
        ("load: {min_queries: 0}", "'min_queries' must be at least 1"),
        ("load: {min_duration_s: 0}", "min_duration_s must be above 0"),
        ("load: {min_duration_s: -1}", "min_duration_s must be above 0"),
        ("load: {min_duration_s: .nan}", "min_duration_s"),
        ("load: {min_duration_s: 5, max_duration_s: 4}", "at most max_duration_s"),
        ("load: {max_duration_s: .inf}", "max_duration_s"),
        ("load: {warmup_s: -1}", "warmup_s"),
        ("load: {warmup_s: .nan}", "warmup_s"),
        ("load: {warmup_s: .inf}", "warmup_s"),
        ("load: {scenario: single-stream}", "unknown scenario 'single-stream'"),
        ("runtimes: []", "runtimes"),
        ("accelerators: []", "accelerators"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused_on_its_line(line, complaint, refusal):
    found = refusal(read, LEAST + line)
    assert complaint in found.text
    assert found.line == 5


def test_a_suite_that_measures_nothing_is_refused(refusal):
    assert refusal(read, LEAST.replace("[latency]", "[]")).line == 4


@pytest.mark.parametrize("key", ["name", "description", "measure"])
def test_what_a_suite_must_have_is_asked_for(key, refusal):
    text = "".join(line for line in LEAST.splitlines(True) if not line.startswith(key))
    assert refusal(read, text).text == f"'{key}' is missing"


def test_every_installed_suite_is_found_by_its_name_and_can_be_read():
    installed = find_suites()
    assert installed
    assert not any(name.endswith(".policy") for name in installed)
    for name, path in installed.items():
        assert read_suite(name).path == path
        suite = read_suite(name)
        # Nothing of placement can be judged, and a look at energy is too short for that.
        only_shows = suite.measures == (Measure.PLACEMENT,) or name == "energy_look"
        assert suite.policy_path.is_file() is not only_shows


def test_an_unknown_suite_is_refused_with_the_nearest():
    name = next(iter(find_suites()))
    with pytest.raises(ConfigError, match=f"^unknown suite '{name}x'$") as caught:
        read_suite(f"{name}x")
    assert caught.value.hint == f"did you mean '{name}'?"


def test_the_digest_of_a_load_depends_on_every_part_of_it():
    parts = ({}, {"threads": 2}, {"warmup_s": 2.0}, {"scenario": Scenario.OFFLINE})
    digests = {Load(**part).digest() for part in parts}
    assert len(digests) == len(parts)
    assert Load().digest() == Load().digest()
    assert all(len(digest) == 16 for digest in digests)
