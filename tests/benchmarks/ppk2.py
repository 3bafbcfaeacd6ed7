"""Decoding what PPK2s send: against ppk2-api on the same words, and sixteen meters on one core."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import tty
from contextlib import ExitStack, closing
from pathlib import Path
from unittest.mock import patch

import numpy as np

from drivers.meters.kept_port import KeptPort
from drivers.meters.ppk2_calibration import KEYS, RANGES, SHUNTS_OHM, Calibration, read_calibration
from drivers.meters.ppk2_words import WORD, WordDecoder
from tests.benchmarks.run import Figure
from tests.system.foreign_clients import foreign_python

VOLTS = 3.3
WORDS = 1_000_000
HOLD = 500
"""Samples that a range holds for on average."""
PIECE_BYTES = 40_000
ROUNDS = 3
LEAST_RATIO = 20.0
LARGEST_DIFFERENCE = 1e-9
METERS = 16
DURATION_S = 60.0
TURN_WORDS = 1000
TURN_S = 0.01
FIFO_BYTES = 1 << 20
MOST_GROWTH_MB = 8.0

PPK2_API = """
import array, sys, time
import serial
serial.Serial = lambda *_, **__: type("Nothing", (), {"close": lambda self: None})()
from ppk2_api.ppk2_api import PPK2_API
table, words, told = sys.argv[1:]
data = open(words, "rb").read()
best = 1e9
for _ in range(ROUNDS):
    meter = PPK2_API("none")
    meter.current_vdd = 3300
    assert meter._parse_metadata(open(table).read())
    found, begun = [], time.perf_counter()
    for begin in range(0, len(data), PIECE):
        found += meter.get_samples(data[begin:begin + PIECE])[0]
    best = min(best, time.perf_counter() - begun)
