"""Policies: margins with the unit that fits the metric, and what no policy may ask for."""

from __future__ import annotations

import hashlib
from datetime import date

import pytest

from farm.errors import ConfigError
from farm.policy import MIN_BLOCKS, read_policy

HEAD = "schema: farm.policy/1\n"
RULES = "metrics:\n  latency.p50: {gate: true, margin: 5 %}\n"


def test_a_policy_is_read_as_written(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        f"{HEAD}alpha: 0.1\nblocks: 7\nmetrics:\n"
        "  accuracy.top1: {gate: true, margin: 2 points}\n"
        "  latency.p50: {gate: true, margin: 12.5%}\n"
        "  memory.peak_rss: {margin: 100  %}\n"
        "  size.model_bytes: {margin: 1 %, gate: false}\n"
    )
    policy = read_policy(path)
    assert (policy.path, policy.alpha, policy.looks) == (path, 0.1, (7,))
    assert [(rule.metric.name, rule.gate, rule.margin) for rule in policy.rules] == [
        ("accuracy.top1", True, pytest.approx(0.02)),
        ("latency.p50", True, pytest.approx(0.125)),
        ("memory.peak_rss", False, pytest.approx(1.0)),
        ("size.model_bytes", False, pytest.approx(0.01)),
    ]


def test_a_policy_has_defaults_and_the_digest_of_its_file(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + RULES)
    policy = read_policy(path)
    assert (policy.alpha, policy.looks) == (0.05, (5, 9, 13))
    assert policy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(HEAD + RULES + "# one comment more\n")
    assert read_policy(path).sha256 != policy.sha256


@pytest.mark.parametrize(
    ("metric", "margin", "hint"),
    [
        ("latency.p50", "5 points", "write for example '5 %'"),
        ("memory.peak_rss", "5 points", "write for example '5 %'"),
        ("size.model_bytes", "5 bytes", "write for example '5 %'"),
        ("accuracy.top1", "2 %", "write for example '5 points'"),
        ("accuracy.top1", "2", "write for example '5 points'"),
        ("latency.p50", "-5 %", "write for example '5 %'"),
        ("latency.p50", "5", "write for example '5 %'"),
        ("latency.p50", "5,0 %", "write for example '5 %'"),
        ("latency.p50", "", "write for example '5 %'"),
        ("latency.p50", "5 % or so", "write for example '5 %'"),
        ("latency.p50", "five\\npercent", "write for example '5 %'"),
    ],
)
def test_a_margin_whose_unit_does_not_fit_is_refused(metric, margin, hint, refusal):
    found = refusal(
        read_policy, f'{HEAD}metrics:\n  {metric}:\n    gate: true\n    margin: "{margin}"'
    )
    assert f"does not fit {metric}" in found.text
    assert (found.line, found.hint) == (5, hint)


@pytest.mark.parametrize(
    ("metric", "complaint", "hint"),
    [
        ("latncy.p50", "unknown metric 'latncy.p50'", "did you mean 'latency.p50'?"),
        ("accuracy.top_1", "unknown metric 'accuracy.top_1'", "did you mean 'accuracy.top1'?"),
        ('"latency\\np50"', "unknown metric", "did you mean 'latency.p50'?"),
        ("drift.cosine", "'drift.cosine' has no method of comparison", ""),
    ],
)
def test_a_metric_that_cannot_be_judged_is_refused(metric, complaint, hint, refusal):
    found = refusal(read_policy, f"{HEAD}metrics:\n  {metric}: {{gate: true, margin: 5 %}}\n")
    assert complaint in found.text
    assert (found.line, found.hint) == (3, hint)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("alpha: 0", "alpha must lie between 0 and 0.5"),
        ("alpha: -0.05", "alpha must lie between 0 and 0.5"),
        ("alpha: 0.5", "alpha must lie between 0 and 0.5"),
        ("alpha: 5", "alpha must lie between 0 and 0.5"),
        ("alpha: .nan", "alpha"),
        ("alpha: 5 %", "expected a number, found '5 %'"),
        (f"blocks: {MIN_BLOCKS - 1}", "'blocks' must be at least 5"),
        ("blocks: -10", "'blocks' must be at least 5"),
        ("blocks: 7.5", "expected a whole number"),
    ],
)
def test_what_no_judgement_can_rest_on_is_refused(line, complaint, refusal):
    found = refusal(read_policy, f"{HEAD}{line}\n{RULES}")
    assert complaint in found.text
    assert found.line == 2


