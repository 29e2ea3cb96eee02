"""Who built an archive: OpenSSF model signing, with a key pair (elliptic curve, PEM), offline.

`X.mar.sig` beside `X.mar` is a Sigstore bundle as https://github.com/sigstore/model-transparency writes it.
Its own command line verifies it, too:

    model_signing verify key X.mar --signature X.mar.sig --public_key public.pem
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ArchiveError, SignatureError


def signature_of(archive: Path) -> Path:
    """Where the signature of an archive lies."""
    return archive.with_name(archive.name + ".sig")


def sign(archive: Path, private_key: Path) -> Path:
    """Sign a .mar or a folder; the signature's file. Raises ArchiveError, SignatureError."""
    if not archive.exists():
        raise ArchiveError(f"{archive}: no such file or folder")
    target = signature_of(archive)
    config = _config("signing")
    try:
        config.use_elliptic_key_signer(private_key=private_key).sign(archive, target)
    except (OSError, ValueError, TypeError) as error:
        raise SignatureError(f"{archive}: could not be signed with {private_key}: {_words(error)}") from error
    return target


def verify_signature(archive: Path, public_key: Path) -> None:
    """Raises SignatureError unless the holder of the private key has signed just these bytes."""
    signature = signature_of(archive)
    if not signature.is_file():
        raise SignatureError(f"{archive}: is not signed: there is no {signature.name} beside it")
    if not public_key.is_file():
        raise SignatureError(f"{public_key}: no such file, expected a public key (PEM)")
    config = _config("verifying")
    try:
        config.use_elliptic_key_verifier(public_key=public_key).verify(archive, signature)
    except Exception as error:  # what is damaged makes the library raise anything
        raise SignatureError(
            f"{archive}: its signature {signature.name} is not good by {public_key.name}: {_words(error)}. "
            "It was changed after it was signed, or somebody else signed it"
        ) from error


def _config(module: str) -> Any:
    import importlib

    try:
        found: ModuleType = importlib.import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise SignatureError(f"{error.name} is not installed here: pip install 'torchmar[sign]'") from None
    return found.Config()


def _words(error: Exception) -> str:
    """The first line; a mismatch is told with both digests as Python writes bytes, which helps nobody."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return "the archive does not match it" if "mismatch" in text else text
