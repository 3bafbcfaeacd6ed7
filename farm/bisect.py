"""Finds the revision that made a metric worse, by gates that halve the interval."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from farm.builds import BuildFailed, Builds
from farm.campaign import gate
from farm.errors import ConfigError
from farm.execution import Progress
from farm.halving import Bisection, Decided, Step, hunt
from farm.judging import GateVerdict
from farm.metrics import find_metric
from farm.papers import Document, format_bounds, format_effect
from farm.policy import read_policy
from farm.record import Verdict
from farm.reporting import gate_document
from farm.request import DEFAULT_INVENTORY, DEFAULT_STORE, PathLike
from farm.suite import read_suite

TIMEOUT_S = 600.0
GIT_TIMEOUT_S = 60.0
SHOWN_LINES = 10
"""Lines of a failed build's output that people are shown."""

_WORST_FIRST = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS)


def bisect(
    suite: str,
    *,
    good: str,
    bad: str,
    build: str,
    metric: str | None = None,
    revisions: PathLike | None = None,
    repo: PathLike = ".",
    timeout_s: float = TIMEOUT_S,
    policy: PathLike | None = None,
    workload: PathLike | None = None,
    shape: Mapping[str, int] | None = None,
    inventory: PathLike = DEFAULT_INVENTORY,
    store: PathLike = DEFAULT_STORE,
    devices: Sequence[str] = (),
    tags: Sequence[str] = (),
    wait_s: float = 0.0,
    progress: Progress = lambda step: None,
    decided: Decided = lambda step: None,
) -> Bisection:
    """Find the first revision after `good` that fails against it.

    Args:
        good, bad: the ends; `bad` must fail.
        build: the command that builds the model of `{rev}` at `{path}`, for `/bin/sh -c`.
        metric: decides by the cells of this metric, else by the whole gate.
        revisions: file with a revision per line, oldest first, instead of git.
        repo: repository, and the folder in which builds run.
        timeout_s: how long one build may take.
        decided: called with each step.
        suite, policy, workload, shape, inventory, store, devices, tags, wait_s, progress: as for
            `farm.gate`.

    Raises:
        ConfigError: something that a person wrote is wrong, or an end cannot be built.
        StoreError: results cannot be kept.
    """
    if metric is not None:
        _check_metric(metric, suite, policy)
    read = partial(read_line, Path(revisions)) if revisions else partial(git_line, Path(repo))
    line = read(good, bad)
    question = partial(
        gate, suite, policy=policy, workload=workload, shape=shape, inventory=inventory,
        store=store, devices=devices, tags=tags, wait_s=wait_s, progress=progress,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="farm-bisect-", ignore_cleanup_errors=True) as folder:
        builds = Builds(command=build, cwd=Path(repo), folder=Path(folder), timeout_s=timeout_s)
        baseline = builds.model(line[0])
        builds.model(line[-1])  # an end that cannot be built is no revision to skip

        def ask(revision: str) -> Step:
            try:
                candidate = builds.model(revision)
            except BuildFailed as error:
                return _skipped(revision, error)
            return _judged(revision, question(candidate=candidate, baseline=baseline), metric)

        return hunt(line, ask, metric=metric, decided=decided)


def git_line(repo: Path, good: str, bad: str) -> tuple[str, ...]:
    """Commits from good to bad along first parents, oldest first, both included.

    Raises:
        ConfigError: no repository, no such revision, or good is no ancestor of bad.
    """
    _git(repo, "rev-parse", "--git-dir")
    first, last = (_commit(repo, revision) for revision in (good, bad))
    _check_ends(first, last, good, bad)
    try:
        _git(repo, "merge-base", "--is-ancestor", first, last)
    except ConfigError as error:
        raise ConfigError(
            f"{good} is no ancestor of {bad}", hint="are --good and --bad swapped?"
        ) from error
    listed = _git(repo, "rev-list", "--first-parent", "--reverse", f"{first}..{last}")
    return (first, *listed.split())


def read_line(path: Path, good: str, bad: str) -> tuple[str, ...]:
    """Revisions of a file from good to bad, both included whether the file names them or not.

    Raises:
        ConfigError: with file and line: no UTF-8, a revision twice, a control character, or the
            ends in the wrong order.
    """
    _check_ends(good, bad, good, bad)
    try:
        rows = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no text in UTF-8") from error
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        name = row.strip()
        if not name.isprintable():
            raise ConfigError(f"{path}:{number}: a revision with a control character")
        if name in seen:
            raise ConfigError(f"{path}:{number}: {name} is in line {seen[name]} already")
        seen |= {name: number} if name else {}
    line = list(seen)
    start = line.index(good) + 1 if good in line else 0
    stop = line.index(bad) if bad in line else len(line)
    if stop < start:
        raise ConfigError(
            f"{path}: {bad} comes before {good}", hint="write the oldest revision first"
        )
    return (good, *line[start:stop], bad)