def test_the_fewest_blocks_allowed_are_enough(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}blocks: {MIN_BLOCKS}\n{RULES}")
    assert read_policy(path).looks == (MIN_BLOCKS,) == (5,)


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ("", 1),
        ("metrics: {}\n", 2),
        ("metrics:\n  latency.p50: {margin: 5 %}\n", 2),
        ("metrics:\n  latency.p50: {margin: 5 %, gate: false}\n", 2),
    ],
)
def test_a_policy_by_which_nothing_decides_is_refused(metrics, line, refusal):
    found = refusal(read_policy, HEAD + metrics)
    assert (found.line, found.text) == (line, "no metric decides")
    assert "gate: true" in found.hint


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("{gate: true}", "'margin' is missing"),
        ("{gate: true, margin: 0 %}", "a margin must be above zero"),
        ("{gate: true, margin: 0.0 %}", "a margin must be above zero"),
        ("{gate: true, exact: true}", "latency.p50 has noise: no change of it is exact"),
        ("{gate: 1, margin: 5 %}", "expected true or false, found '1'"),
        ("5 %", "must be a table of keys"),
    ],
)
def test_a_rule_that_says_too_little_is_refused(rule, complaint, refusal):
    found = refusal(read_policy, f"{HEAD}metrics:\n  latency.p50: {rule}\n")
    assert complaint in found.text
    assert found.line == 3


FULL = """
looks: [5, 8]
fail_rule: strict
on_inconclusive: warn
coverage:
  pixel: {units: 2}
  tablet: {optional: true}
waivers:
  - {metric: latency.p50, device_type: pixel, owner: ann, reason: known, expires: 2026-06-30}
"""


def test_looks_rules_coverage_and_waivers_are_read_as_written(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + FULL + RULES)
    policy = read_policy(path, today=date(2026, 6, 30))
    assert (policy.looks, policy.fail_rule, policy.on_inconclusive) == ((5, 8), "strict", "warn")
    assert policy.alpha_per_look == pytest.approx(0.025)
    assert policy.demand("pixel").units == 2
    assert policy.demand("tablet").optional
    assert policy.demand("other").units == 1
    (waiver,) = policy.waivers
    assert waiver.covers("latency.p50", "pixel")
    assert not waiver.covers("latency.p50", "tablet")


def test_an_expired_waiver_is_an_error_that_names_its_owner(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + FULL + RULES)
    with pytest.raises(ConfigError, match=r"p\.yaml:\d+: the waiver of ann .* expired"):
        read_policy(path, today=date(2026, 7, 1))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("looks: [9, 5]", "must rise"),
        ("looks: [5, 5]", "must rise"),
        ("looks: [4, 9]", "at least 5"),
        ("looks: [5]\nblocks: 5", "either"),
        ("looks: [5, 100000]", "at most"),
        ("fail_rule: strikt", "unknown fail_rule 'strikt'"),
        ("on_inconclusive: shrug", "unknown on_inconclusive"),
        ("coverage: {pixel: {units: 0}}", "at least 1"),
        (
            "waivers: [{metric: latency.p5, owner: a, reason: b, expires: 2099-01-01}]",
            "unknown metric",
        ),
        ("waivers: [{metric: latency.p50, owner: a, reason: b, expires: soon}]", "expected a date"),
        ("waivers: [{metric: latency.p50, owner: a, expires: 2099-01-01}]", "'reason' is missing"),
    ],
)
def test_a_demand_that_makes_no_sense_is_refused(line, complaint, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}{line}\n{RULES}")
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert complaint in caught.value.message


def test_a_number_without_noise_may_be_held_exactly(tmp_path, refusal):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}metrics:\n  compute.instructions: {{gate: true, exact: true}}\n")
    (rule,) = read_policy(path).rules
    assert (rule.exact, rule.margin) == (True, 0.0)
    both = f"{HEAD}metrics:\n  size.text: {{gate: true, exact: true, margin: 1 %}}\n"
    assert "'exact' leaves no margin" in refusal(read_policy, both).text


