"""The firmware itself on emulated boards: models, faults, hangs, power cycles, hostile bytes."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.lines.uart import UartLine
from drivers.mcu.client import Board, Hello, Refusal, Refused
from drivers.mcu.firmware import BUILDS, build, build_firmware
from drivers.mcu.image import HEADER_BYTES, Header
from drivers.mcu.toolchain import find_toolchain
from farm.errors import ConfigError, DeviceRebooted
from farm.model import Address, Device

pytestmark = pytest.mark.system

MEMORY = {"mps2-an385": "16M", "mps2-an386": "16M", "mps2-an500": "16M", "mps3-an547": "2G"}
INCREMENTS = bytes.fromhex("0278 0132 0a70 7047")  # output[0] = input[0] + 1
FAULTS = bytes.fromhex("00de")
HANGS = bytes.fromhex("fee7")
OVERFLOWS = bytes.fromhex("01b4 fde7")  # pushes for ever
LONG_LOOP = bytes.fromhex("4ff47a72 013a fdd1 7047")  # 1000 turns
TIMEOUT_S = 0.5


class Emulated:
    """A board in an emulator that can be switched off and on."""

    def __init__(self, machine: str, elf: Path, flash: Path | None) -> None:
        options = ["-icount", "shift=7", "-display", "none", "-monitor", "none"]
        if flash:
            memory = f"id=flash,size={MEMORY[machine]},mem-path={flash},share=on"
            machine += ",memory-backend=flash"
            options += ["-object", f"memory-backend-file,{memory}"]
        self._command = [
            "qemu-system-arm", "-M", machine, *options, "-serial", "pty", "-kernel", str(elf)
        ]  # fmt: skip
        self.on()

    def on(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = re.search(r"(/dev/pts/\d+)", self._process.stdout.readline())
        assert found
        device = Device(
            name="board", type="mcu", address=Address(scheme="uart", place=found[1])
        )  # fmt: skip
        self.line = UartLine(device)
        self.board = Board(self.line)

    def off(self) -> None:
        self.line.close()
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def emulate(
    lacks: Callable[[str], None], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Emulated]]:
    if not shutil.which("qemu-system-arm"):
        lacks("qemu-system-arm emulates the boards: apt install qemu-system-arm")
    started: list[Emulated] = []

    def emulate_(board: str, elf: Path | None = None, *, toolchain: str = "") -> Emulated:
        flash = tmp_path / "flash" if board in MEMORY else None
        elf = elf or build_firmware(board, toolchain=toolchain)
        started.append(Emulated(board, elf, flash))
        return started[-1]

    yield emulate_
    for machine in started:
        machine.off()


@pytest.fixture(autouse=True)
def _compiler(lacks: Callable[[str], None]) -> None:
    try:
        find_toolchain()
    except ConfigError as error:
        lacks(f"{error.message}: {error.hint}")


def image(hello: Hello, slot: int, code: bytes, name: str = "m") -> bytes:
    """A model that was written by hand."""
    target = hello.target(slot)
    body = code.ljust(16, b"\0") + b"DATA"
    return (
        Header(
            cpu=target.cpu, total_bytes=HEADER_BYTES + len(body), base=target.slot_address,
            entry=target.slot_address + HEADER_BYTES + 1, data_address=target.ram_address,
            data_load_address=target.slot_address + HEADER_BYTES + 16, data_bytes=4,
            bss_address=target.ram_address + 4, bss_bytes=1024, in_bytes=16, out_bytes=16,
            arena_bytes=512, model_sha256=b"\x22" * 32, name=name,
        ).pack()
        + body
    )  # fmt: skip


def try_out(board: Board, slot: int, code: bytes, name: str = "m") -> Hello:
    """Push a model and start it on trial."""
    hello = board.hello()
    board.write(slot, image(hello, slot, code, name), max_payload=hello.max_payload)
    board.commit(slot)
    return board.reset()


@pytest.mark.parametrize("name", MEMORY)
def test_a_board_lives_through_everything(name: str, emulate: Callable[..., Emulated]) -> None:
    machine = emulate(name)
    board = machine.board
    hello = board.hello()
    assert (hello.board, hello.boot, hello.cause, hello.ticks) == (name, 1, "power", "timer")
    assert hello.cpu == BUILDS[name].cpu
    big = random.Random(1).randbytes(hello.max_payload)
    assert board.echo(big) == big

    assert try_out(board, 0, INCREMENTS, "good").model == "good"
    board.confirm()
    board.give(bytes([41] * 16), max_payload=hello.max_payload)
    ran = board.infer(count=10)
    assert len(set(ran.ticks[1:])) <= 2  # the phase of the timer
    assert ran.stack_peak < 256
    assert board.output(16, max_payload=hello.max_payload)[0] == 42
    assert board.item(bytes([6] * 16), 16, max_payload=hello.max_payload)[0] == 7

    tried = try_out(board, 1, FAULTS, "faulty")
    with pytest.raises(DeviceRebooted) as caught:
        board.infer()
    fault = next(item.text for item in caught.value.evidence if item.name == "fault")
    pc = tried.slots[1].address + HEADER_BYTES
    assert f'"pc":{pc},' in fault
    assert '"cause":"usage"' in fault
    back = board.hello()
    assert (back.model, back.cause, back.rollbacks) == ("good", "fault", 1)
    assert back.last_fault is not None
    assert back.last_fault["pc"] == pc

    try_out(board, 1, HANGS)
    with pytest.raises(DeviceRebooted):
        board.infer(timeout_s=TIMEOUT_S)
    back = board.hello()
    assert (back.model, back.cause, back.rollbacks) == ("good", "watchdog", 2)

    machine.off()
    machine.on()
    again = machine.board.hello()
    assert (again.model, again.cause, again.boots) == ("good", "power", back.boots + 1)


@pytest.mark.parametrize("name", ["mps2-an385", "mps2-an500", "mps3-an547"])
def test_a_stack_that_overflows_is_a_fault_and_no_damage(
    name: str, emulate: Callable[..., Emulated]
) -> None:
    board = emulate(name).board
    try_out(board, 0, OVERFLOWS)
    with pytest.raises(DeviceRebooted) as caught:
        board.infer()
    fault = next(item.text for item in caught.value.evidence if item.name == "fault")
    assert ("memory" in fault) or ("usage" in fault)
    assert board.hello().rollbacks == 1


def test_instructions_are_counted_alike_in_every_run(emulate: Callable[..., Emulated]) -> None:
    counts = set()
    for _ in range(2):
        machine = emulate("mps2-an386")
        hello = try_out(machine.board, 0, LONG_LOOP)
        ticks = machine.board.infer(count=20).ticks
        counts |= {round(tick / hello.tick_hz * 1e9 / 128) for tick in ticks}
        machine.off()
    assert max(counts) - min(counts) <= 1
    assert 2000 < min(counts) < 2100


def test_a_restart_makes_requests_of_before_stale(emulate: Callable[..., Emulated]) -> None:
    machine = emulate("mps2-an386")
    board = machine.board
    board.hello()
    machine.line.exchange(b"\x06", timeout_s=5)
    with pytest.raises(DeviceRebooted):
        board.echo(b"from before")
    assert board.hello().boot == 2


def test_hostile_bytes_do_not_harm_a_board(emulate: Callable[..., Emulated]) -> None:
    machine = emulate("mps2-an386")
    board = machine.board
    try_out(board, 0, INCREMENTS)
    board.confirm()
    noise = random.Random(2)
    with Path(machine.line.device.address.place).open("wb", buffering=0) as port:
        for _ in range(300):
            port.write(noise.randbytes(1000) + b"\xa5\x5a" + noise.randbytes(20))
    assert board.back().running == 0
    assert board.echo(b"alive") == b"alive"


def test_firmware_of_the_other_compiler_runs_as_well(
    emulate: Callable[..., Emulated], lacks: Callable[[str], None]
) -> None:
    for toolchain in ("gcc", "zig"):
        try:
            find_toolchain(toolchain)
        except ConfigError as error:
            lacks(f"{error.message}: {error.hint}")
    board = emulate("mps2-an500", toolchain="zig").board
    assert try_out(board, 0, INCREMENTS).running == 0
    board.give(bytes(16), max_payload=1024)
    assert board.infer().ticks[0] > 0
    for toolchain in ("gcc", "zig"):  # nothing here can run these: they build and fit
        assert build_firmware("stm32f405", toolchain=toolchain).read_bytes()[:4] == b"\x7fELF"


def test_the_stm32_firmware_as_far_as_the_emulator_models_it(
    emulate: Callable[..., Emulated],
) -> None:
    flags = ("-DEMULATED", "-Wl,--defsym=EMULATED_RAM=0x20020000")
    elf = build(replace(BUILDS["stm32f405"], flags=flags), find_toolchain())
    board = emulate("netduinoplus2", elf).board
    hello = board.hello()
    assert (hello.board, hello.unit, hello.running) == ("stm32f405", "", None)
    assert [slot.bytes for slot in hello.slots] == [3 * (128 << 10)] * 2
    assert board.echo(bytes(range(256)) * 16) == bytes(range(256)) * 16
    with pytest.raises(Refused) as caught:  # flash memory is read-only in the emulator
        board.begin(0, bytes(1000))
    assert caught.value.refusal == Refusal.FLASH
    assert board.reset().boot == 2


def test_a_build_is_kept_and_a_failing_one_shows_the_complaint(tmp_path: Path) -> None:
    first = build_firmware("mps2-an386")
    assert build_firmware("mps2-an386") == first
    port = tmp_path / "port"
    shutil.copytree(BUILDS["mps2-an386"].port, port)
    (port / "broken.c").write_text("#error no such thing\n")
    with pytest.raises(ConfigError) as caught:
        build(replace(BUILDS["mps2-an386"], port=port), find_toolchain())
    assert "no such thing" in caught.value.evidence[0].text
