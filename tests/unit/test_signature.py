"""Signatures: made and verified by OpenSSF's own library, and asked for before a release."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from torchmar import mar
from torchmar.cli import app
from torchmar.errors import ArchiveError, SignatureError
from torchmar.release import Facts, Options, Served, plan
from torchmar.signature import sign, signature_of, verify_signature


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two key pairs: ours, and theirs."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("our", "their"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.fixture
def archive(tiny_onnx: Path, tmp_path: Path) -> Path:
    path = tmp_path / tiny_onnx.name
    path.write_bytes(tiny_onnx.read_bytes())
    return path


def test_what_was_signed_is_verified(archive: Path, keys: Path) -> None:
    assert sign(archive, keys / "our.pem") == signature_of(archive)
    verify_signature(archive, keys / "our.pub")


def test_what_is_not_good_is_refused(archive: Path, keys: Path) -> None:
    """Not signed; signed by another; changed since; a signature that is none; a key that is none."""
    with pytest.raises(SignatureError, match="is not signed"):
        verify_signature(archive, keys / "our.pub")
    sign(archive, keys / "their.pem")
    with pytest.raises(SignatureError, match="somebody else"):
        verify_signature(archive, keys / "our.pub")
    sign(archive, keys / "our.pem")
    content = bytearray(archive.read_bytes())
    content[1000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(SignatureError, match="does not match"):
        verify_signature(archive, keys / "our.pub")
    signature_of(archive).write_text("{")
    with pytest.raises(SignatureError, match="is not good"):
        verify_signature(archive, keys / "our.pub")
    with pytest.raises(SignatureError, match="no such file"):
        verify_signature(archive, keys / "nobody.pub")
    with pytest.raises(SignatureError, match="could not be signed"):
        sign(archive, keys / "nobody.pem")
    with pytest.raises(SignatureError, match="could not be signed"):
        sign(archive, keys / "our.pub")
    with pytest.raises(ArchiveError, match="no such file"):
        sign(archive.with_name("none.mar"), keys / "our.pem")


@pytest.mark.parametrize(
    ("signature", "outcome"), [(None, None), ("", "ok"), ("it is not signed", "refused")]
)
def test_a_plan_asks_for_it(archive: Path, signature: str | None, outcome: str | None) -> None:
    """Where a key is given; what is not signed by its holder is not released."""
    facts = Facts("local", Served("tiny"), signature=signature)
    found = plan(mar.read(archive), facts, Options(public_key="our.pub"))
    outcomes = {check.name: check.outcome for check in found.checks}
    assert outcomes.get("signature") == outcome
    assert bool(found.steps) == (outcome != "refused")


def test_by_commands(archive: Path, keys: Path) -> None:
    """`sign`, then `verify --public-key`; another's key is exit code 1."""
    run = CliRunner().invoke
    signed = run(app, ["sign", str(archive), "--key", str(keys / "our.pem")])
    assert signed.exit_code == 0, signed.output
    assert signed.output.strip() == str(signature_of(archive))
    verify = ["verify", str(archive), "--no-load", "--public-key"]
    assert run(app, [*verify, str(keys / "our.pub")]).exit_code == 0
    assert run(app, [*verify, str(keys / "their.pub")]).exit_code == 1
