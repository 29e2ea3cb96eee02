"""The mistakes that scripts/mutate makes can be made: their places are found, and so are their tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..conftest import ROOT
from ..mutations import ALL, Mutation


def test_there_are_enough_and_each_has_a_name() -> None:
    names = {one.name for one in ALL}
    assert len(names) == len(ALL) >= 40


@pytest.mark.parametrize("mutation", ALL, ids=lambda one: one.name.replace(" ", "-"))
def test_a_mutation_has_one_place_and_tests(mutation: Mutation) -> None:
    """Where the code has moved on, its text is anchored anew in tests/mutations.py."""
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name}" in (Path(__file__).parent / file).read_text(encoding="utf-8")
