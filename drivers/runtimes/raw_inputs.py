"""A workload's inputs as plain bytes, for a runner that knows no .npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farm.errors import ConfigError
from farm.model import Artifact
from farm.shell import cache_folder, made_once

TYPES = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawInput:
    """One input of the model over all items.

    Attributes:
        name: as the model has it.
        form: type and shape of one item: `float32:1x49x10x1`.
        data: every item, one after another, little-endian.
    """

    name: str
    form: str
    data: Artifact


def raw_inputs(inputs: Artifact) -> tuple[RawInput, ...]:
    """Unpack an .npz into one file per input, once per content.

    Raises:
        ConfigError: it holds something else than numbers.
    """
    folder = made_once(
        cache_folder() / "inputs" / inputs.sha256, lambda made: _unpack(inputs.path, made)
    )
    forms = json.loads((folder / "forms.json").read_text())
    return tuple(
        RawInput(name=name, form=form, data=Artifact.of(folder / f"{index}.raw"))
        for index, (name, form) in enumerate(forms)
    )


def _unpack(source: Path, folder: Path) -> None:
    forms = []
    with np.load(source, allow_pickle=False) as arrays:
        for index, name in enumerate(arrays.files):
            values = arrays[name]
            if values.dtype.name not in TYPES or values.ndim == 0:
                raise ConfigError(
                    f"input '{name}' of type {values.dtype} cannot be sent as plain numbers",
                    hint="use the runtime ort_python for it",
                )
            shape = "x".join(str(size) for size in (1, *values.shape[1:]))
            forms.append((name, f"{values.dtype.name}:{shape}"))
            little_endian = values.astype(values.dtype.newbyteorder("<"), order="C", copy=False)
            little_endian.tofile(folder / f"{index}.raw")
    (folder / "forms.json").write_text(json.dumps(forms))
