"""A password, tried on a server of our own: no account of this machine gets one for a test."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import paramiko
import pytest

from drivers.transports.ssh import SshTransport
from drivers.transports.ssh_link import fingerprint
from farm.errors import ConfigError, ConnectError
from farm.inventory import read_inventory
from tests.system.servers import new_key

SECRET = "open: sesame@#/'"


class PasswordOnly(paramiko.ServerInterface):
    """Lets one in who knows the word, and runs what is asked for."""

    def check_auth_password(self, username: str, password: str) -> int:
        known = (username, password) == ("lab", SECRET)
        return paramiko.common.AUTH_SUCCESSFUL if known else paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        def run() -> None:
            done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
            with suppress(OSError, EOFError):
                channel.sendall(done.stdout)
                channel.sendall_stderr(done.stderr)
                channel.send_exit_status(done.returncode)
                channel.close()

        threading.Thread(target=run, daemon=True).start()
        return True


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The port of such a server, and the fingerprint of its key."""
    key = paramiko.PKey.from_path(new_key(tmp_path / "host"))
    transports = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    visitor, _ = listener.accept()
                except OSError:
                    return
                transport = paramiko.Transport(visitor)
                transport.add_server_key(key)
                transports.append(transport)
                with suppress(paramiko.SSHException, EOFError):
                    transport.start_server(server=PasswordOnly())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], fingerprint(key)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for transport in transports:
        transport.close()


@pytest.fixture
def entry(tmp_path: Path, board: tuple[int, str]) -> Callable[[str], Path]:
    """Writes an inventory with that board and a line about its password."""

    def write(line: str) -> Path:
        port, pinned = board
        path = tmp_path / "inventory.yaml"
        path.write_text(
            "schema: farm.inventory/1\ndevices:\n  b:\n    type: board\n"
            f"    address: ssh://lab@127.0.0.1:{port}\n    host_key: {pinned}\n"
            f"    root: {tmp_path}/root\n    {line}\n"
        )
        return path

    return write


def test_a_password_of_the_environment_opens_the_door(
    entry: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_TEST_WORD", SECRET)
    (device,) = read_inventory(entry("password: ${env:FARM_TEST_WORD}")).devices
    assert SECRET not in repr(device)
    with closing(SshTransport(device)) as transport:
        assert transport.run(("echo", "here"), timeout_s=30).stdout == "here\n"


def test_a_wrong_one_does_not_and_is_not_told(
    entry: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_TEST_WORD", "guess-work")
    (device,) = read_inventory(entry("password: ${env:FARM_TEST_WORD}")).devices
    with pytest.raises(ConnectError, match="refuses to let us in") as caught:
        SshTransport(device)
    assert "guess-work" not in str(caught.value) + caught.value.hint


def test_a_password_in_the_file_is_refused_on_its_line(entry: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"inventory\.yaml:8: 'password' is a secret"):
        read_inventory(entry("password: hunter2"))
