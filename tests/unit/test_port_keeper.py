"""The keeper of a port outlives its clients, loses nothing of slow ones, and ends with the port."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from drivers.meters import port_keeper
from drivers.meters.kept_port import KeptPort, release
from farm.errors import ConnectError, ConnectionLost, InfraError, MeterGap
from farm.shell import cache_folder

PATIENCE_S = 60.0

# Reads for ever; says so once it has something.
READER = """
import sys
from drivers.meters.kept_port import KeptPort
port = KeptPort(sys.argv[1], "kit")
while True:
    if port.read(1.0):
        print("reads", flush=True)
"""


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Bench:
    """A pseudo-terminal; what is at its far end is the test's."""

    def __init__(self) -> None:
        self.far, self.near = os.openpty()
        tty.setraw(self.near)
        self.path = os.ttyname(self.near)
        self.pids: set[int] = set()

    @property
    def socket(self) -> Path:
        return cache_folder() / "meters" / port_keeper.socket_name(self.path)

    @property
    def pid(self) -> int:
        lock = self.socket.with_name(self.socket.name + ".lock")
        wait_until(lambda: lock.read_text().endswith("\n"))
        pid = int(lock.read_text())
        self.pids.add(pid)
        return pid

    def open(self) -> KeptPort:
        port = KeptPort(self.path, "kit")
        assert self.pid
        return port

    def say(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self.far, left[:4096]) :]

    def hear(self, count: int) -> bytes:
        heard = b""
        while len(heard) < count:
            heard += os.read(self.far, 4096)
        return heard

    def unplug(self) -> None:
        for end in (self.far, self.near):
            with suppress(OSError):
                os.close(end)
        self.far = self.near = -1


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.unplug()
    for pid in made.pids:
        wait_until(lambda pid=pid: not is_there(pid))


def read(port: KeptPort, count: int) -> bytes:
    got, deadline = b"", time.monotonic() + PATIENCE_S
    while len(got) < count and time.monotonic() < deadline:
        got += b"".join(piece.data for piece in port.read(1.0))
    return got


