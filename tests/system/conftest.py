"""Servers that the production transports are tried on. Each is stopped when its test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.foreign_clients import foreign_python
from tests.system.phones import AdbServer, Phone, adb_server, make_phone, switched_on
from tests.system.proxies import Proxy, proxied
from tests.system.servers import (
    LacksPart,
    Server,
    make_busybox_board,
    make_dropbear,
    make_sshd,
    new_key,
    serving,
)

pytest.register_assert_rewrite("farm.testing")

Starter = Callable[..., Server]


@pytest.fixture(scope="session")
def client_key(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes the key that every server accepts, once."""
    folder = tmp_path_factory.mktemp("client")
    return lambda: new_key(folder / "key")


@pytest.fixture
def foreign(lacks: Callable[[str], None]) -> str:
    """The interpreter that has programs of others for talking to virtual meters."""
    try:
        return foreign_python()
    except OSError as error:
        lacks(f"cannot install the foreign clients: {error}; needs a package index")
        raise


@pytest.fixture
def _stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def _starter(
    tmp_path: Path,
    client_key: Callable[[], Path],
    lacks: Callable[[str], None],
    _stack: ExitStack,
) -> Callable[[Callable[..., Server]], Starter]:
    def starter(make: Callable[..., Server]) -> Starter:
        def start(**options: object) -> Server:
            start.count += 1  # type: ignore[attr-defined]
            name = make.__name__.removeprefix("make_")
            folder = tmp_path / f"{name}-{start.count}"  # type: ignore[attr-defined]
            try:
                return _stack.enter_context(serving(make(folder, client_key(), **options)))
            except LacksPart as missing:
                lacks(str(missing))
                raise

        start.count = 0  # type: ignore[attr-defined]
        return start

    return starter


@pytest.fixture
def start_sshd(_starter: Callable[..., Starter]) -> Starter:
    """Starts another OpenSSH server; options as in `make_sshd`."""
    return _starter(make_sshd)


@pytest.fixture
def start_dropbear(_starter: Callable[..., Starter]) -> Starter:
    """Starts another dropbear; options as in `make_dropbear`."""
    return _starter(make_dropbear)


@pytest.fixture
def start_busybox_board(_starter: Callable[..., Starter]) -> Starter:
    """Starts another board of busybox; options as in `make_busybox_board`."""
    return _starter(make_busybox_board)


@pytest.fixture
def sshd(start_sshd: Starter) -> Server:
    """An OpenSSH server."""
    return start_sshd()


@pytest.fixture
def dropbear(start_dropbear: Starter) -> Server:
    """A dropbear."""
    return start_dropbear()


@pytest.fixture
def busybox_board(start_busybox_board: Starter) -> Server:
    """A board that has busybox and nothing else."""
    return start_busybox_board()


@pytest.fixture
def start_proxy(_stack: ExitStack) -> Callable[[int], Proxy]:
    """Starts a proxy before a port."""
    return lambda port: _stack.enter_context(proxied(port))


@pytest.fixture
def start_phone(
    tmp_path: Path, lacks: Callable[[str], None], _stack: ExitStack
) -> Callable[..., Phone]:
    """Switches another phone on; options as in `make_phone`."""
    started: list[Phone] = []

    def start(**options: Any) -> Phone:
        try:
            phone = make_phone(tmp_path / f"phone-{len(started)}", **options)
            started.append(_stack.enter_context(switched_on(phone)))
        except LacksPart as missing:
            lacks(str(missing))
            raise
        return phone

    return start


@pytest.fixture
def phone(start_phone: Callable[..., Phone]) -> Phone:
    """A phone with a real adbd."""
    return start_phone()


@pytest.fixture
def server_of_adb(tmp_path: Path, lacks: Callable[[str], None], _stack: ExitStack) -> AdbServer:
    """The server of the real adb; it knows no phone yet."""
    try:
        return _stack.enter_context(adb_server(tmp_path / "adb"))
    except LacksPart as missing:
        lacks(str(missing))
        raise
