"""What only a real adbd shows: cuts, full disks, other phones, small packets, deadlines."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from drivers.transports.adb import AdbTransport
from drivers.transports.adb_server import AdbServerTransport
from drivers.virtual.phone import Phone as PlayedPhone
from farm.connection import Transport
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    InfraError,
    OutOfSpace,
)
from farm.model import Address, Artifact, Device
from farm.shell import script
from farm.testing.probes import HOSTILE, wait_until
from tests.system.phones import AdbServer, Phone
from tests.system.proxies import Proxy
from tests.system.servers import free_port

pytestmark = pytest.mark.system

Starter = Callable[..., Phone]
BIG = 5 << 20


@pytest.fixture
def transport(phone: Phone) -> Iterator[AdbTransport]:
    with closing(AdbTransport(phone.device())) as transport:
        yield transport


@pytest.fixture(params=["adb", "adb-server"])
def either(
    request: pytest.FixtureRequest, phone: Phone, server_of_adb: AdbServer
) -> Iterator[Transport]:
    """A phone, reached both ways."""
    if request.param == "adb":
        device, kind = phone.device(), AdbTransport
    else:
        server_of_adb.attach(phone)
        device, kind = server_of_adb.device(phone), AdbServerTransport
    with closing(kind(device)) as transport:
        yield transport


@pytest.fixture
def big(tmp_path: Path) -> Artifact:
    path = tmp_path / "a big $(touch pwned) \n'.onnx"
    path.write_bytes(os.urandom(BIG))
    return Artifact.of(path)


class TestTrust:
    def test_a_phone_that_was_never_met_is_refused_with_the_way_to_meet_it(
        self, phone: Phone
    ) -> None:
        with pytest.raises(ConfigError, match="unknown serial FARM0001") as caught:
            AdbTransport(phone.device(serial=""))
        assert caught.value.hint.endswith("farm enroll phone")
        assert not phone.here(phone.root).exists()

    def test_another_phone_at_the_address_is_refused(self, phone: Phone) -> None:
        with pytest.raises(ConfigError, match="now shows the serial FARM0001, OTHER was pinned"):
            AdbTransport(phone.device(serial="OTHER"))

    def test_a_phone_that_is_exchanged_under_a_running_session_is_refused(
        self, start_phone: Starter, start_proxy: Callable[[int], Proxy]
    ) -> None:
        first, second = start_phone(), start_phone(serial="OTHER")
        proxy = start_proxy(first.port)
        with closing(AdbTransport(first.device(port=proxy.port))) as transport:
            proxy.target = second.port
            proxy.cut()
            with pytest.raises(ConfigError, match="now shows the serial OTHER"):
                transport.run(("true",), timeout_s=30)

    def test_it_introduces_itself_with_the_serial_that_is_pinned_later(self, phone: Phone) -> None:
        told: list[str] = []
        (introduced,) = AdbTransport.introduce(phone.device(serial=""), told.append)
        assert introduced == ("serial", "FARM0001")
        assert told == []
        AdbTransport(phone.device(serial=introduced[1])).close()

    def test_the_server_of_adb_tells_the_same(self, phone: Phone, server_of_adb: AdbServer) -> None:
        server_of_adb.attach(phone)
        device = server_of_adb.device(phone, serial="")
        assert AdbServerTransport.introduce(device) == (("serial", "FARM0001"),)
        with pytest.raises(ConfigError, match="unknown serial"):
            AdbServerTransport(device)
        with pytest.raises(ConfigError, match="now shows the serial"):
            AdbServerTransport(server_of_adb.device(phone, serial="OTHER"))

    def test_nobody_is_told_from_a_phone(self) -> None:
        place = f"127.0.0.1:{free_port()}"
        device = Device(name="p", type="t", address=Address(scheme="adb", place=place))
        with pytest.raises(ConnectError, match="cannot be reached: Connection refused") as caught:
            AdbTransport(device)
        assert "adb tcpip" in caught.value.hint


class TestKeys:
    """Debian's adbd asks for no key; a virtual phone does."""

    def test_an_unknown_key_is_refused_and_enrolled_when_somebody_taps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        root = tmp_path / "phone"
        address = Address.parse(f"virtual-adb://phone?root={root}")
        phone = PlayedPhone(Device(name="p", type="t", address=address), root)
        try:
            options = tuple((k, v) for k, v in phone.options if k != "adb_key")
            device = Device(name="p", type="t", address=phone.address, options=options)
            with pytest.raises(ConnectError, match="does not know this computer") as caught:
                AdbTransport(device)
            assert caught.value.hint == "farm enroll p"
            assert not phone.tap()
            told: list[str] = []
            person = threading.Thread(target=wait_until, args=(phone.tap, "it never asks"))
            person.start()
            introduced = AdbTransport.introduce(device, told.append)
            person.join()
            assert ["accept this computer" in line for line in told] == [True]
            assert introduced == (("serial", dict(options)["serial"]),)
            with closing(AdbTransport(device)) as transport:
                assert transport.run(("echo", "in"), timeout_s=30).stdout == "in\n"
        finally:
            phone.switch_off()


