"""What polled meters have in common: a question, an answer, and a time in the middle of both."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from farm.errors import MeterGap
from farm.metering import Chunk

MAX_BAD = 20
"""So many unusable answers one after the other are no accident."""
FULL_S = 1.0
"""What is read takes no longer than this."""


class BadAnswer(Exception):
    """What came cannot be used. One line says why.

    Its sample is lost, and so are those that were due while it was waited for.
    """


class NoAnswer(BadAnswer):
    """Nothing came. A meter may be silent for as long as it likes: whoever records judges that."""


class Poller:
    """Asks a meter at a steady pace.

    After one unusable answer it asks again at once, instead of at the next turn. What is lost is
    counted where the next sample comes: before it is the gap.

    Args:
        ask: asks once and returns watts; raises `BadAnswer` or `NoAnswer`.
        period_s: from one question to the next.
        device: the inventory name of what is measured.
    """

    def __init__(self, ask: Callable[[], float], period_s: float, device: str) -> None:
        self._ask = ask
        self._period_s = period_s
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forget what was lost before."""
        self._due_s = time.monotonic()
        self._lost = 0
        self._bad = 0

    def read(self, timeout_s: float) -> Chunk:
        """What the answers say until the deadline; a question in the air is waited for.

        Raises:
            MeterGap: nothing that it sends can be used.
        """
        deadline = time.monotonic() + min(timeout_s, FULL_S)
        t_ns: list[int] = []
        power_w: list[float] = []
        lost = 0
        while self._wait_until(deadline):
            asked_ns = time.monotonic_ns()
            watts = self._try()
            if watts is None:
                continue
            t_ns.append((asked_ns + time.monotonic_ns()) // 2)
            power_w.append(watts)
            lost, self._lost = lost + self._lost, 0
        return Chunk(t_ns=np.array(t_ns, np.int64), power_w=np.array(power_w, float), lost=lost)

    def _wait_until(self, deadline: float) -> bool:
        """Wait for the next turn; whether it comes before the deadline."""
        now = time.monotonic()
        time.sleep(max(0.0, min(self._due_s, deadline) - now))
        return self._due_s < deadline and now < deadline

    def _try(self) -> float | None:
        """Ask once; None if the sample is lost."""
        began = time.monotonic()
        try:
            watts = self._ask()
        except BadAnswer as error:
            self._lost += max(1, round((time.monotonic() - began) / self._period_s))
            if isinstance(error, NoAnswer):
                return None
            self._bad += 1
            if self._bad > MAX_BAD:
                raise MeterGap(
                    f"the meter sends what cannot be understood: {error}",
                    device=self._device,
                    hint="is it the model that the inventory says, and does nobody else ask it?",
                ) from error
            if self._bad > 1:
                self._due_s = began + self._period_s
            return None
        self._bad = 0
        self._due_s = max(self._due_s + self._period_s, began)
        return watts
