"""Brings firmwares onto a board, and a good one back after one that does not come up."""

from __future__ import annotations

from farm.connection import Line
from farm.errors import ConfigError, FarmError, InfraError, RuntimeCrashed
from farm.model import Artifact

BY_HAND = "by-hand"


class Bench:
    """A board and the firmware on it.

    Args:
        line: flashes images, and sees that the board answers afterwards.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._there: Artifact | None = None
        self._came_up: list[Artifact] = []

    def put(self, image: Artifact) -> float | None:
        """Let an image be the firmware of the board; one that is there is not flashed again.

        Returns:
            How many seconds that took; None if nothing was flashed.

        Raises:
            ConfigError: there is no way to flash it, or two images for a person to flash.
            RuntimeCrashed: this image does not come up, and one before it does again.
            InfraError: no image comes up, as far as is known.
        """
        if self._there and self._there.sha256 == image.sha256:
            return None
        if self._line.device.option("flash") == BY_HAND:
            self._trust(image)
            return None
        began_ns = self._line.clock.now_ns()
        self._there = None
        try:
            self._line.flash(image)
        except InfraError as error:
            if self._another(image) is None:
                raise
            told = "cannot be flashed or does not come up, and another firmware does"
            raise self.blame(image, told, error) from error
        self._there = image
        self._came_up.append(image)
        return (self._line.clock.now_ns() - began_ns) / 1e9

    def blame(self, image: Artifact, told: str, error: FarmError) -> RuntimeCrashed:
        """It was the firmware; the board gets another one back, so that it can be tried again.

        Raises:
            InfraError: that does not come up either, so it was not the firmware.
        """
        if another := self._another(image):
            self._there = None
            self._line.flash(another)
            self._there = another
        return RuntimeCrashed(
            f"{image.name!r} {told}",
            device=self._line.device.name,
            hint=error.message,
            evidence=error.evidence,
        )

    def _another(self, image: Artifact) -> Artifact | None:
        """The last one that came up and has other content."""
        return next((i for i in reversed(self._came_up) if i.sha256 != image.sha256), None)

    def _trust(self, image: Artifact) -> None:
        if self._there:
            raise ConfigError(
                f"{self._there.name!r} and {image.name!r} cannot take turns on a board that a "
                "person flashes",
                device=self._line.device.name,
                hint="give the farm a way to flash it: docs/mlperf-tiny.md",
            )
        self._there = image
