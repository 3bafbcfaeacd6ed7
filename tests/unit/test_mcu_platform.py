"""What a microcontroller tells of itself, and what of that forbids measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from drivers.mcu.client import Board, Hello
from drivers.mcu.wire import Kind
from drivers.platforms.mcu import McuPlatform
from drivers.runtimes.mcu import McuRuntime
from farm.errors import CommandTimeout, ConnectError
from farm.model import Artifact, Workload
from farm.protocols import Limits
from farm.testing.platforms import PlatformContract
from tests.conftest import DIGITS
from tests.unit.mcu_fakes import FAULT_TOLD, FakeBoard, FakeLine, fake_line

BARE = Workload(name="seeded-inputs", digest="0")


@pytest.fixture
def line(tmp_path: Path) -> FakeLine:
    return fake_line(tmp_path / "board")


@pytest.fixture
def platform(line: FakeLine) -> McuPlatform:
    return McuPlatform(line)


def _run(line: FakeLine, *names: str) -> None:
    runtime = McuRuntime(line)
    for name in names:
        model = Artifact.of(DIGITS / f"{name}.onnx")
        runtime.deploy(model, BARE, accelerator="cpu").prepare()


class TestMcuPlatform(PlatformContract):
    kind = McuPlatform
    no_watch: ClassVar[str] = "a board that runs a model answers nobody"
    no_processes: ClassVar[str] = "a board has no processes"
    no_files: ClassVar[str] = "a board has no files; its slots are tested below"
    no_limits: ClassVar[str] = "heat, charge and room are nothing that such a board tells"

    @pytest.fixture
    def transport(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLine:
        """A line, whose later sessions reach the same board."""
        board = FakeBoard(tmp_path / "board")
        line = fake_line(tmp_path, board)
        again = "farm.testing.platforms.again"
        monkeypatch.setattr(again, lambda known: fake_line(tmp_path, board))
        return line


def _facts(platform: McuPlatform) -> dict[str, str]:
    return {fact.name: fact.value for fact in platform.facts()}


def test_facts_tell_firmware_processor_and_memory(platform: McuPlatform, line: FakeLine) -> None:
    line.board.told |= {"cpu": 2, "ram": {"address": 0x20000000, "bytes": 4096}}
    facts = _facts(platform)
    assert facts["serial"] == "0a0b"
    assert facts["boot_id"] == "0a0b/1"
    assert facts["os"] == "farm-mcu 1 on fake"
    assert facts["cpu"] == "cortex-m4f, CPUID 410fc240"
    assert facts["ticks"] == "cycles at 1000000 Hz"
    assert facts["model_ram"] == "4096 bytes at 0x20000000"
    assert facts["slots"].count("2097152 bytes") == 2
    assert "simulated" not in facts


def test_an_emulated_board_says_that_nothing_of_it_is_a_speed(tmp_path: Path) -> None:
    line = fake_line(tmp_path / "b", icount_shift="7")
    assert "outputs are real" in _facts(McuPlatform(line))["simulated"]
    line.board.told["cpu"] = 2
    assert "nothing here is a speed" in _facts(McuPlatform(line))["simulated"]


def test_a_board_without_a_number_has_no_serial_and_still_a_boot(
    platform: McuPlatform, line: FakeLine
) -> None:
    line.board.told |= {"unit": "", "cpu": 77, "cpuid": ""}
    facts = _facts(platform)
    assert "serial" not in facts
    assert facts["boot_id"] == "fake/1"
    assert facts["cpu"] == "unknown (77)"


@pytest.mark.parametrize(
    ("told", "code", "blocking"),
    [
        ({"slots": []}, "no_model", True),
        ({"abi": 2}, "wrong_firmware", True),
        ({"cpu": 77}, "wrong_firmware", True),
        ({"cause": "watchdog"}, "crashed", False),
        ({"cause": "fault"}, "crashed", False),
    ],
)
def test_what_stands_against_measuring(
    platform: McuPlatform, line: FakeLine, told: dict[str, Any], code: str, blocking: bool
) -> None:
    line.board.told |= told
    (finding,) = platform.preflight(Limits())
    assert (finding.code, finding.blocking, finding.passing) == (code, blocking, False)


def test_a_firmware_with_a_model_of_its_own_needs_no_slots(
    platform: McuPlatform, line: FakeLine
) -> None:
    line.board.told |= {"slots": [], "in_bytes": 64, "cpu": 77}
    assert platform.preflight(Limits()) == ()


def test_the_counters_of_the_board_are_its_readings(platform: McuPlatform, line: FakeLine) -> None:
    line.board.restart("power")
    readings = {r.name: (r.value, r.unit) for r in platform.sample()}
    assert readings == {"boots": (2, "count"), "rollbacks": (0, "count")}


def test_a_trial_that_was_left_running_is_ended(line: FakeLine, platform: McuPlatform) -> None:
    _run(line, "int8", "float")
    assert line.board.state == (1, 0, 1)
    assert platform.sweep() == ("the trial of slot 1",)
    assert line.board.state == (0, 0, -1)
    assert platform.sweep() == platform.restore() == ()


def test_a_trial_that_was_never_begun_is_ended(line: FakeLine, platform: McuPlatform) -> None:
    _run(line, "int8", "float")
    platform.restore()
    Board(line).commit(1)
    assert line.board.state == (0, 0, 1)
    assert platform.restore() == ("the trial of slot 1",)
    assert line.board.state == (0, 0, -1)


@pytest.mark.parametrize("begun", [False, True])
def test_a_trial_without_anything_confirmed_is_ended(
    line: FakeLine, platform: McuPlatform, begun: bool
) -> None:
    _run(line, "int8")
    line.board._slots._keep(confirmed=-1)
    Board(line).reset()
    Board(line).commit(0)
    if begun:
        Board(line).reset()
    assert line.board.state == (0 if begun else -1, -1, 0)
    assert platform.sweep() == ("the trial of slot 0",)
    assert line.board.state == (-1, -1, -1)
    assert platform.sweep() == ()


def test_evidence_is_the_console_and_the_last_fault(line: FakeLine, platform: McuPlatform) -> None:
    assert platform.evidence(1.0) == ()
    line.said = "assertion failed\n"
    line.board.restart("fault")
    found = {exhibit.name: exhibit.text for exhibit in platform.evidence(1.0)}
    assert found["console"] == "assertion failed\n"
    assert f"pc: {FAULT_TOLD['pc']:#x}" in found["last_fault"]
    line.board.is_on = False
    assert [exhibit.name for exhibit in platform.evidence(1.0)] == ["console"]


# The client


def _told(line: FakeLine, **changes: Any) -> bytes:
    """A hello with some fields changed, or without them where the change is `...`."""
    told = json.loads(line.exchange(bytes([Kind.HELLO]), timeout_s=1.0)[1:]) | changes
    return json.dumps({k: v for k, v in told.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 2},
        {"board": ...},
        {"last_fault": "pc"},
        {"tick_hz": "fast"},
        {"tick_hz": 0},
        {"unit": 12},
        {"max_payload": 8},
        {"running": 2},
        {"confirmed": "0"},
        {"slots": [{"address": 0}]},
        {"slots": 3},
        {"ram": []},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_hello_that_makes_no_sense_is_refused(line: FakeLine, changes: dict[str, Any]) -> None:
    assert Hello.read(_told(line)).board == "fake"
    with pytest.raises(ConnectError, match=r"hello cannot be read|speaks protocol 2"):
        Hello.read(_told(line, **changes))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"3"])
def test_what_is_no_hello_is_refused(text: bytes) -> None:
    with pytest.raises(ConnectError):
        Hello.read(text)


def test_fields_that_a_later_firmware_adds_are_no_trouble(line: FakeLine) -> None:
    assert Hello.read(_told(line, more={"to": "come"})).board == "fake"


def test_a_board_that_needs_a_while_is_waited_for(line: FakeLine) -> None:
    for count in range(1, 5):
        line.board.trouble[Kind.HELLO, count] = "silent"
    assert Board(line).reset().cause == "reset"


def test_a_board_that_does_not_come_back_is_given_up(line: FakeLine) -> None:
    line.board.is_on = False
    with pytest.raises(CommandTimeout):
        Board(line).back()


def test_a_reset_whose_answer_got_lost_is_one(line: FakeLine) -> None:
    line.board.trouble[Kind.RESET, 1] = "reset"
    assert Board(line).reset().boots == 2


@pytest.mark.parametrize("answer", [b"\xff", b"\xff\x00", b"\x99"])
def test_an_answer_of_another_kind_is_the_lines(line: FakeLine, answer: bytes) -> None:
    line.exchange = lambda request, *, timeout_s: answer  # type: ignore[method-assign]
    with pytest.raises(ConnectError, match="answers"):
        Board(line).echo(b"hello")
