"""What a gate can be expected to decide, from the noise of its devices, before it measures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from farm.analysis.noise import blocks_needed, detectable, pass_chance
from farm.cells import Group, group_of
from farm.metrics import Method
from farm.model import Job
from farm.plugins import find_connection
from farm.policy import Policy
from farm.rules import Rule
from farm.store.noise import StoredNoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """One metric on one device type, as a policy wants to judge it.

    Attributes:
        unknown: devices without a noise record for this load and the system that they have.
        blocks: the most blocks that the policy allows, over all units of the type.
        mde: what so many blocks can detect, a fraction; None while no unit's noise is known.
        needed: blocks whose MDE is the margin; None if unknown or out of reach.
        passes: the chance that an unchanged model passes at the last look.
    """

    device_type: str
    rule: Rule
    margin: float
    unknown: tuple[str, ...]
    blocks: int
    mde: float | None = None
    needed: int | None = None
    passes: float | None = None

    @property
    def decidable(self) -> bool:
        """Whether the margin can be told from nothing; the benefit of the doubt while unknown."""
        return self.mde is None or self.mde <= self.margin

    def complaint(self) -> str:
        """Why it is not decidable, in one line."""
        needed = f"about {self.needed} blocks are needed" if self.needed else "no budget is enough"
        return (
            f"{self.rule.metric.name} on {self.device_type}: {self.blocks} blocks detect "
            f"{100 * (self.mde or 0):.1f} %, the margin is {100 * self.margin:g} %; {needed}"
        )


def foresee(
    jobs: Iterable[Job], policy: Policy, budgets: Iterable[StoredNoise]
) -> tuple[Prospect, ...]:
    """A prospect for every deciding metric over blocks and every device type.

    Args:
        jobs: the plan of the gate.
        policy: margins and looks.
        budgets: the noise that is known.
    """
    known: dict[tuple[str, ...], StoredNoise] = {
        (b.device, b.runtime, b.accelerator, b.load_digest, b.metric): b
        for b in budgets
        if not b.outdated
    }
    groups: dict[Group, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[group_of(job)].append(job)
    return tuple(_prospects(groups, policy, known))


def chance_to_pass(prospects: Iterable[Prospect]) -> float | None:
    """The chance that an unchanged model passes all of them; None while any is unknown.

    Metrics and types are taken as independent.
    """
    chances = [prospect.passes for prospect in prospects]
    return (
        None if None in chances or not chances else math.prod(c for c in chances if c is not None)
    )


def _prospects(
    groups: dict[Group, list[Job]],
    policy: Policy,
    known: dict[tuple[str, ...], StoredNoise],
) -> Iterator[Prospect]:
    for (device_type, runtime, accelerator, load), jobs in groups.items():
        for rule in policy.rules:
            margin = rule.margin
            if not rule.gate or margin is None or rule.metric.method is not Method.BLOCKS:
                continue
            if not rule.metric.exists_in(find_connection(jobs[0].device.address.scheme).time_basis):
                continue
            names = [job.device.name for job in jobs]
            place = (runtime, accelerator, load, rule.metric.name)
            found = [known[(n, *place)].block_sd for n in names if (n, *place) in known]
            unknown = tuple(n for n in names if (n, *place) not in known)
            blocks = policy.looks[-1] * len(jobs)
            if not found:
                yield Prospect(
                    device_type=device_type,
                    rule=rule,
                    margin=margin,
                    unknown=unknown,
                    blocks=blocks,
                )
                continue
            spread = math.sqrt(sum(sd * sd for sd in found) / len(found))
            alpha = policy.alpha_per_look
            yield Prospect(
                device_type=device_type,
                rule=rule,
                margin=margin,
                unknown=unknown,
                blocks=blocks,
                mde=detectable(spread, blocks, alpha),
                needed=blocks_needed(spread, margin, alpha),
                passes=pass_chance(spread, blocks, margin, alpha),
            )
