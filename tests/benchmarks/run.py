"""Runs the benchmarks: `python -m tests.benchmarks.run [--only AREA]`.

Prints a table and writes build/bench.json, which is removed first, so that a stale file is never
taken for a result.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

AREAS = ("core", "verdicts", "ssh", "adb", "mcu", "energy")
TARGET = Path("build/bench.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        value: what the name promises.
        peer: what it was measured against in the same run, empty if there is no peer.
        goal: the bound in words, empty for a figure that only informs.
        ok: whether the goal is met; None without a goal.
        n: how many observations stand behind it.
    """

    name: str
    value: float
    unit: str
    n: int
    goal: str = ""
    ok: bool | None = None
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None


def main() -> int:
    """Run the areas, print, write; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=AREAS, help="one area")
    only = parser.parse_args().only
    TARGET.unlink(missing_ok=True)
    figures: list[Figure] = []
    for area in [only] if only else AREAS:
        benches: tuple[Callable[[], list[Figure]], ...] = importlib.import_module(
            f"tests.benchmarks.{area}"
        ).BENCHES
        for bench in benches:
            for figure in bench():
                figures.append(figure)
                _show(figure)
    TARGET.parent.mkdir(exist_ok=True)
    part = TARGET.with_suffix(".part")
    part.write_text(json.dumps([asdict(figure) for figure in figures], indent=2))
    part.rename(TARGET)
    return int(any(figure.ok is False for figure in figures))


def _show(figure: Figure) -> None:
    mark = {True: "ok", False: "MISSED", None: ""}[figure.ok]
    peer = f"{figure.peer} {figure.peer_value:.4g}" if figure.peer_value is not None else ""
    print(
        f"{figure.name:34} {figure.value:10.4g} {figure.unit:6} n={figure.n:<7} "
        f"{figure.goal:10} {mark:7} {peer}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
