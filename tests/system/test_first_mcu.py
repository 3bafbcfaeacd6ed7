"""The first hour with a microcontroller as docs/first-mcu.md tells it, and its complaints."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serial
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import farm.cli
from drivers.lines.uart import UartLine
from drivers.mcu.client import Board, Hello, Refusal, Refused
from drivers.mcu.image import Cpu
from drivers.mcu.toolchain import find_toolchain
from drivers.mcu.wire import Kind
from drivers.runtimes import mcu_metered
from drivers.runtimes.mcu_blame import crashes_blamed, refusals_blamed
from drivers.runtimes.mcu_settings import read_settings
from drivers.runtimes.mcu_slots import Images, Slots
from drivers.serial_ports import port
from drivers.virtual.mcu import Unit
from drivers.virtual.mcu_control import control
from farm.errors import DeviceRebooted, FarmError
from farm.metering import Span, SpanKind
from farm.model import Address, Artifact, Device
from tests.system.emulated_boards import device, needs_emulator
from tests.system.serial_boards import UNIT, FrameBoard, PtyHost

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "first-mcu.md"
PAGES = (PAGE, ROOT / "docs" / "flashing-mcu.md")
BLANK = ".word 0x20010000\n.word 9\n.thumb\n.thumb_func\nstays: b stays\n"
TOOL = """#!{python}
import sys
sys.path.insert(0, {root!r})
from drivers.virtual.mcu_control import control
control({path!r}, {{"kernel": sys.argv[-1]}})
"""
"""Stands in for a probe's tool: puts a firmware on an emulated board."""

Complain = Callable[..., str]


def answered() -> dict[str, re.Pattern[str]]:
    """The messages in the pages' tables; an ellipsis stands for anything."""
    rows = []
    for page in PAGES:
        text = page.read_text()
        table = re.split(r"\n## (?:If|When) something is .*\n", text)[1].split("\n## ")[0]
        rows += [
            line.split("|")[1].strip().strip("`") for line in table.splitlines() if "|" in line
        ]
    return {
        row: re.compile(".+".join(map(re.escape, row.rstrip("…").split("…"))), re.DOTALL)
        for row in rows
        if row not in ("message", "---")
    }


