"""An IPv6 address in config.properties, which TorchServe answers with a NullPointerException."""

from __future__ import annotations

from pathlib import Path

import pytest

from .serving import Typed

ADDRESSES = ("inference_address", "management_address", "metrics_address")


@pytest.mark.parametrize(("host", "instead"), [("[::1]", "127.0.0.1"), ("[::]", "0.0.0.0")])
def test_it_is_told_before(tmp_path: Path, host: str, instead: str) -> None:
    """doctor and serve name each line, why it cannot be, and what to write."""
    torchmar = Typed(tmp_path / "served")
    changes = {key: torchmar.config.get(key).replace("127.0.0.1", host) for key in ADDRESSES}
    torchmar.config.with_settings(changes).write(torchmar.folder / "config.properties")
    for said in (torchmar("doctor", code=1), torchmar("serve", code=1)):
        for key in ADDRESSES:
            assert f"{key}={changes[key]}: TorchServe listens on IPv4 addresses only" in said
            assert f"rite {key}={torchmar.config.get(key).replace('127.0.0.1', instead)}" in said
    assert not (torchmar.folder / "logs").exists()


@pytest.mark.live
def test_localhost_is_served(tmp_path: Path) -> None:
    """It has an IPv4 address as well."""
    torchmar = Typed(tmp_path / "served")
    changes = {key: torchmar.config.get(key).replace("127.0.0.1", "localhost") for key in ADDRESSES}
    torchmar.config.with_settings(changes).write(torchmar.folder / "config.properties")
    try:
        torchmar("serve")
        assert "Healthy" in torchmar("status")
    finally:
        torchmar.end()
