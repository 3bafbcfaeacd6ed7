"""The slots of the microcontroller in Python: what its flash memory keeps, and what may run."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from drivers.mcu.client import Refusal
from drivers.mcu.image import ABI, HEADER_BYTES, Cpu, Header

SLOTS = 2
SLOT_BYTES = 2 << 20
NONE = -1
"""The number of no slot."""


class Refuse(Exception):
    """A request that is answered with an error frame."""

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What BEGIN says will come; length 0 for an empty slot."""

    length: int = 0
    crc32: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is written down, whole or not at all.

    Attributes:
        boots: how often it was started.
        confirmed: the slot that starts.
        pending: the slot that is tried instead, once ...
        tried: ... and whether it was.
        rollbacks: how often a trial was not confirmed.
        last_fault: what the last fault was.
        whole: per slot, what COMMIT found in it.
    """

    boots: int = 0
    confirmed: int = NONE
    pending: int = NONE
    tried: bool = False
    rollbacks: int = 0
    last_fault: dict[str, Any] | None = None
    whole: tuple[Announced, ...] = field(default=(Announced(),) * SLOTS)


class Slots:
    """Two slots of one board, whose content survives in files.

    Args:
        folder: has the files.

    Attributes:
        state: what is written down.
        running: the slot that runs.
        rolled_back: whether this start went back to the confirmed slot.
        header: of the image that runs.
        code: of the image that runs: the ONNX file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "state.json"
        self._coming: dict[int, tuple[Announced, bytearray]] = {}
        self.state = self._read()
        self.running = NONE
        self.rolled_back = False
        self.header: Header | None = None
        self.code = b""

    def start(self) -> None:
        """Count a start, and choose what runs."""
        self._coming.clear()
        self.rolled_back, self.running, self.header, self.code = False, NONE, None, b""
        self._keep(boots=self.state.boots + 1)
        if self.state.pending != NONE:
            if not self.state.tried and self._load(self.state.pending):
                self._keep(tried=True)
                return
            self.rolled_back = True
            self._keep(pending=NONE, tried=False, rollbacks=self.state.rollbacks + 1)
        self._load(self.state.confirmed)

    def begin(self, slot: int, announced: Announced) -> None:
        """Empty a slot."""
        self._check_free(slot)
        if announced.length > SLOT_BYTES:
            raise Refuse(Refusal.TOO_LONG, f"the slot has {SLOT_BYTES} bytes")
        pending = NONE if self.state.pending == slot else self.state.pending
        self._set_whole(slot, Announced(), pending=pending)
        self._coming[slot] = announced, bytearray(announced.length)

    def data(self, slot: int, offset: int, piece: bytes) -> None:
        """Take a part of what comes."""
        self._check_free(slot)
        announced, content = self._coming.get(slot, (Announced(), bytearray()))
        if offset + len(piece) > announced.length:
            raise Refuse(Refusal.BAD_REQUEST, "outside of what was announced")
        content[offset : offset + len(piece)] = piece

    def commit(self, slot: int) -> None:
        """Check what came, and try it at the next start."""
        self._check_number(slot)
        if slot == self.state.confirmed:
            self._keep(pending=NONE, tried=False)
            return
        if slot in self._coming:
            announced, content = self._coming[slot]
            if (zlib.crc32(content), hashlib.sha256(content).hexdigest()) != (
                announced.crc32,
                announced.sha256,
            ):
                raise Refuse(Refusal.CORRUPT, "what came is not what was announced")
            _check_image(bytes(content))
            _replace(self._file(slot), bytes(content))
            self._set_whole(slot, announced)
            del self._coming[slot]
        elif not self.state.whole[slot].length:
            raise Refuse(Refusal.CORRUPT, "the slot is empty")
        self._keep(pending=slot, tried=False)

    def confirm(self) -> None:
        """What runs is what starts from now on."""
        if self.running == NONE:
            raise Refuse(Refusal.NO_MODEL, "nothing runs")
        pending = NONE if self.state.pending == self.running else self.state.pending
        self._keep(confirmed=self.running, pending=pending, tried=False)

    def write_down(self, fault: dict[str, Any]) -> None:
        """Keep what the last fault was."""
        self._keep(last_fault=fault)

    def describe(self) -> dict[str, Any]:
        """As HELLO tells it."""
        header, state = self.header, self.state
        return {
            "slots": [
                {"address": 0, "bytes": SLOT_BYTES, "length": w.length, "sha256": w.sha256}
                for w in state.whole
            ],
            "running": self.running,
            "confirmed": state.confirmed,
            "pending": state.pending,
            "boots": state.boots,
            "rollbacks": state.rollbacks,
            "last_fault": state.last_fault,
            "model": header.name if header else "",
            "model_sha256": header.model_sha256.hex() if header else "",
            "in_bytes": header.in_bytes if header else 0,
            "out_bytes": header.out_bytes if header else 0,
        }

    def _check_number(self, slot: int) -> None:
        if slot >= SLOTS:
            raise Refuse(Refusal.BAD_REQUEST, f"there are {SLOTS} slots")

    def _check_free(self, slot: int) -> None:
        self._check_number(slot)
        if slot in (self.running, self.state.confirmed):
            raise Refuse(Refusal.BUSY, f"slot {slot} runs or is confirmed")

    def _load(self, slot: int) -> bool:
        """Run what a slot has, if that is whole."""
        if slot == NONE or not (whole := self.state.whole[slot]).length:
            return False
        try:
            image = self._file(slot).read_bytes()
            header = _check_image(image)
        except (OSError, Refuse):
            return False
        if (len(image), zlib.crc32(image)) != (whole.length, whole.crc32):
            return False
        self.running, self.header, self.code = slot, header, image[HEADER_BYTES:]
        return True

    def _file(self, slot: int) -> Path:
        return self._folder / f"slot-{slot}"

    def _read(self) -> State:
        try:
            told = json.loads(self._path.read_bytes())
            return State(**told | {"whole": tuple(Announced(**one) for one in told["whole"])})
        except FileNotFoundError:
            return State()
        except (ValueError, TypeError, KeyError):  # nothing that can be trusted: as delivered
            return State()

    def _set_whole(self, slot: int, now: Announced, **changes: Any) -> None:
        whole = tuple(now if i == slot else w for i, w in enumerate(self.state.whole))
        self._keep(whole=whole, **changes)

    def _keep(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        _replace(self._path, json.dumps(asdict(self.state)).encode())


def _check_image(image: bytes) -> Header:
    """The header of an image that can run here.

    Raises:
        Refuse: it cannot.
    """
    try:
        header = Header.unpack(image)
    except ValueError as error:
        raise Refuse(Refusal.WRONG_ABI, str(error)) from error
    if header.abi != ABI:
        raise Refuse(Refusal.WRONG_ABI, "an image for another loader")
    if header.cpu != Cpu.VIRTUAL:
        raise Refuse(Refusal.WRONG_CPU, f"an image for processor {header.cpu}")
    if header.total_bytes != len(image):
        raise Refuse(Refusal.CORRUPT, f"an image of {header.total_bytes} bytes")
    if header.base or header.data_bytes or header.bss_bytes:
        raise Refuse(Refusal.WRONG_PLACE, "an image that is linked for an address")
    return header


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a power cut leaves the old content or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
