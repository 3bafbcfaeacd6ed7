"""The key by which a phone knows this machine: the one that adb uses, unless told otherwise."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from pathlib import Path

from adb_shell.auth import keygen
from adb_shell.auth.sign_cryptography import CryptographySigner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from farm.errors import ConfigError
from farm.model import Device

BITS = 2048
"""What phones take, and nothing else."""


class Signer(CryptographySigner):  # type: ignore[misc]  # the library has no types
    """Answers a phone with a private key alone; the library wants the public one's file as well.

    Args:
        path: of the private key, which has no passphrase.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such key.
    """

    def __init__(self, path: Path) -> None:
        key = serialization.load_pem_private_key(
            path.read_bytes(),
            None,
            # looks for a hostile key, 40 ms for each connection; this one is the user's own
            unsafe_skip_rsa_key_validation=True,
        )
        if not isinstance(key, RSAPrivateKey) or key.key_size != BITS:
            raise ValueError(f"it is no RSA key of {BITS} bits")
        self.rsa_key = key
        self._path = path

    def GetPublicKey(self) -> bytes:  # noqa: N802  # the library's name
        """What a phone keeps; made only for one that is to learn it."""
        packed: bytes = base64.b64encode(keygen.encode_pubkey(str(self._path)))
        owner: str = keygen.get_user_info()
        return packed + owner.encode()


def signer(device: Device) -> Signer:
    """The signer of a device.

    Raises:
        ConfigError: its key cannot be used.
    """
    given = device.option("adb_key")
    path = Path(given or Path.home() / ".android" / "adbkey")
    try:
        if not given:
            _make(path)
        return Signer(path)
    except OSError as error:
        reason = error.strerror or str(error)
    except TypeError:  # what the library makes of a passphrase that is missing
        reason = "it has a passphrase, which adb does not know"
    except ValueError as error:
        reason = f"it is no private key of adb: {error}"
    raise ConfigError(
        f"cannot use the key {str(path)!r}: {reason}",
        device=device.name,
        hint="make one with 'adb keygen FILE', or leave 'adb_key' out of the inventory",
    )


def _make(path: Path) -> None:
    """A key where adb looks for its own, whole from its first moment; one that is there stays."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / "adbkey"
        keygen.keygen(str(fresh))
        fresh.chmod(0o600)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
            os.replace(f"{fresh}.pub", f"{path}.pub")
