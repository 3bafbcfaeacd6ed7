"""The noise budget of devices, from series in which a model is compared with itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from farm.analysis.noise import estimate_noise
from farm.comparing import block_differences
from farm.errors import ConfigError
from farm.execution import Progress, begin, execute
from farm.metrics import METRICS, Method
from farm.model import REPEATED, Arm
from farm.policy import MIN_BLOCKS
from farm.record import JobResult, Repeat
from farm.request import PathLike, Where, command_line, refuse_nothing, resolve
from farm.store.database import open_store
from farm.store.noise import StoredNoise, save_noise
from farm.store.writer import finish_run
from farm.suite import read_suite

DEFAULT_BLOCKS = 10


def measure_noise(
    suite: str,
    *,
    model: PathLike | None = None,
    workload: PathLike | None = None,
    shape: Mapping[str, int] | None = None,
    where: Where,
    blocks: int = DEFAULT_BLOCKS,
    progress: Progress = lambda step: None,
) -> tuple[tuple[JobResult, ...], tuple[StoredNoise, ...]]:
    """Compare a model with itself on every device, and keep how much it differs from itself.

    Args:
        suite: whose load counts; the budget holds for gates of the same load.
        model: what to run; the workload's own if left out.
        workload, shape: as for `farm.run`.
        where: devices and store.
        blocks: ABBA blocks per device; more make the estimate firmer.
        progress: called after every repeat and every job.

    Returns:
        The results of the jobs, and a budget per device and metric that has enough whole blocks.

    Raises:
        ConfigError: something that a person wrote is wrong, or the suite measures nothing over
            blocks.
    """
    if blocks < MIN_BLOCKS:
        raise ConfigError(
            f"{blocks} blocks say too little", hint=f"at least {MIN_BLOCKS} are needed"
        )
    chosen = read_suite(suite)
    path = Path(model) if model else chosen.workload
    if path is None or not REPEATED & set(chosen.measures):
        raise ConfigError(
            f"the suite '{suite}' has nothing to measure noise with", hint="name a --model"
        )
    arms = ((Arm.BASELINE, path), (Arm.CANDIDATE, path))
    made = resolve(chosen, arms, workload, shape, where, rounds=blocks)
    refuse_nothing(made)
    command = command_line("noise", suite, where, model=model, workload=workload, shape=shape)
    with open_store(Path(where.store)) as store:
        run_id = begin(store, made, "noise", command)
        results = execute(store, run_id, made.jobs, wait_s=where.wait_s, progress=progress)
        budgets = tuple(b for result in results for b in _budgets(result, run_id))
        for budget in budgets:
            save_noise(store, budget)
        finish_run(store, run_id)
    return results, budgets


def _budgets(result: JobResult, run_id: str) -> Iterator[StoredNoise]:
    """The budgets of every metric that this result has enough whole blocks of."""
    blocks: dict[int, list[Repeat]] = defaultdict(list)
    for repeat in result.repeats:
        blocks[repeat.block].append(repeat)
    for metric in METRICS.values():
        if metric.method is not Method.BLOCKS:
            continue
        levels = [
            [np.log(value) for r in block if (value := r.value(metric.name)) and value > 0]
            for block in blocks.values()
        ]
        whole = [level for level in levels if len(level) == result.job.block_size]
        if len(whole) < MIN_BLOCKS:
            continue
        traces = [t.values for r in result.repeats for t in r.traces if t.name == metric.family]
        found = estimate_noise(
            np.array(whole),
            np.array(block_differences(result.repeats, metric.name)),
            [values.astype(np.float64) for values in traces],
        )
        yield StoredNoise(
            device=result.job.device.name,
            runtime=result.job.runtime,
            accelerator=result.job.accelerator,
            load_digest=result.job.load.digest(),
            metric=metric.name,
            run_id=run_id,
            blocks=found.blocks,
            repeat_cv=found.repeat_cv,
            shared=found.shared,
            autocorrelation=found.autocorrelation,
            block_sd=found.block_sd,
            false_alarm=found.false_alarm,
        )
