"""The keys by which a phone knows who may talk to it, in the format of ADB."""

from __future__ import annotations

import base64
import binascii
import struct
from functools import cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

_BITS = 2048
_WORDS = _BITS // 32
# Words of the modulus, -1/n[0] mod 2**32, the modulus, 2**4096 mod n, the exponent; little-endian.
_PUBLIC = struct.Struct(f"<II{_BITS // 8}s{_BITS // 8}sI")
_SCHEME = padding.PKCS1v15()
_TOKEN_IS = utils.Prehashed(hashes.SHA1())


@cache
def controller_key() -> rsa.RSAPrivateKey:
    """The key that every phone of this process knows: as with adb, one for all."""
    return rsa.generate_private_key(public_exponent=65537, key_size=_BITS)


def write_private(key: rsa.RSAPrivateKey) -> str:
    """A private key as adb keeps it."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def write_public(key: rsa.RSAPublicKey, comment: str) -> str:
    """A public key as adb keeps and offers it."""
    numbers = key.public_numbers()
    n = numbers.n
    inverse = -pow(n, -1, 1 << 32) % (1 << 32)
    halves = (number.to_bytes(_BITS // 8, "little") for number in (n, pow(2, 2 * _BITS, n)))
    data = _PUBLIC.pack(_WORDS, inverse, *halves, numbers.e)
    return f"{base64.b64encode(data).decode()} {comment}"


def read_public(offered: bytes) -> rsa.RSAPublicKey:
    """The key that a client offers.

    Raises:
        ValueError: it is none.
    """
    words = offered.rstrip(b"\0").split()
    try:
        fields = _PUBLIC.unpack(base64.b64decode(words[0], validate=True))
    except (IndexError, binascii.Error, struct.error) as error:
        raise ValueError("that is no public key") from error
    n = int.from_bytes(fields[2], "little")
    return rsa.RSAPublicNumbers(fields[4], n).public_key()


def is_signed(token: bytes, signature: bytes, key: rsa.RSAPublicKey) -> bool:
    """Whether the owner of a key has signed a token."""
    try:
        key.verify(signature, token, _SCHEME, _TOKEN_IS)
    except InvalidSignature:
        return False
    return True
