"""What a shell and files on a device must do."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from farm.connection import Transport
from farm.errors import CommandTimeout, InfraError
from farm.shell import script
from farm.testing.probes import (
    ASK_S,
    FAMILY,
    HOSTILE,
    again,
    is_there,
    names,
    new_folder,
    read,
    read_pid,
    wait_until_gone,
    write,
)

DEADLINE_S = 2.0
"""For commands that never end: long enough to begin on a busy machine."""
KILLED = (-9, 137)
"""How a shell and how a system call tell of a process that was killed."""
EVERY_BYTE = bytes(range(256)) * 4096
"""One MiB in which every byte occurs."""


class CommandContract:
    """`Shell.run`."""

    def test_a_command_reports_status_and_both_streams(self, transport: Transport) -> None:
        """Status, standard output and standard error, each for itself."""
        text = "cat; echo out; echo err >&2; exit 7"
        done = transport.run(("sh", "-c", text), timeout_s=ASK_S, stdin=b"in ")
        assert (done.returncode, done.stdout, done.stderr) == (7, "in out\n", "err\n")
        assert done.elapsed_s >= 0

    def test_without_input_a_command_reads_an_empty_one(self, transport: Transport) -> None:
        """Nothing waits for a person."""
        done = transport.run(("cat",), timeout_s=ASK_S)
        assert (done.returncode, done.stdout) == (0, "")

    def test_a_megabyte_of_any_bytes_goes_in(self, transport: Transport, tmp_path: Path) -> None:
        """Standard input is bytes, not text."""
        file = new_folder(transport) / "file"
        done = transport.run(script('cat >"$1"', str(file)), timeout_s=ASK_S, stdin=EVERY_BYTE)
        assert done.returncode == 0, done.stderr
        assert read(transport, file, tmp_path) == EVERY_BYTE

    def test_a_megabyte_comes_out_of_both_streams(self, transport: Transport) -> None:
        """No pipe blocks the other, and control characters and Unicode survive."""
        text = ("".join(map(chr, range(128))) + "ü☃") * 8000
        done = transport.run(
            script('cat >"$1"; cat "$1" >&2; cat "$1"', str(new_folder(transport) / "file")),
            timeout_s=ASK_S,
            stdin=text.encode(),
        )
        assert done.stdout == text
        assert done.stderr == text

    def test_output_that_is_no_text_is_no_error(self, transport: Transport) -> None:
        """Bytes that are no UTF-8 are replaced, the rest stays."""
        done = transport.run(("cat",), timeout_s=ASK_S, stdin=b"before \xff\xfe after\n")
        assert done.stdout.startswith("before ")
        assert done.stdout.endswith(" after\n")

    def test_input_that_nobody_reads_is_no_error(self, transport: Transport) -> None:
        """A command may end before it has read everything."""
        done = transport.run(("sh", "-c", "exit 5"), timeout_s=ASK_S, stdin=EVERY_BYTE)
        assert done.returncode == 5

    def test_arguments_arrive_verbatim(self, transport: Transport, tmp_path: Path) -> None:
        """Byte for byte, whatever shell is in between."""
        folder = new_folder(transport)
        arguments = (*HOSTILE, "x" * 4096)
        text = 'file=$1; shift; printf "%s\\0" "$@" >"$file"'
        done = transport.run(
            script(text, str(folder / "arguments"), *arguments), timeout_s=ASK_S, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        wanted = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
        assert read(transport, folder / "arguments", tmp_path) == wanted
        assert names(transport, folder) == {"arguments"}  # nothing was expanded and executed

    @pytest.mark.parametrize("name", ["no-such-command", "no such command", "/no/such/command"])
    def test_a_missing_command_is_status_127(self, transport: Transport, name: str) -> None:
        """As a shell has it."""
        assert transport.run((name, "argument"), timeout_s=ASK_S).returncode == 127

    def test_a_command_that_was_killed_says_so(self, transport: Transport) -> None:
        """By a negative status, or by the one that a shell gives."""
        done = transport.run(("sh", "-c", "kill -9 $$"), timeout_s=ASK_S)
        assert done.returncode in KILLED

    def test_a_deadline_ends_a_command_and_its_children(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        """Also one that does not want to; afterwards the next command runs."""
        folder = new_folder(transport)
        with pytest.raises(CommandTimeout):
            transport.run(("sh", "-c", FAMILY), timeout_s=DEADLINE_S, cwd=folder)
        pids = [read_pid(transport, folder / name, tmp_path) for name in ("parent", "child")]
        wait_until_gone(transport, *pids)

    def test_a_command_works_in_the_folder_it_is_given(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        """Whatever the folder is called."""
        folder = new_folder(transport) / "it's a $(touch pwned) folder"
        transport.run(("mkdir", str(folder)), timeout_s=ASK_S)
        done = transport.run(("sh", "-c", "echo here >told"), timeout_s=ASK_S, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert read(transport, folder / "told", tmp_path) == b"here\n"

    def test_a_command_never_works_in_another_folder_instead(self, transport: Transport) -> None:
        """A folder that is missing is a status, and the command does not run."""
        folder = new_folder(transport)
        text = script('echo here >"$1"', str(folder / "told"))
        done = transport.run(text, timeout_s=ASK_S, cwd=folder / "nowhere")
        assert done.returncode != 0
        assert names(transport, folder) == set()


class FileContract:
    """`Shell.push` and `Shell.pull`."""

    @pytest.mark.parametrize("size", [0, 1, 3 << 20], ids=["empty", "one_byte", "3_MiB"])
    def test_files_go_there_and_back_unchanged(
        self, transport: Transport, tmp_path: Path, size: int
    ) -> None:
        """Whatever their length, and whatever bytes they hold."""
        data = (EVERY_BYTE * 3)[:size]
        target = new_folder(transport) / "file"
        write(transport, target, data, tmp_path)
        assert is_there(transport, target)
        assert read(transport, target, tmp_path) == data

    def test_a_file_that_is_there_is_replaced(self, transport: Transport, tmp_path: Path) -> None:
        """Nothing of a longer one stays."""
        target = new_folder(transport) / "file"
        write(transport, target, EVERY_BYTE, tmp_path)
        write(transport, target, b"short", tmp_path)
        assert read(transport, target, tmp_path) == b"short"

    @pytest.mark.parametrize("name", [name for name in HOSTILE if name], ids=ascii)
    def test_a_file_may_have_any_name_on_the_device(
        self, transport: Transport, tmp_path: Path, name: str
    ) -> None:
        """The name arrives byte for byte."""
        folder = new_folder(transport)
        target = folder / name
        write(transport, target, b"data", tmp_path)
        assert is_there(transport, target)
        assert read(transport, target, tmp_path) == b"data"
        counted = transport.run(script('cd "$1" && set -- * && echo $#', str(folder)), timeout_s=60)
        assert counted.stdout == "1\n"  # and no other file came with it

    @pytest.mark.parametrize(
        "name", ["host:file", "-r", "it's $(touch pwned)\n", "\udcff"], ids=ascii
    )
    def test_a_file_may_have_any_name_here(
        self, transport: Transport, tmp_path: Path, name: str
    ) -> None:
        """Both ways."""
        here, back = tmp_path / "here", tmp_path / "back"
        here.mkdir()
        back.mkdir()
        (here / name).write_bytes(b"data")
        target = new_folder(transport) / "file"
        transport.push(here / name, target)
        transport.pull(target, back / name)
        assert (back / name).read_bytes() == b"data"

    def test_a_file_that_is_missing_is_an_error(self, transport: Transport, tmp_path: Path) -> None:
        """No empty file is made up."""
        with pytest.raises(InfraError):
            transport.pull(new_folder(transport) / "nothing", tmp_path / "back")

    def test_a_folder_that_is_missing_is_an_error(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        """And is not made."""
        folder = new_folder(transport)
        with pytest.raises(InfraError):
            write(transport, folder / "nowhere" / "file", b"data", tmp_path)
        assert names(transport, folder) == set()

    def test_files_stay_when_the_connection_ends(
        self, transport: Transport, tmp_path: Path
    ) -> None:
        """A later session finds them."""
        target = new_folder(transport) / uuid.uuid4().hex
        write(transport, target, b"data", tmp_path)
        transport.close()
        later = again(transport)
        assert read(later, target, tmp_path) == b"data"
        later.close()
