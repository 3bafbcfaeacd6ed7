"""Runs a model on the device and times it there. Pushed as one file; needs numpy and onnxruntime.

    python3 loadgen.py SPEC      SPEC is a JSON object; results go to the working directory
    python3 loadgen.py --facts   prints versions and accelerators as JSON

SPEC: `mode` (`measure`, `infer`, `profile`), `model` (path), `inputs` (path of an .npz, or null for
inputs seeded from the declared shapes), `dimensions` (sizes of free dimensions), `accelerator`
(`tensorrt+cpu` lets the second run what the first cannot), and where wanted `load`, `cpus` (numbers
of processors to stay on), `ep_options` (for the first provider) and `metered` (see `metered.py`,
whose path is its `program`). Writes `result.json`; `measure` also `latency.npy`, int64 [2, n]:
start on the monotonic clock and duration, both in ns; `infer` also `outputs.npz`, one array per
output; `profile` also the runtime's own `profile.json`.

The loop knows nothing of labels, scores or verdicts. Between the two readings of the clock there
is the call of the model and nothing else.
"""

from __future__ import annotations

import array
import errno
import functools
import gc
import itertools
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# numpy only carries data here: a pool of threads would take time to start and disturb the loop.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({kind}{n})": f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)},
}

SEED = 0
MAX_MESSAGE = 300
NO_ROOM = 28  # exit status when the device's disk is full: not the model's doing
UNFIT = 30  # exit status when the device lacks what was asked for, such as a processor
MAX_FEEDS = 64  # enough different inputs that no branch predictor learns them by heart
WARMUP = {"min_duration_ns": 25_000_000, "min_queries": 10}
WARMUP_TOLERANCE = 0.02
OVERHEAD = {"min_duration_ns": 0, "min_queries": 2000, "max_duration_ns": 1_000_000_000}
PROFILED = {"min_duration_ns": 0, "min_queries": 20, "max_duration_ns": 200_000_000}
PACE_CHUNKS = 20
PACE_TURNS = 500
PACE_PAUSE_S = 0.02
MAX_PACE = 1.2  # slower than this, somebody else computes
PATIENCE_S = 1.0

Names = Sequence[str]
Feed = Mapping[str, npt.NDArray[Any]]
Feeds = Sequence[Feed]
Run = Callable[[Names, Feed], Any]
Samples = npt.NDArray[np.int64]
Loop = Callable[..., Samples]
Spec = Mapping[str, Any]


class WorkloadProblem(Exception):
    """The model is at fault; `code` says how."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def timed_loop(
    run: Run, names: Names, feeds: Feeds, *, min_duration_ns: int, min_queries: int,
    max_duration_ns: int, signal: Any = lambda busy: None,
) -> Samples:  # fmt: skip
    """One query at a time, each as soon as the last is done. Returns [2, n]: start, duration in ns.

    Ends when both minima are reached, or at the maximum whatever was reached. The garbage
    collector is off: its pauses belong to Python, not to the model. `signal` is told when the
    first query is about to start, and when the last is done.
    """
    clock = time.perf_counter_ns
    starts, ends = array.array("q"), array.array("q")
    collecting = gc.isenabled()
    gc.disable()
    signal(True)
    try:
        begin = clock()
        earliest, latest = begin + min_duration_ns, begin + max_duration_ns
        for feed in itertools.cycle(feeds):
            start = clock()
            run(names, feed)
            end = clock()
            starts.append(start)
            ends.append(end)
            if end >= latest or (end >= earliest and len(ends) >= min_queries):
                break
    finally:
        signal(False)
        if collecting:
            gc.enable()
    first = np.array(starts, np.int64)
    return np.stack([first, np.array(ends, np.int64) - first])


def loop_overhead_ns() -> float:
    """What the loop itself adds to a query: the median over a model that does nothing."""
    return float(np.median(timed_loop(lambda names, feed: None, [], [{}], **OVERHEAD)[1]))


def warm_up(run: Run, names: Names, feeds: Feeds, limit_ns: int) -> bool:
    """Run until the medians of two adjacent windows agree; False if they never did in time."""
    deadline = time.perf_counter_ns() + limit_ns
    previous = None
    while time.perf_counter_ns() < deadline:
        window = timed_loop(run, names, feeds, **WARMUP, max_duration_ns=limit_ns)
        median = float(np.median(window[1]))
        if previous is not None and abs(median - previous) <= WARMUP_TOLERANCE * previous:
            return True
        previous = median
    return False


def accelerators() -> dict[str, str]:
    """Execution providers by their short names; Azure's runs models elsewhere, over a network."""
    there = {p.removesuffix("ExecutionProvider").lower(): p for p in ort.get_available_providers()}
    there.pop("azure", None)
    return there


