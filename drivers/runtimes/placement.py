"""Where a model's nodes really ran, read from the profile that ONNX Runtime writes."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from farm.errors import WrongAccelerator
from farm.record import Placed, Placement

CONTAINERS = frozenset({"If", "Loop", "Scan"})
"""Operators whose time is that of the nodes inside, which are told on their own."""
CUT_OFF_NS = 500.0
"""The profiler cuts times to whole microseconds: half of one is lost on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """One line of a profile: a node that ran, or a whole inference (`model_run`)."""

    name: str
    start_us: int
    duration_us: int
    provider: str
    operator: str
    index: str

    @property
    def accelerator(self) -> str:
        return self.provider.removesuffix("ExecutionProvider").lower()

    @property
    def time_ns(self) -> float:
        return 0.0 if self.operator in CONTAINERS else 1000.0 * self.duration_us + CUT_OFF_NS


def read_placement(profile: str) -> Placement | None:
    """The placement that a profile shows, None if no node ran at all.

    Times are those of one inference, without the first of the process, which is never like the
    others.
    """
    events = list(_events(profile))
    runs = sorted(event.start_us for event in events if event.name == "model_run")
    nodes = [event for event in events if event.provider]
    if not nodes:
        return None
    steady_us, inferences = (runs[1], len(runs) - 1) if len(runs) > 1 else (0, 1)
    seen: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    times_ns: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for node in nodes:
        seen[node.accelerator].add((node.name, node.index))
        if node.start_us >= steady_us:
            times_ns[node.accelerator] += node.time_ns / inferences  # type: ignore[assignment]
            operators[node.operator] += node.time_ns / inferences  # type: ignore[assignment]
    placed = [
        Placed(accelerator=name, nodes=len(seen[name]), time_ns=times_ns[name]) for name in seen
    ]
    return Placement(
        placed=tuple(sorted(placed, key=lambda place: -place.nodes)),
        operators=tuple(operators.most_common()),
    )


def refuse_fallback(placement: Placement | None, asked: str) -> None:
    """Refuse a model that ran elsewhere than on the accelerators that were asked for.

    Raises:
        WrongAccelerator: a node ran on one that was not named, or none on the first.
    """
    names = asked.split("+")
    if placement is None:
        if names != ["cpu"]:
            raise WrongAccelerator(f"asked for {asked}, but no node was seen to run anywhere")
        return
    total = sum(place.nodes for place in placement.placed)
    for place in placement.placed:
        if place.accelerator not in names:
            raise WrongAccelerator(
                f"asked for {asked}, but {place.nodes} of {total} nodes ran on {place.accelerator}",
                hint=f"ask for '{asked}+{place.accelerator}' to allow that",
            )
    if placement.share_of_nodes(names[0]) == 0:
        raise WrongAccelerator(
            f"asked for {asked}, but none of {total} nodes ran on {names[0]}",
            hint=f"{names[0]} has none of the model's operators in this form: quantise otherwise?",
        )


def _events(profile: str) -> Iterator[_Event]:
    """Every event that matters; the profiler writes one to a line."""
    for line in profile.splitlines():
        text = line.strip().rstrip(",")
        if text.startswith("{"):
            event = _event(text)
            if event.provider or event.name == "model_run":
                yield event


def _event(text: str) -> _Event:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError:
        return _unquoted_event(text)
    arguments = fields.get("args", {})
    is_node = fields.get("cat") == "Node" and str(fields.get("name")).endswith("_kernel_time")
    return _Event(
        name=str(fields.get("name")),
        start_us=int(fields.get("ts", 0)),
        duration_us=int(fields.get("dur", 0)),
        provider=str(arguments.get("provider", "")) if is_node else "",
        operator=str(arguments.get("op_name", "")),
        index=str(arguments.get("node_index", "")),
    )


def _unquoted_event(text: str) -> _Event:
    """A line that is no JSON, because the profiler writes a node's name without escaping it.

    The fields before the name are told by their first match, those behind it by their last.
    """

    def word(name: str) -> str:
        found: list[str] = re.findall(rf'"{name}" : "(\w*)"', text)
        return found[-1] if found else ""

    def number(name: str) -> int:
        found = re.search(rf'"{name}" :(\d+)', text)
        return int(found.group(1)) if found else 0

    is_node = text.startswith('{"cat" : "Node"') and '_kernel_time"' in text
    return _Event(
        name=text.partition('"name" :')[2].rpartition('_kernel_time"')[0],
        start_us=number("ts"),
        duration_us=number("dur"),
        provider=word("provider") if is_node else "",
        operator=word("op_name"),
        index=word("node_index"),
    )
