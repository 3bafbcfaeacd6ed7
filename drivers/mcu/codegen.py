"""C source from a fused model, by emx-onnx-cgen."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from drivers.mcu.fusing import Fused
from farm.errors import ConfigError, Evidence, UnsupportedModel

ENTRY = "farm_model"
"""The name of the generated function that runs the model."""
GENERATE_S = 120.0
# By itself it takes memory from a heap and weights from a file; a board has neither.
_OPTIONS = ("--large-temp-threshold", "0", "--large-weight-threshold", "0", "--color", "never")
_OPERATOR = re.compile(r"Unsupported op ([\w.]+)")


def generator() -> str:
    """Name and version of what makes the source."""
    return f"emx-onnx-cgen {version('emx-onnx-cgen')}"


def generate(name: str, fused: Fused, folder: Path) -> str:
    """The C source of a model.

    In a process of its own, as a model that somebody else made must not take the farm's with it.

    Args:
        name: of the model, for people.
        fused: the model.
        folder: where files may be left.

    Raises:
        UnsupportedModel: it has an operator that cannot be generated.
        ConfigError: the generator is not installed or does not end.
    """
    model, source = folder / "fused.onnx", folder / "generated.c"
    model.write_bytes(fused.model.SerializeToString())
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", str(model), str(source)]
    command += ["--model-name", ENTRY, *_OPTIONS]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GENERATE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedModel(
            f"'{name}' cannot be built for a microcontroller: "
            f"its source is not made after {GENERATE_S:.0f} s"
        ) from error
    if "No module named" in done.stderr:
        raise ConfigError(
            "models for microcontrollers need emx-onnx-cgen",
            hint="pip install 'verdict-farm[mcu]'",
        )
    if done.returncode or not source.exists():
        raise _refused(name, done.stdout + done.stderr)
    return source.read_text()


def _refused(name: str, told: str) -> UnsupportedModel:
    found = _OPERATOR.search(told)
    reason = told.partition("Result: ")[2].strip().partition("\n")[0][:300]
    why = f"the operator {found[1]} is not supported" if found else reason or "no source is made"
    return UnsupportedModel(
        f"'{name}' cannot be built for a microcontroller: {why}",
        hint="replace the operator, or run this model on a device with onnxruntime",
        evidence=[Evidence(name="generator", text=told)],
    )
