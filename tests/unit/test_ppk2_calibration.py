"""The calibration of a PPK2: whole and plausible, or refused with the key that is wrong."""

from __future__ import annotations

import random

import numpy as np
import pytest

from drivers.meters.ppk2_calibration import KEYS, is_whole, read_calibration
from farm.errors import MeterGap

VALUES = {
    "R": (1003.35, 101.58, 10.303, 0.9636, 0.0564),
    "GS": (0.0, 112.7, 18.01, 2.42, 0.073),
    "GI": (1.0, 0.97, 0.961, 0.952, 0.958),
    "O": (112.9, 75.4, 64.6, 50.5, 87.2),
    "S": (4.8e-8, 5.96e-7, 5.28e-6, 6.2577e-5, 2.9e-3),
    "I": (-1e-7, -1.4e-6, 3.6e-5, -3.7e-4, -9.4e-3),
    "UG": (1.0, 1.0, 1.0, 1.0, 1.0),
}


def lines(**changed: str) -> list[str]:
    table = {
        f"{key}{n}": f"{value:.9f}" for key, row in VALUES.items() for n, value in enumerate(row)
    }
    table |= {"Calibrated": "0", "VDD": "3000", "HW": "9173", "mode": "2", "IA": "56"} | changed
    return [f"{key}: {value}" for key, value in table.items() if value]


def text(given: list[str]) -> bytes:
    return "\n".join([*given, "END", ""]).encode()


def refused(told: bytes) -> str:
    with pytest.raises(MeterGap) as caught:
        read_calibration(told, "kit")
    assert caught.value.device == "kit"
    assert caught.value.hint
    return caught.value.message


def test_constants_are_read_whatever_their_order_and_line_ends() -> None:
    read = read_calibration(text(lines()), "kit")
    shuffled = lines()
    random.Random(7).shuffle(shuffled)
    again = read_calibration(text(shuffled).replace(b"\n", b"\r\n"), "kit")
    assert again == read
    assert read.shunt_ohm == VALUES["R"]
    assert read.constant[2] == pytest.approx(3.6e-5)
    assert (read.vdd_mv, read.mode) == (3000, 2)


def test_the_digest_is_of_the_constants_and_not_of_the_settings() -> None:
    read = read_calibration(text(lines()), "kit")
    other = read_calibration(text(lines(VDD="3300", mode="1")), "kit")
    worn = read_calibration(text(lines(O3="50.6")), "kit")
    assert len(read.digest) == 16
    assert read.digest == other.digest != worn.digest


def test_long_decimals_are_read() -> None:
    long = "1003.3500" + "0" * 200
    assert read_calibration(text(lines(R0=long)), "kit").shunt_ohm[0] == 1003.35


@pytest.mark.parametrize("seed", range(5))
def test_bytes_of_a_stream_before_it_do_no_harm(seed: int) -> None:
    stale = random.Random(seed).randbytes(4003)
    assert read_calibration(stale + text(lines()), "kit").shunt_ohm == VALUES["R"]


def test_it_is_whole_only_with_its_end() -> None:
    whole = text(lines())
    assert is_whole(whole)
    assert is_whole(whole[:-1])
    for cut in range(0, len(whole) - 4, 7):
        assert not is_whole(whole[:cut])
        assert "does not end" in refused(whole[:cut])


@pytest.mark.parametrize("key", [*KEYS, "VDD", "mode"])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    assert refused(text(lines(**{key: ""}))) == f"the calibration lacks {key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("GI0", "-nan"), ("R1", "nan"), ("S4", "inf"), ("O2", "x"), ("R0", "3099999953940643e12"),
        ("R1", "0"), ("R4", "0.043"), ("R2", "-10.3"), ("UG0", "0"), ("UG3", "3.5"), ("GI1", "0"),
        ("GS1", "9000"), ("O0", "1e5"), ("S2", "1"), ("I4", "0.5"), ("VDD", "-nan"),
    ],
)  # fmt: skip
def test_what_no_sound_meter_tells_is_refused(key: str, value: str) -> None:
    assert f": {key} is " in refused(text(lines(**{key: value})))


def test_a_key_that_comes_twice_is_refused() -> None:
    assert refused(text([*lines(), "R0: 1003.35"])) == "the calibration has R0 twice"


def test_currents_follow_the_formula() -> None:
    read = read_calibration(text(lines()), "kit")
    table = read.currents(3.3)
    assert table.shape == (5, 16384)
    raw = (4 * 2000 - VALUES["O"][3]) * (1.8 / 163840) / VALUES["R"][3]
    amperes = raw * (VALUES["GS"][3] * raw + VALUES["GI"][3]) + 6.2577e-5 * 3.3 - 3.7e-4
    assert table[3, 2000] == pytest.approx(amperes, rel=1e-12)
    assert (np.diff(table, axis=1) > 0).all()
