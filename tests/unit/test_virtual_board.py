"""A virtual board is a computer behind a real SSH server, for any client that has the key."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import paramiko
import pytest

from drivers.runtimes.ort_python import LOADGEN, OrtPython
from drivers.virtual.board import VirtualBoard
from drivers.virtual.board_server import USER
from drivers.virtual.machine import switch_all_off
from farm.connection import Transport
from farm.errors import (
    CommandTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    TransferCorrupt,
)
from farm.model import Address, Artifact, Device, Load
from farm.plugins import connect
from farm.shell import script
from farm.workload import read_workload

BIG = os.urandom(1 << 20) * 6
"""More than pipes and windows hold."""
Client = Callable[..., paramiko.SSHClient]


def _device(tmp_path: Path, options: str = "", *, name: str = "board") -> Device:
    address = Address.parse(f"virtual-ssh://board?seed=2&root={tmp_path / 'board'}{options}")
    return Device(name=name, type="t", address=address)


@pytest.fixture(autouse=True)
def _power() -> Iterator[None]:
    yield
    switch_all_off()


@pytest.fixture
def board(tmp_path: Path) -> Device:
    """A board that is switched on."""
    return VirtualBoard.start(_device(tmp_path))


@pytest.fixture
def client(board: Device) -> Iterator[Client]:
    """Connects as anybody would who has no driver of ours."""
    opened = []

    def connect(*, user: str = USER, key: paramiko.PKey | None = None) -> paramiko.SSHClient:
        made = paramiko.SSHClient()
        made.set_missing_host_key_policy(paramiko.WarningPolicy())
        opened.append(made)
        key = key or paramiko.Ed25519Key.from_private_key_file(board.option("key"))
        with pytest.warns(UserWarning, match="Unknown"):
            made.connect(
                "127.0.0.1", port=_port(board), username=user, pkey=key,
                allow_agent=False, look_for_keys=False,
            )  # fmt: skip
        made.get_transport().sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    yield connect
    for made in opened:
        made.close()


def _port(board: Device) -> int:
    return int(board.address.place.rpartition(":")[2])


def _ask(client: paramiko.SSHClient, command: str) -> tuple[int, str]:
    _, out, _ = client.exec_command(command)
    told = out.read().decode()
    return out.channel.recv_exit_status(), told


# Who may do what


def test_it_listens_on_loopback_only(board: Device) -> None:
    assert board.address.place.startswith(f"{USER}@127.0.0.1:")
    assert board.option("host_key").startswith("SHA256:")


def test_the_key_is_for_its_owner_alone(board: Device) -> None:
    assert Path(board.option("key")).stat().st_mode & 0o77 == 0


def test_it_is_switched_on_once(board: Device, tmp_path: Path) -> None:
    assert VirtualBoard.start(_device(tmp_path)) == board


def test_other_users_and_other_keys_are_refused(client: Client) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        client(user="root")
    with pytest.raises(paramiko.AuthenticationException):
        client(key=paramiko.ECDSAKey.generate())


def test_a_password_is_refused(board: Device) -> None:
    with socket.create_connection(("127.0.0.1", _port(board))) as line:
        transport = paramiko.Transport(line)
        transport.start_client(timeout=10)
        with pytest.raises(paramiko.BadAuthenticationType):
            transport.auth_password(USER, "secret")
        transport.close()


@pytest.mark.parametrize(
    "deed",
    [
        lambda channel: channel.get_pty(),
        lambda channel: channel.invoke_shell(),
        lambda channel: channel.invoke_subsystem("sftp"),
        lambda channel: channel.request_x11(),
    ],
    ids=["pty", "shell", "sftp", "x11"],
)
def test_anything_but_a_command_is_refused(
    client: Client, deed: Callable[[paramiko.Channel], None]
) -> None:
    transport = client().get_transport()
    assert transport is not None
    with pytest.raises(paramiko.SSHException):
        deed(transport.open_session(timeout=10))


def test_no_port_is_forwarded(client: Client) -> None:
    transport = client().get_transport()
    assert transport is not None
    with pytest.raises(paramiko.ChannelException):
        transport.open_channel("direct-tcpip", ("127.0.0.1", 9), ("127.0.0.1", 9), timeout=10)
    with pytest.raises(paramiko.SSHException):
        transport.request_port_forward("127.0.0.1", 0)


def test_the_driver_refuses_another_host_key(board: Device) -> None:
    options = {**dict(board.options), "host_key": f"SHA256:{'A' * 43}"}
    with pytest.raises(ConfigError, match="now shows the host key"):
        connect(replace(board, options=tuple(options.items())))


def test_what_is_no_ssh_disturbs_nobody(board: Device, client: Client) -> None:
    with socket.create_connection(("127.0.0.1", _port(board))) as line:
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert _ask(client(), "echo still here") == (0, "still here\n")


# What a command finds


def test_a_command_knows_nothing_of_the_controller(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROLLER_SECRET", "x")
    _, told = _ask(client(), "env")
    known = dict(line.split("=", 1) for line in told.splitlines())
    assert not {"CONTROLLER_SECRET", "VIRTUAL_ENV"} & set(known)
    assert known["HOME"] == str(tmp_path / "board" / "home")
    assert known["PATH"] == f"{tmp_path / 'board' / 'bin'}:/usr/bin:/bin"
    assert Path(known["FARM_TREE"]).is_relative_to(tmp_path / "board")
    assert "simulated" in known["FARM_SIMULATED"]


@pytest.mark.parametrize("command", ["exit 7", "kill -9 $$", "exec >&- 2>&-; sleep 0.2; exit 7"])
def test_an_end_is_told(client: Client, command: str) -> None:
    status, _ = _ask(client(), command)
    assert status == (-1 if "kill" in command else 7)


def test_a_line_that_no_kernel_takes_is_a_status(client: Client) -> None:
    status, _ = _ask(client(), f": {'x' * (200 << 10)}")
    assert status == 126


def test_megabytes_go_both_ways_at_once(client: Client) -> None:
    channel = client().get_transport().open_session()
    channel.exec_command("tee /dev/stderr")
    sender = threading.Thread(target=lambda: (channel.sendall(BIG), channel.shutdown_write()))
    complaints = io.BytesIO()
    listener = threading.Thread(
        target=lambda: complaints.write(channel.makefile_stderr("rb").read())
    )
    sender.start()
    listener.start()
    assert channel.makefile("rb").read() == BIG
    listener.join()
    assert complaints.getvalue() == BIG


def test_a_client_that_does_not_read_stops_its_command(client: Client, tmp_path: Path) -> None:
    channel = client().get_transport().open_session(window_size=64 << 10)
    channel.exec_command(f"yes | head -c 9000000; : >'{tmp_path / 'done'}'")
    time.sleep(0.5)
    assert not (tmp_path / "done").exists()
    assert len(channel.makefile("rb").read()) == 9_000_000


def test_many_at_once_on_several_connections(client: Client) -> None:
    clients = [client() for _ in range(3)]
    begun = [each.exec_command(f"sleep 1; echo {n}") for n in range(8) for each in clients]
    started = time.monotonic()
    told = [int(out.read()) for _, out, _ in begun]
    assert told == [n for n in range(8) for _ in clients]
    assert time.monotonic() - started < 12


def test_hundreds_of_commands_leave_nothing(client: Client) -> None:
    one = client()
    _ask(one, ":")
    before = _held()
    for n in range(200):
        assert _ask(one, f"echo {n}") == (0, f"{n}\n")
    _wait_until(lambda: _held() <= before)
    one.close()


def _held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_hundreds_of_connections_leave_nothing(board: Device) -> None:
    connect(board).close()
    _wait_until(lambda: len(_connections()) == 0)
    before = _held()
    for _ in range(20):
        connect(board).close()
    _wait_until(lambda: _held() <= before)


def _connections() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, paramiko.Transport)]


def test_what_runs_survives_a_dropped_connection(client: Client, tmp_path: Path) -> None:
    one = client()
    out = one.exec_command(f"echo $$; sleep 1; : >'{tmp_path / 'done'}'")[1]
    assert int(out.readline()) > 0
    one.get_transport().sock.close()
    _wait_until((tmp_path / "done").exists)


# Heat, restarts and the end


def test_the_hardware_is_described_and_can_be_tuned(board: Device) -> None:
    transport = connect(board)
    governor = "$FARM_TREE/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor"
    told = transport.run(
        script(
            f'echo performance >"{governor}"; cat "$FARM_TREE"/proc/device-tree/model {governor}'
        ),
        timeout_s=10,
    )
    assert told.stdout == "Virtual board (simulated)\nperformance\n"
    transport.close()


def test_it_cools_in_real_time_and_is_throttled_for_a_moment(tmp_path: Path, digits: Path) -> None:
    device = _device(tmp_path, "&fault=throttle:2")
    transport = connect(device)
    first, second = (_measure(transport, digits) for _ in range(2))
    assert (first["cooler"], second["cooler"]) == (0, 1)
    assert second["temp"] > first["temp"]
    time.sleep(2.1)
    later = _sensors(transport)
    assert later["cooler"] == 0
    assert later["temp"] < second["temp"]
    transport.close()


def _measure(transport: Transport, digits: Path) -> dict[str, int]:
    """One run of the loadgen by hand, and what the sensors show behind it."""
    loadgen, model = (transport.install(Artifact.of(p)) for p in (LOADGEN, digits / "int8.onnx"))
    load = {"min_duration_s": 20, "max_duration_s": 60, "min_queries": 8, "warmup_s": 0}
    spec = {"mode": "measure", "model": str(model), "inputs": None, "dimensions": {},
            "accelerator": "cpu", "load": load}  # fmt: skip
    done = transport.run(("python3", str(loadgen), json.dumps(spec)), timeout_s=60)
    assert done.returncode == 0, done.stderr
    return _sensors(transport)


def _sensors(transport: Transport) -> dict[str, int]:
    text = 'cd "$FARM_TREE/sys/class/thermal"; cat thermal_zone0/temp cooling_device0/cur_state'
    temp, cooler = map(int, transport.run(script(text), timeout_s=10).stdout.split())
    return {"temp": temp, "cooler": cooler}


def test_no_time_of_the_controller_is_told(board: Device, digits: Path) -> None:
    """Neither that of a cold start nor, where nodes are placed, that of a node."""
    transport = connect(board)
    deployment = OrtPython(transport).deploy(
        Artifact.of(digits / "int8.onnx"), read_workload(digits), accelerator="cpu"
    )
    load = Load(min_duration_s=0.01, min_queries=100, warmup_s=0.01)
    windows = [deployment.measure(load) for _ in range(2)]
    placement = deployment.placement(load)
    assert placement is not None
    placed_ns = sum(place.time_ns for place in placement.placed)
    p50_ns = [float(np.median(window.traces[0].values)) for window in windows]
    for window, ns in zip(windows, p50_ns, strict=True):
        told = {scalar.metric: scalar.value for scalar in window.scalars}
        assert told["coldstart.first_inference"] == pytest.approx(3 * ns, rel=0.25)
        assert 1e6 < told["coldstart.load"] < 1e8
        assert window.pace_ns is None
        assert 0.3 * ns < placed_ns < 1.5 * ns
    assert windows[0].scalars != windows[1].scalars
    transport.close()


def test_a_runtime_without_physics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would measure the controller"):
        VirtualBoard.check(replace(_device(tmp_path), runtime="ort_native"))


def test_any_other_program_of_python_really_runs(board: Device) -> None:
    transport = connect(board)
    done = transport.run(("python3", "-c", "import sys; print(sys.argv[1:])", "a b"), timeout_s=30)
    assert done.stdout == "['a b']\n"
    transport.close()


def test_a_request_that_makes_no_sense_is_answered(board: Device) -> None:
    transport = connect(board)
    done = transport.run(("python3", "/no/such/program", "{broken"), timeout_s=30)
    assert done.returncode == 1
    assert "JSONDecodeError" in done.stderr
    transport.close()


def test_a_disconnect_drops_the_connection_and_the_next_command_makes_a_new_one(
    tmp_path: Path,
) -> None:
    transport = connect(_device(tmp_path, "&fault=disconnect:3"))
    assert transport.run(("echo", "1"), timeout_s=10).stdout == "1\n"
    with pytest.raises(ConnectionLost):
        transport.run(("echo", "2"), timeout_s=10)
    assert transport.run(("echo", "3"), timeout_s=10).stdout == "3\n"
    transport.close()


def test_a_push_that_is_corrupted_is_found_out(tmp_path: Path) -> None:
    transport = connect(_device(tmp_path, "&fault=corrupt:1"))
    (tmp_path / "file").write_bytes(b"data" * 999)
    artifact = Artifact.of(tmp_path / "file")
    with pytest.raises(TransferCorrupt):
        transport.install(artifact)
    transport.install(artifact)
    transport.close()


def test_a_process_that_hangs_is_there_until_it_is_killed(tmp_path: Path, digits: Path) -> None:
    transport = connect(_device(tmp_path, "&fault=hang:1"))
    loadgen = transport.install(Artifact.of(LOADGEN))
    spec = json.dumps({"mode": "measure", "model": "/none", "inputs": None, "accelerator": "cpu"})
    folder = transport.root / "runs" / "one"
    process = transport.start(("python3", str(loadgen), spec), folder=folder)
    with pytest.raises(CommandTimeout):
        process.wait(3)
    _wait_until(lambda: transport.attach(process.id).poll() is not None)
    transport.close()


def test_a_board_keeps_its_files_and_forgets_its_settings(tmp_path: Path) -> None:
    governor = '"$FARM_TREE"/sys/devices/system/cpu/cpufreq/policy0/scaling_governor'
    first = connect(_device(tmp_path))
    first.run(script(f"echo kept >kept; echo powersave >{governor}"), timeout_s=10)
    boot = '"$FARM_TREE"/proc/sys/kernel/random/boot_id'
    told = first.run(script(f"cat {boot} {governor}"), timeout_s=10).stdout.split()
    first.close()
    switch_all_off()
    second = connect(_device(tmp_path))
    again = second.run(script(f"cat {boot} {governor} kept"), timeout_s=10).stdout.split()
    assert told[1:] == ["powersave"]
    assert again[1:] == ["schedutil", "kept"]
    assert again[0] != told[0]
    second.close()


def test_switched_off_nothing_of_it_runs_or_lies_around(tmp_path: Path) -> None:
    transport = connect(_device(tmp_path))
    process = transport.start(("sleep", "600"), folder=transport.root / "runs" / "one")
    pid = int(transport.run(("cat", f"{process.id}/pid"), timeout_s=10).stdout.split()[0])
    switch_all_off()
    _wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in _state(pid))
    assert {path.name for path in (tmp_path / "board").iterdir()} == {
        "bin", "boots", "farm", "home",
    }  # fmt: skip
    transport.close()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]


def test_what_a_killed_controller_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "board" / f"boot-{2**22 + 1}-abc" / "tree"
    left.mkdir(parents=True)
    VirtualBoard.start(_device(tmp_path))
    assert not left.parent.exists()


@pytest.mark.parametrize(
    "name", ["a b", "../up", "..", "new\nline", "$(touch pwned)", "ü", "\udcff"]
)
def test_a_device_may_have_any_name(name: str, tmp_path: Path) -> None:
    device = Device(name=name, type="t", address=Address.parse("virtual-ssh://board"))
    transport = connect(device)
    assert transport.run(("echo", "here"), timeout_s=10).stdout == "here\n"
    assert Path(transport.root).parents[1] == tmp_path / "cache" / "farm"
    transport.close()


def test_boards_of_one_type_differ(tmp_path: Path) -> None:
    serials = set()
    for name in ("one", "two"):
        device = Device(name=name, type="t", address=Address.parse("virtual-ssh://board?seed=1"))
        transport = connect(device)
        serial = script('cat "$FARM_TREE"/proc/device-tree/serial-number')
        serials.add(transport.run(serial, timeout_s=10).stdout)
        transport.close()
    assert len(serials) == 2


@pytest.mark.parametrize(
    "address",
    ["virtual-ssh://bord", "virtual-ssh://board?seed=x", "virtual-ssh://board?fault=no:1"],
)
def test_an_address_that_can_never_work_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        VirtualBoard.check(Device(name="b", type="t", address=Address.parse(address)))


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    address = Address.parse(f"virtual-ssh://board?root={tmp_path / 'file' / 'board'}")
    with pytest.raises(ConnectError, match="cannot use the folder"):
        connect(Device(name="b", type="t", address=address))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
