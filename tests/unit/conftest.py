"""What several readers' tests share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from farm.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A reader's complaint, taken apart."""

    line: int
    text: str
    hint: str


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., Refusal]:
    """Has a reader read what it must refuse; every complaint has the form `file:line: one line`."""

    def refuse(reader: Callable[[Path], object], content: str | bytes) -> Refusal:
        path = tmp_path / "document.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ConfigError) as caught:
            reader(path)
        message = caught.value.message
        form = re.fullmatch(rf"{re.escape(str(path))}:(\d+): (.+)", message)
        assert form, f"not of the form 'file:line: one line': {message!r}"
        assert str(path) not in form[2], f"names its file twice: {message!r}"
        assert "\n" not in caught.value.hint
        return Refusal(line=int(form[1]), text=form[2], hint=caught.value.hint)

    return refuse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workload folder with everything in it, six items; the same that `refusal` reads in."""
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "inputs.npz", x=rng.normal(size=(6, 4)), mask=np.ones((6, 2)))
    np.save(tmp_path / "labels.npy", np.arange(6) % 3)
    np.savez(tmp_path / "reference.npz", y=rng.normal(size=(6, 3)))
    (tmp_path / "model.onnx").write_bytes(b"a model")
    (tmp_path / "workload.yaml").write_text(
        "schema: farm.workload/1\n"
        "name: digits\n"
        "inputs: inputs.npz\n"
        "labels: labels.npy\n"
        "reference: reference.npz\n"
        "metric: accuracy.top1\n"
        "models:\n"
        "  onnx: model.onnx\n"
    )
    return tmp_path
