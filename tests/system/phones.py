"""Phones on loopback that a test starts, stops and looks behind: Debian's real adbd in a sandbox.

A phone sees a file system of its own: mksh as its shell, toybox for everything else, the tools of
Android that `drivers.virtual.phone_tools` writes, and hardware files from the test's folder. It is
an ordinary user's process in namespaces of its own, and listens on loopback only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import adbutils

from drivers.virtual.phone_tools import write_state, write_tools
from farm.model import Address, Device
from tests.system.servers import START_S, LacksPart, free_port, kill, lives, need, pids

ADBD = Path(__file__).parents[2] / "build" / "adbd"
WHEELS_ADB = Path(adbutils.__file__).with_name("binaries") / "adb"
"""The adb binary that comes with adbutils, whatever else is in the PATH."""
MARK = "FARM_TEST_PHONE"
"""In the environment of everything that runs on a phone."""
STATE = "/vendor/state"
"""Where the tools of a phone keep what they tell, as the phone sees it."""
PROPERTIES = {
    "ro.serialno": "FARM0001",
    "ro.product.manufacturer": "Farm",
    "ro.product.model": "Sandbox",
    "ro.product.cpu.abilist": "x86_64",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.build.fingerprint": "farm/sandbox/sandbox:14/F1/1:user/release-keys",
    "sys.boot_completed": "1",
}
# adbd listens on every interface and asks nobody who he is. It must not inherit this to commands.
_SHIM = """
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static struct in_addr only;

