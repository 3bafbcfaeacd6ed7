"""Updates of emulated boards over bad lines and through power cuts, at a hundred moments each."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from drivers.lines.uart import UartLine
from drivers.mcu.client import Refused
from drivers.mcu.wire import Kind
from farm.errors import DeviceRebooted, InfraError
from farm.model import Address, Device
from tests.system.emulated_boards import Bench, benches, needs_emulator
from tests.system.serial_boards import FrameBoard, PtyHost
from tests.system.serial_proxy import SerialProxy

pytestmark = pytest.mark.system

SEED = 20_261_124
GROUPS = 2
BOARDS = 5
MOMENTS = 10
"""Of each board: a hundred in all."""
PIECE_BYTES = 256
"""Of an image goes in one request, so that there are several of them."""
UPLOAD_S = 0.15
"""About the time that an image takes, over a good line."""
PATIENCE_S = 2.0
"""Instead of the half minute that flash memory may take."""
SHORT_S = 0.015
"""COMMIT, RESET or CONFIRM, and the power switch before it, take less."""
LEAD_S = 0.004
"""About what the power switch takes to obey."""
STAGES = ("upload", "COMMIT", "RESET", "CONFIRM")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Firmware and images are built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _needs(cache: Path, lacks: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    needs_emulator(lacks)


def side_by_side(group: int, boards: list[Bench], torment: Callable[..., str]) -> Counter[str]:
    """How the moments of all boards ended; each board has dice of its own."""

    def work(number: int) -> list[str]:
        name = f"{SEED} {group} {number}"
        dice = random.Random(name)
        return [torment(boards[number], dice, f"seed {name}, {n}.") for n in range(MOMENTS)]

    with ThreadPoolExecutor(len(boards)) as pool:
        ended = Counter(one for many in pool.map(work, range(len(boards))) for one in many)
    print(dict(sorted(ended.items())))
    return ended


def trouble(dice: random.Random) -> tuple[str, dict[str, float]]:
    """What happens to a line."""
    some = partial(dice.uniform, 0.02, 0.4)
    troubles = {
        "drop": {"drop": some()},
        "corrupt": {"corrupt": some()},
        "duplicate": {"duplicate": some()},
        "delay": {"delay_s": dice.uniform(0.01, 0.15)},
        "throttle": {"bytes_per_s": dice.uniform(8_000, 30_000)},
        "everything": {"drop": 0.05, "corrupt": 0.05, "duplicate": 0.05, "delay_s": 0.005},
        "cut": {"drop": 1.0},
    }
    kind = dice.choice(tuple(troubles))
    return kind, troubles[kind]


def update_over_a_bad_line(bench: Bench, dice: random.Random, moment: str) -> str:
    """Update a board while its line becomes bad; how that ended."""
    board, models, proxy = bench.board, bench.models, bench.proxy
    assert proxy is not None
    home = board.hello().confirmed
    assert home is not None
    kind, faults = trouble(dice)
    after_s, lasts_s = dice.uniform(0, UPLOAD_S), dice.choice((0.2, 60.0))
    moment += f" {kind} {faults} after {after_s:.3f} s"

    def spoil() -> None:
        if not healed.wait(after_s):
            for name, value in faults.items():
                setattr(proxy, name, value)
            healed.wait(lasts_s)
            proxy.heal()

    healed = threading.Event()
    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    free, ended = 1 - home, "arrived"
    try:
        board.write(free, models.images[free], max_payload=PIECE_BYTES)
        board.commit(free)
    except (InfraError, Refused) as error:
        ended = type(error).__name__
    finally:
        healed.set()
        spoiler.join()
    hello = board.back()
    assert (hello.running, hello.confirmed) == (home, home), moment
    assert hello.rollbacks == 0, moment
    models.assert_right(board, hello, moment)
    if ended == "arrived":
        assert hello.pending == free, moment
    if hello.pending is not None:
        hello = board.reset()
        assert hello.running == free, moment
        models.assert_right(board, hello, moment)
        board.confirm()
    return f"{kind}: {ended}"


@pytest.mark.parametrize("group", range(GROUPS))
def test_an_update_over_a_bad_line_is_right_or_refused(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with benches(tmp_path, BOARDS, proxied=True) as boards:
        monkeypatch.setattr("drivers.mcu.client.ERASE_S", PATIENCE_S)
        ended = side_by_side(group, boards, update_over_a_bad_line)
        struck = sum(bench.proxy.harmed for bench in boards if bench.proxy)
    assert sum(ended.values()) == BOARDS * MOMENTS
    assert struck > BOARDS * MOMENTS
    arrived = sum(count for name, count in ended.items() if name.endswith("arrived"))
    assert arrived > BOARDS * MOMENTS / 2


def update_through_a_power_cut(bench: Bench, dice: random.Random, moment: str) -> str:
    """Update a board whose power is cut meanwhile; how far it came."""
    board, models = bench.board, bench.models
    before = board.hello()
    home = before.confirmed
    assert home is not None
    free = 1 - home
    steps: dict[str, Callable[[], object]] = {
        "upload": lambda: board.write(free, models.images[free], max_payload=PIECE_BYTES),
        "COMMIT": lambda: board.commit(free),
        "RESET": lambda: board.line.exchange(bytes([Kind.RESET]), timeout_s=5),
        "CONFIRM": board.confirm,
    }
    stage = dice.choice(STAGES)
    after_s = dice.uniform(0, UPLOAD_S if stage == "upload" else SHORT_S)
    moment += f" {stage}, cut after {after_s:.4f} s"
    for name in STAGES[: STAGES.index(stage)]:
        if name != "upload" or stage == "COMMIT" or not before.slots[free].length:
            steps[name]()
        if name == "RESET":
            board.back()

    def cut() -> None:
        time.sleep(after_s)
        bench.power.off()

    cutter = threading.Thread(target=cut)
    cutter.start()
    time.sleep(0 if stage == "upload" else LEAD_S)
    ended = "answered"
    try:
        steps[stage]()
    except (InfraError, DeviceRebooted):
        ended = "cut off"
    cutter.join()
    bench.power.on()
    hello = board.back()
    confirmed = {home, free} if stage == "CONFIRM" else {home}
    if stage == "CONFIRM" and ended == "answered":
        confirmed = {free}
    assert hello.confirmed in confirmed, moment
    assert hello.boots > before.boots, moment
    if stage == "upload":
        assert hello.running == home, moment
    models.assert_right(board, hello, moment)
    on_trial = hello.running != hello.confirmed
    models.assert_right(board, board.end_trial(hello), moment)
    said = board.hello()
    assert said.running == said.confirmed == hello.confirmed, moment
    came = {"CONFIRM": hello.confirmed == free, "COMMIT": on_trial}.get(stage, False)
    return f"{stage}: {ended}{', and done' if came else ''}"


@pytest.mark.parametrize("group", range(GROUPS))
def test_the_confirmed_model_survives_every_power_cut(group: int, tmp_path: Path) -> None:
    with benches(tmp_path, BOARDS) as boards:
        ended = side_by_side(group, boards, update_through_a_power_cut)
    assert sum(ended.values()) == BOARDS * MOMENTS
    stages = {name.partition(":")[0] for name in ended}
    assert stages == set(STAGES)
    assert sum(count for name, count in ended.items() if "cut off" in name) > MOMENTS


def test_a_long_request_is_given_the_time_that_its_line_takes(tmp_path: Path) -> None:
    """Though short ones were answered much sooner, as by an emulator that is slow to hear."""
    board = FrameBoard()
    host = PtyHost(board, tmp_path / "line")
    with closing(SerialProxy(host.link, tmp_path / "proxied")) as proxy:
        address = Address(scheme="uart", place=str(tmp_path / "proxied"))
        with closing(UartLine(Device(name="b", type="t", address=address))) as line:
            line.exchange(bytes([Kind.ECHO]) + bytes(4 << 10), timeout_s=30)
            proxy.bytes_per_s = 9_000
            heard = board.heard
            line.exchange(bytes([Kind.DATA]) + bytes(8 << 10), timeout_s=30)
            line.exchange(bytes([Kind.ECHO]), timeout_s=30)  # comes behind what was sent again
            assert board.heard == heard + 2
    host.unplug()