def assert_answered(said: str, row: str) -> None:
    """The complaint is the one that was meant, and a page has an answer to it."""
    assert answered()[row].search(said), said


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Firmware and images are built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _patience(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drivers.lines.serial_line.MEET_S", 0.5)
    monkeypatch.setattr("drivers.lines.serial_line.RETURN_S", 0.2)


@pytest.fixture
def unit(tmp_path: Path, lacks: Callable[[str], None]) -> Iterator[Unit]:
    """An emulated board that is on."""
    needs_emulator(lacks)
    unit = Unit(device(), tmp_path / "unit")
    yield unit
    unit.switch_off()


@pytest.fixture
def played() -> FrameBoard:
    """A board that tells what a test wants."""
    return FrameBoard()


@pytest.fixture
def host(played: FrameBoard, tmp_path: Path) -> Iterator[PtyHost]:
    host = PtyHost(played, tmp_path / "line")
    yield host
    host.unplug()


def invoke(*words: str) -> str:
    """What a command says, whatever becomes of it; an error by its message and hint."""
    done = CliRunner().invoke(farm.cli.app, list(words))
    if isinstance(done.exception, FarmError):
        assert done.exception.hint, str(done.exception)
        return f"{done.exception}\n{done.exception.hint}"
    return " ".join(done.output.split())


@pytest.fixture
def complaint(tmp_path: Path) -> Complain:
    """What `farm doctor` or another command says of a board."""

    def complain(command: str = "doctor", **entry: object) -> str:
        lines = ["schema: farm.inventory/1", "devices:", "  b:", "    type: t"]
        known = {name: value for name, value in entry.items() if value}
        lines += [f"    {name}: {json.dumps(str(value))}" for name, value in known.items()]
        (tmp_path / "inventory.yaml").write_text("\n".join(lines) + "\n")
        return invoke(command, *([] if command == "check" else ["b"]))

    return complain


def write_tool(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def uart(place: object, **options: str) -> Device:
    address = Address(scheme="uart", place=str(place))
    return Device(name="b", type="t", address=address, options=tuple(options.items()))


class TestTheHour:
    def test_every_command_runs_as_written_on_a_board_that_is_blank(
        self, unit: Unit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("drivers.virtual.qemu_board.START_S", 0.3)
        path = dict(unit.options)["control"]
        control(path, {"kernel": str(blank(tmp_path))})
        text = TOOL.format(python=sys.executable, root=str(ROOT), path=path)
        tools = write_tool(tmp_path / "bin" / "pyocd", text).parent
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        page = PAGE.read_text()
        entry = page.split("```yaml\n")[1].split("```")[0]
        entry = re.sub(r"uart://\S+", f"uart://{unit.address.place}", entry)
        entry = entry.replace("board: stm32f405", "board: mps2-an386\n    simulated: true")
        (tmp_path / "inventory.yaml").write_text(f"schema: farm.inventory/1\n{entry}")
        assert "no board answers" in invoke("doctor", "desk-f405")
        hour = page.split("## If something is wrong")[0]
        commands = [line.split()[1:] for line in hour.splitlines() if line.startswith("    farm ")]
        said = {words[0]: invoke(*words) for words in commands}
        assert set(said) == {"check", "flash", "enroll", "doctor", "run"}
        assert "desk-f405 has " in said["flash"]
        assert "board: mps2-an386" in said["flash"]
        assert "nothing is pinned" in said["enroll"]
        assert "mcu with cpu" in said["doctor"]
        assert "NO " not in said["doctor"]
        assert "accuracy.top1" in said["run"]
        (job,) = farm.results(store=tmp_path / ".farm")["job_id"].unique()
        assert "COMPLETED" in invoke("job", "show", str(job))


def blank(folder: Path) -> Path:
    """A firmware that does nothing."""
    source, elf = folder / "blank.s", folder / "blank.elf"
    source.write_text(BLANK)
    tools = find_toolchain()
    command = [*tools.compile(Cpu.CORTEX_M4F), "-nostartfiles", "-Wl,-Ttext=0", "-Wl,-e,0"]
    tools.call([*command, str(source), *tools.link, "-o", str(elf)])
    return elf


class TestReaching:
    def test_a_place_that_is_none(self, complaint: Complain) -> None:
        said = complaint("check", address="uart://two words")
        assert_answered(said, "… names no serial port")

    def test_a_path_that_is_not_there(self, complaint: Complain) -> None:
        assert_answered(complaint(address="uart:///dev/no-such-port"), "… is not there")

    def test_a_port_that_is_not_allowed(
        self, complaint: Complain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise serial.SerialException(errno.EACCES, "Permission denied")

        monkeypatch.setattr(port.serial, "Serial", refuse)
        assert_answered(complaint(address="uart:///dev/ttyACM0"), "no right to open …")

    def test_a_port_in_use(self, complaint: Complain, host: PtyHost) -> None:
        with closing(UartLine(uart(host.place))):
            said = complaint(address=f"uart://{host.place}")
        assert_answered(said, "another program holds …")

    def test_a_number_that_nobody_has(self, complaint: Complain) -> None:
        row = "nothing with the serial number … is plugged in"
        assert_answered(complaint(address="uart://NONE0"), row)

    def test_a_number_that_two_have(
        self, complaint: Complain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def same() -> list[object]:
            found = [serial.tools.list_ports_common.ListPortInfo(f"/dev/ttyUSB{n}") for n in (0, 1)]
            for one in found:
                one.serial_number = "SAME0"
            return found

        monkeypatch.setattr("drivers.serial_ports.places.list_ports.comports", same)
        row = "… ports have the serial number …"
        assert_answered(complaint("check", address="uart://SAME0"), row)

    def test_it_is_silent(self, complaint: Complain, host: PtyHost, played: FrameBoard) -> None:
        played.muted = True
        assert_answered(complaint(address=f"uart://{host.place}"), "no board answers at …")

    def test_another_board_is_there(self, complaint: Complain, host: PtyHost) -> None:
        said = complaint(address=f"uart://{host.place}", serial=UNIT[::-1])
        assert_answered(said, "another board is there: …")

    @pytest.mark.parametrize(
        ("told", "row"),
        [
            (b"hello", "the board's hello cannot be read: …"),
            (b'{"protocol": 2}', "the board speaks protocol …, this farm speaks …"),
        ],
    )
    def test_it_speaks_otherwise(
        self, complaint: Complain, host: PtyHost, played: FrameBoard, told: bytes, row: str
    ) -> None:
        played.hello = lambda: told  # type: ignore[method-assign]
        assert_answered(complaint(address=f"uart://{host.place}"), row)

    def test_it_vanishes(self, host: PtyHost) -> None:
        with closing(UartLine(uart(host.place))) as line:
            host.unplug()
            assert_answered(failure(lambda: Board(line).echo(b"x")), "… vanished: …")

    def test_it_hangs(self, host: PtyHost, played: FrameBoard) -> None:
        with closing(UartLine(uart(host.place))) as line:
            played.muted = True
            said = failure(lambda: line.exchange(bytes([Kind.ECHO]), timeout_s=0.3))
        assert_answered(said, "no answer to … in … s, asked … times")

    def test_it_restarts(self, host: PtyHost, played: FrameBoard) -> None:
        with closing(UartLine(uart(host.place))) as line:
            host.say(played.restart())
            assert_answered(failure(lambda: Board(line).echo(b"x")), "the board restarted …")

    def test_it_has_nothing_to_run(self, complaint: Complain, host: PtyHost) -> None:
        row = "its firmware has neither slots nor a model"
        assert_answered(complaint(address=f"uart://{host.place}"), row)


def failure(ask: Callable[[], object]) -> str:
    """The message of what fails, which has a hint."""
    with pytest.raises(FarmError) as caught:
        ask()
    assert caught.value.hint
    return str(caught.value)


class TestFlashing:
    def flash(self, complaint: Complain, tmp_path: Path, tool: str = "", **entry: object) -> str:
        """What `farm flash` says of a board; `tool` is the text of a shell script."""
        if tool:
            script = write_tool(tmp_path / "tool", f"#!/bin/sh\n{tool}\n")
            entry |= {"flash": "command", "flash_command": f"{script} {{image}}"}
        return complaint("flash", **{"address": "uart:///dev/x", "board": "mps2-an386"} | entry)

    def test_no_compiler(
        self, complaint: Complain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("drivers.mcu.toolchain.shutil.which", lambda name: None)
        monkeypatch.setattr("drivers.mcu.toolchain.find_spec", lambda name: None)
        said = self.flash(complaint, tmp_path, "true")
        assert_answered(said, "there is no C compiler for microcontrollers here")

    def test_a_board_that_nobody_knows(self, complaint: Complain, tmp_path: Path) -> None:
        said = self.flash(complaint, tmp_path, "true", board="stm32f4O5")
        assert_answered(said, "the farm has no firmware for the board …")
        assert "stm32f405" in said

    def test_no_board_is_named(self, complaint: Complain, tmp_path: Path) -> None:
        said = self.flash(complaint, tmp_path, "true", board="")
        assert_answered(said, "the farm has no firmware of its own for it")

    def test_no_way_is_named(
        self, complaint: Complain, tmp_path: Path, lacks: Callable[[str], None]
    ) -> None:
        needs_emulator(lacks)
        said = self.flash(complaint, tmp_path)
        assert_answered(said, "there is no way to put a firmware on it")

    def test_a_command_without_image(self, complaint: Complain) -> None:
        said = complaint("check", address="uart:///dev/x", flash="command", flash_command="pyocd")
        assert_answered(said, "flash_command is missing, …")

    def test_a_tool_that_is_not_there(
        self, complaint: Complain, tmp_path: Path, lacks: Callable[[str], None]
    ) -> None:
        needs_emulator(lacks)
        entry = {"flash": "command", "flash_command": "no-such-tool {image}"}
        said = self.flash(complaint, tmp_path, **entry)
        assert_answered(said, "flash_command: … cannot be run: …")

    def test_a_tool_that_fails(
        self, complaint: Complain, tmp_path: Path, lacks: Callable[[str], None]
    ) -> None:
        needs_emulator(lacks)
        said = self.flash(complaint, tmp_path, "echo no probe; exit 3")
        assert_answered(said, "flash_command: … failed, status …")
        assert "no probe" in said

    def test_it_is_silent_afterwards(
        self, host: PtyHost, played: FrameBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("drivers.lines.serial_line.FLASHED_S", 0.3)
        tool = write_tool(tmp_path / "tool", "#!/bin/sh\n")
        known = uart(host.place, flash="command", flash_command=f"{tool} {{image}}")
        with closing(UartLine(known)) as line:
            played.muted = True
            said = failure(lambda: line.flash(Artifact.of(tool)))
        assert_answered(said, "it does not answer after it was flashed")

    def test_memory_that_is_none(self, tmp_path: Path, lacks: Callable[[str], None]) -> None:
        needs_emulator(lacks)
        raw = tmp_path / "raw.bin"
        raw.write_bytes(b"firmware")
        address = Address.parse("virtual-mcu://?engine=qemu&gdb=1")
        unit = Unit(replace(device(), address=address), tmp_path / "debugged")
        lost = uart(unit.address.place, **dict(unit.options), flash_address="0x0FF00000")
        said = failure(lambda: UartLine.bring_up(lost, Artifact.of(raw)))
        unit.switch_off()
        assert_answered(said, "… reads back differently")


class TestRunning:
    def test_a_model_that_is_too_large(self, unit: Unit, tmp_path: Path) -> None:
        weights = np.ones((64, 10_000), np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "large",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10_000])],
            [numpy_helper.from_array(weights, "w")],
        )
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        path = tmp_path / "large.onnx"
        path.write_bytes(model.SerializeToString())
        with closing(UartLine(replace(device(), address=unit.address))) as line:
            images = Images(Artifact.of(path), read_settings(line.device))
            said = failure(lambda: Slots(Board(line)).run(images))
        assert_answered(said, "… does not fit: its … takes … bytes, …")
        assert "its weights takes 2,560,124 bytes" in said

    @pytest.mark.parametrize(
        ("cause", "row"),
        [
            ("fault", "the model crashed with a … fault…"),
            ("watchdog", "the model did not end within … s, …"),
        ],
    )
    def test_a_model_that_takes_the_board_down(
        self, host: PtyHost, played: FrameBoard, cause: str, row: str
    ) -> None:
        """The real thing is in the tests of whole runs."""
        told = json.loads(played.hello()) | {"cause": cause, "last_fault": {"cause": "bus"}}
        played.hello = lambda: json.dumps(told).encode()  # type: ignore[method-assign]

        def run(board: Board) -> None:
            with crashes_blamed(board, None, 1.0):
                raise DeviceRebooted("the board restarted after a fault")

        with closing(UartLine(uart(host.place))) as line:
            assert_answered(failure(lambda: run(Board(line))), row)

    def test_a_memory_that_is_worn(self) -> None:
        def refuse() -> None:
            with refusals_blamed():
                raise Refused(Refusal.FLASH, "the memory does not take it")

        said = failure(refuse)
        assert_answered(said, "the board refuses: …")
        assert "the memory does not take it" in said

    def test_answers_come_late_beside_a_meter(self) -> None:
        span = Span(kind=SpanKind.WINDOW, start_ns=0, end_ns=3 * 10**9, inferences=100)

        def refuse() -> None:
            raise mcu_metered._complaint(2.0, span)  # when: tests/unit/test_mcu_metered.py

        said = failure(refuse)
        assert_answered(said, "a request of … s by the board's counter took … s")

    def test_another_model_is_built_in(
        self, host: PtyHost, played: FrameBoard, digits: Path
    ) -> None:
        told = json.loads(played.hello()) | {"model": "kws", "model_sha256": "ab" * 32}
        played.hello = lambda: json.dumps(told).encode()  # type: ignore[method-assign]
        assert Hello.read(played.hello()).model == "kws"
        with closing(UartLine(uart(host.place))) as line:
            images = Images(Artifact.of(digits / "int8.onnx"), read_settings(line.device))
            said = failure(lambda: Slots(Board(line)).run(images))
        assert_answered(said, "the firmware has another model built in: …")


def test_every_message_of_the_pages_is_brought_about_here() -> None:
    """Each test names its row; they may run in different processes."""
    nodes = ast.walk(ast.parse(Path(__file__).read_text()))
    words = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert len(answered()) >= 25
    assert set(answered()) <= words
