"""A virtual phone speaks true ADB, whoever is at the other end and whatever they send."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import resource
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from drivers.runtimes.ort_python import LOADGEN
from drivers.virtual.machine import switch_all_off
from drivers.virtual.phone import Phone, VirtualPhone
from drivers.virtual.phone_dumps import SKIN, Heat, thermal_dump
from drivers.virtual.phone_keys import controller_key, read_public, write_public
from drivers.virtual.phone_tools import write_state, write_tools
from drivers.virtual.phone_wire import (
    AUTH,
    CLSE,
    CNXN,
    HEADER,
    MOST_BYTES,
    NEWEST,
    OKAY,
    OPEN,
    PUBLIC_KEY,
    SIGNATURE,
    TOKEN,
    WITH_CHECKSUMS,
    WRTE,
    checksum,
)  # fmt: skip
from farm.errors import ConfigError, ConnectError
from farm.model import Address, Device

FUZZ = int(os.environ.get("FARM_FUZZ", "100000" if os.environ.get("CI") else "5000"))
"""How many malformed messages and packets are sent."""
BIG = os.urandom(1 << 20) * 6
"""More than pipes and payloads hold."""
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
_BROKEN = r"reset|hung up|pipe"
Switch = Callable[..., Phone]
Meet = Callable[..., "Client"]


class Client:
    """The other end of the wire, as simple as the protocol allows: one stream at a time.

    Args:
        phone: whom to talk to.
        key: to sign with; None for a client that has none.
        version: that it speaks.
        max_payload: that it takes.
    """

    def __init__(
        self,
        phone: Phone,
        *,
        key: rsa.RSAPrivateKey | None = None,
        version: int = NEWEST,
        max_payload: int = MOST_BYTES,
    ) -> None:
        self.line = socket.create_connection(("127.0.0.1", phone.server.port), timeout=30)
        self.key = key or controller_key()
        self._old = version == WITH_CHECKSUMS
        self._next = 1
        self.send(CNXN, version, max_payload, b"host::features=shell_v2\0")

    def send(self, command: int, first: int, second: int, payload: bytes = b"") -> None:
        total = checksum(payload)
        head = HEADER.pack(command, first, second, len(payload), total, command ^ 0xFFFFFFFF)
        self.line.sendall(head + payload)

    def receive(self) -> tuple[int, int, int, bytes]:
        command, first, second, length, total, magic = HEADER.unpack(self._exactly(HEADER.size))
        assert magic == command ^ 0xFFFFFFFF
        payload = self._exactly(length)
        assert total == checksum(payload) or (not total and not self._old)
        return command, first, second, payload

    def sign(self) -> bytes:
        """Answer the challenge; returns what the phone says then."""
        command, kind, _, token = self.receive()
        assert (command, kind) == (AUTH, TOKEN)
        scheme = utils.Prehashed(hashes.SHA1())
        self.send(AUTH, SIGNATURE, 0, self.key.sign(token, padding.PKCS1v15(), scheme))
        command, self.version, self.max_payload, banner = self.receive()
        return banner if command == CNXN else b""

    def open(self, service: bytes) -> bool:
        self.local, self._next = self._next, self._next + 1
        self.rest, self.closed = b"", False
        self.send(OPEN, self.local, 0, service + b"\0")
        command, self.remote, _, _ = self.receive()
        return command == OKAY

    def write(self, data: bytes) -> None:
        """Send data, one confirmed payload after the other; what comes meanwhile is kept."""
        while data:
            part, data = data[: self.max_payload], data[self.max_payload :]
            self.send(WRTE, self.local, self.remote, part)
            while not self._take(OKAY) and not self.closed:
                pass

    def read(self, n: int) -> bytes:
        while len(self.rest) < n:
            assert not self.closed, "the phone closed the stream"
            self._take(WRTE)
        part, self.rest = self.rest[:n], self.rest[n:]
        return part

    def read_all(self) -> bytes:
        while not self.closed:
            self._take(CLSE)
        return self.rest

    def ask(self, command: str, *, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command by the second version of the shell."""
        assert self.open(b"shell,v2,raw:" + os.fsencode(command))
        self.write(struct.pack("<BI", STDIN, len(stdin)) + stdin if stdin else b"")
        self.write(struct.pack("<BI", CLOSE_STDIN, 0))
        told, outputs = self.read_all(), {STDOUT: b"", STDERR: b"", EXIT: b""}
        while told:
            kind, length = struct.unpack_from("<BI", told)
            outputs[kind] += told[5 : 5 + length]
            told = told[5 + length :]
        return outputs[EXIT][0], outputs[STDOUT], outputs[STDERR]

    def push(self, path: Path, content: bytes, *, modified_s: int = 1_600_000_000) -> bytes:
        """Send a file; returns the answer."""
        target = os.fsencode(path) + b",33188"
        blocks = [content[at : at + 65536] for at in range(0, len(content), 65536)]
        data = b"".join(struct.pack("<4sI", b"DATA", len(block)) + block for block in blocks)
        assert self.open(b"sync:")
        self.write(struct.pack("<4sI", b"SEND", len(target)) + target)
        self.write(data + struct.pack("<4sI", b"DONE", modified_s))
        name, length = struct.unpack("<4sI", self.read(8))
        answer = name + self.read(length if name == b"FAIL" else 0)
        self.write(struct.pack("<4sI", b"QUIT", 0))
        self.read_all()
        return answer

    def _take(self, wanted: int) -> bool:
        command, _, local, payload = self.receive()
        if command == WRTE and local == self.local:
            self.rest += payload
            self.send(OKAY, self.local, self.remote)
        ours = local == self.local
        self.closed |= ours and command == CLSE
        return ours and command == wanted

    def _exactly(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            part = self.line.recv(n - len(data))
            if not part:
                raise ConnectionResetError(errno.ECONNRESET, "the phone hung up")
            data += part
        return bytes(data)


def _device(tmp_path: Path, options: str = "", *, profile: str = "phone") -> Device:
    root = tmp_path / "phone"
    address = Address.parse(f"virtual-adb://{profile}?seed=2&root={root}{options}")
    return Device(name="p", type="t", address=address)


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    """Switches phones on."""
    made = []

    def on(options: str = "", *, profile: str = "phone") -> Phone:
        made.append(Phone(_device(tmp_path, options, profile=profile), tmp_path / "phone"))
        return made[-1]

    yield on
    for phone in made:
        phone.switch_off()
    switch_all_off()


@pytest.fixture
def phone(switch: Switch) -> Phone:
    return switch()


@pytest.fixture
def meet() -> Iterator[Meet]:
    """Makes clients that the phone does not know yet."""
    made = []

    def client(phone: Phone, **how: Any) -> Client:
        made.append(Client(phone, **how))
        return made[-1]

    yield client
    for each in made:
        each.line.close()


@pytest.fixture
def greet(meet: Meet) -> Meet:
    """Makes clients that may do everything."""

    def client(phone: Phone, **how: Any) -> Client:
        made = meet(phone, **how)
        assert made.sign()
        return made

    return client


@pytest.fixture
def client(phone: Phone, greet: Meet) -> Client:
    return greet(phone)


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Who may do what


def test_it_greets_who_has_the_key_with_its_name_and_what_it_serves(
    phone: Phone, meet: Meet
) -> None:
    client = meet(phone)
    banner = client.sign().decode()
    assert banner.startswith("device::ro.product.name=vphone;")
    assert "simulated" in banner
    assert banner.endswith("features=shell_v2")
    assert client.max_payload == MOST_BYTES


def test_the_key_is_for_its_owner_alone(phone: Phone) -> None:
    key = Path(dict(phone.options)["adb_key"])
    assert key.stat().st_mode & 0o77 == 0
    assert read_public(Path(f"{key}.pub").read_bytes()) == controller_key().public_key()


def test_nothing_is_served_before_the_key_was_shown(phone: Phone, meet: Meet) -> None:
    client = meet(phone)
    client.send(OPEN, 1, 0, b"shell:echo open\0")
    assert client.receive()[0] == AUTH
    client.line.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.receive()


def test_an_unknown_key_is_asked_about_until_a_person_taps(phone: Phone, meet: Meet) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    client = meet(phone, key=key)
    assert not client.sign()
    assert not phone.tap()
    client.send(AUTH, PUBLIC_KEY, 0, write_public(key.public_key(), "me@here").encode() + b"\0")
    _wait_until(phone.tap)
    assert client.receive()[0] == CNXN
    again = meet(phone, key=key)
    assert again.sign()


def test_nobody_is_trusted_any_more_from_a_scripted_connection_on(
    switch: Switch, greet: Meet, meet: Meet
) -> None:
    phone = switch("&fault=unauthorized:2")
    greet(phone)
    second = meet(phone)
    assert not second.sign()
    second.send(AUTH, PUBLIC_KEY, 0, write_public(controller_key().public_key(), "me").encode())
    time.sleep(0.2)
    assert not phone.tap()


@pytest.mark.parametrize("key", [b"", b"QQQQ me", b"\xff\xfe", b"=" * 700])
def test_what_is_no_key_ends_the_connection(phone: Phone, key: bytes, meet: Meet) -> None:
    client = meet(phone)
    client.receive()
    client.send(AUTH, PUBLIC_KEY, 0, key)
    with pytest.raises(ConnectionResetError):
        client.receive()


# Commands


@pytest.mark.parametrize("version", [NEWEST, WITH_CHECKSUMS])
@pytest.mark.parametrize("max_payload", [7, 4096, MOST_BYTES])
def test_a_command_tells_its_end_and_both_outputs(
    phone: Phone, version: int, max_payload: int, greet: Meet
) -> None:
    client = greet(phone, version=version, max_payload=max_payload)
    told = client.ask("cat; echo complaint >&2; exit 7", stdin=b"given")
    assert told == (7, b"given", b"complaint\n")


def test_a_signal_is_a_status_as_on_a_phone(client: Client) -> None:
    assert client.ask("kill -9 $$")[0] == 128 + 9


@pytest.mark.parametrize("service", [b"shell:", b"shell,raw:", b"exec:"])
def test_without_packets_both_outputs_are_one(client: Client, service: bytes) -> None:
    assert client.open(service + b"echo out; echo err >&2; exit 7")
    assert client.read_all() == b"out\nerr\n"


def test_a_phone_without_the_second_shell_refuses_it(switch: Switch, greet: Meet) -> None:
    client = greet(switch("&shell_v2=no"))
    assert client.open(b"shell,v2,raw:true")
    assert client.receive()[0] == CLSE
    assert client.open(b"shell:echo old")
    assert client.read_all() == b"old\n"


@pytest.mark.parametrize("service", [b"tcp:80", b"reboot:", b"", b"\xff", b"shell", b"sync"])
def test_what_is_not_served_is_closed(client: Client, service: bytes) -> None:
    if not client.open(service):
        pytest.fail("an OPEN is confirmed before it is looked at")
    if service in (b"shell", b"sync"):
        client.send(CLSE, client.local, client.remote)
    client.read_all()
    assert client.ask("echo here")[1] == b"here\n"


def test_a_line_that_no_kernel_takes_is_a_status(client: Client) -> None:
    status, _, complaint = client.ask(f": {'x' * (200 << 10)}")
    assert status == 126
    assert b"too long" in complaint


def test_megabytes_come_back(client: Client) -> None:
    assert client.open(b"exec:head -c 6000000 /dev/zero | tr '\\0' x")
    assert client.read_all() == b"x" * 6_000_000


def test_a_client_that_does_not_confirm_stops_its_command(client: Client, tmp_path: Path) -> None:
    assert client.open(f"shell:yes | head -c 9000000; : >'{tmp_path / 'done'}'".encode())
    time.sleep(0.4)
    assert not (tmp_path / "done").exists()
    assert len(client.read_all()) == 9_000_000


def test_what_runs_lives_on_when_its_client_goes(client: Client, tmp_path: Path) -> None:
    assert client.open(f"shell,v2,raw:sleep 0.5; : >'{tmp_path / 'done'}'".encode())
    client.line.close()
    _wait_until((tmp_path / "done").exists)


def test_a_command_knows_nothing_of_the_controller(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROLLER_SECRET", "x")
    known = dict(line.split("=", 1) for line in client.ask("env")[1].decode().splitlines())
    assert not {"CONTROLLER_SECRET", "VIRTUAL_ENV"} & set(known)
    assert known["HOME"] == str(tmp_path / "phone" / "home")
    assert Path(known["FARM_TREE"]).is_relative_to(tmp_path / "phone")
    assert "simulated" in known["FARM_SIMULATED"]


def test_hundreds_of_commands_leave_nothing(client: Client) -> None:
    client.ask(":")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for n in range(100):
        assert client.ask(f"echo {n}")[1] == f"{n}\n".encode()
    _wait_until(lambda: (len(os.listdir("/proc/self/fd")), threading.active_count()) <= before)


# Files


@pytest.mark.parametrize("version", [NEWEST, WITH_CHECKSUMS])
@pytest.mark.parametrize("max_payload", [4096, MOST_BYTES])
def test_files_go_both_ways(
    phone: Phone, tmp_path: Path, version: int, max_payload: int, greet: Meet
) -> None:
    client = greet(phone, version=version, max_payload=max_payload)
    target = tmp_path / "new" / "folder" / "file"
    assert client.push(target, BIG) == b"OKAY"
    assert target.read_bytes() == BIG
    assert (target.stat().st_mode & 0o777, target.stat().st_mtime) == (0o644, 1_600_000_000)
    assert _pulled(client, target) == BIG


def _pulled(client: Client, path: Path) -> bytes:
    name = os.fsencode(path)
    assert client.open(b"sync:")
    client.write(struct.pack("<4sI", b"RECV", len(name)) + name)
    content = b""
    while True:
        kind, length = struct.unpack("<4sI", client.read(8))
        if kind == b"DONE":
            break
        content += client.read(length)
        if kind == b"FAIL":
            break
    client.write(struct.pack("<4sI", b"QUIT", 0))
    client.read_all()
    return content


def test_a_file_that_is_not_there_is_a_reason(client: Client, tmp_path: Path) -> None:
    assert _pulled(client, tmp_path / "none") == b"open failed: No such file or directory"
    assert _pulled(client, tmp_path) == b"read failed: Is a directory"


def test_files_are_listed_and_looked_at(client: Client, tmp_path: Path) -> None:
    (tmp_path / "ü").write_bytes(b"12345")
    name = os.fsencode(tmp_path)
    assert client.open(b"sync:")
    client.write(struct.pack("<4sI", b"LIST", len(name)) + name)
    found = {}
    while (entry := struct.unpack("<4s4I", client.read(20)))[0] == b"DENT":
        found[os.fsdecode(client.read(entry[4]))] = entry[2]
    assert found["ü"] == 5
    for path, size in ((tmp_path / "ü", 5), (tmp_path / "none", 0)):
        client.write(struct.pack("<4sI", b"STAT", len(os.fsencode(path))) + os.fsencode(path))
        assert struct.unpack("<4s3I", client.read(16))[2] == size


def test_a_push_that_cannot_be_kept_is_drained_and_leaves_nothing(
    switch: Switch, tmp_path: Path, greet: Meet
) -> None:
    client = greet(switch("&fault=full:100000"))
    target = tmp_path / "file"
    assert client.push(target, b"x" * 99_999) == b"OKAY"
    assert client.push(target, BIG) == b"FAILwrite failed: No space left on device"
    assert not target.exists()
    assert client.push(tmp_path / "phone", b"x") == b"FAILcouldn't create file: Is a directory"
    assert (
        client.push(Path(f"/{'x' * 300}"), b"x") == b"FAILcouldn't create file: File name too long"
    )
    assert client.push(target, b"small") == b"OKAY"


def test_a_push_that_breaks_off_leaves_nothing(client: Client, tmp_path: Path) -> None:
    target = os.fsencode(tmp_path / "file") + b",33188"
    assert client.open(b"sync:")
    client.write(struct.pack("<4sI", b"SEND", len(target)) + target)
    client.write(struct.pack("<4sI", b"DATA", 65536) + b"x" * 1000)
    _wait_until((tmp_path / "file").exists)
    client.line.close()
    _wait_until(lambda: not (tmp_path / "file").exists())


def test_a_scripted_push_flips_one_bit(switch: Switch, tmp_path: Path, greet: Meet) -> None:
    client = greet(switch("&fault=corrupt:2"))
    arrived = []
    for n in range(3):
        client.push(tmp_path / f"{n}", BIG)
        arrived.append((tmp_path / f"{n}").read_bytes())
    changed = [index for index, data in enumerate(arrived) if data != BIG]
    assert changed == [1]
    assert sum((a ^ b).bit_count() for a, b in zip(arrived[1], BIG, strict=True)) == 1


# Faults and manners of the wire


def test_the_connection_breaks_after_so_many_bytes_once(
    switch: Switch, tmp_path: Path, greet: Meet
) -> None:
    phone = switch("&fault=drop:3000000")
    client = greet(phone)
    with pytest.raises(OSError, match=_BROKEN):
        client.push(tmp_path / "file", BIG)
    client = greet(phone)
    assert client.push(tmp_path / "file", BIG) == b"OKAY"


def test_a_scripted_disconnect_is_a_service_that_is_never_begun(
    switch: Switch, greet: Meet
) -> None:
    client = greet(switch("&fault=disconnect:2"))
    client.ask("true")
    with pytest.raises(OSError, match=_BROKEN):
        client.ask("true")


def test_it_says_what_it_takes_and_keeps_to_it(switch: Switch, greet: Meet) -> None:
    client = greet(switch("&max_payload=4096&version=16777216"))
    assert (client.version, client.max_payload) == (WITH_CHECKSUMS, 4096)
    assert client.ask("cat", stdin=b"x" * 9000) == (0, b"x" * 9000, b"")
    client.send(WRTE, 1, 1, b"x" * 4097)
    with pytest.raises(ConnectionResetError):
        client.receive()


def test_it_is_late_and_slow_where_it_is_to_be(switch: Switch, tmp_path: Path, greet: Meet) -> None:
    client = greet(switch("&latency_ms=60&rate=1000000"))
    began = time.monotonic()
    assert client.ask("echo 1; echo 2 >&2")[1] == b"1\n"
    assert time.monotonic() - began > 0.2
    began = time.monotonic()
    assert client.push(tmp_path / "file", b"x" * 300_000) == b"OKAY"
    assert time.monotonic() - began > 0.3


# What makes no sense


def _bad_magic(client: Client) -> None:
    client.line.sendall(HEADER.pack(OPEN, 1, 0, 0, 0, 0))


def _long_payload(client: Client) -> None:
    client.line.sendall(HEADER.pack(WRTE, 1, 1, 0xFFFFFFFF, 0, WRTE ^ 0xFFFFFFFF))


def _no_payload_at_all(client: Client) -> None:
    client.send(CNXN, NEWEST, 0, b"host::\0")


def _flood(client: Client) -> None:
    client.open(b"exec:sleep 5")
    for _ in range(4):
        client.send(WRTE, client.local, client.remote, b"x" * MOST_BYTES)
        client.send(WRTE, client.local, client.remote, b"x" * MOST_BYTES)


@pytest.mark.parametrize("deed", [_bad_magic, _long_payload, _no_payload_at_all, _flood])
def test_who_breaks_the_rules_is_disconnected(
    phone: Phone, client: Client, deed: Callable[[Client], None], greet: Meet
) -> None:
    def provoke() -> None:
        deed(client)
        while True:
            client.receive()

    with pytest.raises(OSError, match=_BROKEN):
        provoke()
    other = greet(phone)
    assert other.ask("echo here")[1] == b"here\n"


def test_a_wrong_checksum_ends_the_connection(phone: Phone, greet: Meet) -> None:
    client = greet(phone, version=WITH_CHECKSUMS)
    client.line.sendall(HEADER.pack(OPEN, 1, 0, 3, 1, OPEN ^ 0xFFFFFFFF) + b"abc")
    with pytest.raises(ConnectionResetError):
        client.receive()


def test_streams_that_are_not_there_and_words_that_it_does_not_know_are_ignored(
    client: Client,
) -> None:
    for command in (OKAY, WRTE, CLSE):
        client.send(command, 7, 99, b"x")
    client.send(int.from_bytes(b"STLS", "little"), 0, 0)
    client.send(0x12345678, 1, 2, b"what")
    client.send(OPEN, 0, 0, b"shell:true\0")
    assert client.ask("echo here")[1] == b"here\n"


def test_streams_have_a_limit_and_room_again_when_some_are_closed(client: Client) -> None:
    opened = []
    while client.open(b"shell:cat"):
        opened.append((client.local, client.remote))
    assert 10 < len(opened) < 1000
    for local, remote in opened:
        client.send(CLSE, local, remote)
        assert client.receive()[0] == CLSE
    assert client.ask("echo here")[1] == b"here\n"


@pytest.mark.parametrize(
    "packets",
    [b"NOPE\0\0\0\0", b"STAT\xff\xff\xff\xff", b"SEND\x03\0\0\0abc", b"DATA\x01\0\0\0x"],
)
def test_a_request_that_makes_no_sense_is_told_so(client: Client, packets: bytes) -> None:
    assert client.open(b"sync:")
    client.write(packets)
    assert client.read(4) == b"FAIL"


def test_thousands_of_malformed_messages_harm_nobody(
    phone: Phone, tmp_path: Path, caplog: pytest.LogCaptureFixture, greet: Meet
) -> None:
    seed = int(os.environ.get("FARM_FUZZ_SEED", random.randrange(1 << 32)))
    print(f"FARM_FUZZ_SEED={seed} FARM_FUZZ={FUZZ} repeat this")
    chance = random.Random(seed)
    healthy = greet(phone)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent = 0
    while sent < FUZZ:
        sent += _torment(phone, chance, tmp_path)
        if chance.random() < 0.02:
            assert healthy.ask("echo here")[1] == b"here\n"
    assert healthy.ask("echo here")[1] == b"here\n"
    assert greet(phone).push(tmp_path / "file", BIG) == b"OKAY"
    gc.collect()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 300 << 10
    assert not [record for record in caplog.records if record.name == "asyncio"]


def _torment(phone: Phone, chance: random.Random, tmp_path: Path) -> int:
    """One client that goes mad; returns how often."""
    client = Client(phone, version=chance.choice((NEWEST, NEWEST, WITH_CHECKSUMS)))
    client.line.settimeout(10)
    client.max_payload = 4096
    sent = 0
    try:
        if chance.random() < 0.9:
            client.sign()
        if chance.random() < 0.5:
            client.open(b"sync:")
        for _ in range(chance.randint(1, 60)):
            sent += 1
            client.line.sendall(_nonsense(chance, tmp_path, getattr(client, "remote", 1)))
    except (OSError, AssertionError):
        pass
    client.line.close()
    return sent + 1


def _nonsense(chance: random.Random, tmp_path: Path, remote: int) -> bytes:
    """Anything from noise to a message with a single wrong number. No service runs a command."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randint(1, 99))
    command = chance.choice(
        (CNXN, AUTH, OPEN, OKAY, WRTE, WRTE, WRTE, CLSE, chance.getrandbits(32))
    )
    services = (b"sync:", b"sync:", b"shell", b"tcp:", b"\0", chance.randbytes(5).hex().encode())
    payload = chance.choice(services) if command == OPEN else _packet(chance, tmp_path)
    numbers = [chance.choice((0, 1, 2, remote, chance.getrandbits(32))) for _ in range(2)]
    length, magic = len(payload), command ^ 0xFFFFFFFF
    if chance.random() < 0.05:
        length = chance.choice((0, length + 1, 1 << 20, chance.getrandbits(32)))
    if chance.random() < 0.02:
        magic = chance.getrandbits(32)
    total = chance.choice((checksum(payload), 0))
    return HEADER.pack(command, numbers[0], numbers[1], length, total, magic) + payload


def _packet(chance: random.Random, tmp_path: Path) -> bytes:
    """Something like a request for files, all of them in the test's folder."""
    name = chance.choice((b"STAT", b"LIST", b"RECV", b"SEND", b"DATA", b"DONE", b"QUIT", b"XXXX"))
    path = os.fsencode(tmp_path / "fuzz" / chance.randbytes(2).hex())
    path += chance.choice((b",33188", b",", b",x", b"\0,420", b""))
    length = chance.choice((len(path), len(path), 0, 3000, chance.getrandbits(32)))
    return struct.pack("<4sI", name, length) + path


# What a phone tells of itself


def _told(client: Client, command: str) -> str:
    status, out, complaint = client.ask(command)
    assert (status, complaint) == (0, b"")
    return out.decode()


def test_its_sensors_show_heat_and_speeds(switch: Switch, digits: Path, greet: Meet) -> None:
    phone = switch("&fault=throttle:2")
    client = greet(phone)
    zone = "$FARM_TREE/sys/class/thermal/thermal_zone2/temp"
    policy = "$FARM_TREE/sys/devices/system/cpu/cpu7/cpufreq"
    looks = []
    for _ in range(3):
        heat, most = _told(client, f"cat {zone} {policy}/scaling_max_freq").split()
        spent = _told(client, f"cat {policy}/stats/time_in_state").split()[1::2]
        looks.append(
            (
                int(heat),
                int(most),
                "Thermal Status: 2" in _told(client, "dumpsys thermalservice"),
                int(spent[2]),
                int(spent[3]),
            )
        )
        _measure(client, digits)
    heats, limits, hots, slow, fast = zip(*looks, strict=True)
    assert heats[0] < heats[1] < heats[2]
    assert limits == (2_850_000, 2_850_000, 1_826_000)
    assert hots == (False, False, True)
    assert slow[1] == 0 < slow[2]
    assert fast[0] == 0 < fast[1] == fast[2]
    time.sleep(2.1)
    assert "Thermal Status: 0" in _told(client, "dumpsys thermalservice")


def _measure(client: Client, digits: Path) -> None:
    load = {"min_duration_s": 20, "max_duration_s": 60, "min_queries": 8, "warmup_s": 0}
    spec = {"mode": "measure", "model": str(digits / "int8.onnx"), "inputs": None,
            "dimensions": {}, "accelerator": "cpu", "load": load}  # fmt: skip
    status, _, complaint = client.ask(f"python3 {LOADGEN} '{json.dumps(spec)}'")
    assert status == 0, complaint


@pytest.mark.parametrize("profile", ["phone", "camera"])
def test_its_services_speak_like_android(switch: Switch, profile: str, greet: Meet) -> None:
    client = greet(switch(profile=profile))
    battery = _told(client, "dumpsys battery")
    assert f"  present: {str(profile == 'phone').lower()}\n" in battery
    assert f"  level: {65 if profile == 'phone' else 100}\n" in battery
    heat = _told(client, "dumpsys thermalservice")
    assert heat.index("Cached temperatures:") < heat.index("HAL Ready: true")
    assert "Current temperatures from HAL:\n\tTemperature{mValue=" in heat
    supply = _told(client, "ls $FARM_TREE/sys/class/ | tr '\\n' ' '")
    assert ("power_supply" in supply) == (profile == "phone")


def test_without_a_thermal_hal_nothing_is_told_of_it() -> None:
    text = thermal_dump(status=0, sensors=[Heat(name="s", kind=SKIN, celsius=30)], ready=False)
    assert text.endswith("HAL Ready: false\n")


def test_a_restart_ends_everything_and_forgets_what_phones_forget(
    switch: Switch, digits: Path, greet: Meet
) -> None:
    phone = switch("&fault=reboot:1")
    client = greet(phone)
    asked = (
        "cat $FARM_TREE/proc/sys/kernel/random/boot_id; settings get global farm;"
        " dumpsys deviceidle enabled"
    )
    _told(
        client, "settings put global farm 'a b'; cmd power set-fixed-performance-mode-enabled true"
    )
    _told(client, "dumpsys deviceidle disable")
    before = _told(client, asked).split("\n")
    assert before[1:3] == ["a b", "0"]
    with pytest.raises(OSError, match=_BROKEN):
        _measure(client, digits)
    again = greet(phone)
    after = _told(again, asked).split("\n")
    assert after[0] != before[0]
    assert after[1:3] == ["a b", "1"]
    state = phone.volatile / "state" / "fixed_performance"
    assert state.read_text() == "false\n"


def test_switched_off_nothing_of_it_runs_or_lies_around(
    switch: Switch, tmp_path: Path, greet: Meet
) -> None:
    phone = switch()
    client = greet(phone)
    assert client.open(b"shell:echo $$; exec sleep 600")
    pid = int(client.read(4 + 1).split()[0])
    phone.switch_off()
    _wait_until(lambda: not Path(f"/proc/{pid}").exists())
    left = {path.name for path in (tmp_path / "phone").iterdir()}
    assert left == {"bin", "boots", "home", "settings"}


def test_phones_of_one_serial_number_are_the_same(tmp_path: Path) -> None:
    def state(name: str, serial: str) -> dict[str, str]:
        write_state(tmp_path / name, serial=serial)
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / name)): path.read_text() for path in files}

    assert state("a", "1") == state("b", "1") != state("c", "2")


