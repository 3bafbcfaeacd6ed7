"""What the ADB transports make of phones that lie, stall or break off, and of keys."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from adb_shell import adb_message
from adb_shell.auth.keygen import keygen
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from drivers.transports import adb, adb_link
from drivers.transports.adb import AdbTransport
from drivers.transports.adb_exec import _Framed, _Plain
from drivers.transports.adb_keys import signer
from drivers.transports.adb_link import MAX_DATA, VERSION, _Message
from drivers.transports.adb_server import AdbServerTransport
from drivers.transports.adb_wire import Nonsense
from farm.errors import ConfigError, ConnectError, ConnectionLost, InfraError
from farm.model import Address, Device

HEADER = struct.Struct("<6I")
BANNER = b"device::ro.product.name=x;features=shell_v2,cmd\0"

Script = Callable[["FakePhone"], None]


class FakePhone:
    """The other end of one connection, for a test to say what it likes."""

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self.summed = False

    def send(self, command: bytes, first: int = 0, second: int = 0, data: bytes = b"") -> None:
        code = int.from_bytes(command, "little")
        head = HEADER.pack(code, first, second, len(data), sum(data), code ^ 0xFFFFFFFF)
        self.socket.sendall(head + data)

    def packet(self) -> tuple[bytes, int, int, bytes]:
        code, first, second, length, check, magic = HEADER.unpack(self.exactly(HEADER.size))
        assert code ^ magic == 0xFFFFFFFF
        data = self.exactly(length)
        if self.summed:
            assert check == sum(data) & 0xFFFFFFFF
        return code.to_bytes(4, "little"), first, second, data

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def greet(self, version: int = VERSION, max_data: int = MAX_DATA) -> None:
        assert self.packet()[0] == b"CNXN"
        self.send(b"CNXN", version, max_data, BANNER)
        self.summed = version < VERSION

    def opened(self) -> tuple[int, bytes]:
        """The number of the stream that is asked for, and the service."""
        while True:
            command, number, _, name = self.packet()
            if command == b"OPEN":
                self.send(b"OKAY", 7, number)
                return number, name

    def say(self, number: int, data: bytes) -> None:
        self.send(b"WRTE", 7, number, data)

    def answer(self, output: bytes) -> None:
        """Run any command: it prints this."""
        number, _ = self.opened()
        output = b"\nfarm-exec 5\n" + output
        self.say(number, struct.pack("<BI", 1, len(output)) + output + b"\3\1\0\0\0\0")


@pytest.fixture
def fake() -> Iterator[Callable[[Script], Device]]:
    """Starts a phone that does what a function says, on every connection."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(made: socket.socket, script: Script) -> None:
        with made, suppress(EOFError, OSError):
            script(FakePhone(made))
            while made.recv(1 << 16):
                pass

    def listen(listener: socket.socket, script: Script) -> None:
        while True:
            try:
                made, _ = listener.accept()
            except OSError:
                return
            made.settimeout(20)
            threads.append(threading.Thread(target=serve, args=(made, script), daemon=True))
            threads[-1].start()

    def start(script: Script) -> Device:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threads.append(threading.Thread(target=listen, args=(listener, script), daemon=True))
        threads[-1].start()
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        address = Address(scheme="adb", place=place)
        return Device(name="p", type="t", address=address, options=(("serial", "S1"),))

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(20)


def ready(phone: FakePhone) -> None:
    """As far as a session's first command of its own."""
    phone.greet()
    phone.answer(b"S1\n")
    phone.answer(b"/data/local/tmp/farm\n")


