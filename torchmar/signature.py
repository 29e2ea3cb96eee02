"""Who built an archive: OpenSSF model signing, with a key pair (elliptic curve, PEM), offline.

`X.mar.sig` beside `X.mar` is a Sigstore bundle as https://github.com/sigstore/model-transparency writes it.
Its own command line verifies it, too:

    model_signing verify key X.mar --signature X.mar.sig --public_key public.pem

What is signed is the SHA-256 of the .mar, or of every file of a folder. Both ways they are held against what
was read of the archive, so that nothing can be exchanged in between.
"""

from __future__ import annotations

import base64
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from .errors import SignatureError
from .mar import Archive
from .unpack import PYCACHE

_CURVES = {"secp256r1", "secp384r1", "secp521r1"}
_MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem"


def signature_of(archive: Path) -> Path:
    """Where the signature of an archive lies."""
    return archive.with_name(archive.name + ".sig")


def sign(archive: Archive, private_key: Path) -> Path:
    """Sign a .mar or a folder that was read; the signature's file. Raises SignatureError."""
    target = signature_of(archive.path)
    config = _library("signing").Config().set_hashing_config(_all_files())
    _require_key(private_key, private=True)
    with tempfile.TemporaryDirectory(prefix="torchmar-sign-") as temporary:
        made = Path(temporary, "signature")
        try:
            config.use_elliptic_key_signer(private_key=private_key).sign(archive.path, made)
            content = made.read_bytes()
        except Exception as error:  # what it is made of makes the library raise anything
            raise SignatureError(
                f"{archive.path}: could not be signed with {private_key}: {_words(error)}"
            ) from error
    _require_same(archive, content)
    try:
        target.write_bytes(content)
    except OSError as error:
        raise SignatureError(f"{target}: could not be written: {error.strerror or error}") from error
    return target


def verify_signature(archive: Archive, public_key: Path) -> None:
    """Raise SignatureError unless the holder of the private key has signed just what was read."""
    signature = signature_of(archive.path)
    if not signature.is_file():
        raise SignatureError(f"{archive.path}: is not signed: there is no {signature.name} beside it")
    config = _library("verifying").Config().set_hashing_config(_all_files())
    _require_key(public_key, private=False)
    with tempfile.TemporaryDirectory(prefix="torchmar-sign-") as temporary:
        copy = Path(temporary, "signature")  # what is verified is what is compared
        try:
            content = signature.read_bytes()
            copy.write_bytes(content)
            config.use_elliptic_key_verifier(public_key=public_key).verify(archive.path, copy)
        except Exception as error:  # what is damaged makes the library raise anything
            raise SignatureError(
                f"{archive.path}: its signature {signature.name} is not good by {public_key.name}: "
                f"{_words(error)}. It was changed after it was signed, or somebody else signed it"
            ) from error
    _require_same(archive, content)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise SignatureError(f"{error.name} is not installed here: pip install 'torchmar[sign]'") from None


def _all_files() -> Any:
    """The library leaves out .git, .gitignore and the like by default, which TorchServe does not."""
    return _library("hashing").Config().set_ignored_paths(paths=(), ignore_git_paths=False)


def _require_key(file: Path, *, private: bool) -> None:
    """Raise SignatureError unless a file holds a key that signs, or its other half, with what to do."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    half = "private" if private else "public"
    if not file.is_file():
        raise SignatureError(f"{file}: no such file, expected a {half} key (PEM)")
    try:
        key: Any = load_pem_private_key(file.read_bytes(), None) if private else None
        key = key or load_pem_public_key(file.read_bytes())
    except TypeError:
        what = f"decrypt it first (openssl pkey -in {file.name} -out private.pem)"
        raise SignatureError(f"{file}: {what}: it is encrypted, and nobody is asked for a password") from None
    except OSError as error:
        raise SignatureError(f"{file}: could not be read: {error.strerror or error}") from None
    except Exception:
        raise SignatureError(f"{file}: give a {half} key in PEM; `{_MAKE_KEY}` makes one") from None
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in _CURVES:
        raise SignatureError(
            f"{file}: make another key with `{_MAKE_KEY}`: model signing takes the elliptic curves P-256, "
            f"P-384 and P-521, and this one is {curve or kind}"
        )


def _require_same(archive: Archive, signature: bytes) -> None:
    """Raise SignatureError unless a bundle that was verified tells every file that was read, and no other."""
    try:
        payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
        listed = payload["predicate"]["resources"]
        signed = {one["name"]: (one["algorithm"], one["digest"]) for one in listed}
    except (ValueError, KeyError, TypeError):
        raise SignatureError(f"{archive.path}: sign it anew: its signature is of an older form") from None
    if archive.path.is_dir():
        signed = {name: one for name, one in signed.items() if name.split("/")[-1] != PYCACHE}
        read = {file.name: ("sha256", file.sha256) for file in archive.files}
    else:
        read = dict.fromkeys(signed, ("sha256", archive.sha256))
    if signed != read or not signed:
        raise SignatureError(f"{archive.path}: its signature is not for what was read of it: it was changed")


def _words(error: Exception) -> str:
    """The first line; a mismatch is told with both digests as Python writes bytes, which helps nobody."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return "the archive does not match it" if "mismatch" in text else text