class TestServerOfAdb:
    def test_a_server_that_does_not_run_is_not_started(self, phone: Phone) -> None:
        port = free_port()
        address = Address.parse(f"adb-server://X?server=127.0.0.1:{port}")
        with pytest.raises(ConnectError, match="no adb server answers") as caught:
            AdbServerTransport(Device(name="p", type="t", address=address))
        assert caught.value.hint == "adb start-server"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)

    def test_a_phone_that_it_does_not_have(self, server_of_adb: AdbServer) -> None:
        address = Address.parse(f"adb-server://NONE?server=127.0.0.1:{server_of_adb.port}")
        with pytest.raises(ConnectError, match="the adb server has no 'NONE'") as caught:
            AdbServerTransport(Device(name="p", type="t", address=address))
        assert "adb devices" in caught.value.hint

    def test_a_phone_that_goes_is_told(self, phone: Phone, server_of_adb: AdbServer) -> None:
        server_of_adb.attach(phone)
        with closing(AdbServerTransport(server_of_adb.device(phone))) as transport:
            going = threading.Timer(0.5, phone.stop)
            going.start()
            with pytest.raises(ConnectionLost):
                transport.run(("sleep", "30"), timeout_s=20)
            going.join()
            with pytest.raises(ConnectError):
                transport.run(("true",), timeout_s=20)

    def test_another_phone_at_its_place_is_refused(
        self, start_phone: Starter, start_proxy: Callable[[int], Proxy], server_of_adb: AdbServer
    ) -> None:
        first, second = start_phone(), start_phone(serial="OTHER")
        proxy = start_proxy(first.port)
        first.port, port = proxy.port, first.port
        server_of_adb.attach(first)
        with closing(AdbServerTransport(server_of_adb.device(first))) as transport:
            assert transport.run(("getprop", "ro.serialno"), timeout_s=30).stdout == "FARM0001\n"
            proxy.target = second.port
            proxy.cut()
            server_of_adb.attach(first)
            with pytest.raises(ConfigError, match="now shows the serial OTHER"):
                transport.run(("true",), timeout_s=30)
        first.port = port