__attribute__((constructor)) static void begin(void) {
  inet_pton(AF_INET, getenv("FARM_TEST_BIND"), &only);
  unsetenv("FARM_TEST_BIND");
  unsetenv("LD_PRELOAD");
  unsetenv("LD_LIBRARY_PATH");
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
  if (address->sa_family == AF_INET) {
    struct sockaddr_in changed = *(const struct sockaddr_in *)address;
    changed.sin_addr = only;
    return real(fd, (struct sockaddr *)&changed, sizeof changed);
  }
  if (address->sa_family == AF_INET6) {
    struct sockaddr_in6 changed = *(const struct sockaddr_in6 *)address;
    memset(&changed.sin6_addr, 0, 10);
    memset(changed.sin6_addr.s6_addr + 10, 0xff, 2);
    memcpy(changed.sin6_addr.s6_addr + 12, &only, 4);
    return real(fd, (struct sockaddr *)&changed, sizeof changed);
  }
  if (address->sa_family == AF_UNIX) return real(fd, address, size);
  errno = EPERM;
  return -1;
}
"""
# Waits until a cable is plugged in at its end: $1 address, $2 interface; then the command.
_WIRED = """
read -r _ && ip link set lo up && ip addr add "$1" dev "$2" && ip link set "$2" up || exit 1
shift 2
exec "$@"
"""


@dataclass(kw_only=True)
class Phone:
    """A phone behind a real adbd and everything that one must know to reach it.

    Attributes:
        folder: everything that is its own.
        command: what starts it, without the port.
        mark: by which its processes are found.
        serial: its serial number.
        root: a folder on it for the farm's files.
        mtu: of the cable; 0 for loopback, which has 65536.
    """

    folder: Path
    command: Callable[[int], list[str]]
    mark: str
    serial: str
    root: PurePosixPath
    host: str = "127.0.0.1"
    mtu: int = 0
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> str:
        """What adbd wrote down."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def state(self) -> Path:
        """Where its tools keep what they tell."""
        return self.folder / "state"

    def here(self, path: PurePosixPath | str) -> Path:
        """Where a path below the phone's `/data` or `/sys` lies on this machine."""
        return self.folder / str(path).lstrip("/")

    def device(self, name: str = "phone", *, port: int = 0, **options: str) -> Device:
        """A device of the inventory behind it."""
        address = Address(scheme="adb", place=f"{self.host}:{port or self.port}")
        key = str(self.folder / "adbkey")
        return _device(name, address, {"serial": self.serial, "adb_key": key} | options)

    def start(self) -> None:
        """Switch it on; after a stop at the same port."""
        assert self.process is None, "it runs already"
        for _ in range(5):  # somebody else may take the port between looking and listening
            port = self.port or free_port()
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    self.command(port),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={"PATH": os.environ["PATH"], MARK: self.mark},
                    start_new_session=True,
                )
            if self.mtu:
                self._plug_in(self.process)
            if _listens(self.process, self.host, port):
                self.port = port
                return
            self._end()
        raise LacksPart(f"adbd does not start, a sandbox needs user namespaces: {self.log[-500:]}")

    def stop(self) -> None:
        """Switch it off with everything that runs on it."""
        if self.process is not None:
            self._end()

    def processes(self) -> dict[int, str]:
        """What runs on it besides adbd itself."""
        found = {}
        for pid, line in _marked(f"{MARK}={self.mark}"):
            if not any(line.startswith(own) for own in ("/vendor/adbd/adbd", "bwrap", "unshare")):
                found[pid] = line
        return found

    def assert_nothing_is_left(self) -> None:
        """No process, no run and no part of a file stays; what was killed has a moment to go."""
        deadline = time.monotonic() + START_S
        while left := self.processes():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)
        files = self.here(self.root)
        left_files = [str(path) for path in (*files.rglob("*.part"), *files.glob("runs/*"))]
        assert not left_files, f"still there: {left_files}"

    def _end(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        while left := [pid for pid, _ in _marked(f"{MARK}={self.mark}")]:
            for pid in left:
                kill(pid)
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        self.process = None

    def _plug_in(self, process: subprocess.Popen[bytes]) -> None:
        """A cable between this machine and the phone's own network; it goes with the phone."""
        assert process.stdin is not None
        here, far = f"farm{self.mark[:8]}", f"far{self.mark[:8]}"
        near = self.host[:-1] + "1/30"
        size = ("mtu", str(self.mtu))
        deadline = time.monotonic() + START_S
        while _network(process.pid) == _network(os.getpid()):
            if process.poll() is not None or time.monotonic() > deadline:
                return
            time.sleep(0.005)
        plug = ["ip", "link", "add", here, *size, "type", "veth"]
        for command in (
            [*plug, "peer", "name", far, *size, "netns", str(process.pid)],
            ["ip", "addr", "add", near, "dev", here],
            ["ip", "link", "set", here, "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        process.stdin.write(b"\n")
        process.stdin.flush()


def make_phone(
    folder: Path,
    *,
    mtu: int = 0,
    serial: str = PROPERTIES["ro.serialno"],
    small_disk: bool = False,
    linker: bool = False,
) -> Phone:
    """A phone, not started yet.

    Args:
        folder: where its files go.
        mtu: of the network between this machine and it, which takes root; 0 for loopback.
        serial: its serial number.
        small_disk: whether the farm's folder has room for 1 MiB only.
        linker: whether it has what tells Android from other Linux systems; no program runs by it.
    """
    for program, package in (("bwrap", "bubblewrap"), ("mksh", ""), ("toybox", ""), ("gcc", "")):
        need(program, package=package)
    _need_adbd()
    folder.mkdir(parents=True)
    mark = uuid.uuid4().hex
    state = folder / "state"
    write_state(state, serial=serial, epoch_s=int(time.time()))
    shutil.rmtree(state / "props")
    (state / "props").mkdir()
    for name, value in (PROPERTIES | {"ro.serialno": serial}).items():
        (state / "props" / name).write_text(f"{value}\n")
    tools = folder / "tools"
    tools.mkdir()
    write_tools(tools, state=STATE)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    for name in ("data/local/tmp", "sys/devices/system/cpu", "sys/class/thermal"):
        (folder / name).mkdir(parents=True)
    (folder / "passwd").write_text(
        "root:x:0:0:root:/:/system/bin/sh\nshell:x:2000:2000:shell:/:/system/bin/sh\n"
    )
    shim = _built_shim(folder)
    host = "127.0.0.1"
    wired: list[str] = []
    if mtu:
        _need_network()
        number = int(mark[:4], 16)
        host = f"198.{18 + (number >> 15)}.{(number >> 7) & 255}.2"  # for tests, RFC 2544
        wired = ["unshare", "-n", "sh", "-c", _WIRED, "sh", f"{host}/30", f"far{mark[:8]}"]

    def command(port: int) -> list[str]:
        settings = {MARK: mark, "ADBD_PORT": str(port), "FARM_TEST_BIND": host}
        more = ["--ro-bind", str(folder / "passwd"), "/system/bin/linker64"] if linker else []
        if small_disk:
            more += ["--size", str(1 << 20), "--tmpfs", "/data/local/tmp"]
        return [*wired, *_sandbox(folder, shim, settings, more)]

    return Phone(
        folder=folder,
        command=command,
        mark=mark,
        serial=serial,
        root=PurePosixPath("/data/local/tmp/farm"),
        host=host,
        mtu=mtu,
    )


@contextlib.contextmanager
def switched_on(phone: Phone) -> Iterator[Phone]:
    """Start a phone; afterwards nothing of it runs."""
    try:
        phone.start()
        yield phone
    finally:
        phone.stop()


@dataclass(kw_only=True)
class AdbServer:
    """The adb server of the real adb, with a home and a port of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def attach(self, phone: Phone) -> str:
        """Make a phone known to it; the serial by which it knows it."""
        place = f"{phone.host}:{phone.port}"
        deadline = time.monotonic() + START_S
        while f"{place}\tdevice" not in self.adb("devices"):
            assert time.monotonic() < deadline, self.adb("devices")
            self.adb("connect", place)
        return place

    def device(self, phone: Phone, name: str = "phone", **options: str) -> Device:
        """A device of the inventory behind it."""
        server = (("server", f"127.0.0.1:{self.port}"),)
        place = f"{phone.host}:{phone.port}"
        address = Address(scheme="adb-server", place=place, options=server)
        return _device(name, address, {"serial": phone.serial} | options)

    def adb(self, *arguments: str) -> str:
        """What the real adb prints."""
        done = subprocess.run(
            [str(WHEELS_ADB), "-P", str(self.port), *arguments],
            env=_adb_environment(self.folder),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr


@contextlib.contextmanager
def adb_server(folder: Path) -> Iterator[AdbServer]:
    """Run an adb server; afterwards it is gone."""
    folder.mkdir(parents=True)
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(WHEELS_ADB), "-L", f"tcp:localhost:{port}", "nodaemon", "server"],
            env=_adb_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        if not _listens(process, "127.0.0.1", port):
            raise LacksPart(f"the adb server does not start: {(folder / 'log').read_text()[-500:]}")
        yield AdbServer(folder=folder, port=port, process=process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _adb_environment(folder: Path) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder),
        "ADB_MDNS": "0",
        "ADB_MDNS_AUTO_CONNECT": "0",
        "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554",  # looks for no emulators
    }


def _device(name: str, address: Address, options: dict[str, str]) -> Device:
    kept = tuple((key, value) for key, value in options.items() if value)
    return Device(name=name, type="phone", address=address, options=kept)


def _sandbox(folder: Path, shim: Path, settings: dict[str, str], more: list[str]) -> list[str]:
    """adbd where `/` is that of a phone."""
    toybox = need("toybox")
    applets = subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split()
    settings |= {
        "PATH": "/vendor/bin:/system/bin",
        "ANDROID_ROOT": "/system",
        "ANDROID_DATA": "/data",
        "LD_LIBRARY_PATH": "/vendor/adbd/lib",
        "LD_PRELOAD": "/vendor/shim.so",
    }
    options = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    options += ["--die-with-parent", "--new-session", "--clearenv", "--uid", "2000"]
    options += ["--gid", "2000", "--chdir", "/"]
    for name, value in settings.items():
        options += ["--setenv", name, value]
    for source, target in (
        ("/usr/lib", "/usr/lib"),
        ("/usr/lib64", "/usr/lib64"),
        (need("mksh"), "/system/bin/sh"),
        (toybox, "/system/bin/toybox"),
        (str(ADBD), "/vendor/adbd"),
        (str(shim), "/vendor/shim.so"),
        (str(folder / "tools"), "/vendor/bin"),
        (str(folder / "passwd"), "/etc/passwd"),
        (str(folder / "sys"), "/sys"),
    ):
        if Path(source).exists():
            options += ["--ro-bind", source, target]
    for name in applets:
        options += ["--symlink", "toybox", f"/system/bin/{name}"]
    options += ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"]
    options += ["--symlink", "/system/bin", "/bin", "--proc", "/proc", "--dev", "/dev"]
    options += ["--bind", str(folder / "data"), "/data", "--bind", str(folder / "state"), STATE]
    return ["bwrap", *options, *more, "/vendor/adbd/adbd"]


def _built_shim(folder: Path) -> Path:
    source, shim = folder / "shim.c", folder / "shim.so"
    source.write_text(_SHIM)
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return shim


def _need_adbd() -> None:
    if (ADBD / "adbd").exists():
        return
    if not shutil.which("apt-get"):
        raise LacksPart("Debian's adbd is missing, and there is no apt-get to fetch it")
    script = Path(__file__).with_name("get_adbd.sh")
    done = subprocess.run(["sh", str(script), str(ADBD)], capture_output=True, text=True)
    if done.returncode:
        raise LacksPart(f"Debian's adbd cannot be had: {done.stderr.strip()[-300:]}")


def _need_network() -> None:
    need("ip", package="iproute2")
    tried = os.geteuid() == 0 and subprocess.run(
        ["unshare", "-n", "true"], capture_output=True, check=False
    )
    if not tried or tried.returncode:
        raise LacksPart(
            "a network with an MTU of its own needs root: in Docker --cap-add SYS_ADMIN,NET_ADMIN"
        )


def _network(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""


def _listens(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return process.poll() is None
        time.sleep(0.01)
    return False


def _marked(mark: str) -> Iterator[tuple[int, str]]:
    """Processes with that in their environment, and their command lines."""
    wanted = mark.encode()
    for pid in pids():
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            if wanted in (entry / "environ").read_bytes().split(b"\0") and lives(pid):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                yield pid, line.decode(errors="replace").strip()
