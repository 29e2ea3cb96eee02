"""Which names of models can be managed."""

from __future__ import annotations

import pytest

from torchmar.names import LONGEST, name_problem, shown, version_problem


@pytest.mark.parametrize("text", ["resnet18", "a-b_c.d", "1.0", "1.0.0+cu118 (rc 1)", "modèle", "mytoken"])
def test_what_can_be_managed_is_no_problem(text: str) -> None:
    """Whatever quoting can say."""
    assert name_problem(text) is None
    assert version_problem(text) is None


BAD = [
    "",
    ".",
    "..",
    " a",
    "a\n",
    "token",
    "tokenizer",
    "a/b",
    "a<b",
    "a[0]",
    "a\x1b[31m",
    "a" * (LONGEST + 1),
    "a\x00",
    "a..b",
    "1.",
    "...",
]


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_managed_is_told_on_one_line(text: str) -> None:
    """Without what a terminal would obey, and short."""
    for problem in (name_problem(text), version_problem(text)):
        assert problem is not None
        assert problem.isprintable()
        assert len(problem) < 200


def test_a_name_that_hides_its_archive() -> None:
    """TorchServe passes over hidden files where it loads all of its store; a version stands behind a name."""
    assert "begins with a dot" in str(name_problem(".m"))
    assert version_problem(".1") is None


def test_all_is_no_version() -> None:
    """In TorchServe's URLs it means every version; it may be a name."""
    assert version_problem("all") is not None
    assert name_problem("all") is None


def test_shown_is_short_and_on_one_line() -> None:
    """A line end, an escape, and a length of its own."""
    assert shown("a\nb\x1b[31m") == "a\ufffdb\ufffd[31m"
    assert shown("x" * 100, 10) == "x" * 9 + "…"
