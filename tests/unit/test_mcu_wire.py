"""Frames among whatever a serial line brings."""

from __future__ import annotations

import random
import struct

import pytest

from drivers.mcu.wire import (
    ANSWER,
    CONSOLE_BYTES,
    MAX_PAYLOAD_BYTES,
    OVERHEAD_BYTES,
    SYNC,
    Decoder,
    Frame,
    Kind,
    encode,
)

FUZZED_BYTES = 10_000_000
PIECE_BYTES = 64 << 10


def frame(payload: bytes = b"payload", sequence: int = 1, kind: int = Kind.ECHO) -> Frame:
    return Frame(kind=kind, sequence=sequence, boot=3, payload=payload)


def fed(decoder: Decoder, data: bytes, step: int = PIECE_BYTES) -> list[Frame]:
    return [
        found for at in range(0, len(data), step) for found in decoder.feed(data[at : at + step])
    ]


class TestFrames:
    def test_a_frame_has_the_bytes_of_the_document(self) -> None:
        wire = encode(Frame(kind=0x02, sequence=0x1234, boot=0x5678, payload=b"ab"))
        assert wire[:13] == bytes.fromhex("a55a 02 3412 7856 02000000 6162".replace(" ", ""))
        assert len(wire) == 2 + OVERHEAD_BYTES
        assert int.from_bytes(wire[-4:], "little") == __import__("zlib").crc32(wire[2:-4])

    @pytest.mark.parametrize("size", [0, 1, 255, 256, MAX_PAYLOAD_BYTES])
    @pytest.mark.parametrize("step", [1, 7, PIECE_BYTES])
    def test_what_is_encoded_is_decoded_in_whatever_pieces(self, size: int, step: int) -> None:
        step = max(step, size // 1000)
        sent = frame(random.Random(size).randbytes(size), kind=Kind.ECHO | ANSWER)
        decoder = Decoder()
        assert fed(decoder, encode(sent) * 2, step) == [sent, sent]
        assert decoder.take_console() == b""
        assert not decoder.begun

    def test_what_is_longer_than_allowed_is_no_frame(self) -> None:
        decoder = Decoder(max_payload_bytes=4)
        assert decoder.feed(encode(frame(b"12345")) + encode(frame(b"1234"))) == [frame(b"1234")]


class TestConsole:
    def test_text_between_frames_is_the_console(self) -> None:
        decoder = Decoder()
        data = b"booting\n" + encode(frame()) + b"ready\n" + encode(frame(sequence=2))
        assert [found.sequence for found in decoder.feed(data)] == [1, 2]
        assert decoder.take_console() == b"booting\nready\n"
        assert decoder.take_console() == b""

    def test_half_a_sync_waits_for_the_other_half(self) -> None:
        decoder = Decoder()
        wire = encode(frame())
        assert decoder.feed(b"x" + wire[:1]) == []
        assert decoder.begun
        assert decoder.take_console() == b"x"
        assert decoder.feed(wire[1:]) == [frame()]

    def test_it_is_bounded_if_nobody_takes_it(self) -> None:
        decoder = Decoder()
        fed(decoder, b"spam " * 100_000 + b"the end")
        console = decoder.take_console()
        assert len(console) == CONSOLE_BYTES
        assert console.endswith(b"the end")


class TestDamage:
    @pytest.mark.parametrize("at", range(len(encode(frame()))))
    def test_a_flipped_bit_costs_its_own_frame_only(self, at: int) -> None:
        damaged = bytearray(encode(frame(sequence=2)))
        damaged[at] ^= 0x10
        whole = [encode(frame(sequence=n)) for n in (1, 3)]
        decoder = Decoder()
        found = decoder.feed(whole[0] + damaged + whole[1])
        found += decoder.give_up()
        assert [one.sequence for one in found] == [1, 3]

    @pytest.mark.parametrize("kept", range(len(encode(frame()))))
    def test_a_torn_frame_hides_the_next_one_until_it_is_given_up(self, kept: int) -> None:
        decoder = Decoder()
        found = decoder.feed(encode(frame(b"x" * 200, sequence=2))[:kept])
        found += decoder.feed(encode(frame(sequence=3)))
        while decoder.begun:
            found += decoder.give_up()
        assert [one.sequence for one in found] == [3]

    def test_a_sync_inside_of_a_payload_is_no_frame(self) -> None:
        inner = encode(frame(sequence=9))
        decoder = Decoder()
        assert decoder.feed(encode(frame(inner + SYNC))) == [frame(inner + SYNC)]

    def test_giving_up_nothing_is_nothing(self) -> None:
        assert Decoder().give_up() == []


class TestFuzz:
    def test_ten_million_bytes_hold_what_was_put_between_them(self) -> None:
        dice = random.Random(11)
        decoder = Decoder()
        sent: list[int] = []
        found: list[int] = []
        size = 0
        while size < FUZZED_BYTES:
            noise = dice.randbytes(dice.randrange(PIECE_BYTES))
            if dice.random() < 0.5:  # heads that promise much
                noise += SYNC + struct.pack("<BHHI", 1, 1, 1, dice.randrange(1 << 17))
            sent.append(len(sent) % 0xFFFF + 1)
            data = noise + encode(frame(dice.randbytes(dice.randrange(300)), sent[-1]))
            size += len(data)
            found += [one.sequence for one in decoder.feed(data)]
            assert len(decoder._buffer) <= MAX_PAYLOAD_BYTES + OVERHEAD_BYTES + len(data)
            assert len(decoder.take_console()) <= CONSOLE_BYTES
        while decoder.begun:
            found += [one.sequence for one in decoder.give_up()]
        assert found == sent

    def test_heads_that_promise_much_do_not_take_for_ever(self) -> None:
        decoder = Decoder()
        head = SYNC + struct.pack("<BHHI", 1, 1, 1, MAX_PAYLOAD_BYTES)
        assert fed(decoder, head * (2 * MAX_PAYLOAD_BYTES // len(head))) == []
        decoder.give_up()
        assert decoder.feed(encode(frame())) == [frame()]
