"""The halving behind a bisection: which revision to ask about next, and what the answers say.

Pure: it knows no device and no repository. A revision turns out GOOD, BAD or UNKNOWN; what cannot
be decided is never guessed, it stays inside the interval that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from farm.papers import Document
from farm.record import Verdict


class Side(StrEnum):
    """What one question tells of a revision."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


_SIDES = {Verdict.PASS: Side.GOOD, Verdict.FAIL: Side.BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is known of revisions by their places in order; the first is good, the last bad.

    Attributes:
        last_good, first_bad: places of the nearest revisions that are known.
        unknown: places that were tried and told nothing.
    """

    last_good: int
    first_bad: int
    unknown: frozenset[int] = frozenset()

    def question(self) -> int | None:
        """The place to ask about next; None if nothing between the two can tell any more.

        It is the middle of what is untried, so that n revisions take ceil(log2(n)) questions and
        one more for each that tells nothing, after which its nearest untried neighbour is asked.
        """
        open_places = [
            place
            for place in range(self.last_good + 1, self.first_bad)
            if place not in self.unknown
        ]
        return open_places[len(open_places) // 2] if open_places else None

    def learn(self, place: int, side: Side) -> Search:
        """What is known after an answer."""
        match side:
            case Side.GOOD:
                return replace(self, last_good=place)
            case Side.BAD:
                return replace(self, first_bad=place)
            case _:
                return replace(self, unknown=self.unknown | {place})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One revision that was asked about.

    Attributes:
        verdict: of the metric, or of the whole gate; None for a revision without a model.
        effect_pct, lo, hi: against the good revision, in percent or points, positive is worse.
        run: the run that measured.
        skipped: why there is no verdict, None if there is one.
        told: what was seen, for people.
        output: the end of what a failed build printed.
    """

    revision: str
    verdict: Verdict | None
    effect_pct: float | None = None
    lo: float | None = None
    hi: float | None = None
    run: str | None = None
    skipped: str | None = None
    told: str = ""
    output: tuple[str, ...] = ()

    @property
    def side(self) -> Side:
        """What it tells of the revision."""
        return _SIDES.get(self.verdict, Side.UNKNOWN) if self.verdict else Side.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """Where the search ended.

    Attributes:
        last_good: the latest revision that is known to be good.
        interval: the revisions after it that can be the first bad one, in order; empty if there is
            nothing to find.
        stopped: the verdict that ended the search early: the last revision does not FAIL, or a
            gate was INVALID.
    """

    metric: str | None
    last_good: str
    interval: tuple[str, ...]
    steps: tuple[Step, ...]
    stopped: Verdict | None = None

    @property
    def first_bad(self) -> str | None:
        """The culprit, if it is alone."""
        return self.interval[0] if len(self.interval) == 1 and not self.stopped else None

    @property
    def exit_code(self) -> int:
        """0 found, 2 nothing to find, 3 undecided, 4 the lab is at fault."""
        match self.stopped:
            case None:
                return 0 if self.first_bad is not None else 3
            case Verdict.PASS:
                return 2
            case Verdict.INCONCLUSIVE:
                return 3
            case _:
                return 4

    def document(self) -> Document:
        """The document `farm.bisect/1`."""
        return {
            "schema": "farm.bisect/1",
            "metric": self.metric,
            "first_bad": self.first_bad,
            "last_good": self.last_good,
            "interval": list(self.interval),
            "steps": [
                {
                    "revision": step.revision,
                    "verdict": step.verdict,
                    "effect_pct": step.effect_pct,
                    "lo": step.lo,
                    "hi": step.hi,
                    "run": step.run,
                    "skipped": step.skipped,
                }
                for step in self.steps
            ],
        }


Decided = Callable[[Step], None]


def hunt(
    line: Sequence[str],
    ask: Callable[[str], Step],
    *,
    metric: str | None = None,
    decided: Decided = lambda step: None,
) -> Bisection:
    """Verify the bad end, then halve.

    Args:
        line: revisions in order, the good one first and the bad one last.
        ask: the step for a revision, against the good one.
        metric: what decides; the whole gate if left out.
        decided: called with each step.
    """
    search = Search(last_good=0, first_bad=len(line) - 1)
    place: int | None = search.first_bad
    steps: list[Step] = []
    stopped = None
    while place is not None and stopped is None:
        steps.append(ask(line[place]))
        decided(steps[-1])
        verdict = steps[-1].verdict
        if verdict is Verdict.INVALID or (len(steps) == 1 and verdict is not Verdict.FAIL):
            stopped = verdict
        else:
            search = search.learn(place, steps[-1].side)
            place = search.question()
    rest = () if stopped is Verdict.PASS else line[search.last_good + 1 : search.first_bad + 1]
    return Bisection(
        metric=metric,
        last_good=line[search.last_good],
        interval=tuple(rest),
        steps=tuple(steps),
        stopped=stopped,
    )
