"""Tiny models, a private lab to run them in, and the command line as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import farm.cli

FARM = (sys.executable, "-m", "farm.cli")
ITEMS, WIDTH, CLASSES = 24, 4, 3
SEED = 20240229
WEIGHTS = np.random.default_rng(SEED).standard_normal((WIDTH, CLASSES)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What stdout carries, which must be one JSON document and nothing else, without NaN."""
        found: dict[str, Any] = json.loads(self.out, parse_constant=_refuse)
        return found

    @property
    def complaint(self) -> str:
        """What a person is told went wrong; one line, and one of advice, wherever it stands."""
        assert "Traceback" not in self.err + self.out
        where = self.err or self.out[self.out.index("\njob ") :]
        other = ("note: ", "skipped: ")
        lines = [line for line in where.strip().splitlines() if not line.startswith(other)]
        assert 1 <= len(lines) <= 2, f"a complaint of {len(lines)} lines:\n{where}"
        assert "mistake in the farm" not in where
        return where


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Builds ONNX files of one chain of operators over items of four numbers."""

    folder: Path

    def good(self, name: str = "good.onnx") -> Path:
        """`y = x @ W`: gets every item of the lab's workload right."""
        return self.chain(name, ["MatMul", "x", "w"], w=WEIGHTS)

    def confused(self, name: str) -> Path:
        """Does the same work as the good one and is wrong about every item's class."""
        return self.chain(name, ["MatMul", "x", "w"], w=-WEIGHTS)

    def shifted(self, name: str, by: float) -> Path:
        """A model whose answers are all the same: NaN or an infinity."""
        shift = np.full(CLASSES, by, np.float32)
        return self.chain(name, ["MatMul", "x", "w"], ["Add", "", "shift"], w=WEIGHTS, shift=shift)

    def narrow(self, name: str) -> Path:
        """A model for items of five numbers."""
        return self.chain(name, ["Relu", "x"], shape=("batch", WIDTH + 1))

    def free(self, name: str, inner: str | None) -> Path:
        """A model whose second dimension is free, and without a name if `inner` is None."""
        return self.chain(name, ["Relu", "x"], shape=("batch", inner))

    def alien(self, name: str) -> Path:
        """A model with an operator that no runtime knows."""
        return self.chain(name, ["Mystery", "x"], domain="org.example")

    def renamed(self, name: str, x: str) -> Path:
        """A model whose input has another name than the lab's workload."""
        return self.chain(name, ["Relu", x], x=x)

    def texts(self, name: str) -> Path:
        """A model that answers texts."""
        return self.chain(name, ["Cast", "x"], attributes={"to": TensorProto.STRING})

    def tables(self, name: str) -> Path:
        """A model that answers a table per item, as exported classical models do."""
        classes = {"classlabels_int64s": range(WIDTH)}
        return self.chain(name, ["ZipMap", "x"], domain="ai.onnx.ml", attributes=classes)

    def chain(
        self,
        name: str,
        *nodes: Sequence[str],
        x: str = "x",
        shape: Sequence[int | str | None] = ("batch", WIDTH),
        domain: str = "",
        attributes: dict[str, Any] | None = None,
        **constants: np.ndarray,
    ) -> Path:
        """Operators with their inputs, each; an empty input is the output of the one before."""
        made = []
        for index, (operator, *inputs) in enumerate(nodes):
            output = "y" if index == len(nodes) - 1 else f"h{index}"
            inputs = [word or f"h{index - 1}" for word in inputs]
            made.append(
                helper.make_node(operator, inputs, [output], domain=domain, **(attributes or {}))
            )
        graph = helper.make_graph(
            made,
            "tiny",
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
            [onnx.ValueInfoProto(name="y")],
            [numpy_helper.from_array(values, key) for key, values in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17)]
        opsets += [helper.make_opsetid(domain, 1)] if domain else []
        path = self.folder / name
        path.write_bytes(
            helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        )
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """An inventory, suites, models and a workload in a folder of their own."""

    folder: Path
    models: Models = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", Models(folder=self.folder))

    def inventory(self, *devices: str, **more: str) -> str:
        """`local`, `phone-1`, ... as their names say; `more` are names with fields as written."""
        lines = ["schema: farm.inventory/1", "devices:"]
        for name in devices:
            kind, _, seed = name.partition("-")
            address = f"virtual://{kind}?seed={seed}" if seed else f"{kind}://"
            lines.append(f"  {name}: {{type: {kind}, address: '{address}'}}")
        lines += [f"  {name}: {{{fields}}}" for name, fields in more.items()]
        return self.write("inventory.yaml", "\n".join(lines))

    def suite(self, *measures: str, margins: dict[str, str] | None = None, **keys: Any) -> str:
        """A suite `quick` with short windows, and its policy if a gate is to decide by margins."""
        load = {"min_duration_s": 0.02, "min_queries": 8, "warmup_s": 0.02}
        load |= keys.pop("load", {})
        head = "schema: farm.suite/1\nname: quick\ndescription: for tests\n"
        if margins:
            rules = {metric: {"gate": True, "margin": margin} for metric, margin in margins.items()}
            policy = f"schema: farm.policy/1\nblocks: 5\nmetrics: {json.dumps(rules)}\n"
            self.write("quick.policy.yaml", policy)
        body = {"measure": measures, "repeats": 2, "load": load, **keys}  # JSON is YAML
        lines = (f"{key}: {json.dumps(value)}\n" for key, value in body.items())
        return self.write("quick.yaml", head + "".join(lines))

    def workload(self) -> str:
        """A folder with labelled items that the good model gets right."""
        home = self.folder / "task"
        home.mkdir(exist_ok=True)
        x = np.random.default_rng(SEED).standard_normal((ITEMS, WIDTH)).astype(np.float32)
        np.savez(home / "inputs.npz", x=x)
        np.save(home / "labels.npy", (x @ WEIGHTS).argmax(axis=1))
        text = "schema: farm.workload/1\nname: task\ninputs: inputs.npz\nlabels: labels.npy\n"
        self.write("task/workload.yaml", f"{text}metric: accuracy.top1\n")
        return str(home)

    def write(self, name: str, content: str | bytes) -> str:
        """A file in the lab; returns its path."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with one virtual phone, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FARM_DEBUG", raising=False)
    made = Lab(folder=tmp_path)
    made.inventory("phone-1")
    return made


@pytest.fixture
def command(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs a command line in this process."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["farm", *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            farm.cli.main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return Ran(code=int(str(code or 0)), out=out, err=err)

    return run


@pytest.fixture
def process(lab: Lab) -> Callable[..., Ran]:
    """Runs a command line, or another program, in a process of its own."""

    def run(*words: object, program: Sequence[str] = FARM, **options: Any) -> Ran:
        done = subprocess.run(
            [*program, *map(str, words)],
            capture_output=True,
            cwd=lab.folder,
            timeout=120,
            check=False,
            **options,
        )
        return Ran(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    return run


@pytest.fixture
def sabotage(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has every process that is to run a model on the local device run some Python first.

    There, `starts` is how many such processes there were before.
    """

    def plant(deed: str) -> None:
        (lab.folder / "sabotage").mkdir()
        lab.write(
            "sabotage/sitecustomize.py",
            "import os, pathlib, sys\n"
            "if sys.orig_argv[-1].startswith('{'):\n"
            "    count = pathlib.Path(__file__).with_name('starts')\n"
            "    starts = count.stat().st_size if count.exists() else 0\n"
            "    count.write_text('.' * (starts + 1))\n"
            + "".join(f"    {line}\n" for line in deed.splitlines()),
        )
        monkeypatch.setenv("PYTHONPATH", str(lab.folder / "sabotage"), prepend=os.pathsep)

    return plant