class TestPush:
    def test_what_is_there_already_moves_no_bytes_and_takes_one_command(
        self, phone: Phone, start_proxy: Callable[[int], Proxy], big: Artifact
    ) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            place = transport.install(big)
            assert proxy.sent > BIG
            before = proxy.sent + proxy.received
            transport.install(big)
            assert proxy.sent + proxy.received - before < 4096
            assert proxy.connections == 1
        assert phone.here(place).read_bytes() == big.path.read_bytes()

    @pytest.mark.parametrize("mtu", [0, 1500])
    def test_a_file_of_any_length_arrives_whole(
        self, start_phone: Starter, tmp_path: Path, mtu: int
    ) -> None:
        """Around the edges of the pieces and blocks that it is sent in, and far behind them."""
        phone = start_phone(mtu=mtu)
        noise = os.urandom(40 << 20)
        source = tmp_path / "source"
        sizes = [edge + more for edge in (1 << 16, 1 << 20) for more in range(-120, 20, 7)]
        with closing(AdbTransport(phone.device())) as transport:
            for size in (*sizes, len(noise)):
                source.write_bytes(noise[:size])
                transport.push(source, transport.root / "file")
                assert phone.here(transport.root / "file").read_bytes() == noise[:size], size

    def test_a_cut_leaves_no_file_under_its_digest(
        self, phone: Phone, start_proxy: Callable[[int], Proxy], big: Artifact
    ) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            proxy.cut_after(BIG // 2)
            with pytest.raises(ConnectionLost):
                transport.install(big)
            assert not phone.here(transport.root / "store" / big.sha256).exists()
            assert transport.install(big).name == big.sha256  # over a new connection
        phone.assert_nothing_is_left()

    @pytest.mark.parametrize("through", ["adb", "adb-server"])
    def test_a_full_disk_is_told_and_leaves_no_part(
        self, start_phone: Starter, server_of_adb: AdbServer, big: Artifact, through: str
    ) -> None:
        phone = start_phone(small_disk=True)
        kind: type[Transport] = AdbTransport
        device = phone.device()
        if through == "adb-server":
            server_of_adb.attach(phone)
            kind, device = AdbServerTransport, server_of_adb.device(phone)
        with closing(kind(device)) as transport:
            with pytest.raises(OutOfSpace, match="No space left"):
                transport.install(big)
            left = transport.run(("ls", str(transport.root / "store")), timeout_s=30)
            assert left.stdout == ""

    def test_a_reason_of_the_phone_is_told(self, either: Transport, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"data")
        with pytest.raises(InfraError, match=r"cannot write '/proc/file': .*No such file"):
            either.push(tmp_path / "file", either.root.parents[-1] / "proc" / "file")
        with pytest.raises(InfraError, match=r"cannot write .*path too long|File name too long"):
            either.push(tmp_path / "file", either.root / ("x" * 2000))
        assert either.run(("echo", "on"), timeout_s=30).stdout == "on\n"


class TestCommands:
    def test_64_kib_of_arguments_arrive(self, either: Transport) -> None:
        arguments = [f"{word}{number}" for number in range(500) for word in HOSTILE]
        assert sum(map(len, arguments)) > 64 << 10
        done = either.run(script('printf "%s\\0" "$@" | sha256sum', *arguments), timeout_s=30)
        here = subprocess.run(
            script('printf "%s\\0" "$@" | sha256sum', *arguments), capture_output=True, check=True
        )
        assert done.stdout.split()[0] == here.stdout.decode().split()[0]

    def test_64_kib_of_arguments_and_input_arrive(self, either: Transport) -> None:
        done = either.run(
            script('cat; printf " %s" ${#1}', "x'" * (32 << 10)), timeout_s=30, stdin=b"in"
        )
        assert done.stdout == "in 65536"

    def test_a_phone_without_the_shell_protocol_tells_the_same(
        self, transport: AdbTransport
    ) -> None:
        transport._wire.features = frozenset()
        text = "cat; echo out; echo farm-end-; echo err >&2; exit 7"
        done = transport.run(("sh", "-c", text), timeout_s=30, stdin=b"in ")
        assert (done.returncode, done.stdout, done.stderr) == (7, "in out\nfarm-end-\n", "err\n")
        killed = transport.run(("sh", "-c", "kill -9 $$"), timeout_s=30)
        assert killed.returncode == -9
        run = transport.start(("sh", "-c", "echo x; exit 3"), folder=transport.root / "runs" / "1")
        done = run.wait(30)
        assert (done.returncode, done.stdout) == (3, "x\n")
        stream = transport.stream(("sh", "-c", "echo one; sleep 60"))
        lines: list[str] = []
        wait_until(lambda: bool(lines.extend(stream.lines()) or lines), "no line comes")
        assert lines == ["one"]
        stream.close()

    def test_it_is_told_how_it_is_reached(self, either: Transport) -> None:
        facts = {fact.name: fact.value for fact in either.describe()}
        assert "shell_v2" in facts["adb"]
        assert facts["exec"].endswith(" ms a command")

    def test_what_a_deadline_ends_is_gone_with_its_children(
        self, either: Transport, phone: Phone
    ) -> None:
        with pytest.raises(CommandTimeout):
            either.run(("sh", "-c", "sleep 61 & sleep 62"), timeout_s=0.5)
        phone.assert_nothing_is_left()

    def test_more_than_anybody_wants_is_an_error_of_the_phone(
        self, transport: AdbTransport
    ) -> None:
        with pytest.raises(InfraError, match="prints more than 64 MiB"):
            transport.run(("cat", "/dev/zero"), timeout_s=60)


class TestCuts:
    def test_a_command_that_is_cut_says_so_and_the_next_one_works(
        self, phone: Phone, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            threading.Timer(0.3, proxy.cut).start()
            with pytest.raises(ConnectionLost, match="the connection broke while 'sleep' ran"):
                transport.run(("sleep", "20"), timeout_s=15)
            assert transport.run(("echo", "back"), timeout_s=30).stdout == "back\n"

    def test_a_connection_that_died_between_two_commands_is_made_again(
        self, phone: Phone, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            proxy.cut()
            assert transport.run(("echo", "back"), timeout_s=30).stdout == "back\n"
            assert proxy.connections == 2

    def test_a_phone_that_was_off_is_reached_again(self, phone: Phone) -> None:
        with closing(AdbTransport(phone.device())) as transport:
            phone.stop()
            with pytest.raises(ConnectError):
                transport.run(("true",), timeout_s=30)
            phone.start()
            assert transport.run(("echo", "back"), timeout_s=30).stdout == "back\n"

    def test_a_run_is_waited_for_over_a_cut(
        self, phone: Phone, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            work = script('while [ ! -e "$1" ]; do sleep 0.05; done; echo done; exit 5', "go")
            process = transport.start(work, folder=transport.root / "runs" / "one")
            proxy.cut()
            go = phone.here(transport.root) / "runs" / "one" / "go"
            threading.Timer(0.5, go.touch).start()
            done = process.wait(60)
            assert (done.returncode, done.stdout) == (5, "done\n")


class TestConnections:
    def test_a_command_uses_the_connection_of_the_one_before(
        self, phone: Phone, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(phone.port)
        with closing(AdbTransport(phone.device(port=proxy.port))) as transport:
            for _ in range(5):
                transport.run(("true",), timeout_s=30)
            assert proxy.connections == 1
            stream = transport.stream(("sleep", "60"))
            transport.run(("true",), timeout_s=30)
            assert proxy.connections == 2
            stream.close()

    def test_threads_and_files_do_not_pile_up(self, either: Transport, big: Artifact) -> None:
        either.run(("true",), timeout_s=30)
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for number in range(30):
            either.run(("true",), timeout_s=30)
            either.push(big.path, either.root / "file")
            either.stream(("sleep", "60")).close()
            either.start(("true",), folder=either.root / f"run-{number}").wait(30)
        assert len(os.listdir("/proc/self/fd")) <= files + 4
        assert threading.active_count() <= threads + 2