array.array("d", found).tofile(open(told, "wb"))
print(best)
""".replace("ROUNDS", str(ROUNDS)).replace("PIECE", str(PIECE_BYTES))


def decode_vs_ppk2api() -> list[Figure]:
    """Words per second over those of ppk2-api, which has a process of its own."""
    table = _table()
    calibration = read_calibration(table.encode(), "bench")
    data = _words(WORDS).tobytes()
    with tempfile.TemporaryDirectory(prefix="verdict-farm-") as folder:
        files = [Path(folder) / name for name in ("table", "words", "told")]
        files[0].write_text(table)
        files[1].write_bytes(data)
        done = subprocess.run(
            [foreign_python(), "-c", PPK2_API, *map(str, files)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        theirs_s, theirs = float(done.stdout), np.fromfile(files[2]) / 1e6
    ours_s = np.inf
    for _ in range(ROUNDS):
        decoder, found, begun = WordDecoder(calibration, VOLTS, "bench"), [], time.perf_counter()
        for begin in range(0, len(data), PIECE_BYTES):
            found.append(decoder.feed(data[begin : begin + PIECE_BYTES]).current_a)
        ours_s = min(ours_s, time.perf_counter() - begun)
    ours = np.concatenate(found)
    worst = float(np.max(np.abs(ours / theirs[: len(ours)] - 1)))
    ratio = theirs_s / ours_s
    return [
        Figure(
            name="ppk2-decode-vs-ppk2api", value=ratio, unit="x", n=WORDS,
            goal=f">= {LEAST_RATIO:g}",
            ok=ratio >= LEAST_RATIO and worst <= LARGEST_DIFFERENCE and decoder.lost == 0,
            peer="ppk2-api words/s", peer_value=WORDS / theirs_s, ratio=ratio,
        ),
        Figure(
            name="ppk2-decode-difference", value=worst, unit="", n=len(ours),
            goal=f"<= {LARGEST_DIFFERENCE:g}", ok=worst <= LARGEST_DIFFERENCE,
        ),
    ]  # fmt: skip


def many_meters() -> list[Figure]:
    """Sixteen meters at 100 kS/s each, through terminals and keepers, decoded on one core."""
    calibration = read_calibration(_table().encode(), "bench")
    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="verdict-farm-"))
        stack.enter_context(patch.dict(os.environ, {"XDG_CACHE_HOME": cache}))
        fars, ports = zip(*(_terminal(stack) for _ in range(METERS)), strict=True)
        command = [sys.executable, "-m", __name__, str(DURATION_S), *map(str, fars)]
        feeder = subprocess.Popen(command, pass_fds=fars, stdout=subprocess.PIPE, text=True)
        stack.enter_context(feeder)
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(allowed)})
        stack.callback(os.sched_setaffinity, 0, allowed)
        got, lost, used_s, growth_mb = _decode_all(ports, calibration)
        assert feeder.stdout is not None
        dropped = int(feeder.stdout.read())
    missing = round(DURATION_S / TURN_S) * TURN_WORDS * METERS - got - METERS
    return [
        Figure(
            name="ppk2-16-meters-lost", value=float(missing), unit="words", n=got, goal="== 0",
            ok=missing == lost == dropped == 0,
        ),
        Figure(
            name="ppk2-16-meters-memory", value=growth_mb, unit="MB", n=METERS,
            goal=f"<= {MOST_GROWTH_MB:g}", ok=growth_mb <= MOST_GROWTH_MB,
        ),
        Figure(name="ppk2-16-meters-core", value=used_s / DURATION_S, unit="cores", n=METERS),
    ]  # fmt: skip


def _decode_all(
    ports: tuple[KeptPort, ...], calibration: Calibration
) -> tuple[int, int, float, float]:
    """Words that were decoded and lost, seconds of a core, and MB more than after a fifth of it."""
    decoders = [WordDecoder(calibration, VOLTS, "bench") for _ in ports]
    wanted = round(DURATION_S / TURN_S) * TURN_WORDS - 1
    got = [0] * len(ports)
    used, early_mb = time.process_time(), 0.0
    deadline = time.monotonic() + 2 * DURATION_S + 10
    while min(got) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
        for index, (port, decoder) in enumerate(zip(ports, decoders, strict=True)):
            data = b"".join(piece.data for piece in port.read(0.0))
            got[index] += len(decoder.feed(data).index)
        if not early_mb and min(got) > wanted / 5:
            early_mb = _resident_mb()
    growth_mb = _resident_mb() - early_mb
    return sum(got), sum(one.lost for one in decoders), time.process_time() - used, growth_mb


def feed(duration_s: float, fars: list[int]) -> int:
    """Play meters at the far ends of terminals, in real time; words that found no room."""
    turns = round(duration_s / TURN_S)
    block = _words(64 * TURN_WORDS)  # the counter goes on where it ends
    pending = dict.fromkeys(fars, b"")
    dropped, begun = 0, time.monotonic()
    for turn in range(turns + 1):
        piece = b""
        if turn < turns:
            begin = turn % 64 * TURN_WORDS
            piece = block[begin : begin + TURN_WORDS].tobytes()
        for far in fars:
            if len(pending[far]) > FIFO_BYTES:
                dropped += len(piece) // WORD
            else:
                pending[far] += piece
        due = begun + (turn + 1) * TURN_S
        while waiting := [far for far in fars if pending[far]]:
            left_s = due - time.monotonic()
            if left_s <= 0 and turn < turns:
                break
            for far in select.select([], waiting, [], max(0.0, left_s) if turn < turns else 5)[1]:
                pending[far] = pending[far][os.write(far, pending[far]) :]
        time.sleep(max(0.0, due - time.monotonic()))
    return dropped


def _terminal(stack: ExitStack) -> tuple[int, KeptPort]:
    far, near = os.openpty()
    tty.setraw(near)
    os.set_blocking(far, False)
    stack.callback(os.close, far)
    stack.callback(os.close, near)
    return far, stack.enter_context(closing(KeptPort(os.ttyname(near), "bench")))


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _words(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    ranges = np.repeat(rng.integers(0, RANGES, count // HOLD + 1), HOLD)[:count]
    counter = np.arange(count) & 63
    code, logic = rng.integers(200, 12_000, count), rng.integers(0, 256, count)
    return (code | ranges << 14 | counter << 18 | logic << 24).astype("<u4")


def _table() -> str:
    """Constants such as real meters tell."""
    rows = {
        "R": SHUNTS_OHM,
        "GS": (0.0, 110.0, 18.0, 2.4, 0.07),
        "GI": (1.0, 0.97, 0.96, 0.953, 0.958),
        "O": (110.0, 75.0, 64.0, 50.0, 87.0),
        "S": (5e-8, 6e-7, 5e-6, 6e-5, 2.9e-3),
        "I": (-1e-7, -1.4e-6, 3.6e-5, -3.7e-4, -9.4e-3),
        "UG": (1.0,) * RANGES,
    }
    values = [value for row in rows.values() for value in row]
    told = [f"{key}: {value:.9f}" for key, value in zip(KEYS, values, strict=True)]
    return "\n".join(["Calibrated: 0", *told, "VDD: 3300", "mode: 2", "END", ""])


BENCHES = (decode_vs_ppk2api, many_meters)


if __name__ == "__main__":
    print(feed(float(sys.argv[1]), [int(text) for text in sys.argv[2:]]))
