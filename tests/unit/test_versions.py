"""Counting versions on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.errors import ArchiveError
from torchmar.names import version_problem
from torchmar.versions import next_version, versions_in


@pytest.mark.parametrize(
    ("version", "taken", "following"),
    [
        ("1.2", (), "1.3"),
        ("1.9", (), "1.10"),
        ("3", (), "4"),
        ("1.2.3", (), "1.2.4"),
        ("2026.09", (), "2026.10"),
        ("2026.01", (), "2026.02"),
        ("1.2", ("1.3", "1.4", "1.6"), "1.5"),
    ],
)
def test_next_version(version: str, taken: tuple[str, ...], following: str) -> None:
    """The last number grows by one, and what is taken is skipped."""
    assert next_version(version, taken) == following


@pytest.mark.parametrize("version", ["2.0-rc1", "v1", "1.", ".1", "", "1..2", "all", "¹", "1" * 300, "1.2\n"])
def test_what_is_not_counted_on(version: str) -> None:
    """A person says what follows."""
    with pytest.raises(ArchiveError, match="name the next version: only numbers between dots"):
        next_version(version)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_it_grows_and_can_be_served(numbers: list[int]) -> None:
    """Compared as numbers; TorchServe can register it."""
    found = next_version(".".join(map(str, numbers)))
    assert [int(number) for number in found.split(".")] > numbers
    assert version_problem(found) is None


def test_a_version_that_becomes_too_long() -> None:
    """The name of its file would."""
    with pytest.raises(ArchiveError, match="may have 200"):
        next_version("9" * 200)


def test_versions_in_a_store(tmp_path: Path) -> None:
    """Of both forms; without a store there are none."""
    (tmp_path / "mine-1.0").mkdir()
    for file in ("mine-1.1.mar", "other-3.mar", ".mine-9.mar"):
        (tmp_path / file).touch()
    assert versions_in(tmp_path, "mine") == {"1.0", "1.1"}
    assert versions_in(tmp_path / "nowhere", "mine") == frozenset()
    assert next_version("1.0", versions_in(tmp_path, "mine")) == "1.2"
