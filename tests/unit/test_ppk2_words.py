"""The stream of a PPK2: currents, what is lost, and where; the same whatever its pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from drivers.meters.ppk2_calibration import read_calibration
from drivers.meters.ppk2_words import Samples, WordDecoder
from farm.errors import MeterGap
from tests.unit.test_ppk2_calibration import lines, text

CALIBRATION = read_calibration(text(lines()), "kit")
VOLTS = 3.3
COUNT = 6000
CUT = 2000
Words = npt.NDArray[np.uint32]


def words(seed: int, *, hold: int = 7, count: int = COUNT) -> Words:
    """Samples whose range holds for so long on average."""
    rng = np.random.default_rng(seed)
    ranges = np.repeat(rng.integers(0, 5, count), rng.integers(1, 2 * hold, count))[:count]
    made = (
        rng.integers(200, 16383, count)
        | ranges << 14
        | (np.arange(count) & 63) << 18
        | rng.integers(0, 256, count) << 24
    )
    return made.astype("<u4")


def decode(data: bytes, sizes: npt.NDArray[np.int64] | None = None) -> Samples:
    decoder = WordDecoder(CALIBRATION, VOLTS, "kit")
    ends = (
        [len(data)]
        if sizes is None
        else [*np.cumsum(sizes)[np.cumsum(sizes) < len(data)], len(data)]
    )
    found = [decoder.feed(data[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert decoder.lost == sum(part.lost for part in found)
    return Samples(
        index=np.concatenate([part.index for part in found]),
        current_a=np.concatenate([part.current_a for part in found]),
        logic=np.concatenate([part.logic for part in found]),
        range=np.concatenate([part.range for part in found]),
        lost=decoder.lost,
        saturated=sum(part.saturated for part in found),
    )


def plainly(given: Words) -> list[float]:
    """Currents with the filter, one sample after the other."""
    table = CALIBRATION.currents(VOLTS)
    told, quick, slow, before, since = [], None, None, None, 99
    for word in given.tolist():
        range_ = min(word >> 14 & 7, 4)
        now = float(table[range_, word & 0x3FFF])
        quick, slow = (now, now) if quick is None else (quick, slow)
        since = 0 if before not in (None, range_) else since + 1
        if not (range_ == 4 and since < 2):
            quick += 0.18 * (now - quick)
            slow += 0.06 * (now - slow)
        told.append(now if since > 2 else slow if range_ == 4 else quick)
        before = range_
    return told


@pytest.mark.parametrize("hold", [1, 2, 7, 500])
def test_currents_are_those_of_one_sample_after_the_other(hold: int) -> None:
    given = words(1, hold=hold)
    found = decode(given.tobytes())
    np.testing.assert_allclose(found.current_a, plainly(given)[:-1], rtol=1e-10)
    assert (found.logic == (given >> 24)[:-1]).all()
    assert (found.range == np.minimum(given >> 14 & 7, 4)[:-1]).all()
    assert found.index.tolist() == list(range(COUNT - 1))
    assert found.lost == 0


@pytest.mark.parametrize("seed", range(8))
def test_pieces_of_any_size_make_no_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = np.delete(words(seed), np.arange(CUT, CUT + 1 + seed * 9))
    data = bytearray(given.tobytes())
    del data[4 * 4000 + seed % 4]
    at_once = decode(bytes(data))
    for most in (2, 70, 900):
        found = decode(bytes(data), rng.integers(0, most, 2 * len(data) // most + 9))
        assert found.index.tolist() == at_once.index.tolist()
        assert (found.logic == at_once.logic).all()
        assert (found.lost, found.saturated) == (at_once.lost, at_once.saturated)
        np.testing.assert_allclose(found.current_a, at_once.current_a, rtol=1e-12)


@pytest.mark.parametrize("lost", [1, 63, 65, 100, 64, 128])
def test_lost_words_are_counted_but_for_multiples_of_64(lost: int) -> None:
    given = np.delete(words(3), np.arange(CUT, CUT + lost))
    found = decode(given.tobytes())
    assert found.lost == lost % 64
    assert found.index[CUT - 1 : CUT + 1].tolist() == [CUT - 1, CUT + lost % 64]
    assert len(found.index) == COUNT - lost - 1


@pytest.mark.parametrize("byte", range(4))
def test_a_lost_byte_costs_a_few_words_and_nothing_after_it_is_wrong(byte: int) -> None:
    given = words(4)
    data = bytearray(given.tobytes())
    del data[4 * CUT + byte]
    found = decode(bytes(data))
    assert 2 <= found.lost <= 3
    assert found.lost + len(found.index) == COUNT - 1
    assert (found.logic == (given >> 24)[found.index]).all()
    sound = np.array(plainly(given[:CUT]))
    np.testing.assert_allclose(found.current_a[: CUT - 1], sound[:-1], rtol=1e-10)
    assert CUT not in found.index


def test_many_losses_are_all_counted() -> None:
    rng = np.random.default_rng(5)
    gone = np.unique(rng.integers(20, COUNT - 40, 100))
    found = decode(np.delete(words(5), gone).tobytes())
    assert found.lost + len(found.index) == COUNT - 1
    assert not set(gone) & set(found.index.tolist())


def test_a_stretch_of_nonsense_is_left_out_and_counted() -> None:
    given = words(6)
    data = given.tobytes()
    noise = np.random.default_rng(6).bytes(4 * 300)
    found = decode(data[: 4 * CUT] + noise + data[4 * (CUT + 300) :])
    assert 300 <= found.lost <= 303
    assert (found.logic == (given >> 24)[found.index]).all()


def test_what_precedes_the_first_sample_is_no_loss() -> None:
    found = decode(b"\x01\x02\x03" + words(7).tobytes())
    assert (found.lost, len(found.index)) == (0, COUNT - 2)


def test_a_counter_that_stands_still_is_told() -> None:
    given = words(8, count=20_000)
    given[100:] = given[100:] & ~np.uint32(63 << 18)
    with pytest.raises(MeterGap, match="stands still"):
        decode(given.tobytes(), np.full(40, 4000))


def test_what_is_no_stream_is_told() -> None:
    with pytest.raises(MeterGap, match="cannot be read"):
        decode(np.random.default_rng(9).bytes(100_000), np.full(100, 4000))


def test_full_scale_is_counted() -> None:
    given = words(10)
    given[50:57] |= 0x3FFF
    assert decode(given.tobytes()).saturated == 7


def test_ranges_that_no_meter_has_are_the_largest() -> None:
    given = words(11) | np.uint32(7 << 14)
    found = decode(given.tobytes())
    assert set(found.range.tolist()) == {4}
    assert np.isfinite(found.current_a).all()