@pytest.mark.parametrize(
    ("metric", "line", "limit"),
    [
        ("compute.instructions", "at_most: 24.6 M", 24.6e6),
        ("latency.p99", "at_most: 50 ms", 50e6),
        ("latency.p50", "at_most: 1.5us", 1500),
        ("memory.peak_rss", "at_most: 64 MiB", 64 * 2**20),
        ("accuracy.top1", "at_least: 90 %", 0.9),
    ],
)
def test_a_limit_is_read_in_the_metrics_unit(metric, line, limit, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}metrics:\n  {metric}: {{gate: true, {line}}}\n")
    (rule,) = read_policy(path).rules
    assert rule.margin is None
    assert rule.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("metric", "line", "complaint"),
    [
        ("latency.p99", "at_most: 50 MiB", "does not fit"),
        ("latency.p99", "at_most: fast", "does not fit"),
        ("latency.p99", "at_least: 50 ms", "unknown key 'at_least'"),
        ("accuracy.top1", "at_most: 90 %", "unknown key 'at_most'"),
        ("accuracy.top1", "gate: true", "'margin' is missing"),
    ],
)
def test_a_limit_of_another_unit_or_direction_is_refused(metric, line, complaint, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}metrics:\n  {metric}: {{{line}}}\n")
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert complaint in caught.value.message


def _anchored(tmp_path, sha256: str):
    (tmp_path / "v1.onnx").write_bytes(b"the first release")
    path = tmp_path / "p.yaml"
    path.write_text(
        f"{HEAD}anchor: {{model: v1.onnx, sha256: {sha256}, owner: ann, reason: first release, "
        "decided: 2026-01-31}\n"
        "metrics:\n  latency.p50: {gate: true, margin: 2 %, anchor_margin: 5 %}\n"
    )
    return path


def test_an_anchor_is_pinned_by_its_digest(tmp_path):
    digest = hashlib.sha256(b"the first release").hexdigest()
    policy = read_policy(_anchored(tmp_path, digest))
    assert policy.anchor is not None
    assert (policy.anchor.owner, policy.anchor.decided) == ("ann", date(2026, 1, 31))
    assert policy.rules[0].anchor_margin == pytest.approx(0.05)
    with pytest.raises(ConfigError, match=r"the anchor 'v1.onnx' is \w+, not ffffff"):
        read_policy(_anchored(tmp_path, "f" * 64))


def test_an_anchor_margin_without_an_anchor_is_refused(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}metrics:\n  latency.p50: {{gate: true, anchor_margin: 5 %}}\n")
    with pytest.raises(ConfigError, match="there is no anchor"):
        read_policy(path)


@pytest.mark.parametrize(
    ("coverage", "good"),
    [("{a: {share: 0.6}, b: {share: 0.4}}", True), ("{a: {share: 0.6}}", False), ("{}", False)],
)
def test_a_weighted_margin_needs_shares_that_add_up(coverage, good, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        f"{HEAD}coverage: {coverage}\n"
        "metrics:\n  latency.p50: {gate: true, weighted_margin: 3 %}\n"
    )
    if good:
        assert read_policy(path).rules[0].weighted_margin == pytest.approx(0.03)
    else:
        with pytest.raises(ConfigError, match="add up to 1"):
            read_policy(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("margin: 3 %, meter: ppk2", ""),
        ("margin: 1 %, meter: ppk2", "below what a ppk2 can tell on one unit, 2 %"),
        ("margin: 1 %, meter: js220", ""),
        ("margin: 3 %, meter: js220, across_units: true", ""),
        ("margin: 3 %, meter: ppk2, across_units: true", "can tell between units, 15 %"),
        ("margin: 9 %, meter: gauge, across_units: true", "no margin between units"),
        ("at_most: 2 mJ, meter: gauge", ""),
        ("margin: 5 %", ""),  # held against the meters of the devices, when those are known
        ("margin: 5 %, meter: ppk3", "unknown meter 'ppk3'"),
    ],
)
def test_a_margin_on_energy_is_held_against_the_meters_floor(line, complaint, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}metrics:\n  energy.per_inference: {{gate: true, {line}}}\n")
    if not complaint:
        assert read_policy(path).rules[0].metric.unit == "J"
        return
    with pytest.raises(ConfigError) as caught:
        read_policy(path)
    assert complaint in caught.value.message
