"""Area `ssh`: pushing and commanding a board against OpenSSH's own client, the native runner."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from drivers.transports.ssh import SshTransport
from farm.model import Address, Artifact, Device
from tests.benchmarks import native
from tests.benchmarks.run import Figure
from tests.system.proxies import proxied
from tests.system.servers import Server, make_sshd, new_key, serving

PUSH_BYTES = 100 << 20
PUSHES = 7
EXECS = 60
WARM = 5


@contextmanager
def _board() -> Iterator[tuple[Server, Path]]:
    """An sshd on loopback whose shell has no start-up files, and a file of 100 MiB."""
    with tempfile.TemporaryDirectory(prefix="verdict-farm-") as name:
        folder = Path(name)
        big = folder / "big"
        big.write_bytes(os.urandom(PUSH_BYTES))
        with serving(make_sshd(folder / "sshd", new_key(folder / "key"))) as server:
            yield server, big


def push() -> list[Figure]:
    """A file of 100 MiB through our transport and through scp, in turn; scp connects each time.

    `install` is the same with what scp does not do: the board hashes the file before it counts.
    """
    ours, theirs, installed = [], [], []
    with _board() as (server, big), closing(SshTransport(server.device())) as transport:
        target = PurePosixPath(server.folder / "target")
        artifact = Artifact.of(big)
        scp = ["scp", "-q", "-P", str(server.port), *server.client_options(), str(big)]
        scp.append(f"{server.user}@127.0.0.1:{server.folder}/theirs")
        for _ in range(PUSHES):
            ours.append(_seconds(lambda: transport.push(big, target)))
            theirs.append(_seconds(lambda: subprocess.run(scp, check=True)))
            transport.run(("rm", "-rf", str(transport.root / "store")), timeout_s=30)
            installed.append(_seconds(lambda: transport.install(artifact)))
    ratio = float(np.median(np.array(ours) / np.array(theirs)))
    verified = float(np.median(np.array(installed) / np.array(theirs)))
    peer = float(np.median(theirs))
    return [
        Figure(
            name="ssh-push-vs-scp", value=ratio, unit="", n=PUSHES, goal="<= 1", ok=ratio <= 1,
            peer="scp s", peer_value=peer, ratio=ratio,
        ),
        Figure(
            name="ssh-verified-push-vs-scp", value=verified, unit="", n=PUSHES,
            peer="scp s", peer_value=peer, ratio=verified,
        ),
    ]  # fmt: skip


def execs() -> list[Figure]:
    """A command that does nothing, through our connection and through a ControlMaster's."""
    ours, theirs = [], []
    with _board() as (server, _), closing(SshTransport(server.device())) as transport:
        control = f"ControlPath={server.folder}/master"
        client = ["ssh", "-p", str(server.port), *server.client_options(), "-o", control]
        place = f"{server.user}@127.0.0.1"
        keep = ["-o", "ControlMaster=yes", "-o", "ControlPersist=60"]
        subprocess.run([*client, *keep, place, "true"], check=True, stderr=subprocess.DEVNULL)
        for _ in range(EXECS):
            ours.append(_seconds(lambda: transport.run(("true",), timeout_s=30)))
            theirs.append(_seconds(lambda: subprocess.run([*client, place, "true"], check=True)))
        subprocess.run([*client, "-O", "exit", place], check=True, stderr=subprocess.DEVNULL)
    ratio = float(np.median(ours) / np.median(theirs))
    return [
        Figure(
            name="ssh-exec-vs-controlmaster", value=ratio, unit="", n=EXECS, goal="<= 1.2",
            ok=ratio <= 1.2, peer="ControlMaster ms", peer_value=1000 * float(np.median(theirs)),
            ratio=ratio,
        )
    ]  # fmt: skip


def warm_push() -> list[Figure]:
    """A file that is there already: what moves more than for an empty file, and how many execs."""
    with _board() as (server, big), proxied(server.port) as proxy:
        known = server.device()
        address = Address(scheme="ssh", place=f"{server.user}@127.0.0.1:{proxy.port}")
        device = Device(name="b", type="t", address=address, options=known.options)
        empty = server.folder / "empty"
        empty.write_bytes(b"")
        with closing(SshTransport(device)) as transport:
            artifacts = [Artifact.of(big), Artifact.of(empty)]
            moved: list[list[int]] = [[], []]
            for artifact in artifacts:
                transport.install(artifact)
            execs_before = server.log.count("Starting session")
            for _ in range(WARM):
                for artifact, found in zip(artifacts, moved, strict=True):
                    before = proxy.settled()
                    transport.install(artifact)
                    found.append(proxy.settled() - before)
            execs = (server.log.count("Starting session") - execs_before) / (2 * WARM)
    more = float(min(moved[0]) - min(moved[1]))  # a keepalive in between only adds
    return [
        Figure(
            name="ssh-warm-push-bytes", value=more, unit="bytes", n=WARM, goal="0", ok=more == 0,
            peer="an empty file", peer_value=float(min(moved[1])),
        ),
        Figure(
            name="ssh-warm-push-execs", value=execs, unit="", n=WARM, goal="<= 3", ok=execs <= 3
        ),
    ]  # fmt: skip


def _seconds(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


BENCHES = (push, execs, warm_push, *native.BENCHES)