def _check_ends(first: str, last: str, good: str, bad: str) -> None:
    if first == last:
        raise ConfigError(f"{good} and {bad} are the same revision: there is nothing between them")


def _commit(repo: Path, revision: str) -> str:
    """The commit that a revision names; a word that git could take for an option is none."""
    if not revision.startswith("-"):
        try:
            return _git(repo, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
        except ConfigError:
            pass
    raise ConfigError(
        f"there is no revision {revision!r} in {str(repo)!r}", hint="git log --oneline lists them"
    )


def _git(repo: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        ConfigError: it is not installed, refuses, or hangs.
    """
    try:
        done = subprocess.run(
            ("git", "-C", str(repo), *arguments),
            capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot ask git: {error}", hint="install git, or --revisions") from error
    if done.returncode:
        complaint = done.stderr.strip() or f"exit code {done.returncode}"
        raise ConfigError(
            f"git refuses {arguments[0]} in {str(repo)!r}: {complaint}",
            hint="name the repository with --repo, or the revisions with --revisions FILE",
        )
    return done.stdout


def _check_metric(metric: str, suite: str, policy: PathLike | None) -> None:
    """Refuse a metric that no gate of this suite could judge, before anything is built."""
    family = find_metric(metric).family
    chosen = read_suite(suite)
    rules = read_policy(Path(policy) if policy else chosen.policy_path)
    judged = {rule.metric.name for rule in rules.rules}
    if metric not in judged:
        raise ConfigError(
            f"{rules.path} does not judge {metric}", hint=f"it judges {', '.join(sorted(judged))}"
        )
    if family not in {*chosen.measures, "size"}:
        raise ConfigError(
            f"the suite '{chosen.name}' does not measure {metric}",
            hint="add it to 'measure' in the suite",
        )


def _skipped(revision: str, error: BuildFailed) -> Step:
    output = error.evidence[0].text if error.evidence else ""
    return Step(
        revision=revision,
        verdict=None,
        skipped=error.message,
        told=error.hint,
        output=tuple(output.splitlines()[-SHOWN_LINES:]),
    )


def _judged(revision: str, answer: GateVerdict, metric: str | None) -> Step:
    """What a gate says of a revision: by the metric's cells, or by those that decide."""
    document = gate_document(answer)
    cells = [
        cell
        for cell in document["cells"]
        if (cell["metric"] == metric if metric else cell["gate"] and not cell["waiver"])
    ]
    found = {cell["verdict"] for cell in cells}
    verdict = answer.verdict
    if metric or (verdict is Verdict.FAIL and verdict not in found):
        # of its metric alone; and a policy that fails what is undecided names no culprit
        verdict = next((v for v in _WORST_FIRST if v in found), Verdict.INVALID)
    mine = [cell for cell in cells if cell["verdict"] == verdict]
    worst = None if verdict is Verdict.INVALID else _worst(mine)
    return Step(
        revision=revision,
        verdict=verdict,
        effect_pct=worst["effect"] if worst else None,
        lo=worst["lo"] if worst else None,
        hi=worst["hi"] if worst else None,
        run=document["run"],
        told=_told(worst, mine, document["notes"]),
    )


def _worst(cells: Iterable[Document]) -> Document | None:
    """The cell that is worst for its margin; one that only has a limit knows no effect."""
    measured = [c for c in cells if c["effect"] is not None and c["effect_kind"] != "absolute"]
    return max(measured, key=lambda c: c["effect"] / (c["margin"] or 1.0), default=None)


def _told(worst: Document | None, cells: Iterable[Document], notes: Iterable[str]) -> str:
    """The effect of the worst cell, or the reasons why there is none."""
    if worst:
        effect, bounds = format_effect(worst, "effect"), format_bounds(worst)
        return f"{worst['metric']} on {worst['device_type']} {effect} ({bounds})"
    reasons = [f"{c['metric']} on {c['device_type']}: {r}" for c in cells for r in c["reasons"]]
    return "; ".join(reasons or notes)
