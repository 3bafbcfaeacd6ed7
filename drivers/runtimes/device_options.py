"""What the inventory may say of a device for the runtimes of ONNX models."""

from __future__ import annotations

import re
import shlex

from farm.errors import ConfigError
from farm.model import Device

MAX_CPUS = 1024
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)


def read_cpus(device: Device) -> tuple[int, ...]:
    """The processors to stay on, from `cpus: 2-3,5`; empty for all.

    Raises:
        ConfigError: it is no list of processors.
    """
    text = device.option("cpus")
    cpus: set[int] = set()
    for part in text.split(",") if text else ():
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_CPUS:
            raise ConfigError(
                f"cpus '{text}' is no list of processors",
                device=device.name,
                hint="write for example 'cpus: 4-7' or 'cpus: 0,2'",
            )
        cpus |= set(range(first, last + 1))
    return tuple(sorted(cpus))


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
