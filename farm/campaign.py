"""The loop over a plan, and the three things that one can ask of a farm: plan, run, gate.

Everything takes paths and words and gives back frozen data; the command line and the Python API
are thin layers over these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from farm.errors import ConfigError, PreflightFailed
from farm.execution import Progress, begin, execute
from farm.judging import GateVerdict
from farm.looks import SystemMoved, decide
from farm.model import Arm, Job, Measure
from farm.planning import Plan
from farm.plugins import find_meter
from farm.policy import OnUndecidable, Policy, read_policy
from farm.prospects import Prospect, foresee
from farm.record import JobResult
from farm.reporting import as_json, gate_document
from farm.request import (
    DEFAULT_INVENTORY,
    DEFAULT_STORE,
    PathLike,
    Where,
    command_line,
    refuse_nothing,
    resolve,
)
from farm.rules import undecidable
from farm.store.database import Store, open_store
from farm.store.noise import StoredNoise, latest_noise
from farm.store.questions import begin_question, find_question, note_look, question_key, recall
from farm.store.rows import last_system
from farm.store.writer import finish_run, save_verdict
from farm.suite import Suite, read_suite
from farm.systems import system_changes

MAX_SYSTEMS = 3
"""How often one gate is begun before it gives up, each time with another system on a device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a run brought home."""

    run_id: str
    results: tuple[JobResult, ...]

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if a model did not run, 4 if the lab is at fault."""
        families = {result.error.family for result in self.results if result.error}
        return 1 if "workload" in families else 4 if families else 0


