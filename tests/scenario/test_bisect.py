"""Bisection over a real repository, on a virtual board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from farm.cli import main

Write = Callable[..., Path]

DIGITS = Path(__file__).parents[2] / "suites" / "workloads" / "digits"
CULPRIT = 5
BUILD = 'cp "$(git show {rev}:model.txt)" {path}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A repository whose commits name the file of their model; the fifth of eight is slow."""

    folder: Path
    commits: tuple[str, ...]
    options: tuple[str, ...]

    def place(self, revision: str | None) -> int:
        """Which commit that is, from 1."""
        return self.commits.index(str(revision)) + 1


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """The repository and its commits, which no test changes."""
    folder = tmp_path_factory.mktemp("repo")
    _git(folder, "init", "--quiet")
    made = []
    for number in range(1, 9):
        model = DIGITS / ("candidates/int8_slow.onnx" if number >= CULPRIT else "int8.onnx")
        (folder / "model.txt").write_text(f"{model}\n")
        _git(folder, "add", ".")
        _git(folder, "commit", "--quiet", "--allow-empty", "--message", f"commit {number}")
        made.append(_git(folder, "rev-parse", "HEAD"))
    return folder, tuple(made)


@pytest.fixture
def project(
    commits: tuple[Path, tuple[str, ...]], tmp_path: Path, suite: Write, inventory: Write
) -> Project:
    """The repository, a quick suite and an inventory with one board."""
    folder, made = commits
    options = (
        str(suite()), "--repo", str(folder), "--inventory",
        str(inventory(b="virtual://board?seed=1")), "--store", str(tmp_path / "store"),
    )  # fmt: skip
    return Project(folder=folder, commits=made, options=options)


