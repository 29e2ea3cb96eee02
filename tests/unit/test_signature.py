"""Signatures: made and verified by OpenSSF's own library, and asked for before a release."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from typer.testing import CliRunner

from torchmar import mar, pack
from torchmar.cli import app
from torchmar.errors import SignatureError
from torchmar.release import Options, ServedState
from torchmar.release._facts import Facts
from torchmar.release._plan import plan
from torchmar.signature import sign, signature_of, verify_signature


def write_key(folder: Path, name: str, key: Any, encryption: Any = None) -> None:
    """Both halves of a key pair: NAME.pem and NAME.pub."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pem").write_bytes(private)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two key pairs that are good, ours and theirs, and others that are not."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("our", "their"):
        write_key(folder, name, ec.generate_private_key(ec.SECP256R1()))
    write_key(folder, "rsa", rsa.generate_private_key(65537, 2048))
    write_key(folder, "ed25519", ed25519.Ed25519PrivateKey.generate())
    write_key(folder, "bitcoin", ec.generate_private_key(ec.SECP256K1()))
    secret = serialization.BestAvailableEncryption(b"secret")
    write_key(folder, "encrypted", ec.generate_private_key(ec.SECP256R1()), secret)
    (folder / "garbage.pem").write_bytes(bytes(range(256)) * 9)
    (folder / "empty.pem").touch()
    (folder / "text.pem").write_text("-----BEGIN PRIVATE KEY-----\nnot a key\n-----END PRIVATE KEY-----\n")
    return folder


@pytest.fixture
def archive(tiny_onnx: Path, tmp_path: Path) -> mar.Archive:
    path = tmp_path / tiny_onnx.name
    path.write_bytes(tiny_onnx.read_bytes())
    return mar.verify(path)


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path) -> mar.Archive:
    """The other form, with files that the library leaves out by default."""
    git = {".gitignore": b"*", ".gitattributes": b"x", ".github/w.py": b"x = 1\n", ".git/hook.py": b"y = 1\n"}
    made = pack.variant(mar.verify(tiny_onnx), tmp_path / "tiny", git)
    return mar.verify(made.path)


def test_what_was_signed_is_verified(archive: mar.Archive, folder: mar.Archive, keys: Path) -> None:
    """In both forms."""
    for one in (archive, folder):
        assert sign(one, keys / "our.pem") == signature_of(one.path)
        verify_signature(one, keys / "our.pub")


@pytest.mark.parametrize(("inside", "path"), [("", "."), ("MAR-INF", ".."), ("", "../tiny/")])
def test_a_folder_that_is_named_by_where_one_stands(
    folder: mar.Archive, keys: Path, monkeypatch: pytest.MonkeyPatch, inside: str, path: str
) -> None:
    """`torchmar sign .`: its signature lies beside the archive, never in it, and is found again."""
    monkeypatch.chdir(folder.path / inside)
    made = sign(mar.verify(path), keys / "our.pem")
    assert made.resolve() == signature_of(folder.path)
    verify_signature(mar.verify(path), keys / "our.pub")


def test_what_is_not_good_is_refused(archive: mar.Archive, keys: Path) -> None:
    """Not signed; signed by another; changed since; a signature that is none."""
    with pytest.raises(SignatureError, match="is not signed"):
        verify_signature(archive, keys / "our.pub")
    sign(archive, keys / "their.pem")
    with pytest.raises(SignatureError, match="somebody else"):
        verify_signature(archive, keys / "our.pub")
    sign(archive, keys / "our.pem")
    content = bytearray(archive.path.read_bytes())
    content[1000] ^= 1
    archive.path.write_bytes(content)
    with pytest.raises(SignatureError, match="does not match"):
        verify_signature(archive, keys / "our.pub")
    signature_of(archive.path).write_text("{")
    with pytest.raises(SignatureError, match="is not good"):
        verify_signature(archive, keys / "our.pub")


@pytest.mark.parametrize(
    "name", [".gitignore", ".gitattributes", ".github/w.py", ".git/hook.py", "model_source/labels.txt"]
)
@pytest.mark.parametrize("change", ["changed", "removed", "added"])
def test_every_file_of_a_folder_is_signed(folder: mar.Archive, keys: Path, name: str, change: str) -> None:
    """Also those of git, which TorchServe serves like any other."""
    path = folder.path / name
    content = path.read_bytes()
    if change == "added":
        path.unlink()
        folder = mar.read(folder.path)
    sign(folder, keys / "our.pem")
    if change == "removed":
        path.unlink()
    else:
        path.write_bytes(content + b" ")
    for one in (folder, mar.read(folder.path)):
        with pytest.raises(SignatureError, match=r"not for what was read|does not match"):
            verify_signature(one, keys / "our.pub")


