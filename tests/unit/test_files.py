"""Text from outside, and folders of any depth."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.files import decode_text, exists, is_file, is_folder, read_text, remove_tree, why_no_file

from .nested import nest


@given(st.text(st.characters(exclude_characters="\ufeff", exclude_categories=["Cs"])))
def test_a_byte_order_mark_is_no_part_of_a_text(text: str) -> None:
    """UTF-8 with and without, and UTF-16 in both orders, are the same text."""
    assert decode_text(text.encode()) == text
    assert decode_text(b"\xef\xbb\xbf" + text.encode()) == text
    assert decode_text(b"\xff\xfe" + text.encode("utf-16-le")) == text
    assert decode_text(b"\xfe\xff" + text.encode("utf-16-be")) == text


def test_what_is_no_text_is_an_error(tmp_path: Path) -> None:
    """And a ValueError, as callers expect."""
    (tmp_path / "latin").write_bytes("fähre".encode("latin-1"))
    with pytest.raises(ValueError, match="utf-8"):
        read_text(tmp_path / "latin")


def test_a_folder_of_any_depth_is_removed(tmp_path: Path) -> None:
    """Deeper than Python's calls and than a path may be long."""
    top = tmp_path / "top"
    top.mkdir()
    nest(top, 3_000, "file")
    remove_tree(top)
    assert not top.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """What they lead to stays, and a link as the folder itself is refused."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "link").symlink_to(kept)
    (tmp_path / "link").symlink_to(kept)
    remove_tree(top)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")
    assert (kept / "file").read_text() == "x"


def test_names_that_removal_uses_itself_may_be_there(tmp_path: Path) -> None:
    """They are removed, too."""
    top = tmp_path / "top"
    for name in (".removed-0", "a/.removed-0/x", "a/b/c", ".removed-1/d/e"):
        (top / name).mkdir(parents=True)
    remove_tree(top)
    assert not top.exists()


def test_what_somebody_else_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither a file nor a folder here, and no error."""
    (tmp_path / "file").touch()
    assert (is_file(tmp_path / "file"), is_folder(tmp_path), exists(tmp_path / "file")) == (True, True, True)
    assert (is_file(tmp_path), is_folder(tmp_path / "file"), exists(tmp_path / "x")) == (False, False, False)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    assert (is_file(tmp_path / "file"), is_folder(tmp_path), exists(tmp_path)) == (False, False, False)


def test_why_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one, and one that is there; root may write everywhere."""
    (tmp_path / "there").touch()
    assert [why_no_file(tmp_path / name) for name in ("new", "there")] == ["", ""]
    assert why_no_file(tmp_path) == "it is a folder"
    assert why_no_file(tmp_path / "none" / "x") == f"there is no folder {tmp_path / 'none'}"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why_no_file(tmp_path / "there") == "not writable for this user"
