"""Sign archives and verify who built them: OpenSSF model signing with a key pair (PEM), offline.

`X.mar.sig` beside `X.mar` is a Sigstore bundle as https://github.com/sigstore/model-transparency writes it.
Its own command line also verifies it:

    model_signing verify key X.mar --signature X.mar.sig --public_key public.pem

The signature covers the SHA-256 of the .mar, or of every file of a folder. Both are compared with what was
read of the archive, so that nobody can exchange it in between.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import itertools
import json
import tempfile
from pathlib import Path
from shlex import quote
from typing import Any

from .errors import SignatureError
from .files import exists
from .mar import Archive
from .unpack import PYCACHE

_CURVES = {"secp256r1", "secp384r1", "secp521r1"}


def signature_of(archive: Path) -> Path:
    """Return the path of an archive's signature: beside it, even for the folder `.` or `..`."""
    if archive.name in ("", ".."):
        archive = archive.resolve()
    return archive.with_name(archive.name + ".sig")


def sign(archive: Archive, private_key: Path) -> Path:
    """Sign a .mar or a folder that was read; returns the signature's file. Raises SignatureError."""
    target = signature_of(archive.path)
    config = _library("signing").Config().set_hashing_config(_all_files())
    _require_key(private_key, private=True)
    with tempfile.TemporaryDirectory(prefix="torchmar-sign-") as temporary:
        made = Path(temporary, "signature")
        try:
            config.use_elliptic_key_signer(private_key=private_key).sign(archive.path, made)
            content = made.read_bytes()
        except Exception as error:  # bad input makes the library raise anything
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
    """Raise SignatureError unless the private key's holder signed exactly what was read."""
    signature = signature_of(archive.path)
    if not signature.is_file():
        raise SignatureError(f"{archive.path}: is not signed: there is no {signature.name} beside it")
    config = _library("verifying").Config().set_hashing_config(_all_files())
    _require_key(public_key, private=False)
    with tempfile.TemporaryDirectory(prefix="torchmar-sign-") as temporary:
        copy = Path(temporary, "signature")  # so that the compared content is the verified one
        try:
            content = signature.read_bytes()
            copy.write_bytes(content)
            config.use_elliptic_key_verifier(public_key=public_key).verify(archive.path, copy)
        except Exception as error:  # damaged input makes the library raise anything
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
    """Return the hashing of all files: by default the library skips .git, .gitignore and the like."""
    return _library("hashing").Config().set_ignored_paths(paths=(), ignore_git_paths=False)


def _require_key(file: Path, *, private: bool) -> None:
    """Raise SignatureError, with the remedy, unless a file holds a key that signs, or its other half."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    half, other = ("private", "public") if private else ("public", "private")
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise SignatureError(f"{file}: no such file, expected a {half} key (PEM)") from None
    except OSError as error:
        raise SignatureError(f"{file}: could not be read: {error.strerror or error}") from None
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # damaged input makes the library raise anything
        found["public"] = load_pem_public_key(content)
    try:
        found["private"] = load_pem_private_key(content, None)
    except TypeError:  # it is encrypted
        found["private"] = None
    except Exception:  # noqa: S110 (damaged input makes the library raise anything)
        pass
    if not found:
        raise SignatureError(f"{file}: {_new_key(file, private=private)}: it holds none that could be read")
    key = found.get(half, found.get(other))
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
    curve = getattr(getattr(key, "curve", None), "name", None)
    if key is not None and curve not in _CURVES:
        raise SignatureError(
            f"{file}: {_new_key(file, private=private)}: model signing takes the elliptic curves P-256, "
            f"P-384 and P-521, and this one is {curve or kind}"
        )
    if half not in found:
        raise SignatureError(f"{file}: {_other_half(file, private=private)}: it holds a {other} key")
    if key is None:
        what = f"decrypt it first (openssl pkey -in {quote(str(file))} -out {_free(file, 'decrypted')})"
        raise SignatureError(f"{file}: {what}: it is encrypted, and torchmar asks for no password")


def _other_half(file: Path, *, private: bool) -> str:
    if private:
        return "give the private key that belongs to it"
    made = f"openssl ec -in {quote(str(file))} -pubout -out {_free(file, 'public')}"
    return f"give its public half, which `{made}` makes"


def _new_key(file: Path, *, private: bool) -> str:
    if not private:
        return "give the public key of who signed it, in PEM"
    made = f"openssl ecparam -name prime256v1 -genkey -noout -out {_free(file, 'private')}"
    return f"give a private key in PEM; `{made}` makes one"


def _free(file: Path, stem: str) -> str:
    """Return the name of a file that exists neither beside this one nor here: openssl overwrites files."""
    names = (f"{stem}{number}.pem" for number in itertools.chain([""], itertools.count(2)))
    return next(name for name in names if not (exists(Path(name)) or exists(file.with_name(name))))


def _require_same(archive: Archive, signature: bytes) -> None:
    """Raise SignatureError unless a verified bundle lists every file that was read, and no other."""
    try:
        payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
        listed = payload["predicate"]["resources"]
        signed = {one["name"]: (one["algorithm"], one["digest"]) for one in listed}
    except (ValueError, KeyError, TypeError):
        raise SignatureError(f"{archive.path}: sign it again: its signature is of an older form") from None
    if archive.path.is_dir():
        signed = {name: one for name, one in signed.items() if name.split("/")[-1] != PYCACHE}
        read = {file.name: ("sha256", file.sha256) for file in archive.files}
    else:
        read = dict.fromkeys(signed, ("sha256", archive.sha256))
    if signed != read or not signed:
        raise SignatureError(f"{archive.path}: its signature is not for what was read of it: it was changed")


def _words(error: Exception) -> str:
    """Return the first line of an error's text.

    For a mismatch, the library prints both digests as Python bytes, which helps nobody.
    """
    text = (str(error) or type(error).__name__).splitlines()[0]
    return "the archive does not match it" if "mismatch" in text else text