def read_on(port: KeptPort, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Read until that fails."""
    while True:
        port.read(PATIENCE_S)
        meanwhile()


def test_bytes_go_both_ways_and_tell_when_they_came(bench: Bench) -> None:
    with closing(bench.open()) as port:
        port.write(b"\x19")
        assert bench.hear(1) == b"\x19"
        before = time.monotonic_ns()
        bench.say(b"END\n")
        pieces = port.read(PATIENCE_S)
        assert pieces[0].data[:1] == b"E"
        assert before <= pieces[0].arrived_ns <= time.monotonic_ns()
        assert port.read(0.0) == []


def test_the_port_stays_open_and_is_met_again(bench: Bench) -> None:
    bench.open().close()
    first = bench.pid
    bench.say(bytes(300_000))  # somebody drains it, or this would wait for ever
    with closing(bench.open()) as port:
        assert bench.pid == first
        port.write(b"x")
        assert bench.hear(1) == b"x"
        bench.say(b"fresh")
        got = b""
        while not got.endswith(b"fresh"):  # the end of what nobody wanted may precede it
            got += read(port, 1)


def test_there_is_one_client_at_a_time(bench: Bench) -> None:
    with closing(bench.open()) as port:
        with pytest.raises(ConnectError, match="somebody else measures"):
            KeptPort(bench.path, "kit")
        bench.say(b"mine")
        assert read(port, 4) == b"mine"


def test_only_this_user_can_come(bench: Bench) -> None:
    bench.open().close()
    assert bench.socket.stat().st_mode & 0o777 == 0o600
    assert bench.socket.parent.stat().st_mode & 0o777 == 0o700


def test_a_slow_client_loses_nothing(bench: Bench) -> None:
    sent = os.urandom(1 << 20)
    with closing(bench.open()) as port:
        bench.say(sent)  # nobody reads meanwhile
        assert read(port, len(sent)) == sent


def test_what_a_client_does_not_read_for_too_long_is_told_as_lost(bench: Bench) -> None:
    with closing(bench.open()) as port:
        bench.say(bytes(port_keeper.KEPT_BYTES + (2 << 20)))
        with pytest.raises(MeterGap, match="were not read in time"):
            read_on(port, lambda: bench.say(b"more"))
        bench.say(b"!")
        got = b""
        while not got.endswith(b"!"):
            got += b"".join(piece.data for piece in port.read(PATIENCE_S))


def test_a_client_that_is_killed_leaves_the_port_as_it_was(bench: Bench) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READER, bench.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        assert client.stdout is not None
        talking = threading.Event()

        def talk() -> None:
            with suppress(OSError):
                while not talking.wait(0.001):
                    bench.say(bytes(400))

        talker = threading.Thread(target=talk)
        talker.start()
        try:
            assert client.stdout.readline() == b"reads\n"
            first = bench.pid
            client.kill()
            wait_until(lambda: client.poll() is not None)
            with closing(bench.open()) as port:
                assert len(read(port, 4000)) >= 4000
                assert bench.pid == first
        finally:
            talking.set()
            talker.join()


def test_it_outlives_the_process_that_started_it(bench: Bench) -> None:
    code = "import sys; from drivers.meters.kept_port import KeptPort; KeptPort(sys.argv[1], 'kit')"
    subprocess.run([sys.executable, "-c", code, bench.path], check=True, timeout=PATIENCE_S)
    first = bench.pid
    assert is_there(first)
    bench.open().close()
    assert bench.pid == first


def test_a_keeper_that_is_killed_is_noticed_and_replaced(bench: Bench) -> None:
    with closing(bench.open()) as port:
        first = bench.pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="vanished"):
            read_on(port)
        assert bench.socket.exists()  # nobody could take it away
    with closing(bench.open()) as port:
        assert bench.pid != first
        bench.say(b"again")
        assert read(port, 5) == b"again"


def test_it_goes_when_the_port_vanishes(bench: Bench) -> None:
    with closing(bench.open()) as port:
        bench.unplug()
        with pytest.raises(ConnectionLost, match="vanished"):
            read_on(port)
    wait_until(lambda: not is_there(bench.pid))
    assert not bench.socket.exists()


def test_a_port_is_released_on_request(bench: Bench) -> None:
    with closing(bench.open()), pytest.raises(InfraError, match="somebody measures"):
        release(bench.path, "kit")
    wait_until(lambda: _released(bench))
    wait_until(lambda: not is_there(bench.pid))
    assert release(bench.path, "kit") is False
    fcntl.flock(bench.near, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it


def _released(bench: Bench) -> bool:
    """Released, which needs a client's end to be known first."""
    try:
        return release(bench.path, "kit")
    except InfraError:
        return False


def test_a_port_that_another_program_holds_is_refused(bench: Bench) -> None:
    fcntl.flock(bench.near, fcntl.LOCK_EX)
    with pytest.raises(ConnectError, match="cannot be opened") as caught:
        KeptPort(bench.path, "kit")
    assert caught.value.hint == f"close what holds it; this names it: fuser -v {bench.path}"


def test_a_port_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="No such file") as caught:
        KeptPort(str(tmp_path / "none"), "kit")
    assert "plug it in" in caught.value.hint
    with pytest.raises(ConnectError, match="cannot be opened"):
        KeptPort("/dev/null", "kit")


def test_of_two_that_start_at_once_one_gets_it(bench: Bench) -> None:
    got: list[object] = []

    def open_it() -> None:
        try:
            got.append(KeptPort(bench.path, "kit"))
        except ConnectError as error:
            got.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.pid
    (port,) = (one for one in got if isinstance(one, KeptPort))
    (refusal,) = (one for one in got if isinstance(one, ConnectError))
    assert "somebody else" in refusal.message
    port.close()
