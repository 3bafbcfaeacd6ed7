"""The channels of a chip that the kernel shows below `/sys/class/hwmon`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.errors import ConfigError

_INPUT = re.compile(r"(in|curr|power|energy)(\d+)_input")
_UNITS = {"in": 1e-3, "curr": 1e-3, "power": 1e-6, "energy": 1e-6}
"""Millivolts, milliamperes, microwatts, microjoules."""
_ITEM = re.compile(r"(in|curr|power|energy)\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One quantity that a chip measures.

    Attributes:
        kind: `in`, `curr`, `power` or `energy`.
        number: which of its kind.
        label: what the board's maker calls it; empty if nobody does.
    """

    kind: str
    number: int
    label: str

    @property
    def name(self) -> str:
        """As the kernel calls it: `curr1`."""
        return f"{self.kind}{self.number}"

    def __str__(self) -> str:
        return f"{self.name} ({self.label})" if self.label else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Files that tell the power of one channel together.

    Attributes:
        items: one that tells power or energy, or a voltage and its current.
    """

    items: tuple[Item, ...]

    @property
    def counts(self) -> bool:
        """Whether it counts energy."""
        return self.items[0].kind == "energy"

    @property
    def unit(self) -> float:
        """What one step of the product of its files is, in W or J."""
        unit = 1.0
        for item in self.items:
            unit *= _UNITS[item.kind]
        return unit

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files."""
        return tuple(f"{item.name}_input" for item in self.items)

    def __str__(self) -> str:
        return " x ".join(map(str, self.items))


def read_items(told: Mapping[str, str]) -> tuple[Item, ...]:
    """What a chip measures.

    Args:
        told: the names of its files and what they say.
    """
    matches = [match for name in sorted(told) if (match := _INPUT.fullmatch(name))]
    return tuple(
        Item(kind=kind, number=int(number), label=told.get(f"{kind}{number}_label", ""))
        for kind, number in (match.groups() for match in matches)
    )


def find_channel(items: Sequence[Item], wanted: str, device: str) -> Channel:
    """The channel that is meant: a label, or `in1`, `curr1`, `power1`, `energy1`; or the only one.

    What counts energy misses nothing between two looks, and what tells power has multiplied where
    it converted: they go before a voltage and a current that are read one after the other.

    Raises:
        ConfigError: there is none, or there are several.
    """
    named = [item for item in items if wanted in ("", item.label, item.name)]
    for kind in ("energy", "power", "curr", "in"):
        found = [item for item in named if item.kind == kind]
        if len(found) > 1:
            raise _refusal("several channels are meant", items, wanted, device)
        if found and kind in ("energy", "power"):
            return Channel(items=(found[0],))
        if found:
            return _pair(found[0], items, device)
    raise _refusal("there is no such channel", items, wanted, device)


def _pair(item: Item, items: Sequence[Item], device: str) -> Channel:
    """A voltage and its current: of the same label but for a first V or I, else of one number."""
    other = "in" if item.kind == "curr" else "curr"
    others = [candidate for candidate in items if candidate.kind == other]
    alike = [c for c in others if item.label and _stem(c.label) == _stem(item.label)]
    plain = [c for c in others if not (c.label and item.label) and c.number == item.number]
    found = alike or plain or (others if len(others) == 1 else [])
    if len(found) != 1:
        raise _refusal(f"nothing tells which '{other}' belongs to it", items, item.name, device)
    return Channel(items=(item, *found) if item.kind == "in" else (*found, item))


def _stem(label: str) -> str:
    return label[1:] if label[:1] in "VI" else label


def _refusal(why: str, items: Sequence[Item], wanted: str, device: str) -> ConfigError:
    there = ", ".join(map(str, items))
    return ConfigError(
        f"channel '{wanted}': {why}" if wanted else "the chip has several channels",
        device=device,
        hint=f"write one of them as 'channel': {there}" if there else "it measures no power",
    )
