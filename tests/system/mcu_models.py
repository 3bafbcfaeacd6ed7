"""Builds the source of a model for this machine, so that sanitizers watch it run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from drivers.mcu import codegen
from drivers.mcu.arena import Arranged, arrange
from drivers.mcu.building import improve
from drivers.mcu.fusing import fuse
from drivers.mcu.linking import SOURCES
from drivers.mcu.source import parse
from farm.model import Artifact

SANE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")
_MAIN = """
#include <stdio.h>
void farm_model(const void *in, void *out);
static _Alignas(8) unsigned char in[%d], out[%d];
int main(void)
{
    while (fread(in, sizeof in, 1, stdin) == 1) {
        farm_model(in, out);
        fwrite(out, sizeof out, 1, stdout);
    }
    return 0;
}
"""


def source(model: Path, folder: Path) -> Arranged:
    """The source of a model, as the farm improves it."""
    text = codegen.generate(model.name, fuse(Artifact.of(model)), folder)
    return arrange(parse(improve(text), codegen.ENTRY))


def run(model: Path, folder: Path, inputs: np.ndarray) -> np.ndarray:
    """What a model computes from inputs, each of batch 1; the first axis counts them."""
    fused = fuse(Artifact.of(model))
    (folder / "model.c").write_text(source(model, folder).text)
    (folder / "main.c").write_text(_MAIN % (fused.inputs[0].bytes, fused.outputs[0].bytes))
    program = folder / "program"
    command = ["gcc", "-O1", "-w", "-std=gnu11", "-ffreestanding", "-ffp-contract=off", *SANE]
    command += [f"-I{SOURCES}", str(folder / "model.c"), str(folder / "main.c")]
    command += [str(SOURCES / "floating.c"), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    done = subprocess.run(
        [str(program)], input=inputs.tobytes(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    given = np.frombuffer(done.stdout, fused.outputs[0].dtype)
    return given.reshape(len(inputs), *fused.outputs[0].shape)
