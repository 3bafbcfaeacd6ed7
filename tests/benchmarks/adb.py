"""Area `adb`: phones behind Debian's real adbd against the adb binary of the adbutils wheel."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

import farm
from drivers.transports.adb import AdbTransport
from farm.connection import Transport
from farm.model import Artifact
from farm.record import Outcome
from tests.benchmarks.run import Figure
from tests.system.phones import AdbServer, Phone, adb_server, make_phone, switched_on
from tests.system.proxies import proxied

PUSH_BYTES = 100_000_000
PUSHES = 9
COMMANDS = 60
WARM = 20
PHONES = 50
TARGET = PurePosixPath("/data/local/tmp/target")


@contextmanager
def _phone(mtu: int = 0) -> Iterator[tuple[Phone, AdbServer, Transport, Path]]:
    """A phone, the adb binary's server that is attached to it, our transport, and a big file."""
    with tempfile.TemporaryDirectory(prefix="verdict-farm-") as name:
        folder = Path(name)
        big = folder / "big"
        big.write_bytes(os.urandom(PUSH_BYTES))
        with (
            switched_on(make_phone(folder / "phone", mtu=mtu)) as phone,
            adb_server(folder / "server") as server,
            closing(AdbTransport(phone.device())) as transport,
        ):
            server.attach(phone)
            yield phone, server, transport, big


def push_mtu1500() -> list[Figure]:
    """A file of 100 MB over a link as Ethernet and Wi-Fi have it."""
    return _push(1500)


def push_mtu65536() -> list[Figure]:
    """The same over loopback, and what it costs the controller."""
    return _push(65536)


def _push(mtu: int) -> list[Figure]:
    ours, theirs, busy_s = [], [], []
    with _phone(mtu if mtu == 1500 else 0) as (phone, server, transport, big):
        place, other = f"{phone.host}:{phone.port}", f"{TARGET}-adb"
        for _ in range(PUSHES):
            before = time.process_time()
            ours.append(_seconds(lambda: transport.push(big, TARGET)))
            busy_s.append(time.process_time() - before)
            theirs.append(_seconds(lambda: server.adb("-s", place, "push", str(big), other)))
        assert phone.here(TARGET).read_bytes() == big.read_bytes()
        assert phone.here(other).stat().st_size == PUSH_BYTES
    ratio = float(np.median(np.array(theirs) / np.array(ours)))
    figures = [
        Figure(
            name=f"adb-push-vs-adb-mtu{mtu}", value=ratio, unit="", n=PUSHES, goal=">= 1.2",
            ok=ratio >= 1.2, peer="adb MB/s", peer_value=PUSH_BYTES / 1e6 / np.median(theirs),
            ratio=ratio,
        )
    ]  # fmt: skip
    if mtu == 65536:
        cost = float(np.median(busy_s)) * 1e8 / PUSH_BYTES
        figures.append(
            Figure(
                name="adb-push-cpu-s-per-100mb", value=cost, unit="s", n=PUSHES, goal="<= 0.15",
                ok=cost <= 0.15,
            )
        )  # fmt: skip
    return figures


def commands() -> list[Figure]:
    """A command that does nothing; the adb binary starts a process for it."""
    ours, theirs = [], []
    with _phone() as (phone, server, transport, _):
        place = f"{phone.host}:{phone.port}"
        for _ in range(COMMANDS):
            ours.append(_seconds(lambda: transport.run(("true",), timeout_s=30)))
            theirs.append(_seconds(lambda: server.adb("-s", place, "shell", "true")))
    ratio = float(np.median(ours) / np.median(theirs))
    return [
        Figure(
            name="adb-shell-vs-adb", value=ratio, unit="", n=COMMANDS, goal="<= 0.5",
            ok=ratio <= 0.5, peer="adb ms", peer_value=1000 * float(np.median(theirs)), ratio=ratio,
        )
    ]  # fmt: skip


def warm_push() -> list[Figure]:
    """A file that is there already: what moves more than for an empty file."""
    with _phone() as (phone, _, _, big), proxied(phone.port) as proxy:
        empty = big.with_name("empty")
        empty.write_bytes(b"")
        artifacts = [Artifact.of(big), Artifact.of(empty)]
        moved: list[list[int]] = [[], []]
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            for artifact in artifacts:
                transport.install(artifact)
            for _ in range(WARM):
                for artifact, found in zip(artifacts, moved, strict=True):
                    before = proxy.settled()
                    transport.install(artifact)
                    found.append(proxy.settled() - before)
    # a phone tells the number of each process, which has more digits later on
    more = float(np.median(np.array(moved[0]) - np.array(moved[1])))
    return [
        Figure(
            name="adb-warm-push-bytes", value=more, unit="bytes", n=WARM, goal="0", ok=more == 0,
            peer="an empty file", peer_value=float(min(moved[1])),
        )
    ]  # fmt: skip


def many_phones() -> list[Figure]:
    """Virtual phones, each switched on and validated with the smoke suite by one controller."""
    with tempfile.TemporaryDirectory(prefix="verdict-farm-") as name:
        folder = Path(name)
        lines = ["schema: farm.inventory/1", "devices:"]
        for number in range(PHONES):
            address = f"virtual-adb://phone?seed={number}&root={folder}/phone-{number}"
            lines += [f"  phone-{number}:", "    type: phone", f"    address: {address}"]
        inventory = folder / "inventory.yaml"
        inventory.write_text("\n".join(lines) + "\n")
        started = time.perf_counter()
        summary = farm.run("smoke", inventory=inventory, store=folder / "store")
        took_s = time.perf_counter() - started
    assert [result.outcome for result in summary.results] == [Outcome.COMPLETED] * PHONES
    return [
        Figure(
            name="adb-50-virtual-phones-s", value=took_s, unit="s", n=PHONES, goal="<= 60",
            ok=took_s <= 60,
        )
    ]  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


BENCHES = (push_mtu1500, push_mtu65536, commands, warm_push, many_phones)
