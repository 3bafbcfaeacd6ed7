"""The pin that is wired to a meter: from Python and from C, up to the kernel's door."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drivers.ondevice import metered
from drivers.runtimes.native_build import FLAGS, SOURCES

STRICT = ("-Wall", "-Wextra", "-Werror")
SHIM = Path(__file__).with_name("gpio_shim.c")

LAYOUT = r"""
#include <linux/gpio.h>
#include <stdio.h>
int main(void)
{
    struct gpio_v2_line_request asked;
    struct gpio_v2_line_values values;
    if (fread(&asked, sizeof asked, 1, stdin) != 1 || fread(&values, sizeof values, 1, stdin) != 1)
        return 1;
    printf("%u %s %llu %u %u %u %d ", asked.offsets[0], asked.consumer,
        (unsigned long long)asked.config.flags, asked.config.num_attrs, asked.num_lines,
        asked.event_buffer_size, asked.fd);
    printf("%llu %llu %llu %llu ", (unsigned long long)values.bits, (unsigned long long)values.mask,
        (unsigned long long)GPIO_V2_LINE_FLAG_ACTIVE_LOW,
        (unsigned long long)GPIO_V2_LINE_FLAG_OUTPUT);
    printf("%lu %lu %d\n", (unsigned long)GPIO_V2_GET_LINE_IOCTL,
        (unsigned long)GPIO_V2_LINE_SET_VALUES_IOCTL, getchar());
}
"""

BLINK = """
#include "runner.h"
int main(int argc, char **argv)
{
    struct pin pin = open_pin(argc > 1 ? argv[1] : NULL);
    set_pin(&pin, true);
    set_pin(&pin, false);
}
"""

BLINK_PYTHON = """
import runpy, sys
pin = runpy.run_path(sys.argv[1])["Pin"](sys.argv[2])
pin.set(True)
pin.set(False)
"""


def _compile(target: Path, *words: str) -> Path:
    done = subprocess.run(
        ["gcc", *FLAGS, *STRICT, "-o", str(target), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def _source(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture(autouse=True)
def _has_compiler(lacks: Callable[[str], None]) -> None:
    if not shutil.which("gcc"):
        lacks("gcc is missing: apt-get install gcc libc6-dev")


def _blink(folder: Path, gpio: str = str(SOURCES / "gpio.c")) -> str:
    """A program that takes a pin, raises it and lowers it."""
    parts = [gpio, *(str(SOURCES / name) for name in ("report.c", "json.c"))]
    main = _source(folder / "blink.c", BLINK)
    return str(_compile(folder / "blink", f"-I{SOURCES}", main, *parts))


@pytest.fixture(params=["python", "c"])
def blink(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """The command of that program, by either implementation."""
    if request.param == "c":
        return (_blink(tmp_path),)
    return (sys.executable, "-c", BLINK_PYTHON, metered.__file__)


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    path = tmp_path / "chip:0"  # a colon, as in the names of platform devices
    path.touch()
    return path


def _run(argv: tuple[str, ...], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def shim(tmp_path: Path) -> dict[str, str]:
    """An environment in which any file is a GPIO chip that writes down what it is told."""
    library = _compile(tmp_path / "shim.so", "-shared", "-fPIC", str(SHIM))
    return {"LD_PRELOAD": str(library), "PIN_LOG": str(tmp_path / "log")}


def test_the_structures_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    program = _compile(tmp_path / "layout", _source(tmp_path / "layout.c", LAYOUT))
    request = metered.REQUEST.pack(17, b"farm", 1 << 40, 1, 99)
    done = subprocess.run(
        [program], input=request + metered.VALUES.pack(1, 3), capture_output=True, check=True
    )
    told = [metered.ACTIVE_LOW, metered.OUTPUT, metered.GET_LINE, metered.SET_VALUES, -1]
    expected = [17, "farm", 1 << 40, 0, 1, 0, 99, 1, 3, *told]
    assert done.stdout.decode().split() == [str(word) for word in expected]


@pytest.mark.parametrize(("line", "flags"), [("17", 8), ("!17", 10), ("0", 8)])
def test_a_line_is_taken_as_an_output_that_is_low_then_raised_and_lowered(
    blink: tuple[str, ...], chip: Path, shim: dict[str, str], line: str, flags: int
) -> None:
    done = _run((*blink, f"{chip}:{line}"), **shim)
    assert (done.returncode, done.stderr) == (0, "")
    taken, *steps = Path(shim["PIN_LOG"]).read_text().splitlines()
    # No attribute: the kernel then drives it inactive from the beginning.
    assert taken == f"line {line.lstrip('!')} of 1 flags {flags} attributes 0 for farm"
    assert [step.partition(" at ")[0] for step in steps] == ["set 1 of 1", "set 0 of 1"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EBUSY, "somebody else uses the line"),
        (errno.EINVAL, "the chip has no such line, or its kernel is older than 5.10"),
        (errno.EPERM, "no right to use the line"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_line_that_cannot_be_had_is_told_and_the_device_is_unfit(
    blink: tuple[str, ...], chip: Path, shim: dict[str, str], number: int, reason: str
) -> None:
    done = _run((*blink, f"{chip}:3"), **shim, PIN_REFUSES=str(number))
    assert (done.returncode, done.stderr) == (30, f"cannot use the pin {chip}:3: {reason}\n")


def test_a_chip_that_is_missing_or_none_is_told(blink: tuple[str, ...], chip: Path) -> None:
    done = _run((*blink, "/dev/no-such-chip:3"))
    message = "cannot use the pin /dev/no-such-chip:3: there is no such chip\n"
    assert (done.returncode, done.stderr) == (30, message)
    done = _run((*blink, f"{chip}:3"))  # a file, and no shim
    message = f"cannot use the pin {chip}:3: that is no GPIO chip\n"
    assert (done.returncode, done.stderr) == (30, message)


def test_a_chip_that_may_not_be_opened_is_told(
    monkeypatch: pytest.MonkeyPatch, chip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*words: object) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SystemExit, match="30"):
        metered.Pin(f"{chip}:3")
    assert "add the user to its group" in capsys.readouterr().err


def test_a_pin_that_fails_later_is_told_too(
    monkeypatch: pytest.MonkeyPatch, chip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(file: int, number: int, data: bytes) -> int:
        if number == metered.SET_VALUES:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", answer)
    pin = metered.Pin(f"{chip}:3")
    with pytest.raises(SystemExit, match="30"):
        pin.set(True)
    assert os.strerror(errno.EREMOTEIO) in capsys.readouterr().err


def test_without_a_pin_c_does_nothing(tmp_path: Path, shim: dict[str, str]) -> None:
    assert _run((_blink(tmp_path),), **shim).returncode == 0
    assert not Path(shim["PIN_LOG"]).exists()


def test_headers_of_an_old_kernel_build_a_runner_without_pins(tmp_path: Path) -> None:
    text = (SOURCES / "gpio.c").read_text()
    assert text.count("#ifdef GPIO_V2_GET_LINE_IOCTL") == 1
    old = _source(tmp_path / "gpio.c", text.replace("#ifdef GPIO_V2_GET_LINE_IOCTL", "#if 0"))
    program = _blink(tmp_path, old)
    assert _run((program,)).returncode == 0
    done = _run((program, "/dev/gpiochip0:3"))
    assert (done.returncode, "older than 5.10" in done.stderr) == (30, True)


def test_the_native_runner_refuses_what_is_no_pin(tmp_path: Path) -> None:
    program = _blink(tmp_path)
    for text in ("/dev/gpiochip0", "chip:x", "chip:", "chip:!", ""):
        done = _run((program, text))
        assert (done.returncode, done.stderr) == (2, f"'{text}' is no pin\n")
