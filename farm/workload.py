"""Reads workload folders, and resolves what a person calls a model into files and a workload."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farm.document import Table, read_document
from farm.errors import ConfigError, as_utf8, nearest_hint
from farm.metrics import METRICS, find_metric
from farm.model import Artifact, Candidate, Measure, ModelFile, Workload

FORMATS = {
    ".onnx": "onnx",
    ".elf": "firmware",
    ".axf": "firmware",
    ".hex": "firmware",
    ".bin": "firmware",
    ".uf2": "firmware",
}
"""Model format by file name ending."""
ANYTHING = {".bin"}
"""Endings that other files in a folder have as well; a model with one is named itself."""

FILE_NAME = "workload.yaml"


def read_workload(path: Path) -> Workload:
    """Read a workload folder, or the `workload.yaml` in it.

    Raises:
        ConfigError: with file and line: unknown key, unknown metric, a file that is missing,
            damaged, or whose items do not match the others'.
    """
    path = path / FILE_NAME if path.is_dir() else path
    document = read_document(path, "farm.workload/1")
    name = document.text("name")
    inputs = _artifact(document, "inputs")
    labels = _artifact(document, "labels", optional=True)
    clusters = _artifact(document, "clusters", optional=True)
    reference = _artifact(document, "reference", optional=True)
    golden = _artifact(document, "golden", optional=True)
    metric = _metric(document, labels)
    document.text("description", default="")
    _artifact(document, "calibration", optional=True)
    model = _read_models(document, name)
    document.done()
    assert inputs is not None
    per_item = {"labels": labels, "clusters": clusters, "reference": reference, "golden": golden}
    _check_items(document, inputs, per_item)
    _check_numbers(document, "labels", labels)
    _check_numbers(document, "clusters", clusters)
    oracle = [a.sha256 for a in (inputs, labels, clusters, reference) if a]
    return Workload(
        name=name,
        digest=_digest([name, metric, *oracle]),
        inputs=inputs,
        labels=labels,
        clusters=clusters,
        reference=reference,
        golden=golden,
        metric=metric,
        model=model,
    )


def bare_workload(dimensions: tuple[tuple[str, int], ...] = ()) -> Workload:
    """The workload of a model that came alone: inputs seeded from its declared shapes."""
    return Workload(
        name="seeded-inputs",
        digest=_digest(["seeded", 1, *sorted(dimensions)]),
        dimensions=dimensions,
    )


def resolve_workload(
    models: tuple[Path, ...],
    *,
    explicit: Path | None,
    suite: Path | None,
    dimensions: tuple[tuple[str, int], ...] = (),
) -> Workload:
    """The one workload for these models.

    The folder that was named explicitly wins, then the one that holds a model, then the suite's;
    with none of them the models run on seeded inputs.

    Raises:
        ConfigError: two models lie in different workloads, the workload cannot be read, or sizes
            are given for a workload that has its own.
    """
    homes = {home for model in models if (home := _home(model))}
    if dimensions and (explicit or homes or suite):
        raise ConfigError(
            "a workload brings its own shapes", hint="--shape is for a model without a workload"
        )
    if explicit:
        return read_workload(explicit)
    if len(homes) > 1:
        first, second = sorted(homes)[:2]
        raise ConfigError(
            f"the models belong to two workloads: {first} and {second}",
            hint="name the one to use with --workload",
        )
    if homes:
        return read_workload(homes.pop())
    return read_workload(suite) if suite else bare_workload(dimensions)


def resolve_candidate(model: Path) -> Candidate:
    """The files behind a model's path: one file, or a folder with a workload or with models.

    Raises:
        ConfigError: nothing is there, or its format is unknown.
    """
    try:
        there = model.exists()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{str(model)[:80]!r} is no path: {error}") from error
    if model.is_dir():
        if (model / FILE_NAME).is_file():
            workload = read_workload(model)
            if workload.model is None:
                raise ConfigError(f"{model / FILE_NAME} names no model")
            return workload.model
        files = sorted(path for path in model.iterdir() if path.suffix in {*FORMATS} - ANYTHING)
        formats = [FORMATS[path.suffix] for path in files]
        if not files or len(set(formats)) < len(formats):
            raise ConfigError(
                f"{str(model)!r} has {len(files) or 'no'} model files",
                hint="name one of them" if files else f"known: {', '.join(sorted(FORMATS))}",
            )
        return Candidate(name=model.name, files=tuple(_model_file(path) for path in files))
    if not there:
        near = [str(path) for path in model.parent.glob("*") if path.suffix in FORMATS]
        raise ConfigError(
            f"there is no model at {str(model)!r}", hint=nearest_hint(str(model), near)
        )
    return Candidate(name=as_utf8(model.stem), files=(_model_file(model),))


def _home(model: Path) -> Path | None:
    folder = model if model.is_dir() else model.parent
    return folder.resolve() if (folder / FILE_NAME).is_file() else None


def _model_file(path: Path) -> ModelFile:
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"{path.name!r} is of no known model format",
            hint=f"known: {', '.join(sorted(FORMATS))}",
        )
    return ModelFile(format=FORMATS[path.suffix], artifact=Artifact.of(path))


def _metric(document: Table, labels: Artifact | None) -> str:
    name = document.text("metric", default=None if labels else "")
    if not name:
        return ""
    if labels is None:
        raise document.error(
            f"'{name}' needs labels", key="metric", hint="add 'labels: labels.npy'"
        )
    try:
        metric = find_metric(name)
    except ConfigError as error:
        raise document.error(error.message, key="metric", hint=error.hint) from error
    tasks = [m.name for m in METRICS.values() if m.family == Measure.ACCURACY]
    if metric.name not in tasks:
        raise document.error(
            f"'{name}' is no metric of a task", key="metric", hint=nearest_hint(name, tasks)
        )
    return metric.name


def _artifact(document: Table, key: str, *, optional: bool = False) -> Artifact | None:
    name = document.text(key, default="" if optional else None)
    if not name:
        if optional:
            return None
        raise document.error(f"'{key}' must name a file", key=key)
    try:
        return Artifact.of(document.path.parent / name)
    except ConfigError as error:
        raise document.error(error.message, key=key) from error


def _read_models(document: Table, name: str) -> Candidate | None:
    table = document.table("models")
    files = []
    for format_name in table.keys():  # noqa: SIM118 - a Table is no dict
        if format_name not in FORMATS.values():
            raise table.error(
                f"unknown model format '{format_name}'",
                key=format_name,
                hint=nearest_hint(format_name, FORMATS.values()),
            )
        artifact = _artifact(table, format_name)
        assert artifact is not None
        files.append(ModelFile(format=format_name, artifact=artifact))
    return Candidate(name=name, files=tuple(files)) if files else None


def _check_items(document: Table, inputs: Artifact, per_item: dict[str, Artifact | None]) -> None:
    """Refuse files whose numbers of items differ: every later figure would compare wrong pairs."""
    counts = {"inputs": _items(document, "inputs", inputs)}
    for key, artifact in per_item.items():
        if artifact:
            counts[key] = _items(document, key, artifact)
            if counts[key] != counts["inputs"]:
                raise document.error(f"{counts['inputs']} inputs but {counts[key]} {key}", key=key)


def _check_numbers(document: Table, key: str, artifact: Artifact | None) -> None:
    """One whole number per item; any other shape would be compared with the wrong things."""
    if artifact is None:
        return
    values = next(iter(_arrays(document, key, artifact).values()))
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0:
        raise document.error(
            f"{key} have shape {values.shape} and type {values.dtype}",
            key=key,
            hint=f"save one whole number from 0 up per item: np.save('{key}.npy', numbers)",
        )


def _items(document: Table, key: str, artifact: Artifact) -> int:
    arrays = _arrays(document, key, artifact)
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise document.error(f"the arrays of {artifact.name!r} have no common items", key=key)
    return counts.pop()


def _arrays(document: Table, key: str, artifact: Artifact) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an .npz, or the one of an .npy under the key's name."""
    try:
        with artifact.path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return {key: loaded}
            return {name: np.asarray(loaded[name]) for name in loaded.files}
    except Exception as error:  # zip, zlib, tokenizer, header: numpy lets anything through
        raise document.error(f"{artifact.name!r} is no numpy file: {error}", key=key) from error


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
