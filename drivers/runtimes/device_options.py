"""What the inventory may say of a device for the runtimes of ONNX models."""

from __future__ import annotations

import re
import shlex

from farm.errors import ConfigError
from farm.model import Device

PIN = re.compile(r"/dev/[\w./-]+:!?\d{1,9}", re.ASCII)
"""A line of a GPIO chip; `!` where it is low when it is set."""


def read_provider_options(device: Device) -> dict[str, str]:
    """Options of the execution provider, from `ep_options: name=value 'name=with space'`.

    Raises:
        ConfigError: it cannot be read.
    """
    text = device.option("ep_options")
    try:
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError:
        pairs = [("", "", "")]
    if not all(name and equals for name, equals, _ in pairs):
        raise ConfigError(
            f"ep_options '{text}' cannot be read",
            device=device.name,
            hint="write for example 'ep_options: device_id=0 trt_fp16_enable=1'",
        )
    return {name: value for name, _, value in pairs}


def read_sync_gpio(device: Device) -> str:
    """The pin that is wired to the device's meter, from `sync_gpio`; empty if none is.

    Raises:
        ConfigError: it cannot be read, or is missing where there is a wire.
    """
    text = device.option("sync_gpio")
    if text and not PIN.fullmatch(text):
        raise ConfigError(
            f"sync_gpio '{text}' is no pin",
            device=device.name,
            hint="write '/dev/gpiochip0:17' for example, '/dev/gpiochip0:!17' if it is active low",
        )
    if device.wired and not text:
        raise ConfigError(
            "a pin is wired to the meter, but 'sync_gpio' does not name it",
            device=device.name,
            hint="write for example 'sync_gpio: /dev/gpiochip0:17', or leave 'sync' out of 'meter'",
        )
    return text
