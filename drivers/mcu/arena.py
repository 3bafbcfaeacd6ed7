"""One arena for all tensors of a model: those that are not alive together share their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drivers.mcu.source import Source, declare, render

ARENA = "farm_arena"
ALIGNMENT = 8
"""Bytes; no element is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A tensor, and the nodes between which its content is needed.

    Attributes:
        name: in the source.
        bytes: its length.
        first: number of the call that writes it.
        last: number of the last call that reads it.
    """

    name: str
    bytes: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both are alive in one call."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """A source whose tensors lie in an arena.

    Attributes:
        text: the source.
        arena_bytes: length of the arena.
        lives: every tensor in it.
    """

    text: str
    arena_bytes: int
    lives: tuple[Life, ...]

    def largest_moment(self) -> tuple[Life, ...]:
        """The tensors that are alive together when they need the most, largest first."""
        moments = (
            [life for life in self.lives if life.first <= other.first <= life.last]
            for other in self.lives
        )
        most = max(moments, key=lambda moment: sum(life.bytes for life in moment), default=[])
        return tuple(sorted(most, key=lambda life: -life.bytes))


def arrange(source: Source) -> Arranged:
    """Give every temporary of a source its place; one that no node uses gets none."""
    lives = lifetimes(source)
    places = place(lives)
    total = max((places[life.name] + life.bytes for life in lives), default=0)
    total = -(-total // ALIGNMENT) * ALIGNMENT
    lines = [
        declare(array, f"{ARENA} + {places[array.name]}")
        for array in source.temporaries
        if array.name in places
    ]
    if total:
        arena = f"static uint8_t {ARENA}[{total}] __attribute__((aligned({ALIGNMENT})));"
        lines.insert(0, f"    {arena}")
    return Arranged(text=render(source, lines), arena_bytes=total, lives=lives)


def lifetimes(source: Source) -> tuple[Life, ...]:
    """How long each temporary lives."""
    uses: dict[str, list[int]] = {}
    for number, call in enumerate(source.calls):
        for name in call.arguments:
            uses.setdefault(name, []).append(number)
    return tuple(
        Life(name=array.name, bytes=array.bytes, first=at[0], last=at[-1])
        for array in source.temporaries
        if (at := uses.get(array.name))
    )


def place(lives: Sequence[Life]) -> dict[str, int]:
    """Offsets in the arena, by name: largest first, each as low as those placed before allow."""
    placed: list[tuple[int, Life]] = []
    for life in sorted(lives, key=lambda life: (-life.bytes, life.first, life.name)):
        offset = 0
        for start, other in sorted(placed, key=lambda pair: pair[0]):
            if not life.meets(other):
                continue
            if offset + life.bytes <= start:
                break
            end = start + other.bytes
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        placed.append((offset, life))
    return {life.name: offset for offset, life in placed}
