"""Makes the image of the Linux board: `python -m tests.board.build`.

The board is a real aarch64 Debian for qemu-system-aarch64, with a user `lab` who is reached through
SSH. It has no Python: a board needs none for the farm's native runner.

Packages are only unpacked. Configuring them would mean to run their scripts under emulation, which
takes minutes; what the scripts would have left behind is a handful of small files, and these are
written here. Nothing is executed on the way, so no emulator and no chroot takes part, and an
ordinary user may build as well if the system lets them make user namespaces.

Needs the packages of BUILD_NEEDS, on a Debian whose apt sources also serve arm64.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farm.shell import cache_folder

RECIPE = Path(__file__).parent / "recipe"
USER = "lab"
BUILD_NEEDS = ("apt", "dpkg", "e2fsprogs", "openssh-client", "tar", "util-linux")

# libstdc++6 is what ONNX Runtime links to beyond libc; usr-is-merged keeps out a tool that needs
# the whole of Perl to do what _unpack does.
PACKAGES = ("?essential", "busybox-static", "libstdc++6", "openssh-server", "usr-is-merged")
KERNEL = "linux-image-cloud-arm64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
# Packages still ship files under the old names. The targets are relative: unpacking follows them.
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "var/run": "../run",
    "var/lock": "../run/lock",
}
DISK_SIZE = "1G"  # sparse: only what is used takes room on the host

# Nothing of the machine's own package state is read or written; only its mirrors and their keys.
APT_CONFIGURATION = """\
APT::Architecture "arm64";
#clear APT::Architectures;
APT::Architectures "arm64";
APT::Install-Recommends "false";
APT::Sandbox::User "";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
"""


class BuildFailed(Exception):
    """The image cannot be made; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Image:
    """The files of one image."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.ext4"

    @property
    def key(self) -> Path:
        """The private key that opens the board."""
        return self.folder / "lab_key"

    @property
    def host_key(self) -> Path:
        """The private host key of the board; the public one lies beside it."""
        return self.folder / "host_key"


def image() -> Image:
    """The image of today's recipe, whether it is there yet or not."""
    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted(RECIPE.iterdir())):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return Image(cache_folder() / f"board-{digest.hexdigest()[:12]}")


def build() -> Image:
    """Make the image unless it is there.

    An interrupted build starts over: that is seconds, and no image mixes the packages of two days.
    """
    made = image()
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    part = Image(made.folder.with_suffix(".part"))
    with _only_builder(made.folder.with_suffix(".lock")):
        if made.folder.exists():
            return made
        shutil.rmtree(part.folder, ignore_errors=True)
        part.folder.mkdir(mode=0o700)
        rootfs, kernel = part.folder / "rootfs", part.folder / "kernel-package"
        with _step("fetch the packages"):
            packages, kernel_package = _fetch(part.folder / "apt")
        with _step("unpack them"):
            _unpack(packages, rootfs)
            _unpack([kernel_package], kernel)
        with _step("configure"):
            _make_key(part.key, f"{USER}@board")
            _make_key(part.host_key, "board")
            _configure(rootfs, part)
        with _step("write the image"):
            shutil.copyfile(next(kernel.glob("boot/vmlinuz-*")), part.kernel)
            part.initrd.write_bytes(_initrd(rootfs, kernel))
            _write_disk(rootfs, part.disk)
        for scratch in (rootfs, kernel, part.folder / "apt"):
            shutil.rmtree(scratch)
        part.folder.rename(made.folder)
    return made


@contextlib.contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)


