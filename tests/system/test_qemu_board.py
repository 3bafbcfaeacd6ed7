"""The farm's firmware on emulated boards: models, restarts, power, and an end without leftovers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from drivers.lines.uart import UartLine
from drivers.mcu.building import build_image
from drivers.mcu.client import Board, Hello
from drivers.mcu.firmware import build_firmware
from drivers.mcu.image import Cpu
from drivers.mcu.toolchain import find_toolchain
from drivers.virtual.mcu import Unit, VirtualMcu
from drivers.virtual.mcu_control import control
from drivers.virtual.mcu_power import VirtualMcuPower
from drivers.virtual.qemu_board import PROGRAM
from farm.errors import ConfigError, ConnectionLost, DeviceRebooted, InfraError
from farm.model import Address, Artifact, Device

CPUS = {
    "mps2-an385": Cpu.CORTEX_M3,
    "mps2-an386": Cpu.CORTEX_M4F,
    "mps2-an500": Cpu.CORTEX_M7,
    "mps3-an547": Cpu.CORTEX_M55,
}
GONE_S = 10.0
INFER_S = 120.0
"""Of the board's time, which runs a hundred times slower than its processor."""
ITEMS = 2

Make = Callable[..., Unit]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Firmware and images are built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _needs(cache: Path, lacks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if not shutil.which(PROGRAM):
        lacks(f"{PROGRAM} is missing: apt-get install qemu-system-arm")
    try:
        find_toolchain()
    except ConfigError as error:
        lacks(f"{error}: apt-get install gcc-arm-none-eabi")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Switches boards on, and off again at the end."""
    made: list[Unit] = []

    def switch_on(board: str = "mps2-an386", *, options: str = "", folder: str = "board") -> Unit:
        made.append(Unit(device_at(board, options), tmp_path / folder))
        return made[-1]

    yield switch_on
    for unit in made:
        unit.switch_off()


def device_at(board: str = "mps2-an386", options: str = "") -> Device:
    address = Address.parse(f"virtual-mcu://{board}?engine=qemu{options}")
    return Device(name="m4", type="t", address=address)


@contextmanager
def connected(unit: Unit) -> Iterator[Board]:
    device = replace(device_at(), address=unit.address, options=unit.options)
    with closing(UartLine(device)) as line:
        yield Board(line)


def processes(folder: Path) -> list[int]:
    """The emulators, and shells that watch over them, whose command names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if PROGRAM.encode() in words and os.fsencode(folder) in words:
            found.append(int(path.parent.name))
    return found


def install(board: Board, digits: Path, *, slot: int = 0, confirm: bool = True) -> Hello:
    """Put the digits model into a slot and start it."""
    hello = board.hello()
    built = build_image(Artifact.of(digits / "int8.onnx"), hello.target(slot))
    board.write(slot, built.image, max_payload=hello.max_payload)
    board.commit(slot)
    started = board.reset()
    if confirm:
        board.confirm()
    return started


def instructions(board: Board, digits: Path) -> list[int]:
    """What each of some items takes, twice; every output must be that of the controller."""
    code = (digits / "int8.onnx").read_bytes()
    session = onnxruntime.InferenceSession(code, providers=["CPUExecutionProvider"])
    (fed,) = session.get_inputs()
    hello = board.hello()
    found = []
    for item in np.load(digits / "inputs.npz")[fed.name][:ITEMS]:
        (want,) = session.run(None, {fed.name: item[None]})
        board.give(item.tobytes(), max_payload=hello.max_payload)
        ran = board.infer(count=2, timeout_s=INFER_S)
        assert board.output(want.nbytes, max_payload=hello.max_payload) == want.tobytes()
        counted = {round(ticks / hello.tick_hz * 1e9 / 2**7) for ticks in ran.ticks}
        assert len(counted) == 1
        found += counted
    return found


@pytest.mark.parametrize("name", CPUS)
def test_a_model_runs_on_every_board_and_survives_the_power_cut(
    make: Make, digits: Path, name: str
) -> None:
    unit = make(name)
    with connected(unit) as board:
        hello = install(board, digits)
        assert (hello.board, hello.cpu) == (name, CPUS[name])
        counted = instructions(board, digits)
        control(dict(unit.options)["control"], {"power": "cycle"})
        again = board.back()
        assert (again.running, again.confirmed, again.cause) == (0, 0, "power")
        assert again.boots == hello.boots + 1
        assert instructions(board, digits) == counted


def test_a_trial_does_not_survive_the_power_cut(make: Make, digits: Path) -> None:
    unit = make()
    with connected(unit) as board:
        install(board, digits)
        trial = install(board, digits, slot=1, confirm=False)
        assert (trial.running, trial.pending) == (1, 1)
        control(dict(unit.options)["control"], {"power": "cycle"})
        again = board.back()
        assert (again.running, again.pending, again.rollbacks) == (0, None, 1)


def test_eight_boards_at_once_count_what_one_counts(make: Make, digits: Path) -> None:
    units = [make(folder=f"board-{number}") for number in range(8)]

    def count(unit: Unit) -> list[int]:
        with connected(unit) as board:
            install(board, digits)
            return instructions(board, digits)

    alone = count(units[0])
    with ThreadPoolExecutor(len(units) - 1) as pool:
        assert list(pool.map(count, units[1:])) == [alone] * 7


def test_the_power_switch_cuts_the_line_and_brings_it_back(make: Make) -> None:
    unit = make()
    power = VirtualMcuPower(replace(device_at(), options=unit.options))
    with connected(unit) as board:
        before = board.hello()
        power.off()
        power.off()
        with pytest.raises(ConnectionLost):
            board.echo(b"lost")
        assert not Path(unit.address.place).is_symlink()
        power.on()
        power.on()
        assert board.back().boots == before.boots + 1


def test_an_emulator_that_dies_is_a_line_that_vanishes_until_the_power_is_switched(
    make: Make, tmp_path: Path
) -> None:
    unit = make()
    power = VirtualMcuPower(replace(device_at(), options=unit.options))
    with connected(unit) as board:
        for pid in processes(tmp_path):
            if Path(f"/proc/{pid}/comm").read_text().startswith("qemu"):
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            board.echo(b"lost")
        power.on()
        assert board.back().cause == "power"


def test_another_firmware_is_launched_and_a_file_that_is_none_is_refused(
    make: Make, tmp_path: Path
) -> None:
    unit = make()
    path = dict(unit.options)["control"]
    other = tmp_path / "with, comma -kernel.elf"
    other.write_bytes(build_firmware("mps2-an386").read_bytes())
    with connected(unit) as board:
        before = board.hello()
        control(path, {"kernel": str(other)})
        with pytest.raises(ConnectionLost):
            board.echo(b"for the one before")
        with pytest.raises(DeviceRebooted):
            board.echo(b"for the one before")
        assert board.hello().boots == before.boots + 1
        for nonsense in (tmp_path / "missing", Path(__file__)):
            with pytest.raises(InfraError, match="does not run") as caught:
                control(path, {"kernel": str(nonsense)})
            assert str(nonsense) in caught.value.message
        control(path, {"power": "on"})  # with the firmware that ran last
        assert board.back().boots > before.boots


def test_a_debugger_finds_the_board(make: Make, tmp_path: Path) -> None:
    unit = make(options="&gdb=1")
    options = dict(unit.options)
    assert options["flash"] == "gdb"
    elf = Artifact.of(build_firmware("mps2-an386"))
    device = replace(device_at(), address=unit.address, options=unit.options)
    with closing(UartLine(device)) as line:
        line.flash(elf)
        assert Board(line).hello().board == "mps2-an386"


def test_a_folder_of_any_name_and_no_leftovers(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "a,b=c 'd\" $(id)ü"
    unit = Unit(device_at(), folder)
    with connected(unit) as board:
        assert board.echo(b"here") == b"here"
    assert len(processes(folder / "flash")) == 0  # its comma is doubled
    assert len(processes(tmp_path)) == 2
    unit.switch_off()
    assert processes(tmp_path) == []
    assert zombies() == []


def zombies() -> list[str]:
    """Children of this process that nobody waited for."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in path.read_text().split()]
    return [stat for stat in stats if stat.rpartition(")")[2].split()[0] == "Z"]


CONTROLLER = """
import sys, time
from drivers.virtual.mcu import VirtualMcu
from farm.model import Address, Device
address = Address.parse(f"virtual-mcu://?engine=qemu&root={sys.argv[1]}")
VirtualMcu.start(Device(name="m4", type="t", address=address))
print("on", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_nothing_outlives_its_controller(tmp_path: Path, end: str) -> None:
    argv = [sys.executable, "-c", CONTROLLER, str(tmp_path), "0" if end == "ended" else "600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "on\n"
        if end == "killed":
            assert len(processes(tmp_path / "flash")) == 2
            controller.kill()
        controller.wait(60)
    deadline = time.monotonic() + GONE_S
    while processes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes(tmp_path) == []
    device = VirtualMcu.start(replace(device_at(options=f"&root={tmp_path}"), name=end))
    with closing(UartLine(device)) as line:
        assert Board(line).hello().boots == 2