@pytest.mark.parametrize("shell", ["sh", "mksh", "dash"])
def test_its_tools_answer_as_those_of_a_phone(
    shell: str, tmp_path: Path, lacks: Callable[[str], None]
) -> None:
    folder, state = tmp_path / "it's $(a)", tmp_path / "st'ate"
    write_tools(folder, state=str(state))
    write_state(state, serial="S1")

    def ask(*words: str) -> tuple[int, str, str]:
        command = [shell, str(folder / words[0]), *words[1:]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            lacks(f"there is no {shell}; apt-get install {shell}")
        return done.returncode, done.stdout, done.stderr

    assert ask("getprop", "ro.serialno") == (0, "S1\n", "")
    assert ask("getprop", "none") == (0, "\n", "")
    assert "[ro.serialno]: [S1]\n" in ask("getprop")[1]
    assert ask("dumpsys", "none")[2] == "Can't find service: none\n"
    assert ask("dumpsys", "deviceidle", "enabled")[1] == "1\n"
    assert ask("dumpsys", "deviceidle", "disable")[1].startswith("Deep idle mode disabled\n")
    assert ask("dumpsys", "deviceidle", "enabled", "light")[1] == "0\n"
    assert ask("settings", "get", "global", "none")[1] == "null\n"
    assert ask("settings", "put", "global", "x", r"a \b") == (0, "", "")
    assert ask("settings", "get", "global", "x")[1] == "a \\b\n"
    assert ask("settings", "delete", "global", "x")[1] == "Deleted 1 rows\n"
    assert ask("settings", "get", "nowhere", "x")[0] == 255
    assert ask("svc", "power", "stayon", "usb")[0] == 0
    assert (state / "settings/global/stay_on_while_plugged_in").read_text() == "2\n"
    fixed = ("cmd", "power", "set-fixed-performance-mode-enabled", "true")
    assert ask(*fixed) == (0, "", "")
    (state / "fixed_performance").write_text("unsupported\n")
    assert ask(*fixed)[0] == 255
    assert ask(*fixed)[2].startswith("Failed to set FIXED_PERFORMANCE mode\n")
    assert ask("cmd", "none")[0] == 20
    assert ask("input", "keyevent", "KEYCODE_WAKEUP")[0] == 0
    assert (state / "screen").read_text() == "on\n"
    (state / "logcat").write_text(
        "".join(f"170000000{n}.09{n}  1  2 I t: m{n}\n" for n in range(4))
    )
    epoch = ("logcat", "-d", "-v", "epoch", "-t")
    assert ask(*epoch, "1700000002.0")[1].count(": m") == 2
    assert ask(*epoch, "1700000002.093")[1].count(": m") == 1
    assert ask(*epoch, "1")[1].endswith(" 1700000003.093  1  2 I t: m3\n")
    assert ask("logcat", "-d", "-v", "threadtime", "-t", "1")[1].endswith(":23.093  1  2 I t: m3\n")


# Addresses


@pytest.mark.parametrize(
    "option",
    ["rate=0", "rate=fast", "latency_ms=-1", "max_payload=10", "version=2", "shell_v2=maybe",
     "fault=explode:1", "fault=drop:x", "fault=drop", "seed=x"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_advice(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        VirtualPhone.check(_device(tmp_path, f"&{option}"))
    assert "write" in caught.value.hint


def test_what_can_be_read_is_taken(tmp_path: Path) -> None:
    options = "&rate=1000&latency_ms=5&max_payload=4096&version=16777216&shell_v2=no"
    faults = "&fault=drop:1&fault=full:0&fault=unauthorized:1&fault=hang:3"
    VirtualPhone.check(_device(tmp_path, options + faults))


def test_a_runtime_without_physics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would measure the controller"):
        VirtualPhone.check(replace(_device(tmp_path), runtime="ort_native"))


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "phone").touch()
    with pytest.raises(ConnectError, match="cannot use the folder") as caught:
        VirtualPhone.start(_device(tmp_path))
    assert "virtual-adb://phone?root=" in caught.value.hint