def _run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, env=os.environ | (env or {}), cwd=cwd, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise BuildFailed(f"{command[0]} is missing; install: {' '.join(BUILD_NEEDS)}") from None
    if done.returncode:
        raise BuildFailed(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _fetch(folder: Path) -> tuple[list[Path], Path]:
    """Download the board's packages and the kernel's, checked by apt as for any installation."""
    for name in ("state/lists/partial", "cache/archives/partial", "kernel"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state/status").touch()  # nothing is installed yet
    configuration = folder / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(folder=folder))
    env = {"APT_CONFIG": str(configuration), "DEBIAN_FRONTEND": "noninteractive"}
    _run("apt-get", "-q", "update", env=env)
    _run("apt-get", "-qy", "install", "--download-only", *PACKAGES, env=env)
    # The kernel comes without its dependencies: they only serve to make an initrd, as _initrd does.
    depends = _run("apt-cache", "depends", KERNEL, env=env)
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if not package:
        raise BuildFailed(f"apt knows no {KERNEL}; its sources must serve Debian's arm64 packages")
    _run("apt-get", "-q", "download", package[1], env=env, cwd=folder / "kernel")
    return (
        sorted((folder / "cache/archives").glob("*.deb")),
        next((folder / "kernel").glob(f"{package[1]}_*.deb")),
    )


def _unpack(packages: list[Path], target: Path) -> None:
    """Unpack, without what only people read, into the folders that LINKS merges."""
    for name, folder in LINKS.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(folder)
        (target / name).parent.joinpath(folder).mkdir(parents=True, exist_ok=True)
    for package in packages:
        content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        unpacked = subprocess.run(
            [
                *("tar", "--extract", "--keep-directory-symlink", "--no-same-owner"),
                *("--preserve-permissions", f"--directory={target}"),
                *(f"--exclude=./usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
            ],
            stdin=content.stdout,
        )
        if content.wait() or unpacked.returncode:
            raise BuildFailed(f"{package.name} cannot be unpacked; remove it and build again")


def _make_key(path: Path, comment: str) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)


def _configure(rootfs: Path, made: Image) -> None:
    """Write what the scripts of the packages would have written."""
    etc, home = rootfs / "etc", rootfs / "home" / USER
    masters = rootfs / "usr/share/base-passwd"
    # A "*" is a password that nothing matches, where "x" would ask for a shadow file.
    etc.joinpath("passwd").write_text(
        (masters / "passwd.master").read_text()
        + "sshd:*:100:65534::/run/sshd:/usr/sbin/nologin\n"
        + f"{USER}:*:1000:1000::/home/{USER}:/bin/sh\n"
    )
    etc.joinpath("group").write_text((masters / "group.master").read_text() + f"{USER}:*:1000:\n")
    etc.joinpath("nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    etc.joinpath("hosts").write_text("127.0.0.1 localhost board\n")
    etc.joinpath("hostname").write_text("board\n")
    for name, target in {
        "usr/bin/awk": "mawk",
        "usr/bin/sh": "dash",
        "usr/sbin/init": "../bin/busybox",
    }.items():
        if not (rootfs / name).is_symlink():
            (rootfs / name).symlink_to(target)
    for name in ("dev", "proc", "sys", "run", "tmp"):
        (rootfs / name).mkdir(exist_ok=True)

    _place(RECIPE / "inittab", etc / "inittab", 0o644)
    _place(RECIPE / "board-up", etc / "board-up", 0o755)
    _place(RECIPE / "sshd_config", etc / "ssh/sshd_config", 0o644)
    _place(made.host_key, etc / "ssh/ssh_host_ed25519_key", 0o600)
    home.joinpath(".ssh").mkdir(parents=True, mode=0o700)
    _place(made.key.with_suffix(".pub"), home / ".ssh/authorized_keys", 0o600)


def _place(source: Path, target: Path, mode: int) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)


def _write_disk(rootfs: Path, disk: Path) -> None:
    """Write the file system; every file in it belongs to root, whoever builds."""
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    # A journal would only cost time: every start begins with the same, clean disk.
    _run(
        *as_root,
        *("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", rootfs),
        *("-E", "root_owner=0:0", disk, DISK_SIZE),
    )


def _initrd(rootfs: Path, kernel: Path) -> bytes:
    """An initrd that knows the disk and the network, and nothing more."""
    folders = ("bin", "dev", "modules", "root")
    modules = _modules(kernel)
    archive = b"".join(_entry(name, 0o040755) for name in folders)
    archive += _entry("init", 0o100755, (RECIPE / "initrd-init").read_bytes())
    archive += _entry("bin/busybox", 0o100755, (rootfs / "bin/busybox").read_bytes())
    for name, content in modules.items():
        archive += _entry(f"modules/{name}", 0o100644, content)
    archive += _entry("modules/order", 0o100644, "\n".join(modules).encode())
    return archive + _entry("TRAILER!!!", 0)


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    """One entry of a cpio archive of the kind "newc", the kernel's own for an initrd."""
    # Fields: inode, mode, uid, gid, links, mtime, size, 4 device numbers, length of name, checksum.
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _modules(kernel: Path) -> dict[str, bytes]:
    """The kernel modules that MODULES needs, each after those that it depends on."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in kernel.rglob("*.ko*")}
    builtin = next(kernel.glob("lib/modules/*/modules.builtin")).read_text().replace("-", "_")
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if f"{name}.ko" in found or f"/{name}.ko" in builtin:
            return
        if name not in files:
            raise BuildFailed(f"the kernel has no module {name}")
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in depends[1].decode().split(",") if depends and depends[1] else []:
            add(other.replace("-", "_"))
        found[f"{name}.ko"] = content

    for name in MODULES:
        add(name)
    return found


def main() -> int:
    """Build, and say where the image is."""
    started = time.monotonic()
    try:
        made = build()
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{made.folder} ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
