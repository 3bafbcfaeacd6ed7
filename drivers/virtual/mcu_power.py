"""The power switch of virtual microcontrollers."""

from __future__ import annotations

from typing import ClassVar

from drivers.virtual.mcu_control import control
from farm.errors import InfraError
from farm.model import Device
from farm.protocols import Power


class VirtualMcuPower(Power):
    """Switches the board behind the control socket that starting it has named as `control`."""

    options: ClassVar[tuple[str, ...]] = ("control",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def on(self) -> None:
        """Switch it on, and wait until its firmware speaks."""
        self._switch("on")

    def off(self) -> None:
        """Cut it off."""
        self._switch("off")

    def _switch(self, to: str) -> None:
        path = self._device.option("control")
        if not path:
            raise InfraError(
                "only a virtual microcontroller that is started has this switch",
                device=self._device.name,
                hint="address: virtual-mcu://",
            )
        control(path, {"power": to})