def session_options(spec: Spec) -> Any:
    """One thread unless told otherwise, and no quiet change of accelerator."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = spec.get("load", {}).get("threads", 1)
    options.inter_op_num_threads = 1
    options.enable_profiling = spec.get("mode") == "profile"
    options.profile_file_prefix = "profile"
    if "cpu" not in spec["accelerator"].split("+"):
        # Without this onnxruntime quietly runs what it cannot place on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def open_session(spec: Spec) -> Any:
    """Load the model on the accelerator that was asked for, or refuse."""
    asked, there = spec["accelerator"], accelerators()
    names = asked.split("+")
    if not set(names) <= set(there):
        message = f"asked for {asked}, the runtime here has {', '.join(there)}"
        raise WorkloadProblem("wrong_accelerator", message)
    settings = [spec.get("ep_options", {}), *({} for _ in names[1:])]
    providers = list(zip((there[name] for name in names), settings, strict=True))
    try:
        session = ort.InferenceSession(spec["model"], session_options(spec), providers=providers)
    except Exception as error:
        message = short(error).replace(spec["model"], "the model")
        elsewhere = asked != "cpu" and "fallback" in message
        code = "wrong_accelerator" if elsewhere else "unsupported_model"
        raise WorkloadProblem(code, message) from error
    if (got := session.get_providers()[0]) != there[names[0]]:
        raise WorkloadProblem("wrong_accelerator", f"asked for {asked}, got {got}")
    return session


def seeded_feed(session: Any, dimensions: Mapping[str, int]) -> Feed:
    """One input drawn from the declared shapes and types."""
    declared_names = {size for entry in session.get_inputs() for size in entry.shape}
    if unknown := set(dimensions) - declared_names:
        raise WorkloadProblem("deploy_failed", f"no input has a free dimension '{unknown.pop()}'")
    rng = np.random.default_rng(SEED)
    feed = {}
    for declared in session.get_inputs():
        if declared.type not in DTYPES:
            message = f"input '{declared.name}' of type {declared.type} needs a workload"
            raise WorkloadProblem("deploy_failed", message)
        shape = [size_of(declared, axis, dimensions) for axis in range(len(declared.shape))]
        dtype = np.dtype(DTYPES[declared.type])
        try:
            # Whole numbers are 0 or 1: valid as pixels, as flags and as indices into any table.
            drawn = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
            feed[declared.name] = np.asarray(drawn, dtype)
        except (MemoryError, ValueError) as error:
            message = f"input '{declared.name}' is too big: {short(error)}"
            raise WorkloadProblem("deploy_failed", message) from error
    return feed


def size_of(declared: Any, axis: int, dimensions: Mapping[str, int]) -> int:
    """The size of one axis of a declared input; a free first axis is a batch of one."""
    size = declared.shape[axis]
    if isinstance(size, int):
        return size
    if size in dimensions:
        return dimensions[size]
    if axis == 0:
        return 1
    what = f"the free dimension '{size}'; give its size: --shape {size}=N"
    if not isinstance(size, str):
        what = "a free dimension without a name: it needs a workload"
    raise WorkloadProblem("deploy_failed", f"input '{declared.name}' has {what}")


def read_feeds(session: Any, path: str) -> Iterator[Feed]:
    """Every item of the workload, one at a time, as the model's inputs."""
    with np.load(path, allow_pickle=False) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    taken, given = sorted(entry.name for entry in session.get_inputs()), sorted(inputs)
    if taken != given:
        message = f"the model takes {', '.join(taken)}; the workload has {', '.join(given)}"
        raise WorkloadProblem("deploy_failed", message)
    for index in range(len(next(iter(inputs.values())))):
        yield {name: values[index : index + 1] for name, values in inputs.items()}


def run_once(session: Any, names: Names, feed: Feed) -> tuple[list[npt.NDArray[Any]], int]:
    """One inference, and how long it took in ns; its outputs must be usable."""
    start = time.perf_counter_ns()
    try:
        outputs = session.run(names, feed)
    except Exception as error:
        raise WorkloadProblem("deploy_failed", short(error)) from error
    took = time.perf_counter_ns() - start
    refuse_bad_numbers(names, outputs)
    return outputs, took


def refuse_bad_numbers(names: Names, outputs: Sequence[npt.NDArray[Any]]) -> None:
    """A model that answers NaN is not fast, it is broken."""
    for name, values in zip(names, outputs, strict=True):
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            raise WorkloadProblem("wrong_output", f"output '{name}' is no array of numbers")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise WorkloadProblem("wrong_output", f"output '{name}' is NaN or infinite")


def pace_ns() -> float:
    """Time of one turn of a fixed loop, in ns: slower than usual when others share the processor.

    It shows what no counter of this machine shows, such as a neighbour on the sibling thread.
    """
    turns = []
    for _ in range(PACE_CHUNKS):
        start = time.perf_counter_ns()
        total = 0
        for i in range(PACE_TURNS):
            total += i * i
        turns.append((time.perf_counter_ns() - start) / PACE_TURNS)
    return float(np.median(turns))


