"""The contract classes themselves."""

from __future__ import annotations

import pytest

from farm.testing.artifacts import ArtifactContract
from farm.testing.commands import CommandContract, FileContract
from farm.testing.lines import LineContract
from farm.testing.platforms import PlatformContract
from farm.testing.processes import ProcessContract, StreamContract
from farm.testing.runtimes import RuntimeContract
from farm.testing.transports import TransportContract

WHOLE = (TransportContract, LineContract, PlatformContract, RuntimeContract)
PARTS = (CommandContract, FileContract, ArtifactContract, ProcessContract, StreamContract)


def _tests(kind: type) -> set[str]:
    return {name for name in vars(kind) if name.startswith("test_")}


def test_no_part_of_the_transports_contract_hides_a_test_or_a_fixture_of_another() -> None:
    public = [{name for name in vars(part) if not name.startswith("_")} for part in PARTS]
    assert sum(map(len, public)) == len(set().union(*public))


@pytest.mark.parametrize(
    "kind", [*PARTS, TransportContract, LineContract, PlatformContract, RuntimeContract]
)
def test_every_promise_is_explained(kind: type) -> None:
    assert _tests(kind)
    assert all(getattr(kind, name).__doc__ for name in _tests(kind))