def test_what_is_signed_is_what_was_read(archive: mar.Archive, folder: mar.Archive, keys: Path) -> None:
    """Another archive in its place while that is done: neither signed nor found good."""
    other = pack.variant(archive, archive.path.with_name("other.mar"), {"model_source/labels.txt": b"[]"})
    for one, file, evil in (
        (archive, archive.path, other.path.read_bytes()),
        (folder, folder.path / "model_source/labels.txt", b"[]"),
    ):
        content = file.read_bytes()
        file.write_bytes(evil)
        with pytest.raises(SignatureError, match="was changed"):
            sign(one, keys / "our.pem")
        assert not signature_of(one.path).exists()
        read = mar.read(one.path)
        file.write_bytes(content)
        sign(one, keys / "our.pem")
        with pytest.raises(SignatureError, match="not for what was read of it"):
            verify_signature(read, keys / "our.pub")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsa", "give a private key in PEM; `openssl ecparam .* the elliptic curves .* this one is RSA"),
        ("ed25519", "this one is Ed25519"),
        ("bitcoin", "this one is secp256k1"),
        ("encrypted", "decrypt it first"),
        ("garbage", "give a private key in PEM"),
        ("empty", "give a private key in PEM"),
        ("text", "give a private key in PEM"),
        ("nobody", "no such file"),
        (".", "could not be read: Is a directory"),
    ],
)
def test_a_key_that_cannot_sign_is_told_with_what_to_do(
    archive: mar.Archive, keys: Path, name: str, message: str
) -> None:
    """Whatever the file is: one sentence, no traceback, and no signature."""
    key = keys / ("." if name == "." else f"{name}.pem")
    with pytest.raises(SignatureError, match=message):
        sign(archive, key)
    signed = CliRunner().invoke(app, ["sign", str(archive.path), "--key", str(key)])
    assert signed.exit_code == 1
    assert isinstance(signed.exception, SystemExit | SignatureError)
    assert not signature_of(archive.path).exists()
    with pytest.raises(SignatureError, match="give the private key that belongs to it"):
        sign(archive, keys / "our.pub")


def test_a_key_that_cannot_verify_is_told_with_what_to_do(archive: mar.Archive, keys: Path) -> None:
    """It is not said that the archive was changed."""
    sign(archive, keys / "our.pem")
    for name in ("rsa.pub", "rsa.pem", "ed25519.pub", "bitcoin.pub", "garbage.pem", "empty.pem"):
        with pytest.raises(SignatureError, match="give the public key of who signed it") as refused:
            verify_signature(archive, keys / name)
        assert "openssl" not in str(refused.value)
    with pytest.raises(SignatureError, match="no such file"):
        verify_signature(archive, keys / "nobody.pub")


def test_no_command_that_is_told_writes_over_a_key(
    archive: mar.Archive, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What openssl is to write has a name that is free, and the command does what is said of it."""
    monkeypatch.chdir(tmp_path)
    sign(archive, keys / "our.pem")
    for source, name in (("our", "private"), ("encrypted", "encrypted"), ("garbage", "public")):
        Path(f"{name}.pem").write_bytes((keys / f"{source}.pem").read_bytes())
    before = {file: file.read_bytes() for file in tmp_path.glob("*.pem")}
    told = []
    for refused in (
        partial(verify_signature, archive, Path("private.pem")),
        partial(verify_signature, archive, Path("encrypted.pem")),
        partial(sign, archive, Path("encrypted.pem")),
        partial(sign, archive, Path("public.pem")),
    ):
        with pytest.raises(SignatureError) as error:
            refused()
        told += re.findall(r"openssl [^`)]+", str(error.value))
    assert told[0] == "openssl ec -in private.pem -pubout -out public2.pem"
    assert [command.split()[-1] for command in told[1:]] == ["public2.pem", "decrypted.pem", "private2.pem"]
    subprocess.run(shlex.split(told[0]), check=True, capture_output=True)
    verify_signature(archive, Path("public2.pem"))
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize(
    ("signature", "outcome"), [(None, None), ("", "ok"), ("it is not signed", "refused")]
)
def test_a_plan_asks_for_it(archive: mar.Archive, signature: str | None, outcome: str | None) -> None:
    """Where a key is given; what is not signed by its holder is not released."""
    facts = Facts("local", ServedState("tiny"), signature=signature)
    found = plan(archive, facts, Options(public_key="our.pub"))
    outcomes = {check.name: check.outcome for check in found.checks}
    assert outcomes.get("signature") == outcome
    assert bool(found.steps) == (outcome != "refused")


def test_by_commands(archive: mar.Archive, keys: Path) -> None:
    """`sign`, then `verify --public-key`; another's key is exit code 1."""
    run = CliRunner().invoke
    signed = run(app, ["sign", str(archive.path), "--key", str(keys / "our.pem")])
    assert signed.exit_code == 0, signed.output
    assert signed.output.strip() == str(signature_of(archive.path))
    verify = ["verify", str(archive.path), "--no-load", "--public-key"]
    good = run(app, [*verify, str(keys / "our.pub")])
    assert good.exit_code == 0
    assert f", signed by {keys / 'our.pub'}, not loaded" in good.output
    assert "signed" not in run(app, verify[:-1]).output
    assert run(app, [*verify, str(keys / "their.pub")]).exit_code == 1
