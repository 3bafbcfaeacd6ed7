"""From a model's outputs to right and wrong per item, areas, and drift from a float reference.

Pure numpy; arrays have the items on their first axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from farm.errors import ConfigError, WrongOutput
from farm.metrics import METRICS
from farm.record import Measurement, Output

Array = npt.NDArray[np.generic]


def correct_top1(outputs: tuple[Output, ...], labels: Array) -> npt.NDArray[np.bool_]:
    """Whether the highest value of the first output is at the labelled class, shape [items].

    Raises:
        WrongOutput: not finite, of another number of items, or with too few classes for the labels.
    """
    scores = _scores(outputs, len(labels))
    classes = scores.shape[1]
    if labels.size and int(labels.max()) >= classes:
        raise WrongOutput(
            f"output '{outputs[0].name}' has {classes} classes, the labels go up to {labels.max()}"
        )
    agrees: npt.NDArray[np.bool_] = scores.argmax(axis=1) == labels
    return agrees


def auc(outputs: tuple[Output, ...], labels: Array) -> Measurement:
    """Area under the ROC curve of the first output, one score per item; exact.

    The share of pairs of an item labelled 1 (an anomaly) and one labelled 0 in which the former
    has the higher score; a tie counts half.

    Raises:
        WrongOutput: not finite, of another number of items, or not one score per item.
        ConfigError: the labels are not 0 and 1, or all the same.
    """
    scores = _scores(outputs, len(labels))
    if scores.shape[1] != 1:
        raise WrongOutput(
            f"output '{outputs[0].name}' has {scores.shape[1]} values per item, one score is needed"
        )
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ConfigError(
            "the area under the curve needs items labelled 0 and items labelled 1",
            hint="label what is normal 0 and what is to be found 1",
        )
    normal, sought = np.sort(scores[labels == 0, 0]), scores[labels == 1, 0]
    below = np.searchsorted(normal, sought, side="left")
    not_above = np.searchsorted(normal, sought, side="right")
    halves = int(below.sum()) + int(not_above.sum())  # whole numbers: the order cannot matter
    metric = METRICS["accuracy.auc"]
    value = halves / (2 * len(normal) * len(sought))
    return Measurement(metric=metric.name, unit=metric.unit, value=value, n=len(scores))


def drift(outputs: tuple[Output, ...], reference: Array) -> tuple[Measurement, ...]:
    """How far the first output is from the float reference, shape [items, ...].

    Agreement of the highest class, mean cosine over items, and the signal-to-quantisation-noise
    ratio over all values (left out where the two are equal to the bit).

    Raises:
        WrongOutput: not finite, or of another shape.
    """
    ours = _scores(outputs, len(reference)).astype(np.float64)
    truth = reference.reshape(len(reference), -1).astype(np.float64)
    if ours.shape != truth.shape:
        raise WrongOutput(f"outputs have shape {ours.shape}, the reference has {truth.shape}")
    n = len(truth)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(truth, axis=1)
    cosine = np.divide((ours * truth).sum(axis=1), norms, out=np.zeros(n), where=norms > 0)
    found = {
        "drift.top1_agreement": float((ours.argmax(axis=1) == truth.argmax(axis=1)).mean()),
        "drift.cosine": float(cosine.mean()),
    }
    noise = float(np.square(ours - truth).sum())
    signal = float(np.square(truth).sum())
    if noise > 0 and signal > 0:
        found["drift.sqnr"] = 10 * float(np.log10(signal / noise))
    return tuple(
        Measurement(metric=name, unit=METRICS[name].unit, value=value, n=n)
        for name, value in found.items()
    )


def bit_exact(outputs: tuple[Output, ...], golden: Array) -> Measurement:
    """The share of items whose first output equals the golden one to the bit.

    Raises:
        WrongOutput: of another shape or type.
    """
    ours = _scores(outputs, len(golden))
    truth = golden.reshape(len(golden), -1)
    if ours.shape != truth.shape or ours.dtype != truth.dtype:
        raise WrongOutput(
            f"outputs have shape {ours.shape} and type {ours.dtype}, the golden ones "
            f"{truth.shape} and {truth.dtype}"
        )
    share = float((ours == truth).all(axis=1).mean())
    metric = METRICS["drift.bit_exact"]
    return Measurement(metric=metric.name, unit=metric.unit, value=share, n=len(truth))


def _scores(outputs: tuple[Output, ...], items: int) -> Array:
    if not outputs:
        raise WrongOutput("the model has no outputs")
    name, values = outputs[0].name, outputs[0].values
    if values.ndim == 0 or values.dtype.kind not in "fiub":
        raise WrongOutput(f"output '{name}' of shape {values.shape}, {values.dtype} has no scores")
    if len(values) != items or values.size == 0:
        raise WrongOutput(f"output '{name}': {len(values)} outputs for {items} items")
    scores = values.reshape(items, -1)
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise WrongOutput(f"output '{name}' is NaN or infinite for {bad} items")
    return scores