def _git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ("git", *who, *words), cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def bisect(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `farm bisect` in this process; returns exit code, stdout and stderr."""

    def run(*words: object, build: str = BUILD) -> tuple[int, str, str]:
        argv = ["farm", "bisect", *project.options, "--build", build, *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(ended.value.code or 0), printed.out, printed.err

    return run


Bisect = Callable[..., tuple[int, str, str]]


def _ends(project: Project) -> tuple[str, ...]:
    return "--good", project.commits[0], "--bad", "HEAD"


def _document(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    assert list(found) == ["schema", "metric", "first_bad", "last_good", "interval", "steps"]
    return found


def test_the_culprit_among_eight_commits_is_found(project: Project, bisect: Bisect) -> None:
    code, out, err = bisect(*_ends(project), "--metric", "latency.p50", "--json")
    found = _document(out)
    assert (code, found["schema"], found["metric"]) == (0, "farm.bisect/1", "latency.p50")
    assert project.place(found["first_bad"]) == CULPRIT
    assert project.place(found["last_good"]) == CULPRIT - 1
    assert found["interval"] == [found["first_bad"]]
    steps = {project.place(step["revision"]): step for step in found["steps"]}
    assert {place: step["verdict"] for place, step in steps.items()} == {
        place: "FAIL" if place >= CULPRIT else "PASS" for place in steps
    }
    assert len(steps) <= 3 + 2
    culprit = steps[CULPRIT]
    assert 15 < culprit["lo"] < culprit["effect_pct"] < culprit["hi"]
    assert (culprit["skipped"], bool(culprit["run"])) == (None, True)
    lines = [line for line in err.splitlines() if line.startswith(("FAIL", "PASS"))]
    assert [line.split()[1].rstrip(":") for line in lines] == [
        step["revision"] for step in found["steps"]
    ]
    assert all("latency.p50 on b-type" in line for line in lines)
    code, out, _ = bisect("--good", "HEAD~4", "--bad", "HEAD~3")  # neighbours, asked before
    assert code == 0
    assert out.splitlines()[0] == f"first bad: {project.commits[CULPRIT - 1]}"
    assert out.splitlines()[2] == f"last good: {project.commits[CULPRIT - 2]}"


def test_revisions_that_do_not_build_stay_in_the_interval(project: Project, bisect: Bisect) -> None:
    broken, hanging = project.commits[CULPRIT - 1], project.commits[CULPRIT - 2]
    build = f"case {{rev}} in {broken}) echo no compiler; exit 3;; {hanging}) sleep 1000;; esac; "
    code, out, err = bisect(*_ends(project), "--timeout", 3, "--json", build=build + BUILD)
    found = _document(out)
    assert (code, found["first_bad"]) == (3, None)
    assert [project.place(revision) for revision in found["interval"]] == [4, 5, 6]
    assert project.place(found["last_good"]) == 3
    skipped = {project.place(s["revision"]): s["skipped"] for s in found["steps"] if s["skipped"]}
    assert "exit code 3" in skipped[5]
    assert "did not end within 3 s" in skipped[4]
    assert "  | no compiler" in err


def test_people_see_which_revisions_are_left_and_why(project: Project, bisect: Bisect) -> None:
    broken = "|".join(project.commits[3:5])
    build = f"case {{rev}} in {broken}) exit 3;; esac; {BUILD}"
    code, out, _ = bisect(*_ends(project), build=build)
    assert code == 3
    title, *rows, last = out.splitlines()
    assert "one of these 3:" in title
    assert [row.split(": ")[0].strip() for row in rows] == list(project.commits[3:6])
    assert ["exit code 3" in row for row in rows] == [True, True, False]
    assert rows[2].endswith(": FAIL")
    assert last == f"last good: {project.commits[2]}"


def test_hostile_revisions_are_words_and_nothing_of_them_executes(
    project: Project, bisect: Bisect, tmp_path: Path
) -> None:
    names = ["$(touch pwned)", "it's `touch pwned` a", '"; touch pwned; "', "-rf *"]
    (tmp_path / "revisions").write_text("\n".join(names) + "\n")
    slow = DIGITS / "candidates" / "int8_slow.onnx"
    build = (
        f"echo {{rev}} >>{tmp_path}/built; m={DIGITS}/int8.onnx; "
        f'case {{rev}} in *\\"*|-*|bad) m={slow};; esac; cp "$m" {{path}}'
    )
    code, out, _ = bisect(
        "--revisions", tmp_path / "revisions", "--good", "good one", "--bad", "bad", "--json",
        build=build,
    )  # fmt: skip
    found = _document(out)
    assert (code, found["first_bad"], found["last_good"]) == (0, names[2], names[1])
    assert set((tmp_path / "built").read_text().splitlines()) <= {"good one", "bad", *names}
    assert not [*tmp_path.rglob("pwned"), *project.folder.rglob("pwned")]


def test_where_nothing_got_worse_there_is_nothing_to_find(project: Project, bisect: Bisect) -> None:
    code, out, err = bisect("--good", "HEAD~3", "--bad", "HEAD", "--json")
    found = _document(out)
    assert (code, found["first_bad"], found["interval"]) == (2, None, [])
    assert [step["verdict"] for step in found["steps"]] == ["PASS"]
    assert "nothing to find" in err


@pytest.mark.parametrize("words", [(), ("--metric", "latency.p50")])
def test_noise_is_no_culprit_even_where_the_policy_fails_what_is_undecided(
    words: tuple[str, ...], project: Project, bisect: Bisect, tmp_path: Path
) -> None:
    policy = tmp_path / "quick.policy.yaml"
    policy.write_text(policy.read_text().replace("15 %", "0.1 %") + "on_inconclusive: fail\n")
    code, out, err = bisect("--good", "HEAD~3", "--bad", "HEAD", *words, "--json")
    found = _document(out)
    assert (code, found["first_bad"], len(found["interval"])) == (3, None, 3)
    assert [step["verdict"] for step in found["steps"]] == ["INCONCLUSIVE"]
    assert "is not certainly worse" in err


def test_a_lab_that_is_at_fault_stops_the_search(
    project: Project, bisect: Bisect, inventory: Write
) -> None:
    inventory(b="virtual://board?seed=1&fault=throttle:1")
    code, out, err = bisect(*_ends(project), "--json")
    found = _document(out)
    assert (code, found["first_bad"], len(found["interval"])) == (4, None, 7)
    assert found["steps"][0]["effect_pct"] is None
    assert "is INVALID: latency.p50 on b-type: throttled" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--good", "HEAD", "--bad", "HEAD"), "are the same revision"),
        (("--good", "HEAD~1", "--bad", "HEAD~1^0"), "are the same revision"),
        (("--good", "nowhere", "--bad", "HEAD"), "there is no revision 'nowhere'"),
        (("--good", "$(touch pwned)", "--bad", "HEAD"), "there is no revision '$(touch pwned)'"),
        (("--good=--all", "--bad", "HEAD"), "there is no revision '--all'"),
        (("--good", "HEAD", "--bad", "HEAD~2"), "are --good and --bad swapped?"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--metric", "latency.p5"), "unknown metric"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--metric", "accuracy.top1"), "does not judge"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--repo", "/"), "not a git repository"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--timeout", "0"), "within 0 s"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--build", "make"), "has no {rev}"),
        (("--good", "HEAD~1", "--bad", "HEAD", "--build", "exit 9 {rev} {path}"), "exit code 9"),
    ],
)
def test_what_cannot_be_bisected_is_refused_and_nothing_is_measured(
    words: tuple[str, ...], complaint: str, project: Project, bisect: Bisect, tmp_path: Path
) -> None:
    code, out, err = bisect(*words, "--json")
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "store").exists()
    assert not [*tmp_path.rglob("pwned"), *project.folder.rglob("pwned")]


def test_an_interruption_leaves_nothing_running_and_no_folder(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    begun = tmp_path / "begun"
    build = f"sleep 1000 & echo $$ $! >{begun}.part; mv {begun}.part {begun}; "
    build += ": {rev} {path}; wait"
    command = [sys.executable, "-m", "farm.cli", "bisect", *project.options, *_ends(project)]
    process = subprocess.Popen(
        [*command, "--build", build],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in err
    for pid in begun.read_text().split():
        while _runs(pid):
            time.sleep(0.01)
    assert not list((tmp_path / "tmp").glob("farm-bisect-*"))


def _runs(pid: str) -> bool:
    """Whether a process is there and no corpse."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