def quiet_window(loop: Loop, load: Spec, quiet_ns: float | None) -> tuple[Samples, float]:
    """A window at the pace that this processor has when nobody disturbs it, if one can be had.

    It has two halves, and the pace between them: a disturbance long enough to move the median lasts
    over half of the window, so it is there in the middle. Waiting and trying again go by the pace
    of the fixed loop, never by what was measured. After `PATIENCE_S` the last window counts as it
    is, and its pace tells.
    """
    half = {
        "min_duration_ns": int(load["min_duration_s"] * 5e8),
        "min_queries": (load["min_queries"] + 1) // 2,
        "max_duration_ns": int(load["max_duration_s"] * 5e8),
    }
    deadline = time.perf_counter() + PATIENCE_S
    while True:
        while quiet_ns and pace_ns() > MAX_PACE * quiet_ns and time.perf_counter() < deadline:
            time.sleep(PACE_PAUSE_S)
        first, pace, second = loop(**half), pace_ns(), loop(**half)
        if not quiet_ns or pace <= MAX_PACE * quiet_ns or time.perf_counter() >= deadline:
            return np.concatenate([first, second], axis=1), pace


def make_feeds(session: Any, spec: Spec) -> list[Feed]:
    """What is run in turn: the first items of the workload, or one seeded input."""
    if spec["inputs"]:
        return list(itertools.islice(read_feeds(session, spec["inputs"]), MAX_FEEDS))
    return [seeded_feed(session, spec["dimensions"])]


def measure(session: Any, names: Names, spec: Spec) -> dict[str, Any]:
    """Warm up, time, and keep every sample."""
    load, feeds = spec["load"], make_feeds(session, spec)
    metered = spec.get("metered")
    beside = runpy.run_path(metered["program"])["Beside"](metered) if metered else None
    _, first_ns = run_once(session, names, feeds[0])
    settled = warm_up(session.run, names, feeds, int(load["warmup_s"] * 1e9))
    loop = functools.partial(timed_loop, session.run, names, feeds)
    if beside:  # nothing but inferences may run inside such a window, and none is run again
        pace, samples = pace_ns(), beside.window(loop, load)
    else:
        samples, pace = quiet_window(loop, load, spec.get("quiet_pace_ns"))
    np.save("latency.npy", samples)
    return {
        "spans": beside.spans if beside else [],
        "first_ns": first_ns,
        "pace_ns": pace,
        "facts": {
            "warmup_settled": settled,
            "loop_overhead_ns": loop_overhead_ns(),
            "input_shapes": {name: list(values.shape) for name, values in feeds[0].items()},
        },
    }


def profile(session: Any, names: Names, spec: Spec) -> dict[str, Any]:
    """A few inferences under the runtime's own profiler, which tells where every node ran."""
    feeds = make_feeds(session, spec)
    run_once(session, names, feeds[0])
    timed_loop(session.run, names, feeds, **PROFILED)
    os.rename(session.end_profiling(), "profile.json")
    return {}


def infer(session: Any, names: Names, spec: Spec) -> dict[str, Any]:
    """Run every item once and keep every output, items on the first axis."""
    rows = [run_once(session, names, feed)[0] for feed in read_feeds(session, spec["inputs"])]
    try:
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    except ValueError as error:
        raise WorkloadProblem("wrong_output", short(error)) from error
    np.savez("outputs.npz", **dict(zip(names, columns, strict=True)))  # type: ignore[arg-type]
    return {}


def peak_rss_bytes() -> int:
    """Largest resident memory of this process.

    Not `ru_maxrss`: that one survives exec, so a small process would report its parent's size.
    """
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def short(error: BaseException) -> str:
    """An error's text in one line of bounded length; runtimes like to add pages."""
    return " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__


def facts() -> dict[str, Any]:
    """Versions, and the accelerators that the runtime was built with."""
    versions = {"onnxruntime": ort.__version__, "numpy": np.__version__}
    python = sys.version.split()[0]
    return {**versions, "python": python, "accelerators": ",".join(accelerators())}


def execute(spec: Spec) -> dict[str, Any]:
    """Do what the spec says; the result is a JSON object, with `error` if the model is at fault."""
    modes = {"measure": measure, "infer": infer, "profile": profile}
    try:
        start = time.perf_counter_ns()
        session = open_session(spec)
        load_ns = time.perf_counter_ns() - start
        names = [output.name for output in session.get_outputs()]
        result = modes[spec["mode"]](session, names, spec)
    except WorkloadProblem as problem:
        return {"error": {"code": problem.code, "message": str(problem)}}
    known = {"accelerator": spec["accelerator"], "peak_rss_bytes": peak_rss_bytes()}
    return {**result, **known, "load_ns": load_ns}


def pin_to(cpus: Sequence[int]) -> None:
    """Stay on these processors, before the runtime starts a thread."""
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError, OverflowError) as error:
        print(f"cannot run on processors {list(cpus)}: {error}", file=sys.stderr)
        sys.exit(UNFIT)


def main() -> None:
    """Entry point."""
    if sys.argv[1:] == ["--facts"]:
        print(json.dumps(facts()))
        return
    spec = json.loads(sys.argv[1])
    if spec.get("cpus"):
        pin_to(spec["cpus"])
    try:
        result = execute(spec)
        with open("result.json", "w") as file:
            json.dump(result, file)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"cannot keep the results: {error.strerror}", file=sys.stderr)
        sys.exit(NO_ROOM)


if __name__ == "__main__":
    main()
