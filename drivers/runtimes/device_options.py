"""What the inventory may say of a device for the runtimes of ONNX models."""

from __future__ import annotations

import shlex

from farm.errors import ConfigError
from farm.model import Device


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
