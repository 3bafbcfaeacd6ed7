"""Area `verdicts`: what the farm says of models, held against the truth, in all three ways.

History, intervals and gates together; the tables of docs/statistics.md come from here.
"""

from __future__ import annotations

from tests.benchmarks import gates, history, intervals

BENCHES = (*history.BENCHES, *intervals.BENCHES, *gates.BENCHES)
