"""Energy: decoding a PPK2, many meters at once, and how right figures and intervals are."""

from __future__ import annotations

from tests.benchmarks import energy_accuracy, ppk2

BENCHES = (*ppk2.BENCHES, *energy_accuracy.BENCHES)
