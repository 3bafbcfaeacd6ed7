"""Names of serial ports, and what is said where one cannot be opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import serial
from serial.tools.list_ports_common import ListPortInfo

from drivers.lines.uart import UartLine
from drivers.serial_ports import places, port
from drivers.serial_ports.places import check_place, find_port, usb_name
from drivers.serial_ports.port import Port
from farm.errors import ConfigError, ConnectError
from farm.model import Address, Device


def address(place: str) -> Address:
    return Address.parse(f"uart://{place}")


def device(place: str, **options: str) -> Device:
    return Device(name="b", type="t", address=address(place), options=tuple(options.items()))


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three adapters, two of which tell the same number."""
    found = []
    links = tmp_path / "by-path"
    links.mkdir()
    monkeypatch.setattr(places, "BY_PATH", links)
    for number, told in enumerate(("A1", "SAME", "SAME")):
        path = tmp_path / f"ttyUSB{number}"
        path.touch()
        (links / f"usb-0:{number}").symlink_to(path)
        info = ListPortInfo(str(path))
        info.serial_number, info.product = told, "UART bridge"
        found.append(info)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: found)


class TestPlaces:
    @pytest.mark.parametrize(
        "place",
        [
            "/dev/serial/by-id/usb-FTDI-if00-port0", "A1", "7C:DF:A1:E0:12:34", "host:4000",
            "[::1]:4000", "192.0.2.1:1", "NOT-PLUGGED-IN-HERE",
        ],
    )  # fmt: skip
    def test_places_are_accepted_wherever_the_inventory_is_read(
        self, plugged: None, place: str
    ) -> None:
        check_place(address(place), "mcu-1")

    @pytest.mark.parametrize("place", ["", "host:0", "host:99999", "two words", "user@host:1"])
    def test_what_is_none_is_refused(self, plugged: None, place: str) -> None:
        with pytest.raises(ConfigError, match="names no serial port") as caught:
            check_place(address(place), "mcu-1")
        assert "by-id" in caught.value.hint

    def test_a_serial_number_is_found(self, plugged: None, tmp_path: Path) -> None:
        assert find_port(address("A1"), "mcu-1") == str(tmp_path / "ttyUSB0")
        assert usb_name(find_port(address("A1"), "mcu-1")) == "UART bridge A1"

    def test_paths_and_servers_are_themselves(self, plugged: None) -> None:
        assert find_port(address("/dev/ttyACM0"), "mcu-1") == "/dev/ttyACM0"
        assert find_port(address("host:4000"), "mcu-1") == "socket://host:4000"

    def test_a_number_that_two_share_is_refused_with_stable_names(
        self, plugged: None, tmp_path: Path
    ) -> None:
        for ask in (check_place, find_port):
            with pytest.raises(ConfigError, match="2 ports have the serial number") as caught:
                ask(address("SAME"), "mcu-1")
            assert f"{tmp_path}/by-path/usb-0:1, {tmp_path}/by-path/usb-0:2" in caught.value.hint

    def test_a_number_that_none_has_cannot_be_reached(self, plugged: None, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match="nothing with the serial number 'B2'") as caught:
            find_port(address("B2"), "mcu-1")
        assert f"{tmp_path}/by-path/usb-0:0" in caught.value.hint

    @pytest.mark.parametrize(
        "baud", ["0", "fast", "-9600", "9600.5", "99999999", "٩٦٠٠", "1" * 5000]
    )
    def test_a_speed_that_is_none_is_refused(self, baud: str) -> None:
        with pytest.raises(ConfigError, match="no speed of a serial line"):
            UartLine.check(device("/dev/x", baud=baud))


class TestOpening:
    @pytest.mark.parametrize(
        ("number", "message", "hint"),
        [
            (errno.EACCES, "no right to open", "dialout"),
            (errno.EBUSY, "another program holds", "fuser -v /dev/x"),
            (errno.EAGAIN, "another program holds", "fuser -v /dev/x"),
            (errno.ENOENT, "is not there", "/dev/serial/by-id"),
            (errno.EIO, "cannot be opened", "power"),
        ],
    )
    def test_why_a_port_cannot_be_opened_is_told_with_what_helps(
        self, monkeypatch: pytest.MonkeyPatch, number: int, message: str, hint: str
    ) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise serial.SerialException(number, os.strerror(number))

        monkeypatch.setattr(port.serial, "Serial", refuse)
        with pytest.raises(ConnectError, match=message) as caught:
            Port("/dev/x", 9600, "b")
        assert hint in caught.value.hint

    def test_what_is_no_terminal_is_no_port(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConnectError, match="cannot be opened"):
            Port(str(tmp_path / "file"), 9600, "b")

    def test_nobody_behind_a_tcp_port_is_told(self) -> None:
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1 cannot be opened"):
            Port("socket://127.0.0.1:1", 9600, "b")


def test_a_board_without_a_firmware_of_the_farms_is_refused_before_anything_is_reached() -> None:
    UartLine.check(device("A1", board="stm32f405"))
    with pytest.raises(ConfigError, match="no firmware for the board 'stm32f40'") as caught:
        UartLine.check(device("A1", board="stm32f40"))
    assert caught.value.hint == "did you mean 'stm32f405'?"
