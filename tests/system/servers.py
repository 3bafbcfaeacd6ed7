"""SSH servers on loopback that a test starts, stops and looks behind.

Everything lives in a folder of the test. No account, no home and no service of the machine is
touched: dropbear and boards of busybox see an account of their own in a mount namespace.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from farm.model import Address, Device

START_S = 30.0
"""Until a server listens, and until what was killed is gone, on a very busy machine."""
MARK = "FARM_TEST_SERVER"
"""In the environment of everything that runs behind a server, wherever it was moved to."""
_WORDS = """
[ awk base64 basename cat chmod cmp cp cut date dd df dirname dmesg echo env expr false
find free grep head hostname id kill killall ls mkdir mkfifo mktemp mv nice nohup nproc
od pidof printf ps pwd readlink realpath rm rmdir sed seq setsid sh sha256sum sleep sort
stat sync tail taskset tee test timeout touch tr true tty uname uniq uptime wc which
xargs
"""
APPLETS = tuple(_WORDS.split())
"""What a small board has of busybox."""


class LacksPart(Exception):
    """A part of the system is missing; the message says which and how to get it."""


@dataclass(kw_only=True)
class Server:
    """An SSH server on loopback and everything that one must know to reach it.

    Attributes:
        folder: its configuration, keys and log.
        command: what starts it, without the port.
        user: who logs in.
        key: the private key that it accepts.
        host_keys: the line of each public host key, by kind: `ssh-ed25519`.
        top: the folder here that sessions see as `/`.
        root: a folder in a session for a device's files.
    """

    folder: Path
    command: Callable[[int], list[str]]
    user: str
    key: Path
    host_keys: dict[str, str]
    mark: str
    top: Path = Path("/")
    root: PurePosixPath
    host: str = "127.0.0.1"
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process that listens."""
        assert self.process is not None, "it was stopped"
        return self.process.pid

    @property
    def log(self) -> str:
        """What it wrote down since it was made."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def fingerprint(self) -> str:
        """Of its first host key: `SHA256:...`."""
        return self.fingerprints[next(iter(self.host_keys))]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of every host key, by its kind."""
        found = {}
        for kind, line in self.host_keys.items():
            told = _run("ssh-keygen", "-l", "-E", "sha256", "-f", "-", stdin=line)
            found[kind] = told.split()[1]
        return found

    def here(self, path: PurePosixPath | str) -> Path:
        """Where a path of a session lies on this machine."""
        return self.top / str(path).lstrip("/")

    def device(self, name: str = "board", **options: str) -> Device:
        """A device of the inventory behind it, with its key and its host key."""
        known = {"host_key": self.fingerprint, "key": str(self.key), "root": str(self.root)}
        known |= options
        address = Address(scheme="ssh", place=f"{self.user}@{self.host}:{self.port}")
        kept = tuple((key, value) for key, value in known.items() if value)
        return Device(name=name, type="board", address=address, options=kept)

    def ssh(self, command: str, *, port: int = 0) -> list[str]:
        """The system's own client, pinned to the host keys; a command line for a shell there."""
        return ["ssh", "-p", str(port or self.port), *self.client_options(port), "--",
                f"{self.user}@{self.host}", command]  # fmt: skip

    def client_options(self, port: int = 0) -> list[str]:
        """What `ssh`, `scp` and `sftp` need besides the port; nothing of the user's is read."""
        known = self.folder / "known_hosts"
        place = f"[{self.host}]:{port or self.port}"
        known.write_text("".join(f"{place} {line}" for line in self.host_keys.values()))
        settings = (
            f"UserKnownHostsFile={shlex.quote(str(known))}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "LogLevel=ERROR",
        )
        options = [option for setting in settings for option in ("-o", setting)]
        return ["-F", "/dev/null", *options, "-i", str(self.key)]

    def start(self) -> None:
        """Listen; after a stop on the same port."""
        assert self.process is None, "it runs already"
        for _ in range(5):  # somebody else may take the port between looking and listening
            port = self.port or free_port()
            with (self.folder / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    self.command(port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, MARK: self.mark, "PATH": _path()},
                    start_new_session=True,
                )
            if self._listens(port):
                self.port = port
                return
            self.process = None
        raise LacksPart(f"the server does not start: {self.log[-500:]}")

    def stop(self) -> None:
        """Refuse connections and break those that are; what runs behind them is not touched."""
        if self.process is None:
            return
        served = [pid for pid in _descendants(self.pid) if _name(pid) in ("sshd", "dropbear")]
        for pid in (self.pid, *served):
            kill(pid)
        self.process.wait()
        self.process = None

    def processes(self) -> dict[int, str]:
        """What runs behind it: the command lines of commands, their children and their orphans."""
        wanted = f"{MARK}={self.mark}".encode()
        found = {}
        for pid in pids():
            with contextlib.suppress(OSError):
                entry = Path(f"/proc/{pid}")
                if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                line = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if _name(pid) not in ("sshd", "dropbear") and lives(pid):
                    found[pid] = line.strip()
        return found

    def assert_nothing_is_left(self) -> None:
        """No process, no run and no part of a file stays; what was killed has a moment to go."""
        root = self.here(self.root)
        deadline = time.monotonic() + START_S
        while left := {**self.processes(), **_processes_in(root)}:
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)
        left_files = [str(path) for path in (*root.rglob("*.part"), *root.glob("runs/*"))]
        assert not left_files, f"still there: {left_files}"

    def clean_up(self) -> None:
        """Stop it and end what runs behind it."""
        self.stop()
        while left := self.processes():
            for pid in left:
                kill(pid)
            time.sleep(0.01)

    def _listens(self, port: int) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.host, port), 1):
                return self.process.poll() is None
            time.sleep(0.01)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        return False


