"""Whole runs over SSH while the network breaks, on many boards at once, and with hostile names."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

import farm
from farm.record import Outcome
from tests.system.proxies import Proxy
from tests.system.servers import Server
from tests.system.trials import HOSTILE_NAMES, assert_kept_once

pytestmark = pytest.mark.system

Starter = Callable[..., Server]
SEED = 20_261_124
CUTS = 30
GROUPS = 5
LONGEST_S = 2.5
BOARDS = 20


def lab(folder: Path, *boards: Server, **changes: str) -> Path:
    """An inventory of boards behind servers; `changes` are options of all of them."""
    lines = ["schema: farm.inventory/1", "devices:"]
    for number, server in enumerate(boards, 1):
        port = changes.get("port") or server.port
        lines += [
            f"  board-{number}:",
            "    type: board",
            f"    address: ssh://{server.user}@127.0.0.1:{port}",
            f"    host_key: {server.fingerprint}",
            f"    key: {server.key}",
            f"    root: {server.root}",
        ]
    path = folder / "inventory.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_run_whose_connection_is_cut_completes_or_says_why(
    group: int,
    sshd: Server,
    start_proxy: Callable[[int], Proxy],
    suite: Callable[..., Path],
    digits: Path,
    tmp_path: Path,
) -> None:
    dice = random.Random(f"{SEED} {group}")
    proxy = start_proxy(sshd.port)
    quick, store = str(suite("accuracy, latency, memory")), tmp_path / "store"
    devices = lab(tmp_path, sshd, port=str(proxy.port))
    outcomes = []
    for number in range(1, CUTS // GROUPS + 1):
        delay_s = dice.uniform(0.0, LONGEST_S)
        shutil.rmtree(sshd.here(sshd.root), ignore_errors=True)  # so that every run pushes again
        cut = threading.Timer(delay_s, proxy.cut)
        cut.start()
        summary = farm.run(quick, model=digits / "int8.onnx", inventory=devices, store=store)
        cut.cancel()
        (result,) = summary.results
        moment = f"seed {SEED}, group {group}, cut after {delay_s:.3f} s"
        outcomes.append(result.outcome)
        if result.outcome is not Outcome.COMPLETED:
            assert result.outcome is Outcome.ERROR, moment
            assert result.error is not None
            assert result.error.family == "infra", moment
            assert result.error.message, moment
        sshd.assert_nothing_is_left()
        assert_kept_once(store, number, moment)
    assert Outcome.COMPLETED in outcomes
    assert proxy.connections > 2 * len(outcomes), "no cut struck anything"


def test_many_boards_run_at_once_and_no_lease_stands_in_anothers_way(
    start_sshd: Starter, suite: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    boards = [start_sshd() for _ in range(BOARDS)]
    devices = lab(tmp_path, *boards)
    at_work: set[str] = set()
    most = 0

    def watch(step: object) -> None:
        nonlocal most
        at_work.add(step.device)  # type: ignore[attr-defined]
        if step.finished:  # type: ignore[attr-defined]
            at_work.discard(step.device)  # type: ignore[attr-defined]
        most = max(most, len(at_work))

    summary = farm.run(
        str(suite("latency")), model=digits / "int8.onnx", inventory=devices,
        store=tmp_path / "store", progress=watch,
    )  # fmt: skip
    assert [result.outcome for result in summary.results] == [Outcome.COMPLETED] * BOARDS
    assert [r.job.device.name for r in summary.results] == [f"board-{n + 1}" for n in range(BOARDS)]
    assert all(result.attempts == 1 for result in summary.results)
    assert most == BOARDS
    for board in boards:
        board.assert_nothing_is_left()


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names_of_model_device_and_folder_run_verbatim(
    name: str, start_sshd: Starter, suite: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    model = folder / f"{name}.onnx"
    shutil.copy(digits / "int8.onnx", model)
    server = start_sshd()
    printable = os.fsencode(name).decode("utf-8", "backslashreplace")
    quoted = '"' + printable.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    root = server.root / printable.replace("\n", " ")
    inventory = lab(tmp_path, server)
    text = inventory.read_text().replace("board-1", quoted)
    folder_text = '"' + str(root).replace("\\", "\\\\").replace('"', '\\"') + '"'
    inventory.write_text(text.replace(f"root: {server.root}", f"root: {folder_text}"))
    summary = farm.run(
        str(suite("latency")), model=model, inventory=inventory, store=tmp_path / "store"
    )
    (result,) = summary.results
    assert result.outcome is Outcome.COMPLETED, result.error
    assert server.here(PurePosixPath(root)).is_dir()
    assert not list(tmp_path.rglob("pwned"))
    server.assert_nothing_is_left()


def test_a_controller_that_is_killed_leaves_nothing_after_the_next_session(
    sshd: Server, suite: Callable[..., Path], digits: Path, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    quick = str(suite("accuracy, latency"))
    devices, store = lab(tmp_path, sshd), tmp_path / "store"
    command = [sys.executable, "-m", "farm.cli", "run", quick, "--inventory", str(devices)]
    command += ["--store", str(store), "--model", str(digits / "int8.onnx")]
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delay_s = dice.uniform(0.5, 4.0)
        time.sleep(delay_s)
        process.kill()
        process.wait()
    summary = farm.run(quick, model=digits / "int8.onnx", inventory=devices, store=store)
    assert [result.outcome for result in summary.results] == [Outcome.COMPLETED]
    sshd.assert_nothing_is_left()
