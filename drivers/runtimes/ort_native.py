"""A native runner (`drivers/ondevice/ort_runner`) with a libonnxruntime: no Python on the board."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from drivers.runtimes.compiled_models import RECIPES, CompiledModel, Recipe
from drivers.runtimes.device_options import read_provider_options, read_sync_gpio
from drivers.runtimes.fresh_process import Ran, run_to_its_end
from drivers.runtimes.native_build import build_runner
from drivers.runtimes.ort_deployment import OrtDeployment
from drivers.runtimes.ort_library import find_library
from drivers.runtimes.raw_inputs import raw_inputs
from farm.connection import Transport
from farm.errors import ConfigError, DeviceError, Evidence, OutOfSpace
from farm.metering import Metered
from farm.model import Artifact, Device, Load, Scenario, Workload
from farm.protocols import Deployment, Runtime
from farm.record import Fact, Measurement, Output
from farm.shell import COMMAND_S, script

FACTS_S = 300.0
"""Every accelerator is tried, and some take long to wake up."""
COMPILE_S = 3600.0
COPY_S = 120.0
ON_THE_BOARD = "board:"

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}
"""Other names for what `native_build` calls by one."""

# Prints the kernel's architecture, the bits of the system, and `android` where its loader lies. A
# 64-bit kernel may carry a 32-bit system, as on many Raspberry Pis and small phones.
_MACHINE = """
uname -m
if [ -e /system/bin/linker64 ]; then echo 64 android
elif [ -e /system/bin/linker ]; then echo 32 android
else getconf LONG_BIT 2>/dev/null
fi
"""

# $1: the folder of the library, then the command. Android looks nowhere else for what the library
# needs or opens by name, and its signal processor has a path of its own.
_AMID_LIBRARIES = """
export LD_LIBRARY_PATH="$1" ADSP_LIBRARY_PATH="$1"
shift
exec "$@"
"""

# $1: folder of all libraries, $2: folder of this one, $3: how many stay; then pairs of a name and
# the file that it stands for. Links are hard ones, for some providers look for their parts beside
# what a soft link points to. Where links cannot be, or Android forbids them, there are copies; a
# file under its own name is whole.
_LINK = """
mkdir -p "$1/$2" && cd "$1" && touch "$2" || exit 1
ls -1t | tail -n "+$(($3 + 1))" | while read -r old; do rm -rf "./$old"; done
cd "$2" && shift 3 || exit 1
while [ $# -gt 1 ]; do
  ln -f "$2" "./$1" 2>/dev/null || [ -e "./$1" ] || {
    cp "$2" "./$1.part" && mv -f "./$1.part" "./$1"
  } || exit 1
  shift 2
done
"""
KEPT = 2
"""Versions of the library that stay on a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """What a device must have a program and a library for."""

    architecture: str
    android: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """Runner and library as they lie on the device; `identity` changes when the library does."""

    runner: str
    library: str
    identity: str
    android: bool

    def command(self, mode: str) -> tuple[str, ...]:
        command = (self.runner, mode, "--library", self.library)
        if not self.android:
            return command
        return script(_AMID_LIBRARIES, str(PurePosixPath(self.library).parent), *command)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What every run of a deployment is told."""

    model: PurePosixPath
    accelerator: str
    cpus: tuple[int, ...] = ()
    inputs: tuple[tuple[str, str, str], ...] = ()
    dimensions: tuple[tuple[str, int], ...] = ()
    provider_options: dict[str, str] = field(default_factory=dict)

    def words(self, model: PurePosixPath, recipe: Recipe) -> tuple[str, ...]:
        """As arguments: names and values are words of their own, so that they may hold anything."""
        words = ["--model", str(model), "--accelerator", self.accelerator]
        if self.cpus:
            words += ["--cpus", ",".join(map(str, self.cpus))]
        for name, path, form in self.inputs:
            words += ["--input", name, path, form]
        for name, size in self.dimensions:
            words += ["--dim", name, str(size)]
        for name, value in {**recipe.provider_options, **self.provider_options}.items():
            words += ["--ep-option", name, value]
        for name, value in recipe.configs.items():
            words += ["--config", name, value]
        return tuple(words)


class OrtNative(Runtime):
    """Runs ONNX models where there is a C library (glibc 2.28, Android 7, or newer), nothing else.

    Options of the device:
        ort_library: the libonnxruntime to use: a .so, .whl or .aar on the controller, or
            `board:/path` for one that the board has, such as its maker's; otherwise that of the
            official wheel, which there is for Linux only.
        cpus: the processors to stay on: `4-7`.
        ep_options: for the execution provider that is asked for first: `device_id=0 other=1`.
        sync_gpio: the pin that is wired to the device's meter: `/dev/gpiochip0:17`, or
            `/dev/gpiochip0:!17` if it is active low.
    """

    options: ClassVar[tuple[str, ...]] = ("ort_library", "cpus", "ep_options", "sync_gpio")
    meterable: ClassVar[bool] = True
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    scenarios: ClassVar[tuple[Scenario, ...]] = (Scenario.SINGLE_STREAM,)

    @classmethod
    def check(cls, device: Device) -> None:
        """Refuse a pin that is none, and a wire without one."""
        read_sync_gpio(device)

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._program: _Program | None = None

    def facts(self) -> tuple[Fact, ...]:
        """Versions, and `accelerators` that ran a tiny model; of others why not (`unusable`)."""
        words: tuple[str, ...] = ()
        for name, value in read_provider_options(self._transport.device).items():
            words += ("--ep-option", name, value)
        command = (*self._installed().command("facts"), *words)
        done = self._transport.run(command, timeout_s=FACTS_S)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            told = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise DeviceError(
                f"the native runner does not run there: {told[0]}",
                hint="compare the board's C library and ort_library in the inventory",
                evidence=[Evidence(name="stderr", text=done.stderr)],
            ) from None
        return tuple(Fact(name=name, value=str(value)) for name, value in found.items())

    def deploy(self, model: Artifact, workload: Workload, *, accelerator: str) -> Deployment:
        """Push runner, library, model and inputs; what is there already is not pushed again."""
        install, device = self._transport.install, self._transport.device
        raw = raw_inputs(workload.inputs) if workload.inputs else ()
        settings = _Settings(
            model=install(model),
            accelerator=accelerator,
            cpus=device.cpus(),
            inputs=tuple((entry.name, str(install(entry.data)), entry.form) for entry in raw),
            dimensions=() if raw else workload.dimensions,
            provider_options=read_provider_options(device),
        )
        return _NativeDeployment(self._transport, self._installed(), settings)

    def _installed(self) -> _Program:
        """Runner and library on the device, once per session."""
        transport = self._transport
        if transport.simulated:
            raise ConfigError(
                "the native runner needs a real device: time is not real on this one",
                device=transport.device.name,
                hint="use the runtime ort_python for it",
            )
        if self._program is None:
            machine = _machine(transport)
            built = build_runner(machine.architecture, android=machine.android)
            runner = transport.install(built)
            transport.run(("chmod", "755", str(runner)), timeout_s=COMMAND_S)
            library, identity = _install_library(transport, machine)
            self._program = _Program(
                runner=str(runner), library=library, identity=identity, android=machine.android
            )
        return self._program


class _NativeDeployment(OrtDeployment):
    def __init__(self, transport: Transport, program: _Program, settings: _Settings) -> None:
        super().__init__(
            transport, accelerator=settings.accelerator, has_items=bool(settings.inputs)
        )
        self._program = program
        self._settings = settings
        self._model = settings.model
        recipe = RECIPES.get(settings.accelerator.partition("+")[0])
        self._compiled = None
        self._recipe = Recipe()
        if recipe:
            self._compiled = CompiledModel(transport=transport, key=self._key())
            self._recipe = recipe(self._compiled.folder)
        self._prepared = recipe is None

    def prepare(self) -> tuple[Measurement, ...]:
        """Compile for an accelerator that needs it, unless the device has it compiled."""
        if self._prepared or self._compiled is None:
            return ()
        measured: tuple[Measurement, ...] = ()
        model = self._compiled.find(self._settings.model)
        if model is None:
            measured = (self._compile(self._compiled),)
            model = self._compiled.find(self._settings.model)
        # From now on the session is told where the cache is, but not to make one.
        self._recipe = Recipe(provider_options=self._recipe.provider_options)
        self._model = model or self._settings.model
        self._prepared = True
        return measured

    def _compile(self, compiled: CompiledModel) -> Measurement:
        compiled.begin()
        with run_to_its_end(
            self._transport,
            self._command("compile", load=Load()),
            accelerator=self._accelerator,
            limit_s=COMPILE_S,
        ) as ran:
            seconds = (ran.result["load_ns"] + ran.result["first_ns"]) / 1e9
        compiled.finish()
        return Measurement(metric="compile.seconds", unit="s", value=seconds)

    def _key(self) -> str:
        settings = self._settings
        parts = (settings.model.name, self._program.identity, settings.accelerator)
        options = sorted(settings.provider_options.items())
        return hashlib.sha256(repr((parts, options)).encode()).hexdigest()[:32]

    def _command(
        self,
        mode: str,
        *,
        load: Load,
        quiet_pace_ns: float | None = None,
        metered: Metered | None = None,
    ) -> tuple[str, ...]:
        words = self._settings.words(self._model, self._recipe)
        command = (*self._program.command(mode), *words, "--threads", str(load.threads))
        if mode == "measure":
            command += ("--warmup", f"{load.warmup_s:g}", "--min-queries", str(load.min_queries))
            command += ("--min-duration", f"{load.min_duration_s:g}")
            command += ("--max-duration", f"{load.max_duration_s:g}")
            command += ("--quiet-pace-ns", repr(quiet_pace_ns or 0.0))
        if metered:
            command += ("--idle", f"{metered.idle_s:g}", "--chip", f"{metered.chip_s:g}")
        if metered and metered.wire:
            command += ("--gpio", read_sync_gpio(self._transport.device))
        return command

    def _outputs(self, ran: Ran) -> tuple[Output, ...]:
        names = ran.result["outputs"]
        files = [ran.fetch(f"output-{index}.npy") for index in range(len(names))]
        return tuple(
            Output(name=name, values=np.load(path, allow_pickle=False))
            for name, path in zip(names, files, strict=True)
        )


def _machine(transport: Transport) -> _Machine:
    told = transport.run(script(_MACHINE), timeout_s=COMMAND_S).stdout.split()
    name = told[0] if told else ""
    architecture = ARCHITECTURES.get(name, name)
    if architecture == "aarch64" and told[1:2] == ["32"]:
        architecture = "armv7l"
    return _Machine(architecture=architecture, android=told[2:] == ["android"])


def _install_library(transport: Transport, machine: _Machine) -> tuple[str, str]:
    """Path of the library on the device, and what identifies it."""
    option = transport.device.option("ort_library")
    if option.startswith(ON_THE_BOARD):
        return _library_of_the_board(transport, option.removeprefix(ON_THE_BOARD))
    files = find_library(option, machine.architecture, android=machine.android)
    artifacts = [Artifact.of(path) for path in files]
    identity = hashlib.sha256(repr([(a.name, a.sha256) for a in artifacts]).encode()).hexdigest()
    # The runtime looks for its providers beside itself and by name, the store knows only digests.
    libraries, name = transport.root / "libraries", identity[:32]
    pairs = [word for a in artifacts for word in (a.name, str(transport.install(a)))]
    link = script(_LINK, str(libraries), name, str(KEPT), *pairs)
    done = transport.run(link, timeout_s=COPY_S)
    if done.returncode:
        raise OutOfSpace(
            f"cannot put the library into {libraries}: {done.stderr.strip()}",
            hint="make room on the device",
        )
    return str(libraries / name / artifacts[0].name), identity


def _library_of_the_board(transport: Transport, path: str) -> tuple[str, str]:
    found = transport.run(("ls", "-lnL", path), timeout_s=COMMAND_S)
    if not path.startswith("/") or found.returncode:
        raise ConfigError(
            f"the board has no library '{path}'",
            device=transport.device.name,
            hint="give its whole path: 'ort_library: board:/usr/lib/libonnxruntime.so'",
        )
    return path, found.stdout.strip()
