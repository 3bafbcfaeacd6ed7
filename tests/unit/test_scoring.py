"""From outputs to right and wrong, and to drift; outputs of which nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from farm.analysis.scoring import auc, correct_top1, drift
from farm.errors import ConfigError, WrongOutput
from farm.record import Output

FIXED = settings(derandomize=True, deadline=None)
LABELS = np.array([0, 1, 2, 1])
SCORES = np.array([[9, 1, 1], [1, 9, 1], [1, 9, 1], [9, 1, 1]], np.float32)


def outputs(values: np.ndarray, *others: np.ndarray) -> tuple[Output, ...]:
    return tuple(Output(name=f"out{i}", values=v) for i, v in enumerate((values, *others)))


def measured(ours: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {m.metric: m.value for m in drift(outputs(ours), truth)}


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 1, 3)])
def test_an_item_is_right_when_its_highest_output_is_at_the_label(kind, shape):
    right = correct_top1(outputs(SCORES.astype(kind).reshape(shape)), LABELS)
    assert right.dtype == np.bool_
    assert right.tolist() == [True, True, False, False]


def test_only_the_first_output_decides():
    other = np.full((4, 3), np.nan)
    assert correct_top1(outputs(SCORES, other), LABELS).sum() == 2


@FIXED
@given(arrays.arrays(np.float32, (5, 4), elements=st.floats(-8, 8, width=32)), st.integers(0, 3))
def test_right_and_wrong_do_not_depend_on_a_common_shift_or_scale(scores, label):
    scores = np.round(scores)
    labels = np.full(5, label)
    before = correct_top1(outputs(scores), labels)
    assert (correct_top1(outputs(scores * 4 + 16), labels) == before).all()


@pytest.mark.parametrize("judge", [correct_top1, drift])
@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        pytest.param(np.where(np.eye(4, 3) > 0, np.nan, 1), "for 3 items", id="NaN"),
        pytest.param(np.where(np.eye(4, 3) > 0, np.inf, 1), "for 3 items", id="infinite"),
        pytest.param(-np.full((4, 3), np.inf, np.float16), "for 4 items", id="minus infinite"),
        pytest.param(SCORES[:3], "3 outputs for 4 items", id="an item too few"),
        pytest.param(np.tile(SCORES, (2, 1)), "8 outputs for 4 items", id="twice as many items"),
        pytest.param(SCORES[:0], "0 outputs for 4 items", id="no items"),
        pytest.param(np.float32(3.0), "", id="a single number"),
        pytest.param(np.full((4, 3), "cat"), "", id="words"),
        pytest.param(np.zeros((4, 0)), "", id="no classes"),
    ],
)
def test_outputs_of_which_nothing_can_be_said_are_the_models_fault(judge, values, complaint):
    oracle = LABELS if judge is correct_top1 else SCORES
    with pytest.raises(WrongOutput) as caught:
        judge(outputs(np.asarray(values)), oracle)
    assert complaint in caught.value.message


@pytest.mark.parametrize("judge", [correct_top1, drift])
def test_a_model_without_outputs_is_at_fault(judge):
    with pytest.raises(WrongOutput, match="no outputs"):
        judge((), LABELS)


@pytest.mark.parametrize("label", [3, 200])
def test_labels_beyond_the_classes_of_the_output_are_refused(label):
    with pytest.raises(WrongOutput, match=f"'out0' has 3 classes, the labels go up to {label}"):
        correct_top1(outputs(SCORES), np.array([0, 1, 2, label]))


def test_a_reference_of_another_shape_is_refused():
    with pytest.raises(WrongOutput, match="shape"):
        drift(outputs(SCORES), np.ones((4, 2)))


@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_outputs_equal_to_the_reference_have_no_noise_to_speak_of(kind):
    found = measured(SCORES.astype(kind), SCORES)
    assert found == {
        "drift.top1_agreement": 1.0,
        "drift.cosine": pytest.approx(1.0),
    }


@pytest.mark.parametrize(("factor", "decibels"), [(1.1, 20), (0.9, 20), (1.01, 40), (2, 0)])
def test_noise_of_a_known_share_has_the_ratio_known_for_it(factor, decibels):
    truth = np.random.default_rng(2).normal(size=(4, 3))
    found = measured(truth * factor, truth)
    assert found["drift.sqnr"] == pytest.approx(decibels, abs=1e-6)
    assert found["drift.cosine"] == pytest.approx(1.0)
    assert found["drift.top1_agreement"] == 1.0


def test_agreement_and_cosine_are_means_over_items():
    truth = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    ours = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, -1.0]])
    found = measured(ours, truth)
    assert found["drift.top1_agreement"] == 0.5
    assert found["drift.cosine"] == pytest.approx((1 + 0 + 1 - 1) / 4)
    assert found["drift.sqnr"] == pytest.approx(10 * np.log10(4 / (2 + 1 + 4)))


def test_drift_says_over_how_many_items_and_in_which_unit():
    found = drift(outputs(SCORES + np.float32(0.5)), SCORES)
    assert [(m.unit, m.n) for m in found] == [("ratio", 4), ("ratio", 4), ("dB", 4)]


def test_drift_of_whole_number_outputs_does_not_overflow():
    ours = np.full((2, 2), -128, np.int8)
    assert measured(ours, np.full((2, 2), 127.0))["drift.cosine"] == pytest.approx(-1.0)


def test_drift_compares_outputs_of_any_shape_value_by_value():
    truth = np.arange(24.0).reshape(2, 3, 4)
    assert measured(truth.reshape(2, 12) + 1, truth)["drift.top1_agreement"] == 1.0


def area(scores: list[float], labels: list[int]) -> float:
    return auc(outputs(np.array(scores).reshape(-1, 1)), np.array(labels)).value


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 3, 2, 4], [0, 0, 1, 1], 0.75),
        ([5, 5, 5, 5], [0, 1, 0, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([2, 1], [1, 0], 1.0),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order_and_a_tie_counts_half(scores, labels, value):
    assert area(scores, labels) == value


@FIXED
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=2, max_size=40).filter(
        lambda items: len({label for _, label in items}) == 2
    )
)
def test_the_area_equals_that_of_all_pairs_counted_one_by_one(items):
    sought = [score for score, label in items if label]
    normal = [score for score, label in items if not label]
    won = sum((s > n) + (s == n) / 2 for s in sought for n in normal)
    found = area(*map(list, zip(*items, strict=True)))
    assert found == won / (len(sought) * len(normal))
    swapped = area([-score for score, _ in items], [label for _, label in items])
    assert swapped == pytest.approx(1 - found)


def test_an_area_says_over_how_many_items_and_under_which_name():
    found = auc(outputs(np.array([[0.1], [0.2], [0.3]])), np.array([0, 1, 1]))
    assert (found.metric, found.unit, found.n) == ("accuracy.auc", "ratio", 3)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [0, 2]])
def test_an_area_needs_both_labels_and_no_others(labels):
    with pytest.raises(ConfigError, match="labelled 0 and items labelled 1"):
        area([1.0, 2.0], labels)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        pytest.param(np.ones((2, 3)), "3 values per item", id="classes"),
        pytest.param(np.array([[1.0], [np.nan]]), "NaN or infinite for 1 items", id="NaN"),
        pytest.param(np.ones((3, 1)), "3 outputs for 2 items", id="an item too many"),
    ],
)
def test_an_area_needs_one_finite_score_per_item(values, complaint):
    with pytest.raises(WrongOutput, match=complaint):
        auc(outputs(values), np.array([0, 1]))
