"""A compressed version released to a real server that serves its uncompressed parent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compressed import CNN, write_cnn
from torchmar import mar, pack
from torchmar.archive import build
from torchmar.errors import ReleaseRefused
from torchmar.mar import Archive
from torchmar.release import observe, release
from torchmar.spec import load_model

from .candidates import QUICK, fleet_of
from .servers import Live

# How fast they are is not what is tested: a tiny model is no faster in int8.
OPTIONS = replace(QUICK, max_slowdown=50.0)


def archive(folder: Path, version: str, code: str = CNN, **spec: Any) -> Archive:
    """The tiny classifier, with eight golden pictures."""
    source = load_model(write_cnn(folder / version, code=code, golden=8, version=version, **spec))
    return mar.verify(build(source, folder / "store", seconds=0.05).archive.path)


def test_a_compressed_version_takes_the_place_of_its_parent(server: Live, tmp_path: Path) -> None:
    """As long as it costs what its model.yaml accepts; one that costs more is not promoted."""
    accept = {"agreement": 0.8, "max_abs_error": 0.5, "cost": 0.1}
    fleet = fleet_of(server, tmp_path / "releases")
    parent = archive(tmp_path, "1.0", compress=None, accept={})
    assert release(fleet, parent, OPTIONS).outcome == "promoted"

    compressed = archive(tmp_path, "2.0", accept=accept)
    assert compressed.price is not None
    spec = yaml.safe_load((tmp_path / "2.0" / "model.yaml").read_text())
    spec["accept"]["cost"] = compressed.price["cost"]["value"] / 2
    dearer = pack.variant(compressed, tmp_path / "cnn-2.0.mar", {mar.SPEC: yaml.safe_dump(spec).encode()})
    with pytest.raises(ReleaseRefused, match=r"price: build it again.*: cost [0-9.e-]+ exceeds"):
        release(fleet, mar.verify(dearer.path), OPTIONS)
    assert [one.version for one in observe(server.clients, "cnn").versions] == ["1.0"]

    result = release(fleet, compressed, OPTIONS)
    assert result.outcome == "promoted", result.reason
    answer = server.inference.predict("cnn", tmp_path / "2.0" / "golden" / "0.png").json()
    [expected, *_] = mar.golden_requests(compressed)
    assert compressed.comparator.same(expected.expected["answer"], answer)

    other = archive(tmp_path, "3.0", code=CNN.replace("seed(3)", "seed(4)"), accept=accept)
    result = release(fleet, other, OPTIONS)
    assert (result.outcome, result.is_put_back) == ("failed", True)
    assert "requests are answered as the default answers them, 80.0% must be" in result.reason
    assert observe(server.clients, "cnn").default == "2.0"
