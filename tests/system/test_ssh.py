"""What only a real SSH server shows: keys, hosts on the way, noise, cuts, full disks."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

import paramiko
import pytest

from drivers.transports.ssh import SshTransport
from drivers.transports.ssh_link import Link
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
from farm.testing.probes import wait_until
from tests.system.proxies import Proxy
from tests.system.servers import Server, need, new_key

pytestmark = pytest.mark.system

Starter = Callable[..., Server]
BIG = 5 << 20


@pytest.fixture
def transport(sshd: Server) -> Iterator[Transport]:
    with closing(SshTransport(sshd.device())) as transport:
        yield transport


@pytest.fixture
def big(tmp_path: Path) -> Artifact:
    path = tmp_path / "a big $(touch pwned) \n'.onnx"
    path.write_bytes(os.urandom(BIG))
    return Artifact.of(path)


def behind(proxy: Proxy, server: Server, **options: str) -> Device:
    """The server's board, reached through a proxy."""
    device = server.device(**options)
    place = f"{server.user}@127.0.0.1:{proxy.port}"
    address = Address(scheme="ssh", place=place)
    return Device(name=device.name, type=device.type, address=address, options=device.options)


class TestTrust:
    def test_a_board_that_was_never_met_is_refused_with_the_way_to_meet_it(
        self, sshd: Server
    ) -> None:
        with pytest.raises(ConfigError, match="unknown key") as caught:
            SshTransport(sshd.device(host_key=""))
        assert sshd.fingerprint in caught.value.message
        assert caught.value.hint.endswith("farm enroll board")
        assert "Accepted publickey" not in sshd.log

    def test_a_board_that_shows_another_key_is_refused(self, sshd: Server) -> None:
        pinned = "SHA256:" + "A" * 43
        with pytest.raises(ConfigError, match="now shows") as caught:
            SshTransport(sshd.device(host_key=pinned))
        assert pinned in caught.value.message
        assert "Accepted publickey" not in sshd.log

    def test_a_board_that_is_set_up_anew_under_a_running_session_is_refused(
        self, start_sshd: Starter, start_proxy: Callable[[int], Proxy]
    ) -> None:
        first, second = start_sshd(), start_sshd()
        proxy = start_proxy(first.port)
        with closing(SshTransport(behind(proxy, first))) as transport:
            proxy.target = second.port
            proxy.cut()
            with pytest.raises((InfraError, ConfigError)):
                transport.run(("true",), timeout_s=30)
            with pytest.raises(ConfigError, match="now shows"):
                transport.run(("true",), timeout_s=30)

    def test_it_introduces_itself_with_the_key_that_is_pinned_later(
        self, start_sshd: Starter
    ) -> None:
        server = start_sshd(kinds=("rsa", "ecdsa", "ed25519"))
        (introduced,) = SshTransport.introduce(server.device(host_key=""))
        assert introduced == ("host_key", server.fingerprints["ssh-ed25519"])
        SshTransport(server.device(host_key=introduced[1])).close()

    def test_a_key_that_is_not_known_there_is_refused(self, sshd: Server, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match="refuses to let us in") as caught:
            SshTransport(sshd.device(key=str(new_key(tmp_path / "stranger"))))
        assert "ssh-copy-id" in caught.value.hint

    def test_a_key_may_have_a_passphrase(
        self, start_sshd: Starter, sshd: Server, tmp_path: Path
    ) -> None:
        locked = tmp_path / "locked"
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(locked)]
        subprocess.run(command, check=True)
        (sshd.folder / "authorized_keys").write_text(locked.with_suffix(".pub").read_text())
        with pytest.raises(ConfigError, match="needs a passphrase"):
            SshTransport(sshd.device(key=str(locked)))
        with pytest.raises(ConfigError, match="passphrase is wrong"):
            SshTransport(sshd.device(key=str(locked), passphrase="guess"))
        SshTransport(sshd.device(key=str(locked), passphrase="open sesame")).close()

    @pytest.mark.parametrize("what", ["missing", "public"])
    def test_a_key_that_is_none_is_the_inventorys_fault(
        self, sshd: Server, what: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "none" if what == "missing" else sshd.key.with_suffix(".pub")
        with pytest.raises(ConfigError, match="cannot use the key") as caught:
            SshTransport(sshd.device(key=str(path)))
        assert ".pub" in caught.value.hint

    def test_the_agents_keys_are_tried_when_the_inventory_names_none(
        self, sshd: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        with pytest.raises(ConnectError):
            SshTransport(sshd.device(key=""))
        agent = subprocess.Popen(
            [need("ssh-agent"), "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL
        )
        try:
            while not (tmp_path / "agent").exists():
                assert agent.poll() is None
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
            subprocess.run(["ssh-add", "-q", str(sshd.key)], check=True)
            SshTransport(sshd.device(key="")).close()
        finally:
            agent.terminate()
            agent.wait()

    def test_a_jump_host_is_pinned_too_and_the_board_sees_only_it(
        self, start_sshd: Starter
    ) -> None:
        gate, board = start_sshd(), start_sshd()
        jump = f"{gate.user}@127.0.0.1:{gate.port}"
        known = dict(SshTransport.introduce(board.device(jump=jump, host_key="")))
        assert known == {"jump_host_key": gate.fingerprint, "host_key": board.fingerprint}
        with closing(SshTransport(board.device(jump=jump, **known))) as transport:
            assert transport.run(("echo", "here"), timeout_s=30).stdout == "here\n"
        assert "Accepted publickey" in gate.log
        with pytest.raises(ConfigError, match="unknown key"):
            SshTransport(board.device(jump=jump))

    def test_a_stranger_on_the_port_is_told_from_a_board(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def answer() -> None:
                while True:
                    try:
                        visitor, _ = listener.accept()
                    except OSError:
                        return
                    with visitor:
                        visitor.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            threading.Thread(target=answer, daemon=True).start()
            address = Address(scheme="ssh", place=f"lab@127.0.0.1:{port}")
            with pytest.raises(ConnectError, match="does not speak SSH"):
                SshTransport(Device(name="b", type="t", address=address))
            listener.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectError, match="cannot be reached: Connection refused"):
            SshTransport(Device(name="b", type="t", address=address))


class TestPush:
    def test_what_is_there_already_moves_no_bytes_and_takes_one_round_trip(
        self, sshd: Server, start_proxy: Callable[[int], Proxy], big: Artifact
    ) -> None:
        proxy = start_proxy(sshd.port)
        with closing(SshTransport(behind(proxy, sshd))) as transport:
            transport.install(big)
            assert proxy.sent > BIG
            before, commands = proxy.sent + proxy.received, sshd.log.count("Starting session")
            transport.install(big)
            assert proxy.sent + proxy.received - before < 8192
            assert sshd.log.count("Starting session") - commands == 1

    def test_without_an_sftp_server(self, start_sshd: Starter, big: Artifact) -> None:
        server = start_sshd(sftp=False)
        with closing(SshTransport(server.device())) as transport:
            place = transport.install(big)
        assert server.here(place).read_bytes() == big.path.read_bytes()

    @pytest.mark.parametrize("without", [(), ("sha256sum",)])
    def test_on_a_board_of_busybox(
        self, start_busybox_board: Starter, big: Artifact, without: tuple[str, ...]
    ) -> None:
        server = start_busybox_board(without=without)
        with closing(SshTransport(server.device())) as transport:
            place = transport.install(big)
            assert transport.install(big) == place
        assert server.here(place).read_bytes() == big.path.read_bytes()

    def test_a_cut_leaves_no_file_under_its_digest(
        self, sshd: Server, start_proxy: Callable[[int], Proxy], big: Artifact
    ) -> None:
        proxy = start_proxy(sshd.port)
        with closing(SshTransport(behind(proxy, sshd))) as transport:
            proxy.cut_after(BIG // 2)
            with pytest.raises(InfraError):
                transport.install(big)
            assert not (sshd.here(transport.root) / "store" / big.sha256).exists()
            assert transport.install(big).name == big.sha256  # over a new connection

    def test_a_full_disk_is_told_and_leaves_no_part(
        self, start_sshd: Starter, big: Artifact, lacks: Callable[[str], None], tmp_path: Path
    ) -> None:
        if os.geteuid() != 0:
            lacks("a small file system takes root: run the tests as root")
        place = tmp_path / "small"
        place.mkdir()
        mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
        prefix = ["unshare", "-m", "sh", "-c", mount, str(place)]
        server = start_sshd(prefix=prefix, root=PurePosixPath(place / "root"))
        with closing(SshTransport(server.device())) as transport:
            with pytest.raises(OutOfSpace):
                transport.install(big)
            left = transport.run(("ls", str(transport.root / "store")), timeout_s=30)
            assert left.stdout == ""


class TestNoise:
    def test_what_start_up_files_print_is_not_what_commands_print(
        self, start_sshd: Starter, big: Artifact, tmp_path: Path
    ) -> None:
        chatty = tmp_path / "chatty"
        chatty.write_text(
            "#!/bin/sh\necho Welcome to the lab\nprintf 'no newline'\necho warning >&2\n"
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        chatty.chmod(0o755)
        server = start_sshd(force_command=str(chatty))
        with closing(SshTransport(server.device())) as transport:
            assert transport.run(("echo", "x"), timeout_s=30).stdout == "x\n"
            place = transport.install(big)
            transport.pull(place, tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == big.path.read_bytes()
            process = transport.start(("echo", "y"), folder=transport.root / "runs" / "one")
            assert process.wait(30).stdout == "y\n"

    def test_an_exec_that_is_slow_is_told(self, start_sshd: Starter, tmp_path: Path) -> None:
        slow = tmp_path / "slow"
        slow.write_text('#!/bin/sh\nsleep 0.2\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
        slow.chmod(0o755)
        server = start_sshd(force_command=str(slow))
        with closing(SshTransport(server.device())) as transport:
            facts = {fact.name: fact.value for fact in transport.describe()}
        assert "start-up files" in facts["exec"]
        assert facts["cipher"].startswith("aes128-gcm")


class TestCuts:
    def test_a_command_that_is_cut_says_so_and_the_next_one_works(
        self, sshd: Server, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(sshd.port)
        with closing(SshTransport(behind(proxy, sshd))) as transport:
            threading.Timer(0.3, proxy.cut).start()
            with pytest.raises(ConnectionLost, match="the connection broke while 'sleep' ran"):
                transport.run(("sleep", "20"), timeout_s=15)
            assert transport.run(("echo", "back"), timeout_s=30).stdout == "back\n"

    def test_a_connection_that_died_between_two_commands_is_made_again(
        self, sshd: Server, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(sshd.port)
        with closing(SshTransport(behind(proxy, sshd))) as transport:
            proxy.cut()
            assert transport.run(("echo", "back"), timeout_s=30).stdout == "back\n"
            assert proxy.connections == 2

    def test_an_end_of_input_that_comes_behind_a_close_is_not_sent(self, dropbear: Server) -> None:
        """Two threads of the library can send them in that order; dropbear hangs up then."""
        with closing(Link(dropbear.device())) as link:
            channel = link.channel()
            channel.exec_command(b"true")
            wait_until(lambda: channel.closed, "the command does not end")
            late = paramiko.Message()
            late.add_byte(bytes([96]))  # the end of its input
            late.add_int(channel.remote_chanid)
            channel.transport._send_user_message(late)
            again = link.channel()
            assert again.transport is channel.transport
            again.exec_command(b"cat")
            again.sendall(b"heard")
            again.shutdown_write()
            assert again.makefile("rb").read() == b"heard"
        assert "unknown channel" not in dropbear.log

    def test_a_run_that_ends_while_a_command_begins_breaks_nothing(self, dropbear: Server) -> None:
        """Dropbear closes channels without a command when a command of their connection ends."""
        with closing(SshTransport(dropbear.device())) as transport:
            for number in range(60):
                run = transport.start(("sleep", "0.05"), folder=transport.root / f"run-{number}")
                while not (done := run.poll()):
                    pass
                assert done.returncode == 0

    def test_a_run_is_waited_for_over_a_cut(
        self, sshd: Server, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(sshd.port)
        with closing(SshTransport(behind(proxy, sshd))) as transport:
            work = script('while [ ! -e "$1" ]; do sleep 0.05; done; echo done; exit 5', "go")
            process = transport.start(work, folder=transport.root / "runs" / "one")
            proxy.cut()
            go = sshd.here(transport.root) / "runs" / "one" / "go"
            threading.Timer(0.5, go.touch).start()
            done = process.wait(60)
            assert (done.returncode, done.stdout) == (5, "done\n")

    def test_a_board_that_is_out_of_reach_for_a_while_keeps_its_run(self, sshd: Server) -> None:
        with closing(SshTransport(sshd.device())) as transport:
            process = transport.start(("sleep", "2"), folder=transport.root / "runs" / "one")
            sshd.stop()
            threading.Timer(3, sshd.start).start()
            assert process.wait(60).returncode == 0

    def test_a_command_waits_for_a_cable_that_was_out_for_a_moment(
        self, sshd: Server, start_proxy: Callable[[int], Proxy]
    ) -> None:
        proxy = start_proxy(sshd.port)
        with closing(SshTransport(behind(proxy, sshd))) as transport:
            proxy.stall()
            threading.Timer(2, proxy.cut).start()
            threading.Timer(2.1, proxy.resume).start()
            assert transport.run(("echo", "back"), timeout_s=30).stdout == "back\n"


class TestEnds:
    def test_what_a_deadline_ends_is_gone_with_its_children(self, sshd: Server) -> None:
        with closing(SshTransport(sshd.device())) as transport, pytest.raises(CommandTimeout):
            transport.run(("sh", "-c", "sleep 61 & sleep 62"), timeout_s=0.5)
        sshd.assert_nothing_is_left()

    def test_threads_and_files_do_not_pile_up(self, transport: Transport) -> None:
        transport.run(("true",), timeout_s=30)
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for _ in range(50):
            transport.run(("true",), timeout_s=30)
        assert len(os.listdir("/proc/self/fd")) <= files + 2
        assert threading.active_count() <= threads + 2
