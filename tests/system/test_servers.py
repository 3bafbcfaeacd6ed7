"""The servers that other tests rely on, seen with the system's own clients."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.proxies import Proxy
from tests.system.servers import Server

pytestmark = pytest.mark.system

SERVERS = ("sshd", "dropbear", "busybox_board")
LIMIT_S = 60


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def _ask(
    server: Server, command: str, *, port: int = 0, data: bytes = b"", must: bool = True
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        server.ssh(command, port=port), input=data, capture_output=True, timeout=LIMIT_S
    )
    assert done.returncode == 0 or not must, done.stderr + server.log.encode()
    return done


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_runs_with_input_and_status(server: Server) -> None:
    done = _ask(server, "cat; echo err >&2; exit 7", data=b"in\0\xff", must=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\0\xff", b"err\n")


def test_the_host_key_is_the_one_that_is_told(server: Server, tmp_path: Path) -> None:
    scanned = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", "-p", str(server.port), server.host],
        capture_output=True, text=True, check=True, timeout=LIMIT_S,
    ).stdout  # fmt: skip
    told = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=scanned, capture_output=True, text=True, check=True
    ).stdout
    assert told.split()[1] == server.fingerprint
    assert server.fingerprint.startswith("SHA256:")


def test_files_of_a_session_are_seen_from_here(server: Server) -> None:
    _ask(server, f"echo data >'{server.root}/file'")
    assert (server.here(server.root) / "file").read_text() == "data\n"


def test_it_is_stopped_and_started_on_the_same_port(server: Server) -> None:
    before = server.pid
    server.stop()
    assert _ask(server, "true", must=False).returncode == 255
    server.start()
    assert server.pid != before
    _ask(server, "true")


def test_stopping_breaks_sessions_and_leaves_their_processes(server: Server) -> None:
    client = subprocess.Popen(
        server.ssh("echo begun; exec sleep 600"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"begun\n"
    server.stop()
    client.communicate(timeout=LIMIT_S)
    assert client.returncode == 255
    assert [line for line in server.processes().values() if "sleep 600" in line]


def test_what_is_left_behind_is_found(server: Server) -> None:
    server.assert_nothing_is_left()
    detached = "cd /; setsid sh -c 'sleep 600 & wait' >/dev/null 2>&1 </dev/null &"
    _ask(server, detached)
    _wait_until(lambda: [line for line in server.processes().values() if line == "sleep 600"])
    server.clean_up()
    assert server.processes() == {}
    root = server.here(server.root)
    (root / "store").mkdir()
    (root / "store" / "abc.part").touch()
    with pytest.raises(AssertionError, match=r"abc\.part"):
        server.assert_nothing_is_left()
    (root / "store" / "abc.part").unlink()
    (root / "runs" / "one").mkdir(parents=True)
    with pytest.raises(AssertionError, match="one"):
        server.assert_nothing_is_left()


def test_a_process_in_the_root_is_found_whoever_started_it(
    sshd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.system.servers.START_S", 0.1)
    stray = subprocess.Popen(["sleep", "600"], cwd=sshd.here(sshd.root))
    try:
        with pytest.raises(AssertionError, match="sleep 600"):
            sshd.assert_nothing_is_left()
    finally:
        stray.kill()
        stray.wait()


def test_sshd_takes_scp_with_sftp_and_refuses_without(
    start_sshd: Callable[..., Server], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    for server, expected in ((start_sshd(), 0), (start_sshd(sftp=False), 255)):
        target = f"{server.user}@{server.host}:{server.root}/file"
        copied = subprocess.run(
            ["scp", "-P", str(server.port), *server.client_options(), str(source), target],
            capture_output=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert copied.returncode == expected
        assert (server.here(server.root) / "file").exists() == (expected == 0)


def test_sshd_has_the_options_that_tests_need(start_sshd: Callable[..., Server]) -> None:
    server = start_sshd(
        kinds=("ecdsa", "ed25519"),
        environment={"PATH": "/nowhere", "ODD": "a b"},
        settings=("Banner none",),
    )
    assert list(server.host_keys) == ["ecdsa-sha2-nistp256", "ssh-ed25519"]
    assert len(set(server.fingerprints.values())) == 2
    assert _ask(server, 'echo "$PATH $ODD"').stdout == b"/nowhere a b\n"
    forced = start_sshd(force_command='echo "not $SSH_ORIGINAL_COMMAND"')
    assert _ask(forced, "id").stdout == b"not id\n"


def test_twenty_servers_run_at_once(start_sshd: Callable[..., Server]) -> None:
    servers = [start_sshd() for _ in range(20)]
    assert len({server.port for server in servers}) == 20
    for server in (servers[0], servers[-1]):
        _ask(server, "true")


def test_only_the_key_of_the_test_is_let_in(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    server.key = other
    refused = _ask(server, "true", must=False)
    assert refused.returncode == 255
    assert b"denied" in refused.stderr.lower()


def test_a_board_of_busybox_has_nothing_else(start_busybox_board: Callable[..., Server]) -> None:
    board = start_busybox_board()
    missing = "python3 openssl scp bash perl sftp-server"
    found = f"for name in {missing} sha256sum busybox; do command -v $name; done; true"
    assert _ask(board, found).stdout.split() == [b"/bin/sha256sum", b"/bin/busybox"]
    assert _ask(board, "readlink -f /bin/sh").stdout == b"/opt/busybox/busybox\n"
    poorer = start_busybox_board(without=("sha256sum",))
    assert _ask(poorer, found).stdout == b""
    assert _ask(poorer, "cat /proc/uptime >/dev/null && echo x >/dev/null && ls /").stdout


# The proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = (
            "import socket, sys, threading\n"
            "server = socket.socket(fileno=int(sys.argv[1]))\n"
            "def serve(one):\n"
            "    try:\n"
            "        while data := one.recv(65536):\n"
            "            one.sendall(data)\n"
            "    except OSError:\n"
            "        pass\n"
            "    one.close()\n"
            "while True:\n"
            "    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()\n"
        )
        number = listener.fileno()
        argv = [sys.executable, "-c", script, str(number)]
        with subprocess.Popen(argv, pass_fds=(number,)) as process:
            yield listener.getsockname()[1]
            process.kill()


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), LIMIT_S)


def _echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    back = b""
    while len(back) < len(data):
        more = connection.recv(65536)
        assert more, "the connection has ended"
        back += more
    return back


def test_a_proxy_forwards_and_counts(start_proxy: Callable[[int], Proxy], echo: int) -> None:
    proxy = start_proxy(echo)
    data = bytes(range(256)) * 1000
    with _connect(proxy) as connection:
        assert _echoed(connection, data) == data
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert (proxy.sent, proxy.received, proxy.connections) == (len(data), len(data), 1)


def test_a_proxy_cuts_now_and_takes_new_connections(
    start_proxy: Callable[[int], Proxy], echo: int
) -> None:
    proxy = start_proxy(echo)
    with _connect(proxy) as connection:
        _echoed(connection, b"x")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with _connect(proxy) as connection:
        assert _echoed(connection, b"again") == b"again"


@pytest.mark.parametrize("up", [True, False])
def test_a_proxy_cuts_after_so_many_bytes(
    start_proxy: Callable[[int], Proxy], echo: int, up: bool
) -> None:
    proxy = start_proxy(echo)
    with _connect(proxy) as connection:
        _echoed(connection, b"before")
        proxy.cut_after(1000, up=up)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            _echoed(connection, b"x" * 100_000)
    assert (proxy.sent if up else proxy.received) == len(b"before") + 1000
    with _connect(proxy) as connection:
        assert _echoed(connection, b"y" * 2000) == b"y" * 2000


def test_a_proxy_refuses_and_accepts_again(start_proxy: Callable[[int], Proxy], echo: int) -> None:
    proxy = start_proxy(echo)
    with _connect(proxy) as old:
        _echoed(old, b"x")
        proxy.refuse()
        with pytest.raises(ConnectionResetError), _connect(proxy) as connection:
            connection.recv(1)
        assert _echoed(old, b"still") == b"still"
    proxy.accept()
    with _connect(proxy) as connection:
        assert _echoed(connection, b"x") == b"x"


def test_a_proxy_stalls_and_resumes(start_proxy: Callable[[int], Proxy], echo: int) -> None:
    proxy = start_proxy(echo)
    with _connect(proxy) as connection:
        _echoed(connection, b"x")
        proxy.stall()
        connection.sendall(b"held back")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert proxy.sent == 1
        proxy.resume()
        connection.settimeout(LIMIT_S)
        assert _echoed(connection, b"") == b""
        assert connection.recv(100) == b"held back"


def test_a_proxy_delays_without_limiting(start_proxy: Callable[[int], Proxy], echo: int) -> None:
    proxy = start_proxy(echo)
    proxy.latency_s = 0.05
    data = b"x" * 500_000
    with _connect(proxy) as connection:
        began = time.monotonic()
        assert _echoed(connection, data) == data
        assert time.monotonic() - began >= 0.1  # a sleep is never shorter than it was told


def test_a_session_goes_through_a_proxy(start_proxy: Callable[[int], Proxy], sshd: Server) -> None:
    proxy = start_proxy(sshd.port)
    done = _ask(sshd, "echo through", port=proxy.port)
    assert done.stdout == b"through\n"
    assert proxy.received > 1000


def test_a_device_names_what_the_transport_needs(sshd: Server) -> None:
    device = sshd.device("board", root="/elsewhere", key="")
    told = dict(device.options)
    assert device.address.place == f"{sshd.user}@127.0.0.1:{sshd.port}"
    assert told == {"host_key": sshd.fingerprint, "root": "/elsewhere"}
