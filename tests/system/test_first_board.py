"""Every complaint of the first hour with a board, brought about; docs/first-board.md answers it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import farm.cli
from farm.errors import FarmError
from tests.system.servers import Server, new_key

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
STRANGE = "SHA256:" + "A" * 43

Complain = Callable[..., str]


def answered() -> list[re.Pattern[str]]:
    """The messages in the document's tables; an ellipsis stands for anything."""
    text = (ROOT / "docs" / "first-board.md").read_text()
    tables = text.split("## When something is in the way")[1].split("## What was not tried")[0]
    rows = [line.split("|")[1].strip() for line in tables.splitlines() if line.startswith("| ")]
    messages = [row for row in rows if row not in ("message", "---")]
    return [
        re.compile(".+".join(map(re.escape, message.split("…"))), re.DOTALL) for message in messages
    ]


@pytest.fixture
def complaint(tmp_path: Path) -> Complain:
    """What `farm doctor DEVICE` complains about."""

    def complain(command: str = "doctor", **entry: object) -> str:
        lines = ["schema: farm.inventory/1", "devices:", "  b:", "    type: board"]
        lines += [f"    {name}: {value}" for name, value in entry.items() if value != ""]
        inventory = tmp_path / "inventory.yaml"
        inventory.write_text("\n".join(lines) + "\n")
        arguments = [command, "b", "--inventory", str(inventory), "--store", str(tmp_path / "no")]
        done = CliRunner().invoke(farm.cli.app, arguments)
        if isinstance(done.exception, FarmError):
            return str(done.exception)
        bad = [line for line in " ".join(done.stdout.split("\n")).split("  ") if line]
        assert done.exit_code == 4, done.stdout
        assert "NO  " in done.stdout
        return " ".join(" ".join(bad).split())

    return complain


def known(server: Server, **changes: object) -> dict[str, object]:
    """A board's entry in the inventory, and what is wrong in it."""
    entry: dict[str, object] = {
        "address": f"ssh://{server.user}@127.0.0.1:{server.port}",
        "host_key": server.fingerprint,
        "key": server.key,
        "root": server.root,
    }
    return entry | changes


def assert_answered(said: str, beginning: str) -> None:
    """The complaint is the one that was meant, and the document has an answer to it."""
    assert beginning in said
    assert any(beginning in _plain(p) and p.search(said) for p in answered()), said


def _plain(pattern: re.Pattern[str]) -> str:
    return re.sub(r"\\(.)", r"\1", pattern.pattern)


def test_the_document_has_tables_to_look_into() -> None:
    assert len(answered()) >= 20


def test_a_name_that_nobody_knows(complaint: Complain) -> None:
    said = complaint(address="ssh://lab@no-such-board.invalid", host_key=STRANGE)
    assert_answered(said, "cannot be found")


def test_nobody_listens(complaint: Complain, sshd: Server) -> None:
    entry = known(sshd)
    sshd.stop()
    assert_answered(complaint(**entry), "cannot be reached: Connection refused")


def test_somebody_else_listens(complaint: Complain) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    visitor, _ = listener.accept()
                    with visitor:
                        visitor.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        said = complaint(address=f"ssh://lab@127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
    assert_answered(said, "does not speak SSH with us")


def test_it_was_never_met(complaint: Complain, sshd: Server) -> None:
    assert_answered(complaint(**known(sshd, host_key="")), "shows the unknown key")


def test_it_was_set_up_anew(complaint: Complain, sshd: Server) -> None:
    assert_answered(complaint(**known(sshd, host_key=STRANGE)), "now shows the host key")


def test_it_does_not_know_the_key(complaint: Complain, sshd: Server, tmp_path: Path) -> None:
    stranger = new_key(tmp_path / "stranger")
    assert_answered(complaint(**known(sshd, key=stranger)), "refuses to let us in")


def test_the_key_is_the_public_half(complaint: Complain, sshd: Server) -> None:
    said = complaint(**known(sshd, key=sshd.key.with_suffix(".pub")))
    assert_answered(said, "cannot use the key")


def test_its_folder_cannot_be_written(complaint: Complain, sshd: Server) -> None:
    assert_answered(complaint(**known(sshd, root="/proc/farm")), "cannot make the folder")


def test_it_has_no_setsid(complaint: Complain, start_busybox_board: Callable[..., Server]) -> None:
    server = start_busybox_board(without=("setsid",))
    said = complaint(**known(server, runtime="ort_native"))
    assert_answered(said, "there is no setsid there")


def test_a_core_that_it_does_not_have(complaint: Complain, sshd: Server) -> None:
    said = complaint(**known(sshd, cpus=900))
    assert "cores 900 are to be used" in said


def test_a_library_that_it_does_not_have(complaint: Complain, sshd: Server) -> None:
    said = complaint(**known(sshd, ort_library="board:/no/such/libonnxruntime.so"))
    assert_answered(said, "the board has no library")


def test_a_library_of_another_architecture(
    complaint: Complain, sshd: Server, tmp_path: Path
) -> None:
    foreign = tmp_path / "libonnxruntime.so"
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(100))
    assert_answered(complaint(**known(sshd, ort_library=foreign)), "the board is")