def new_key(path: Path, kind: str = "ed25519") -> Path:
    """A private key without a passphrase, its public one beside it."""
    if not path.exists():
        _run(need("ssh-keygen"), "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path))
    return path


def make_sshd(
    folder: Path,
    key: Path,
    *,
    kinds: tuple[str, ...] = ("ed25519",),
    sftp: bool = True,
    environment: dict[str, str] | None = None,
    force_command: str = "",
    max_sessions: int = 10,
    settings: tuple[str, ...] = (),
    prefix: list[str] | None = None,
    top: Path = Path("/"),
    root: PurePosixPath | None = None,
) -> Server:
    """OpenSSH's server as the user who runs the test, not started yet.

    Args:
        folder: where its files go.
        key: the private key that it accepts.
        kinds: of its host keys, preferred first.
        sftp: whether it has the sftp subsystem.
        environment: variables that sessions get, `PATH` for example; `HOME` is the test's.
        force_command: a command line that runs instead of what is asked for, which it finds in
            `$SSH_ORIGINAL_COMMAND`.
        max_sessions: how many channels one connection may have.
        settings: more lines for `sshd_config`; the first line about a thing counts.
        prefix: a command that starts the server.
        top: what sessions see as `/`.
        root: a folder in a session for a device's files.
    """
    sshd = need("sshd", package="openssh-server")
    folder.mkdir(parents=True)
    host_keys = _host_keys(folder, kinds)
    mark = uuid.uuid4().hex
    shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it will not run as root without
    home = folder / "home"
    home.mkdir()
    variables = {"HOME": str(home), **(environment or {}), MARK: mark}
    lines = [
        *settings,
        *(f'HostKey "{folder / f"host_{kind}"}"' for kind in kinds),
        f'AuthorizedKeysFile "{folder / "authorized_keys"}"',
        "AuthenticationMethods publickey",
        "PermitRootLogin prohibit-password",
        "StrictModes no",  # folders of tests belong to everybody
        # without root it cannot read the shadow file and takes every account for a locked one
        f"UsePAM {'no' if os.geteuid() == 0 else 'yes'}",
        "UseDNS no",
        "PidFile none",
        "LogLevel VERBOSE",
        "MaxStartups 200",
        f"MaxSessions {max_sessions}",
        "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items()),
        *(["Subsystem sftp internal-sftp"] if sftp else []),
        *([f"ForceCommand {force_command}"] if force_command else []),
    ]
    config = folder / "sshd_config"
    config.write_text("\n".join(lines) + "\n")

    def command(port: int) -> list[str]:
        listen = ["-o", "ListenAddress=127.0.0.1", "-p", str(port)]
        return [*(prefix or []), sshd, "-D", "-e", "-f", str(config), *listen]

    return Server(
        folder=folder,
        command=command,
        user=getpass.getuser(),
        key=key,
        host_keys=host_keys,
        mark=mark,
        top=top,
        root=root or PurePosixPath(folder / "device"),
    )


def make_dropbear(
    folder: Path, key: Path, *, shell: str = "/bin/sh", arguments: tuple[str, ...] = ()
) -> Server:
    """dropbear, not started yet.

    It knows one place for keys: the home of the account. So it runs where `/etc/passwd` says that
    the home is a folder of the test, which takes root and a mount namespace.
    """
    dropbear = need("dropbear", package="dropbear-bin")
    need_namespace("dropbear")
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    home.chmod(0o700)
    shutil.copy(key.with_suffix(".pub"), home / ".ssh" / "authorized_keys")
    host_keys = _host_keys(folder, ("ed25519",))
    new_form = folder / "dropbear_ed25519"
    _run(need("dropbearconvert", package="dropbear-bin"), "openssh", "dropbear",
         str(folder / "host_ed25519"), str(new_form))  # fmt: skip
    me = pwd.getpwuid(os.geteuid())
    account = f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}::{home}:{shell}\n"
    (folder / "passwd").write_text(account)
    bound = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'

    def command(port: int) -> list[str]:
        keys = ["-r", str(new_form), "-P", str(folder / "dropbear.pid")]
        # -e: sessions inherit the environment, by which what they leave is found
        served = [dropbear, "-F", "-E", "-e", "-s", "-p", f"127.0.0.1:{port}", *keys, *arguments]
        return ["unshare", "-m", "sh", "-c", bound, "sh", str(folder / "passwd"), *served]

    return Server(
        folder=folder,
        command=command,
        user=me.pw_name,
        key=key,
        host_keys=host_keys,
        mark=uuid.uuid4().hex,
        root=PurePosixPath(folder / "device"),
    )


