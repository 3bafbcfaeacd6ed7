"""How much of what strikes at random moments is tried: all of it by `make chaos`, else a part."""

from __future__ import annotations

import os


def moments(whole: int, *, usual: int) -> int:
    """So many random moments; they are seeded, so the usual ones are the first of them all."""
    return whole if os.environ.get("FARM_CHAOS") else usual
