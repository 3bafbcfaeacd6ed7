"""Records a meter while something else happens: every sample goes to the disk as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from farm.errors import FarmBug, FarmError, MeterGap
from farm.metering import Recording
from farm.protocols import Meter
from farm.store.samples import SampleWriter

READ_S = 0.2
FIRST_S = 5.0
"""A meter that sends nothing for so long after its start does not work."""
DRAIN_S = 2.0
"""How long samples may take from the wire to here."""


Seen = Callable[[float, float], None]
"""Hears once a second for how long a window has been recorded, in s, and the power now, in W."""
TELL_S = 1.0


class Recorder:
    """One window of a meter, read by a thread of its own.

    Use as a context: leaving it ends the recording, and throws it away unless `finish` was called.

    Args:
        meter: what to record.
        folder: for the file, on the disk of the store.
        seen: called by the thread that reads.

    Raises:
        MeterGap: it sends nothing.
        StoreUnavailable: its samples cannot be kept.
    """

    def __init__(
        self, meter: Meter, folder: Path, seen: Seen = lambda elapsed_s, power_w: None
    ) -> None:
        self._meter = meter
        self._seen = seen
        self._writer = SampleWriter(folder)
        self._kept = False
        self._until_ns: int | None = None
        self._last_ns = 0
        self._error: BaseException | None = None
        self._came = threading.Event()
        self._thread = threading.Thread(target=self._record, name="meter", daemon=True)

    def __enter__(self) -> Recorder:
        self._meter.start()
        self._thread.start()
        if self._came.wait(FIRST_S):
            return self
        self.__exit__()
        raise MeterGap(
            f"the meter sent nothing for {FIRST_S:g} s",
            hint="unplug it and plug it in again; 'farm meter list' tells if it answers",
        )

    def __exit__(self, *_: object) -> None:
        self._end(time.monotonic_ns())
        if not self._kept:
            self._writer.discard()

    def finish(self) -> Recording:
        """Wait for the samples of what has happened until now, and close the file.

        Raises:
            InfraError: the meter vanished, or sent what cannot be understood.
            StoreUnavailable: its samples could not be kept.
        """
        self._end(time.monotonic_ns())
        if isinstance(self._error, FarmError | KeyboardInterrupt):
            raise self._error
        if self._error is not None:
            raise FarmBug(f"the meter's driver: {self._error!r}") from self._error
        recording = self._writer.finish()
        self._kept = True
        return recording

    def _end(self, until_ns: int) -> None:
        """Stop when the last sample that matters is there, or does not come."""
        self._until_ns = self._until_ns or until_ns
        self._thread.join()
        self._meter.stop()

    def _record(self) -> None:
        began = told = time.monotonic()
        try:
            while not self._done():
                chunk = self._meter.read(timeout_s=READ_S)
                self._writer.write(chunk)
                if not len(chunk.t_ns):
                    continue
                self._last_ns = int(chunk.t_ns[-1])
                self._came.set()
                if time.monotonic() - told >= TELL_S:
                    told = time.monotonic()
                    self._seen(told - began, float(chunk.power_w.mean()))
        except BaseException as error:  # who waits for the recording must hear of it
            self._error = error
        finally:
            self._came.set()

    def _done(self) -> bool:
        until_ns = self._until_ns
        if until_ns is None:
            return False
        late_ns = time.monotonic_ns() - until_ns
        return self._last_ns >= until_ns or late_ns > DRAIN_S * 1e9