def make_busybox_board(
    folder: Path, key: Path, *, without: tuple[str, ...] = (), max_sessions: int = 10
) -> Server:
    """A board whose sessions see a file system with busybox and nothing else; not started yet.

    No sftp-server, no scp, no openssl, no Python. `/proc` and `/dev` are the machine's own.

    Args:
        folder: where its files go.
        key: the private key that it accepts.
        without: applets that it lacks. Then `busybox` itself is not in its PATH either, for it
            would have them.
        max_sessions: how many channels one connection may have.
    """
    busybox = need("busybox")
    need_namespace("a board of busybox")
    top = folder / "top"
    for name in ("bin", "dev", "etc", "lib", "proc", "root", "tmp", "opt/busybox"):
        (top / name).mkdir(parents=True)
    binary = top / "opt" / "busybox" / "busybox"
    shutil.copy(busybox, binary)
    for library in _libraries(busybox):
        copy = top / str(library).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copy)
    names = [*APPLETS, *([] if without else ["busybox"])]
    for name in names:
        if name not in without:
            (top / "bin" / name).symlink_to("/opt/busybox/busybox")
    (top / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    bound = 'mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev" && shift && exec "$@"'
    inside = f"exec {need('chroot', package='coreutils')} {shlex.quote(str(top))} /bin/sh -c"
    return make_sshd(
        folder / "server",
        key,
        sftp=False,
        environment={"PATH": "/bin", "HOME": "/root"},
        force_command=f'{inside} "$SSH_ORIGINAL_COMMAND"',
        max_sessions=max_sessions,
        prefix=["unshare", "-m", "sh", "-c", bound, "sh", str(top)],
        top=top,
        root=PurePosixPath("/root/farm"),
    )


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Start a server; afterwards nothing of it runs."""
    try:
        server.here(server.root).mkdir(parents=True, exist_ok=True)
        server.start()
        yield server
    finally:
        server.clean_up()


def need(program: str, *, package: str = "") -> str:
    """The path of a program."""
    found = shutil.which(program, path=_path())
    if found is None:
        raise LacksPart(f"'{program}' is missing: apt-get install {package or program}")
    return found


def need_namespace(what: str) -> None:
    """Root in a place where a file system may be mounted for a few processes only."""
    need("unshare", package="util-linux")
    tried = os.geteuid() == 0 and subprocess.run(
        ["unshare", "-m", "true"], capture_output=True, check=False
    )
    if not tried or tried.returncode:
        raise LacksPart(
            f"{what} needs root and mount namespaces: run as root, in Docker --cap-add SYS_ADMIN"
        )


def free_port() -> int:
    """A port of loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _host_keys(folder: Path, kinds: tuple[str, ...]) -> dict[str, str]:
    lines = {}
    for kind in kinds:
        path = new_key(folder / f"host_{kind}", kind)
        line = path.with_suffix(".pub").read_text()
        lines[line.split()[0]] = line
    return lines


def _libraries(program: str) -> list[Path]:
    """What the loader needs for a program; nothing for a static one."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    words = [word for line in told.splitlines() for word in line.split()]
    return [Path(word) for word in words if word.startswith("/") and Path(word).is_file()]


def _run(*argv: str, stdin: str = "") -> str:
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Name, state, parent and so on; nothing if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [name, *rest.split()]


def _name(pid: int) -> str:
    stat = _stat(pid)
    return stat[0] if stat else ""


def lives(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[1] not in ("Z", "X")


def _descendants(pid: int) -> list[int]:
    """Children and theirs, as far as none in between has ended."""
    children: dict[int, list[int]] = {}
    for other in pids():
        if stat := _stat(other):
            children.setdefault(int(stat[2]), []).append(other)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found += mine
        waiting += mine
    return found


def _processes_in(root: Path) -> dict[int, str]:
    """What works in a folder or names it in its command line."""
    found = {}
    place = str(root)
    for pid in pids():
        with contextlib.suppress(OSError):
            entry = Path(f"/proc/{pid}")
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works = os.readlink(entry / "cwd")
            inside = works == place or works.startswith(f"{place}/") or place in line
            if inside and pid != os.getpid() and lives(pid):
                found[pid] = line.strip()
    return found
