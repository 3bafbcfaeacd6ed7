"""What processes must do that outlive a connection, and streams that are read while they run."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pytest

from farm.connection import Detached, Stream, Transport
from farm.errors import CommandTimeout
from farm.shell import Completed, script
from farm.testing.commands import KILLED
from farm.testing.probes import (
    ASK_S,
    FAMILY,
    HOSTILE,
    PAUSE,
    again,
    is_there,
    names,
    new_folder,
    read,
    read_pid,
    wait_until,
    wait_until_gone,
)

MAX_OUTPUT = 1 << 20
"""Nobody brings home more of what a process printed."""
UNTIL_GO = f"n=0; while [ ! -e go ] && [ $n -lt 600 ]; do n=$((n+1)); {PAUSE}; done"
"""Waits for a file, but not for ever: a test that fails leaves nothing running."""


class ProcessContract:
    """`Transport.start` and `Transport.attach`."""

    no_processes: ClassVar[str] = ""
    """Why a transport cannot start any command at all, if so."""

    @pytest.fixture
    def starter(self, transport: Transport) -> Transport:
        """A transport that starts commands."""
        if self.no_processes:
            pytest.skip(self.no_processes)
        return transport

    @pytest.fixture
    def run_folder(self, starter: Transport) -> PurePosixPath:
        """A folder that is still to be made."""
        return new_folder(starter) / "runs" / "it's one"

    def test_a_process_reports_status_and_both_streams(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """From a folder that is made for it, without input."""
        text = "cat; echo out; echo err >&2; : >made; exit 3"
        process = starter.start(("sh", "-c", text), folder=run_folder)
        done = process.wait(ASK_S)
        assert _told(done) == (3, "out\n", "err\n")
        assert done.elapsed_s >= 0
        assert _told(process.poll()) == _told(process.wait(ASK_S)) == _told(done)
        assert {"made", "out", "err"} <= names(starter, run_folder)

    def test_arguments_of_a_process_arrive_verbatim(
        self, starter: Transport, run_folder: PurePosixPath, tmp_path: Path
    ) -> None:
        """Byte for byte, as with `run`."""
        text = 'printf "%s\\0" "$@" >arguments'
        done = starter.start(script(text, *HOSTILE), folder=run_folder).wait(ASK_S)
        assert done.returncode == 0, done.stderr
        wanted = b"".join(os.fsencode(argument) + b"\0" for argument in HOSTILE)
        assert read(starter, run_folder / "arguments", tmp_path) == wanted
        assert "pwned" not in names(starter, run_folder)

    def test_a_process_without_a_command_is_status_127(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """Found out by the one who waits."""
        assert starter.start(("no-such-command",), folder=run_folder).wait(ASK_S).returncode == 127

    def test_a_process_is_seen_to_run_and_to_end(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """`poll` never waits; what it printed so far lies in its folder."""
        process = starter.start(("sh", "-c", f"echo begun; {UNTIL_GO}"), folder=run_folder)
        assert process.poll() is None
        wait_until(lambda: {"out", "err"} <= names(starter, run_folder), "its output lies nowhere")
        assert process.poll() is None
        _go(starter, run_folder)
        wait_until(lambda: process.poll() is not None, "its end is never seen")
        assert _told(process.poll()) == (0, "begun\n", "")

    @pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
    def test_a_process_outlives_the_connection_and_is_found_again(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """Closing ends nothing; a later session that knows its name waits for it."""
        text = f"{UNTIL_GO}; echo done; exit 3"
        name = starter.start(("sh", "-c", text), folder=run_folder).id
        starter.close()
        later = again(starter)
        found = later.attach(name)
        assert found.poll() is None
        _go(later, run_folder)
        assert _told(found.wait(ASK_S)) == (3, "done\n", "")
        later.close()

    def test_a_process_that_ended_before_is_found_too(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """With the same status and the same output."""
        started = starter.start(("sh", "-c", "echo out; echo err >&2; exit 9"), folder=run_folder)
        started.wait(ASK_S)
        later = again(starter)
        found = later.attach(started.id)
        assert _told(found.poll()) == _told(found.wait(ASK_S)) == (9, "out\n", "err\n")
        found.kill()  # what is gone is no error
        assert _told(found.poll()) == (9, "out\n", "err\n")
        later.close()

    def test_a_deadline_ends_the_group_of_a_process(
        self, starter: Transport, run_folder: PurePosixPath, tmp_path: Path
    ) -> None:
        """Also one that does not want to."""
        process = starter.start(("sh", "-c", FAMILY), folder=run_folder)
        pids = _family(starter, run_folder, tmp_path)
        with pytest.raises(CommandTimeout):
            process.wait(0.5)
        self._is_killed(starter, process, pids)

    def test_killing_ends_the_group_of_a_process(
        self, starter: Transport, run_folder: PurePosixPath, tmp_path: Path
    ) -> None:
        """Twice is no error."""
        process = starter.start(("sh", "-c", FAMILY), folder=run_folder)
        pids = _family(starter, run_folder, tmp_path)
        process.kill()
        process.kill()
        self._is_killed(starter, process, pids)

    @pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
    def test_a_later_session_kills_a_process_too(
        self, starter: Transport, run_folder: PurePosixPath, tmp_path: Path
    ) -> None:
        """It needs nothing but the name."""
        name = starter.start(("sh", "-c", FAMILY), folder=run_folder).id
        pids = _family(starter, run_folder, tmp_path)
        starter.close()
        later = again(starter)
        process = later.attach(name)
        process.kill()
        self._is_killed(later, process, pids)
        later.close()

    @pytest.mark.parametrize("victim", ["$$", "0"], ids=["command", "group"])
    def test_a_process_that_somebody_else_killed_has_ended(
        self, starter: Transport, run_folder: PurePosixPath, victim: str
    ) -> None:
        """As the kernel does when memory runs out; who asks later gets the same answer."""
        text = f"echo begun; kill -9 {victim}"
        process = starter.start(("sh", "-c", text), folder=run_folder)
        done = process.wait(ASK_S)
        assert done.returncode in KILLED
        assert done.stdout == "begun\n"
        assert _told(starter.attach(process.id).wait(ASK_S)) == _told(done)

    def test_output_of_a_process_is_its_end_and_bounded(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """A process that prints megabytes fills no memory here."""
        line = "0123456789 0123456789 0123456789"
        text = f"i=0; while [ $i -lt 60000 ]; do echo $i {line}; i=$((i+1)); done"
        process = starter.start(("sh", "-c", f"({text}); ({text}) >&2"), folder=run_folder)
        done = process.wait(ASK_S)
        for output in (done.stdout, done.stderr):
            assert output.endswith(f"59999 {line}\n")
            assert len(output) <= MAX_OUTPUT

    def test_two_processes_do_not_know_each_other(
        self, starter: Transport, run_folder: PurePosixPath
    ) -> None:
        """The end of one is not the end of the other."""
        other = run_folder.parent / "two"
        first = starter.start(("sh", "-c", FAMILY), folder=run_folder)
        second = starter.start(("sh", "-c", f"{UNTIL_GO}; echo second"), folder=other)
        assert first.id != second.id
        first.kill()
        wait_until(lambda: first.poll() is not None, "the first was not killed")
        assert second.poll() is None
        _go(starter, other)
        assert _told(second.wait(ASK_S)) == (0, "second\n", "")

    @staticmethod
    def _is_killed(transport: Transport, process: Detached, pids: tuple[int, ...]) -> None:
        wait_until_gone(transport, *pids)
        done = process.wait(ASK_S)
        assert done.returncode in KILLED
        assert _told(transport.attach(process.id).poll()) == _told(done)


class StreamContract:
    """`Transport.stream`."""

    no_streams: ClassVar[str] = ""
    """Why a command on this transport cannot be heard while it runs, if so."""

    @pytest.fixture
    def streamer(self, transport: Transport) -> Transport:
        """A transport whose streams are heard."""
        if self.no_streams:
            pytest.skip(self.no_streams)
        return transport

    @pytest.fixture
    def place(self, streamer: Transport) -> PurePosixPath:
        """Where a command writes down what it does."""
        return new_folder(streamer)

    def test_lines_of_a_stream_come_while_it_runs(
        self, streamer: Transport, place: PurePosixPath
    ) -> None:
        """And other commands run meanwhile; each line comes once."""
        text = f'cd "$1"; echo one; echo; echo two; {UNTIL_GO}; echo three'
        stream = streamer.stream(script(text, str(place)))
        assert _next_lines(stream, 3) == ("one", "", "two")
        _go(streamer, place)
        assert _next_lines(stream, 1) == ("three",)
        stream.close()

    def test_half_a_line_of_a_stream_is_not_told(
        self, streamer: Transport, place: PurePosixPath
    ) -> None:
        """Only when the rest has come."""
        text = f'cd "$1"; echo begun; printf "half a "; : >half; {UNTIL_GO}; echo line'
        stream = streamer.stream(script(text, str(place)))
        assert _next_lines(stream, 1) == ("begun",)
        wait_until(lambda: is_there(streamer, place / "half"), "it does not go on")
        assert stream.lines() == ()
        _go(streamer, place)
        assert _next_lines(stream, 1) == ("half a line",)
        stream.close()

    def test_arguments_of_a_stream_arrive_verbatim(
        self, streamer: Transport, place: PurePosixPath
    ) -> None:
        """Line by line; without input."""
        arguments = [a for a in HOSTILE if a.isprintable() and a.isascii()]
        text = 'cd "$1" && shift; cat; printf "%s\\n" "$@" end'
        stream = streamer.stream(script(text, str(place), *arguments))
        assert _next_lines(stream, len(arguments) + 1) == (*arguments, "end")
        assert names(streamer, place) == set()
        stream.close()

    def test_many_lines_of_a_stream_come_in_order(self, streamer: Transport) -> None:
        """None is lost between two looks."""
        text = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; sleep 600"
        stream = streamer.stream(("sh", "-c", text))
        assert _next_lines(stream, 20000) == tuple(map(str, range(20000)))
        stream.close()

    def test_a_line_of_a_stream_that_is_no_text_is_no_error(self, streamer: Transport) -> None:
        """The lines after it come as well."""
        stream = streamer.stream(("sh", "-c", r"printf 'a \377 b\n'; echo ok"))
        odd, ok = _next_lines(stream, 2)
        assert (odd[:2], odd[-2:], ok) == ("a ", " b", "ok")
        stream.close()

    def test_after_the_end_of_a_stream_there_is_nothing_more(self, streamer: Transport) -> None:
        """Of the command or of the stream; closing twice is no error."""
        stream = streamer.stream(("sh", "-c", "echo one; echo to nobody >&2; exit 3"))
        assert _next_lines(stream, 1) == ("one",)
        assert stream.lines() == ()
        stream.close()
        stream.close()
        assert stream.lines() == ()

    def test_a_stream_without_a_command_says_nothing(self, streamer: Transport) -> None:
        """It is no error of the device."""
        stream = streamer.stream(("no-such-command",))
        assert stream.lines() == ()
        stream.close()

    def test_closing_a_stream_ends_a_silent_command_and_its_children(
        self, streamer: Transport, place: PurePosixPath, tmp_path: Path
    ) -> None:
        """One that never prints does not notice by itself that nobody listens."""
        stream = streamer.stream(script(f'cd "$1" && {FAMILY}', str(place)))
        pids = _family(streamer, place, tmp_path)
        stream.close()
        wait_until_gone(streamer, *pids)

    def test_two_streams_do_not_know_each_other(
        self, streamer: Transport, place: PurePosixPath
    ) -> None:
        """The end of one is not the end of the other."""
        first = streamer.stream(("sh", "-c", "echo first; sleep 600"))
        second = streamer.stream(script(f'cd "$1"; {UNTIL_GO}; echo second', str(place)))
        assert _next_lines(first, 1) == ("first",)
        first.close()
        _go(streamer, place)
        assert _next_lines(second, 1) == ("second",)
        second.close()


def _told(done: Completed | None) -> tuple[int, str, str]:
    assert done is not None, "it still runs"
    return done.returncode, done.stdout, done.stderr


def _family(transport: Transport, folder: PurePosixPath, tmp_path: Path) -> tuple[int, ...]:
    return tuple(read_pid(transport, folder / name, tmp_path) for name in ("parent", "child"))


def _go(transport: Transport, folder: PurePosixPath) -> None:
    transport.run(("touch", str(folder / "go")), timeout_s=ASK_S)


def _next_lines(stream: Stream, count: int) -> tuple[str, ...]:
    """Exactly that many; more are an error as well."""
    lines: list[str] = []

    def enough() -> bool:
        lines.extend(stream.lines())
        return len(lines) >= count

    wait_until(enough, f"fewer than {count} lines came")
    return tuple(lines)
