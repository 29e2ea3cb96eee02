"""What the documentation shows of Python can be imported. What README.md shows is run: tests/live."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from handlers.base import Refused, Request

from ..pictures import picture

ROOT = Path(__file__).resolve().parents[2]
# A block is indented by four, and goes on over empty lines.
BLOCK = re.compile(r"(?:^(?:    .*|)\n)+", re.MULTILINE)


def python_blocks(text: str) -> list[str]:
    """Those that import something of torchmar."""
    blocks = [textwrap.dedent(found).strip() for found in BLOCK.findall(text)]
    return [block for block in blocks if re.search(r"^(from|import) torchmar", block, re.MULTILINE)]


SHOWN = [
    pytest.param(block, id=f"{file.name}-{number}")
    for file in sorted((ROOT / "docs").glob("*.md"))
    for number, block in enumerate(python_blocks(file.read_text(encoding="utf-8")))
]


def test_there_are_some() -> None:
    """Blocks are found at all."""
    assert [one.id for one in SHOWN if str(one.id).startswith("canary.md")] == ["canary.md-0", "canary.md-1"]


@pytest.mark.parametrize("block", SHOWN)
def test_what_is_shown_can_be_imported(block: str) -> None:
    """It is Python, and everything that it imports is there under that name."""
    imports: list[ast.stmt] = [
        node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(imports, type_ignores=[]), "docs", "exec"), {})


def test_the_form_with_a_picture_that_is_shown_is_read() -> None:
    """docs/handlers.md's `decode`: a form's file and its numbers, and what is wrong with either."""
    text = (ROOT / "docs" / "handlers.md").read_text(encoding="utf-8")
    [block] = [found for found in BLOCK.findall(text) if "decode_image" in found]
    shown: dict[str, Any] = {}
    exec(compile(textwrap.dedent(block), "docs/handlers.md", "exec"), shown)

    def decoded(**form: bytes) -> Any:
        return shown["decode"](None, Request({name: bytearray(sent) for name, sent in form.items()}, {}))

    red = picture(9, 7, (255, 0, 0))
    [one] = decoded(image=red, features=b"[1, 2, 3, 4]").instances
    assert (one["pixels"].shape, one["features"].tolist()) == ((64, 64, 3), [1, 2, 3, 4])
    for wrong in ({"image": red}, {"image": b"a text", "features": b"[1, 2, 3, 4]"}, {"image": b"\xff"}):
        with pytest.raises(Refused):
            decoded(**wrong)


def test_the_configuration_that_is_shown_is_written(tmp_path: Path) -> None:
    """docs/canary.md's block for nginx, with a file of the test's own."""
    text = (ROOT / "docs" / "canary.md").read_text(encoding="utf-8")
    [block] = [one for one in python_blocks(text) if "configuration" in one]
    file = tmp_path / "torchmar.conf"
    changed = block.replace("/etc/nginx/conf.d/torchmar.conf", str(file))
    assert changed != block
    exec(compile(changed, "docs/canary.md", "exec"), {})
    assert "5 % of mine to version 2.0" in file.read_text(encoding="utf-8")