def plan(
    suite: str,
    *,
    model: PathLike | None = None,
    workload: PathLike | None = None,
    shape: Mapping[str, int] | None = None,
    inventory: PathLike = DEFAULT_INVENTORY,
    devices: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Plan:
    """What would run where, and what is left out and why; touches no device.

    Args:
        suite: name of an installed suite, or path of a suite file.
        model: path of a model or of a folder; the workload's own model if left out.
        workload: folder with a `workload.yaml`; found beside the model or in the suite if left out.
        shape: sizes of free dimensions of a model without a workload.
        inventory: path of the inventory.
        devices: names to restrict to.
        tags: tags that a device must have.

    Raises:
        ConfigError: something that a person wrote is wrong.
    """
    where = Where(inventory=inventory, devices=devices, tags=tags)
    chosen = read_suite(suite)
    return resolve(chosen, _single(model), workload, shape, where, rounds=chosen.repeats)


def run(
    suite: str,
    *,
    model: PathLike | None = None,
    workload: PathLike | None = None,
    shape: Mapping[str, int] | None = None,
    inventory: PathLike = DEFAULT_INVENTORY,
    store: PathLike = DEFAULT_STORE,
    devices: Sequence[str] = (),
    tags: Sequence[str] = (),
    wait_s: float = 0.0,
    progress: Progress = lambda step: None,
) -> RunSummary:
    """Measure one model on every device; whatever happens to a job is in its result.

    Args:
        suite, model, workload, shape, inventory, devices, tags: as for `plan`.
        store: folder where results are kept; made if it is not there.
        wait_s: how long to wait for a device that somebody else uses.
        progress: called after every repeat and every job.

    Raises:
        ConfigError: something that a person wrote is wrong, or nothing is left to run.
        StoreError: results cannot be kept.
    """
    where = Where(inventory=inventory, store=store, devices=devices, tags=tags, wait_s=wait_s)
    chosen = read_suite(suite)
    made = resolve(chosen, _single(model), workload, shape, where, rounds=chosen.repeats)
    command = command_line("run", suite, where, model=model, workload=workload, shape=shape)
    refuse_nothing(made)
    with open_store(Path(store)) as opened:
        run_id = begin(opened, made, "run", command)
        results = execute(opened, run_id, made.jobs, wait_s=wait_s, progress=progress)
        finish_run(opened, run_id)
    return RunSummary(run_id=run_id, results=results)


def gate(
    suite: str,
    *,
    candidate: PathLike,
    baseline: PathLike,
    workload: PathLike | None = None,
    policy: PathLike | None = None,
    shape: Mapping[str, int] | None = None,
    inventory: PathLike = DEFAULT_INVENTORY,
    store: PathLike = DEFAULT_STORE,
    devices: Sequence[str] = (),
    tags: Sequence[str] = (),
    fresh: str = "",
    wait_s: float = 0.0,
    progress: Progress = lambda step: None,
) -> GateVerdict:
    """Is the candidate as good as the baseline? Both run interleaved on every device.

    Asked again about the same models, devices and policy, a gate goes on where it ended: asking
    twice never buys a second chance.

    Args:
        candidate, baseline: paths of models or folders.
        policy: path of a policy; the one beside the suite if left out.
        fresh: why to measure anew all the same; kept and shown with the verdict.
        suite, workload, shape, inventory, store, devices, tags, wait_s, progress: as for `run`.

    Raises:
        ConfigError: something that a person wrote is wrong, or nothing is left to compare.
        StoreError: results cannot be kept.
    """
    where = Where(inventory=inventory, store=store, devices=devices, tags=tags, wait_s=wait_s)
    chosen = read_suite(suite)
    rules = read_policy(Path(policy) if policy else chosen.policy_path)
    _check_policy(rules, chosen)
    anchor = ((Arm.ANCHOR, rules.anchor.model),) if rules.anchor else ()
    arms = (*anchor, (Arm.BASELINE, Path(baseline)), (Arm.CANDIDATE, Path(candidate)))
    made = resolve(chosen, arms, workload, shape, where, rounds=rules.looks[0])
    refuse_nothing(made)
    _refuse_meters(rules, made.jobs)
    command = command_line(
        "gate", suite, where, candidate=candidate, baseline=baseline, workload=workload,
        policy=policy, shape=shape,
    )  # fmt: skip
    with open_store(Path(store)) as opened:
        verdict = _ask(opened, made, rules, command, fresh, wait_s, progress)
        names = {arm.arm: arm.name for arm in made.jobs[0].arms}
        verdict = replace(verdict, candidate=names[Arm.CANDIDATE], baseline=names[Arm.BASELINE])
        _keep_verdict(opened, verdict, rules)
        finish_run(opened, verdict.run_id)
    return verdict


def gate_prospects(
    suite: str, made: Plan, *, store: PathLike = DEFAULT_STORE, policy: PathLike | None = None
) -> tuple[Prospect, ...]:
    """What a gate on a plan's devices could decide, by the noise that the store knows of.

    Args:
        suite: whose policy counts if none is named; one without a policy has no prospects.
        made: the plan.
        store: folder of the store; one that is not there knows no noise.
        policy: path of a policy.

    Raises:
        ConfigError: the policy is wrong.
    """
    path = Path(policy) if policy else read_suite(suite).policy_path
    if not policy and not path.exists():
        return ()
    if not Path(store).exists():
        return foresee(made.jobs, read_policy(path), ())
    with open_store(Path(store), read_only=True) as opened:
        return foresee(made.jobs, read_policy(path), latest_noise(opened))


def _single(model: PathLike | None) -> tuple[tuple[Arm, Path], ...]:
    return ((Arm.CANDIDATE, Path(model)),) if model else ()


def _check_policy(policy: Policy, suite: Suite) -> None:
    """Refuse a policy that decides by what the suite never measures, before anything runs."""
    measured = {str(measure) for measure in suite.measures} | {"size"}
    for rule in policy.rules:
        if rule.gate and rule.metric.family not in measured:
            raise ConfigError(
                f"{policy.path} decides by {rule.metric.name}, which the suite '{suite.name}' "
                "does not measure",
                hint="add it to 'measure' in the suite, or choose another policy with --policy",
            )


def _refuse_meters(policy: Policy, jobs: tuple[Job, ...]) -> None:
    """Refuse a gate whose margin on energy a device's meter cannot support, whatever it measures.

    A policy that names a class of meter has been checked against that class when it was read, and
    a device with another one answers another question.
    """
    for rule in policy.rules if policy.on_undecidable is OnUndecidable.REFUSE else ():
        for job in jobs if rule.gate and rule.metric.family == Measure.ENERGY else ():
            kind = find_meter(job.device.meter.scheme).meter_class if job.device.meter else ""
            why = undecidable(rule, kind) if kind else ""
            if kind and rule.meter and rule.meter != kind:
                why = f"the policy is made for a {rule.meter}, its meter is a {kind}"
            if why:
                raise ConfigError(
                    f"{rule.metric.name} cannot be decided: {why}",
                    device=job.device.name,
                    hint="widen the margin, choose other devices, or bind a better meter",
                )


def _ask(
    store: Store,
    made: Plan,
    policy: Policy,
    command: str,
    fresh: str,
    wait_s: float,
    progress: Progress,
) -> GateVerdict:
    """Judge a plan of comparisons, going on where an earlier asking of the same question ended.

    Where a device has another system than the earlier blocks the question begins anew, in a run of
    its own that says why; blocks are never pooled across an update.
    """
    _refuse_hopeless(foresee(made.jobs, policy, latest_noise(store)), policy)
    key = question_key(made.jobs, policy.sha256)
    measure = partial(execute, store, wait_s=wait_s, progress=progress)
    for _ in range(MAX_SYSTEMS):
        asked = None if fresh else find_question(store, key)
        run_id = asked.run_id if asked else begin(store, made, "gate", command)
        if asked is None:
            begin_question(store, run_id, key, fresh)
        try:
            verdict = _judged(store, run_id, made, policy, measure)
        except SystemMoved as moved:
            finish_run(store, run_id)
            fresh = f"the system changed ({moved}); the blocks of run {run_id} are set aside"
            continue
        notes = verdict.notes + _foreseen(made.jobs, policy, latest_noise(store))
        if asked:
            notes += (f"resumed: asked before in run {run_id}; its looks count, none was added",)
        if fresh:
            notes += (f"fresh: measured anew because: {fresh}",)
        return replace(verdict, notes=notes, run_id=run_id, skips=made.skips)
    raise PreflightFailed(
        f"a device changes while it is measured: {fresh}",
        hint="switch off its updates and pin its governor, then ask again",
    )


def _judged(
    store: Store,
    run_id: str,
    made: Plan,
    policy: Policy,
    execute: Callable[..., tuple[JobResult, ...]],
) -> GateVerdict:
    """The verdict of one asking.

    Raises:
        SystemMoved: a device has another system than its earlier blocks.
    """
    recalled = recall(store, run_id, made.jobs)
    for result in recalled:
        job = result.job
        _, system = last_system(store, job.device.name, job.runtime, job.accelerator)
        if changes := system_changes(result.environment, system):
            raise SystemMoved(f"{job.device.name}: {', '.join(changes)}")
    done = len(recalled)

    def measure(jobs: tuple[Job, ...]) -> tuple[JobResult, ...]:
        nonlocal done
        results = execute(run_id, jobs, first=done)
        done += len(results)
        return results

    return decide(
        policy,
        made.jobs,
        measure,
        recalled=recalled,
        look_done=lambda number: note_look(store, run_id, number),
    )


def _refuse_hopeless(prospects: tuple[Prospect, ...], policy: Policy) -> None:
    """Refuse a gate that could not decide, before it takes hours to show that."""
    hopeless = [prospect for prospect in prospects if not prospect.decidable]
    if hopeless and policy.on_undecidable is OnUndecidable.REFUSE:
        raise ConfigError(
            hopeless[0].complaint(),
            hint="allow more blocks or a wider margin, or say 'on_undecidable: inform'",
        )


def _foreseen(
    jobs: tuple[Job, ...], policy: Policy, budgets: tuple[StoredNoise, ...]
) -> tuple[str, ...]:
    """What is known of the chances of a gate, for people; noise of another system is unknown."""
    prospects = foresee(jobs, policy, budgets)
    notes = [f"undecidable: {p.complaint()}" for p in prospects if not p.decidable]
    unknown = dict.fromkeys(name for prospect in prospects for name in prospect.unknown)
    if unknown:
        notes.append(f"noise_unknown: {', '.join(unknown)}; 'farm noise' measures it")
    changed = {b.device: b.outdated for b in budgets if b.device in unknown and b.outdated}
    notes += [
        f"noise_outdated: {name}: {', '.join(changes)} since its noise was measured"
        for name, changes in changed.items()
    ]
    return tuple(notes)


def _keep_verdict(store: Store, verdict: GateVerdict, policy: Policy) -> None:
    save_verdict(
        store,
        verdict.run_id,
        verdict.verdict,
        policy_sha256=policy.sha256,
        policy=policy.path.read_text(encoding="utf-8"),
        document=as_json(gate_document(verdict)),
    )