class TestGreeting:
    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            HEADER.pack(0x4E584E43, 1, 1, 5, 0, 0),
            HEADER.pack(0x4E584E43, 1, 1, 0xFFFFFFFF, 0, 0x4E584E43 ^ 0xFFFFFFFF),
            HEADER.pack(0x4E584E43, VERSION, 5, 0, 0, 0x4E584E43 ^ 0xFFFFFFFF),
            HEADER.pack(0x48545541, 1, 0, 3, 0, 0x48545541 ^ 0xFFFFFFFF) + b"abc",
            HEADER.pack(0x59414B4F, 1, 0, 0, 0, 0x59414B4F ^ 0xFFFFFFFF),
            bytes(100),
        ],
        ids=["http", "bad_magic", "4_GiB", "tiny_packets", "short_token", "okay", "zeros"],
    )
    def test_nonsense_is_no_phone(self, fake: Callable[[Script], Device], said: bytes) -> None:
        device = fake(lambda phone: phone.socket.sendall(said))
        with pytest.raises(ConnectError, match="does not speak ADB with us"):
            AdbTransport(device)

    @pytest.mark.parametrize("pause_s", [60.0, 0.02])
    def test_silence_and_a_byte_now_and_then_end_at_the_deadline(
        self, fake: Callable[[Script], Device], monkeypatch: pytest.MonkeyPatch, pause_s: float
    ) -> None:
        monkeypatch.setattr(adb_link, "CONNECT_S", 0.3)
        over = threading.Event()

        def trickle(phone: FakePhone) -> None:
            while not over.wait(pause_s):
                phone.socket.sendall(b"C")
                phone.socket.sendall(b"")

        device = fake(trickle)
        with pytest.raises(ConnectError, match=r"does not answer|does not speak"):
            AdbTransport(device)
        over.set()

    def test_a_phone_that_hangs_up_is_tried_again_and_then_told(
        self, fake: Callable[[Script], Device], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(adb, "PAUSE_S", 0.0)
        tries: list[int] = []

        def refuse(phone: FakePhone) -> None:
            tries.append(1)
            phone.packet()
            phone.socket.shutdown(socket.SHUT_RDWR)

        with pytest.raises(ConnectError, match="cannot be reached"):
            AdbTransport(fake(refuse))
        assert len(tries) == adb.REFUSALS + 1

    def test_an_unknown_key_is_not_shown_in_a_session_but_to_enroll(
        self, fake: Callable[[Script], Device], tmp_path: Path
    ) -> None:
        keygen(str(tmp_path / "key"))
        shown: list[bytes] = []

        def ask(phone: FakePhone) -> None:
            phone.packet()
            for _ in range(2):
                phone.send(b"AUTH", 1, 0, os.urandom(20))
                _, kind, _, data = phone.packet()
                if kind == 3:
                    shown.append(data)
            phone.send(b"CNXN", VERSION, MAX_DATA, BANNER)
            phone.answer(b"S1\n")

        device = fake(ask)
        options = (*device.options, ("adb_key", str(tmp_path / "key")))
        device = Device(name="p", type="t", address=device.address, options=options)
        with pytest.raises(ConnectError, match="does not know this computer") as caught:
            AdbTransport(device)
        assert caught.value.hint == "farm enroll p"
        assert shown == []
        told: list[str] = []
        assert AdbTransport.introduce(device, told.append) == (("serial", "S1"),)
        (line,) = told
        assert "accept this computer" in line
        (key,) = shown
        public = (tmp_path / "key.pub").read_bytes()
        assert key.startswith(public.split()[0])

    def test_a_phone_that_wants_tls_is_told_from_others(
        self, fake: Callable[[Script], Device]
    ) -> None:
        device = fake(lambda phone: phone.send(b"STLS", 0x01000000))
        with pytest.raises(ConnectError, match="paired computers only"):
            AdbTransport(device)


class TestCommands:
    @pytest.mark.parametrize(
        "said",
        [b"\x09\1\0\0\0x", b"\0\1\0\0\0x", b"\3\0\0\0\0", b""],
        ids=["unknown_stream", "our_input", "no_status", "nothing"],
    )
    def test_nonsense_in_a_shell_is_a_broken_connection(
        self, fake: Callable[[Script], Device], said: bytes
    ) -> None:
        def script(phone: FakePhone) -> None:
            ready(phone)
            number, _ = phone.opened()
            phone.say(number, said)
            phone.send(b"CLSE", 7, number)

        with (
            closing(AdbTransport(fake(script))) as transport,
            pytest.raises(ConnectionLost, match="broke while 'true' ran"),
        ):
            transport.run(("true",), timeout_s=10)

    @pytest.mark.parametrize(
        "said",
        [
            b"GARB\0\0\0\0" * 4,
            b"STAT" + b"\1" * 12 + b"FAIL\xff\xff\xff\xff",
            b"STAT" + b"\1" * 12 + b"GARBAGE!",
            b"STAT" + b"\1" * 12 + b"FAIL\4\0\0\0why?",
            b"STAT" + b"\0" * 12,
        ],
        ids=["no_stat", "4_GiB_of_reasons", "no_okay", "reason", "no_folder"],
    )
    def test_nonsense_about_a_file_is_an_error(
        self, fake: Callable[[Script], Device], said: bytes, tmp_path: Path
    ) -> None:
        def script(phone: FakePhone) -> None:
            ready(phone)
            number, name = phone.opened()
            assert name == b"sync:\0"
            phone.say(number, said)

        (tmp_path / "file").write_bytes(b"data")
        with closing(AdbTransport(fake(script))) as transport, pytest.raises(InfraError):
            transport.push(tmp_path / "file", transport.root / "file")

    def test_an_old_phone_gets_small_packets_with_their_sums(
        self, fake: Callable[[Script], Device]
    ) -> None:
        heard: list[bytes] = []

        def script(phone: FakePhone) -> None:
            phone.greet(version=0x01000000, max_data=4096)
            phone.answer(b"S1\n")
            phone.answer(b"/data/local/tmp/farm\n")
            number, _ = phone.opened()
            while b"\4\0\0\0\0" not in b"".join(heard)[-5:]:
                command, _, _, data = phone.packet()
                if command == b"WRTE":
                    assert len(data) <= 4096
                    heard.append(data)
                    phone.send(b"OKAY", 7, number)
            phone.say(number, b"\3\1\0\0\0\0")

        stdin = os.urandom(100_000)
        with closing(AdbTransport(fake(script))) as transport:
            transport.run(("cat",), timeout_s=20, stdin=stdin)
        sent = b"".join(heard)
        assert len(sent) == len(stdin) + 5 * (len(stdin) // (64 << 10) + 1) + 5


class TestParts:
    def test_the_quick_sum_is_the_librarys(self) -> None:
        for data in (b"", b"\xff" * 1_000_000, os.urandom(999_999)):
            quick = _Message(b"WRTE", 1, 2, data, summed=True).checksum
            assert quick == adb_message.checksum(data)
            assert _Message(b"WRTE", 1, 2, data, summed=False).checksum == 0

    def test_frames_may_come_in_any_pieces(self) -> None:
        said = b"\1\3\0\0\0out\2\3\0\0\0err\3\1\0\0\0\x07"
        for size in range(1, len(said) + 1):
            speech = _Framed()
            heard = {1: b"", 2: b"", 3: b""}
            for start in range(0, len(said), size):
                for stream, part in speech.heard(said[start : start + size]):
                    heard[stream] += part
            assert heard == {1: b"out", 2: b"err", 3: b"7"}

    def test_an_empty_frame_is_nonsense(self) -> None:
        """No adbd sends one, and an endless row of them would look like output."""
        with pytest.raises(Nonsense):
            list(_Framed().heard(b"\2\0\0\0\0"))

    def test_plain_output_may_come_in_any_pieces(self) -> None:
        speech = _Plain()
        word = speech._word
        said = b"out farm-end" + word[:-1] + b"\n" + word + b" 7\nerr"
        for size in range(1, len(said) + 1):
            speech = _Plain()
            speech._word = word
            heard = {1: b"", 2: b"", 3: b""}
            for start in range(0, len(said) + size, size):
                for stream, part in speech.heard(said[start : start + size]):
                    heard[stream] += part
            assert heard == {1: said.partition(b"\n")[0] + b"\n", 2: b"err", 3: b"7"}


class TestKeys:
    def test_a_key_is_made_where_adb_has_its_own_for_nobody_else_to_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        device = Device(name="p", type="t", address=Address.parse("adb://x"))
        made = signer(device)
        path = tmp_path / ".android" / "adbkey"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert {entry.name for entry in path.parent.iterdir()} == {"adbkey", "adbkey.pub"}
        assert path.with_suffix(".pub").read_bytes() == made.GetPublicKey()
        before = path.read_bytes()
        signer(device)
        assert path.read_bytes() == before

    def test_a_key_needs_no_public_file(self, tmp_path: Path) -> None:
        keygen(str(tmp_path / "key"))
        public = (tmp_path / "key.pub").read_bytes()
        (tmp_path / "key.pub").unlink()
        assert signer(_with_key(tmp_path / "key")).GetPublicKey() == public

    @pytest.mark.parametrize("what", ["missing", "public", "locked", "short", "ec"])
    def test_a_key_that_is_none_is_the_inventorys_fault(self, tmp_path: Path, what: str) -> None:
        path = tmp_path / "key"
        plain = serialization.NoEncryption()
        locked = serialization.BestAvailableEncryption(b"open sesame")
        keys = {
            "locked": (rsa.generate_private_key(65537, 2048), locked),
            "short": (rsa.generate_private_key(65537, 1024), plain),
            "ec": (ec.generate_private_key(ec.SECP256R1()), plain),
        }
        if what in keys:
            key, lock = keys[what]
            pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            path.write_bytes(key.private_bytes(pem, form, lock))
        elif what == "public":
            keygen(str(tmp_path / "other"))
            path = tmp_path / "other.pub"
        with pytest.raises(ConfigError, match="cannot use the key") as caught:
            signer(_with_key(path))
        assert "adb keygen" in caught.value.hint


class TestAddresses:
    @pytest.mark.parametrize(
        "text", ["adb://", "adb://h:port", "adb://u@h", "adb://a b", "adb:///x"]
    )
    def test_an_address_that_names_no_phone_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError):
            AdbTransport.check(Device(name="p", type="t", address=Address.parse(text)))

    @pytest.mark.parametrize(
        "text", ["adb-server://", "adb-server://S?server=x", "adb-server://S?server=h:1/x"]
    )
    def test_an_address_that_names_no_server_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError):
            AdbServerTransport.check(Device(name="p", type="t", address=Address.parse(text)))

    def test_ports_have_their_usual_numbers(self) -> None:
        device = Device(name="p", type="t", address=Address.parse("adb://phone.lab"))
        assert adb._place(device) == ("phone.lab", 5555)
        AdbServerTransport.check(
            Device(name="p", type="t", address=Address.parse("adb-server://8A1X"))
        )

    def test_a_quota_must_be_a_number(self) -> None:
        options = (("quota_mib", "much"),)
        for text, kind in (("adb://h", AdbTransport), ("adb-server://S", AdbServerTransport)):
            address = Address.parse(text)
            with pytest.raises(ConfigError, match="quota_mib"):
                kind.check(Device(name="p", type="t", address=address, options=options))


def _with_key(path: Path) -> Device:
    options = (("adb_key", str(path)),)
    return Device(name="p", type="t", address=Address.parse("adb://x"), options=options)
