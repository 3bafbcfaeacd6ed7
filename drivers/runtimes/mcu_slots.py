"""Which image lies in which slot of a board, and how the one that is wanted gets to run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from drivers.mcu.building import Built, build_image
from drivers.mcu.client import Board, Hello
from drivers.runtimes.mcu_settings import Settings
from farm.errors import DeployFailed, DeviceError
from farm.model import Artifact


class Images:
    """The images of one model: one per slot, for each is linked for an address of its own.

    Attributes:
        known: those that were built in this session, by slot.
    """

    def __init__(self, model: Artifact, settings: Settings) -> None:
        self.model = model
        self.known: dict[int, Built] = {}
        self._settings = settings

    def built(self, hello: Hello, slot: int) -> Built:
        """The image for a slot, built when it is first asked for.

        Raises:
            UnsupportedModel: no image can be made of the model.
            DeployFailed: it does not fit.
        """
        if slot not in self.known:
            self.known[slot] = build_image(
                self.model,
                hello.target(slot),
                toolchain=self._settings.toolchain,
                cflags=self._settings.cflags,
            )
        return self.known[slot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A model that runs on a board.

    Attributes:
        hello: what the board said last.
        built: its image; None where the model is a part of the firmware.
        push_s: how long the image took to the board, None if it was there.
    """

    hello: Hello
    built: Built | None = None
    push_s: float | None = None


class Slots:
    """The slots of one board, shared by everything that is deployed on it.

    Nothing is remembered here: the board's hello tells what lies where, also after a restart that
    nobody expected. The confirmed image is never overwritten; whatever else is wanted runs on
    trial, and the first image that ever answered becomes the confirmed one. So two models can stay
    on a board with two slots, and to change between them costs one restart.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def run(self, images: Images) -> Running:
        """Let a model run, wherever it lies; push it only if it lies nowhere.

        Raises:
            Refused: the board does not take it.
            DeployFailed: the firmware has another model built in.
            DeviceError: the board starts something else.
        """
        hello = self._board.hello()
        if not hello.slots:
            _check_built_in(hello, images.model)
            return Running(hello=hello)
        slot, push_s = _find(hello, images), None
        if slot is None:
            hello, slot = self._make_room(hello)
            push_s = self._push(hello, slot, images.built(hello, slot).image)
        if push_s is not None or hello.running != slot:
            self._board.commit(slot)
            hello = self._board.reset()
        if hello.running != slot:
            raise DeviceError(
                f"the board does not start slot {slot}, {hello.what_runs}",
                hint="what it printed is kept with the job",
            )
        return Running(hello=hello, built=images.built(hello, slot), push_s=push_s)

    def answered(self, running: Running) -> None:
        """A model has answered: confirm it, if it is the first one on this board."""
        if running.hello.slots and running.hello.confirmed is None:
            self._board.confirm()

    def _make_room(self, hello: Hello) -> tuple[Hello, int]:
        """A slot that may be overwritten, an empty one if there is one."""
        free = _free(hello)
        if not free:
            hello = self._board.end_trial(hello)
            free = _free(hello)
        if not free:
            raise DeviceError(
                f"the board has no free slot beside the confirmed one, of {len(hello.slots)}",
                hint="a firmware with two slots can take another model",
            )
        return hello, min(free, key=lambda slot: bool(hello.slots[slot].length))

    def _push(self, hello: Hello, slot: int, image: bytes) -> float:
        """How long it took, in seconds."""
        clock = self._board.line.clock
        began = clock.now_ns()
        self._board.write(slot, image, max_payload=hello.max_payload)
        return (clock.now_ns() - began) / 1e9


def _find(hello: Hello, images: Images) -> int | None:
    """The slot that holds the model's image.

    What was built for is looked at first, for to know an image takes building it.
    """
    whole = [number for number, slot in enumerate(hello.slots) if slot.length]
    if hello.model_sha256 != images.model.sha256:
        whole = [number for number in whole if number != hello.running]
    for slot in sorted(whole, key=lambda number: number not in images.known):
        image = images.built(hello, slot).image
        if hello.slots[slot].sha256 == hashlib.sha256(image).hexdigest():
            return slot
    return None


def _free(hello: Hello) -> list[int]:
    taken = (hello.running, hello.confirmed)
    return [slot for slot in range(len(hello.slots)) if slot not in taken]


def _check_built_in(hello: Hello, model: Artifact) -> None:
    if hello.model_sha256 != model.sha256:
        raise DeployFailed(
            f"the firmware has another model built in: {hello.model or 'none'}, "
            f"{hello.model_sha256[:12] or 'no digest'} and not {model.sha256[:12]}",
            hint="flash a firmware with this model, or one with slots: docs/first-mcu.md",
        )
