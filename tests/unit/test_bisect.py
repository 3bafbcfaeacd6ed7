"""The halving, without a device; and the order of revisions."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.bisect import read_line
from farm.builds import BuildFailed, Builds
from farm.errors import ConfigError
from farm.halving import Bisection, Step, hunt
from farm.record import Verdict


def _hunt(count: int, answers: dict[int, Verdict | None], culprit: int) -> Bisection:
    """A search over revisions r0 (good) to r<count> (bad); `answers` replace the true ones."""

    def ask(revision: str) -> Step:
        place = int(revision[1:])
        true = Verdict.FAIL if place >= culprit else Verdict.PASS
        verdict = answers.get(place, true)
        skipped = None if verdict else "the build failed"
        return Step(revision=revision, verdict=verdict, skipped=skipped)

    return hunt([f"r{place}" for place in range(count + 1)], ask)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[int, int, dict[int, Verdict | None]]:
    """Number of revisions, place of the culprit, and which of them tell nothing."""
    count = draw(st.integers(1, 300))
    culprit = draw(st.integers(1, count))
    between = st.integers(1, max(1, count - 1))
    answers: dict[int, Verdict | None] = dict.fromkeys(draw(st.sets(between, max_size=60)))
    if draw(st.booleans()):
        answers[draw(between)] = Verdict.INCONCLUSIVE
    answers.pop(count, None)
    return count, culprit, answers


@given(_cases())
def test_the_answer_is_right_or_an_honest_interval_in_few_questions(
    case: tuple[int, int, dict[int, Verdict | None]],
) -> None:
    count, culprit, answers = case
    found = _hunt(count, answers, culprit)
    asked = [int(step.revision[1:]) for step in found.steps]
    assert len(asked) == len(set(asked)) <= math.ceil(math.log2(count)) + len(answers) + 2
    assert f"r{culprit}" in found.interval
    assert int(found.last_good[1:]) == int(found.interval[0][1:]) - 1 < culprit
    *inside, last = (int(revision[1:]) for revision in found.interval)
    assert last == count or last not in answers
    assert set(inside) <= set(answers), "something inside could still have been asked"
    assert found.first_bad in (None, f"r{culprit}")
    assert found.exit_code == (0 if found.first_bad else 3)


@given(st.integers(1, 1000), st.data())
def test_without_gaps_the_culprit_is_found_alone(count: int, data: st.DataObject) -> None:
    culprit = data.draw(st.integers(1, count))
    found = _hunt(count, {}, culprit)
    assert (found.first_bad, found.exit_code) == (f"r{culprit}", 0)
    assert len(found.steps) <= math.ceil(math.log2(count)) + 1


@pytest.mark.parametrize(
    ("verdict", "code", "left"),
    [(Verdict.PASS, 2, 0), (Verdict.INCONCLUSIVE, 3, 8), (Verdict.INVALID, 4, 8)],
)
def test_an_end_that_does_not_fail_ends_the_search(verdict: Verdict, code: int, left: int) -> None:
    found = _hunt(8, {8: verdict}, culprit=5)
    assert [step.revision for step in found.steps] == ["r8"]
    assert (found.first_bad, found.exit_code, len(found.interval)) == (None, code, left)


def test_an_invalid_gate_ends_the_search_with_what_is_known_so_far() -> None:
    found = _hunt(8, {6: Verdict.INVALID}, culprit=6)
    assert found.steps[-1].verdict is Verdict.INVALID
    assert (found.first_bad, found.last_good, found.exit_code) == (None, "r4", 4)
    assert found.interval == ("r5", "r6", "r7", "r8")


def test_an_invalid_gate_about_the_only_revision_left_names_no_culprit() -> None:
    assert _hunt(1, {1: Verdict.INVALID}, culprit=1).first_bad is None


def test_the_neighbour_is_asked_about_after_one_that_tells_nothing() -> None:
    found = _hunt(9, {5: None}, culprit=9)
    places = [int(step.revision[1:]) for step in found.steps]
    assert places[:2] == [9, 5]
    assert abs(places[2] - 5) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\nc\n", ("good", "a", "b", "c", "bad")),
        ("\ufeffold\r\ngood\r\n\r\n b c \r\nbad\r\nnew", ("good", "b c", "bad")),
        ("good\nbad\n", ("good", "bad")),
        ("", ("good", "bad")),
    ],
)
def test_a_file_gives_the_revisions_between_the_ends(
    text: str, line: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "revisions"
    path.write_bytes(text.encode())
    assert read_line(path, "good", "bad") == line


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a\nb\na\n", ":3: a is in line 1"),
        (b"a\n\x1b[2J\n", ":2: a revision with a control"),
        (b"a\nb\x00\n", ":2: a revision with a control"),
        (b"\xff\n", "no text in UTF-8"),
        (b"bad\na\ngood\n", "bad comes before good"),
    ],
)
def test_a_file_of_revisions_that_cannot_be_right_is_refused(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "revisions"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_line(path, "good", "bad")
    assert complaint in caught.value.message
    with pytest.raises(ConfigError, match="cannot read"):
        read_line(tmp_path, "good", "bad")
    with pytest.raises(ConfigError, match="nothing between"):
        read_line(path, "same", "same")


def _builds(folder: Path, command: str, timeout_s: float = 60.0) -> Builds:
    (folder / "made").mkdir(exist_ok=True)
    return Builds(command=command, cwd=folder, folder=folder / "made", timeout_s=timeout_s)


HOSTILE = (
    "$(touch pwned)", "`touch pwned`", "; touch pwned #", "' ; touch pwned ; '",
    '" ; touch pwned "', "\\' ; touch pwned", "|| touch pwned", "a b  c", "*", "-n", "{path}",
    "../../pwned", "é\N{CAT}",
)  # fmt: skip


@pytest.mark.parametrize("template", ["{rev}", '"{rev}"', "'{rev}'", "x{rev}y"])
@pytest.mark.parametrize("revision", HOSTILE)
def test_nothing_in_a_revision_executes(revision: str, template: str, tmp_path: Path) -> None:
    builds = _builds(tmp_path, f"printf %s {template} >said; printf %s {{rev}} >{{path}}")
    path = builds.model(revision)
    assert path.read_text() == revision
    assert path.is_relative_to(tmp_path / "made")
    assert not list(tmp_path.rglob("pwned"))
    if template == "{rev}":
        assert (tmp_path / "said").read_text() == revision


def test_a_model_is_built_once_and_a_failure_keeps_its_output(tmp_path: Path) -> None:
    builds = _builds(tmp_path, "echo {rev} >>log; echo why >&2; [ {rev} = a ] && echo m >{path}")
    assert builds.model("a") == builds.model("a")
    with pytest.raises(BuildFailed, match="the build of b failed: exit code 1") as caught:
        builds.model("b")
    assert (caught.value.evidence[0].text, caught.value.hint) == ("why\n", "why")
    assert (tmp_path / "log").read_text() == "a\nb\n"


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (": {rev} {path}", r"it made no model at \{path\}"),
        (": {rev}; mkdir {path}", "has no model files"),
        (": {rev} {path}; kill -9 $$", "killed by signal 9"),
        ("no-such-command {rev} {path}", "exit code 127"),
    ],
)
def test_a_build_without_a_model_has_failed(command: str, trouble: str, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=trouble):
        _builds(tmp_path, command).model("a")


@pytest.mark.parametrize("end", ["wait", "exit 0", "exit 1"])
def test_nothing_that_a_build_started_outlives_it(end: str, tmp_path: Path) -> None:
    command = f"sleep 1000 & echo $! >pid; echo m >{{path}}; : {{rev}}; {end}"
    builds = _builds(tmp_path, command, timeout_s=2.0 if end == "wait" else 60.0)
    if end == "exit 0":
        builds.model("a")
    else:
        with pytest.raises(BuildFailed, match="within 2 s" if end == "wait" else "exit code 1"):
            builds.model("a")
    assert _gone(int((tmp_path / "pid").read_text()))


def _gone(pid: int) -> bool:
    """Whether a killed process has ended; it may be a corpse that nobody has buried yet."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)


def test_an_interruption_ends_the_build_and_puts_the_handlers_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    script = f"echo $$ >pid; kill -INT {os.getpid()}; : {{rev}} {{path}}; sleep 1000"
    with pytest.raises(KeyboardInterrupt):
        _builds(tmp_path, script).model("a")
    assert _gone(int((tmp_path / "pid").read_text()))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("command", "timeout_s", "complaint"),
    [
        ("make {path}", 1.0, r"no \{rev\}"),
        ("make {rev}", 1.0, r"no \{path\}"),
        ("make {rev} {path}", 0.0, "within 0 s"),
        ("make {rev} {path}", math.nan, "within nan s"),
    ],
)
def test_a_build_that_cannot_work_is_refused_beforehand(
    command: str, timeout_s: float, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        _builds(tmp_path, command, timeout_s)
