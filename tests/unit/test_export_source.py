"""A model's own code is a model_code: what it imports, prints, asks and changes, and how it may end."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchmar.errors import ExportError, SpecError, WeightsUnavailable
from torchmar.export import Weights, build_artifacts, load_module
from torchmar.spec import ModelSource, load_model

from .test_export import RANDOM, SPEC

BUILD = "\nimport torch\ndef build(pretrained=True):\n    return torch.nn.Linear(2, {})\n"
FLAT = "\nimport torch\ndef build(pretrained=True):\n    return torch.nn.Sequential({})\n"
LAYERS = "torch.nn.Flatten(), torch.nn.Linear(48, 3)"

Make = Callable[..., ModelSource]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A model folder with this load.py and other files, and more lines for model.yaml."""

    def write(code: str, files: dict[str, str] | None = None, more: str = "", name: str = "m") -> ModelSource:
        folder = tmp_path / name
        for path, content in {"load.py": code, "model.yaml": SPEC + more, **(files or {})}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content)
        return load_model(folder)

    return write


# -- what it imports ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "files", "remedy"),
    [
        ("from layers import x", {"layers.py": ""}, "write `from .layers import …`"),
        ("import layers", {"layers.py": ""}, "write `from .layers import …`"),
        ("import nets.deep.block", {"nets/deep/block.py": ""}, "write `from .nets import …`"),
        (
            "from .nets import a",
            {"nets/a.py": "import layers", "layers.py": ""},
            "write `from ..layers import",
        ),
        ("from .nets import a", {"nets/a.py": "import b", "nets/b.py": ""}, "write `from .b import …`"),
        ("from .nope import x", {}, "put nope.py into "),
        ("from ..layers import x", {}, "an archive carries nothing above it"),
        ("import nonesuch", {}, "install the package that has it"),
    ],
)
def test_imports_that_an_archive_could_not_make(
    make: Make, code: str, files: dict[str, str], remedy: str
) -> None:
    """The remedy comes first, then the file and the line; pip is named only where pip can help."""
    source = make(code + BUILD.format(1), files)
    with pytest.raises(ExportError) as caught:
        load_module(source, RANDOM)
    message = str(caught.value)
    assert message.startswith(f"{source.directory / 'load.py'}: {remedy}") or "above it" in remedy
    assert message.index(remedy) < message.index(" line 1: ")
    assert ("pip" in message or "install" in message) == (code == "import nonesuch")


def test_a_sibling_that_was_found_by_chance_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH, or the working directory, leads to it here; on a server nothing would."""
    source = make("import torchmar_test_sibling as s" + FLAT.format(LAYERS), {"torchmar_test_sibling.py": ""})
    monkeypatch.syspath_prepend(str(source.directory))
    folder = source.directory.parent / "built"
    folder.mkdir()
    with pytest.raises(ExportError, match=r"write `from \.torchmar_test_sibling import …`"):
        build_artifacts(source, RANDOM, folder)


HACK = "import os, sys\nsys.path.append(os.path.dirname(__file__))\nfrom sibling_of_two import size\n"


def test_the_siblings_of_one_model_are_not_those_of_the_next(make: Make) -> None:
    """Also where a source has put its folder on the path, as scripts do."""
    code = HACK + "import torch\ndef build(pretrained=True): return torch.nn.Linear(2, size)\n"
    for name, size in (("a", 3), ("b", 44)):
        source = make(code, {"sibling_of_two.py": f"size = {size}"}, name=name)
        assert load_module(source, RANDOM).out_features == size
    assert "sibling_of_two" not in sys.modules


def test_an_init_file_is_the_package_here_too(make: Make) -> None:
    """As in an archive, where it is imported first."""
    source = make("from . import SIZE" + BUILD.format("SIZE"), {"__init__.py": "SIZE = 7"})
    assert load_module(source, RANDOM).out_features == 7


def test_what_is_imported_while_it_computes_is_what_was_imported_before(make: Make, tmp_path: Path) -> None:
    """One class, and not two of the same name."""
    code = """
import torch
from .ops import Marked
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(48, 3)
        self.mark = Marked()
    def forward(self, x):
        from .ops import Marked
        assert isinstance(self.mark, Marked)
        return self.linear(x.flatten(1))
def build(pretrained=True): return Net()
"""
    assert build_artifacts(make(code, {"ops.py": "class Marked: ..."}), RANDOM, tmp_path).parity


# -- what it changes and asks -------------------------------------------------------------------


def test_what_it_changes_of_this_process_is_put_back(make: Make) -> None:
    """The working directory, the command line, stdin, the path and torch's default type."""
    code = (
        "import os, sys, torch\n"
        "os.chdir('/'); sys.argv.append('x'); sys.path.append('/nowhere'); sys.stdin = None\n"
        "torch.set_default_dtype(torch.float64)\n" + BUILD.format(1)
    )
    before = (Path.cwd(), list(sys.argv), sys.stdin, list(sys.path), torch.get_default_dtype())
    load_module(make(code), RANDOM)
    assert (Path.cwd(), sys.argv, sys.stdin, sys.path, torch.get_default_dtype()) == before


def test_the_settings_of_a_training_script_are_put_back(make: Make) -> None:
    """Else the next model is built on another device, its files can be read by nobody, a warning ends it."""
    code = (
        "import os, torch, warnings\n"
        "os.environ['HOME'] = '/nowhere'; os.environ['TORCHMAR_TEST'] = 'x'; os.umask(0o777)\n"
        "warnings.simplefilter('error'); torch.set_grad_enabled(False)\n"
        "torch.set_default_device('meta')\n"
        "def build(pretrained=True):\n    return torch.nn.Linear(2, 1, device='cpu')\n"
    )

    def settings() -> object:
        umask = os.umask(0o022)
        os.umask(umask)
        at = torch.tensor([1.0]).device.type
        return dict(os.environ), umask, list(warnings.filters), torch.is_grad_enabled(), at

    before = settings()
    load_module(make(code), RANDOM)
    assert settings() == before


def test_what_programs_and_libraries_write_to_stdout_does_not_get_there(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    """It may be JSON that a program reads."""
    code = "import os, sys\nos.write(1, b'a'); os.system('echo b'); sys.__stdout__.write('c')\n"
    load_module(make(code + BUILD.format(1)), RANDOM)
    os.write(1, b"{}")
    assert capfd.readouterr().out == "{}"


ARGPARSE = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--data'{})\np.parse_args()\n"


def test_torchmars_own_command_line_is_not_the_sources(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's argparse finds nothing there, and its defaults hold."""
    monkeypatch.setattr(sys, "argv", ["torchmar", "archive", "m", "--weights", "random"])
    assert load_module(make(ARGPARSE.format("") + BUILD.format(5)), RANDOM).out_features == 5


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("import sys\nsys.exit()", "load.py line 2: SystemExit"),
        ("exit('done')", "load.py line 1: SystemExit: done"),
        ("raise SystemExit(0)", "load.py line 1: SystemExit: 0"),
        (ARGPARSE.format(", required=True"), "required: --data)"),
    ],
)
def test_a_source_that_ends_the_program_does_not_end_torchmar(
    make: Make, code: str, ends: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence: where, and what to do; nothing else on the terminal."""
    with pytest.raises(ExportError) as caught:
        load_module(make(f"{code}\n" + BUILD.format(1)), RANDOM)
    message = str(caught.value)
    assert "load.py: move what ends the program" in message
    assert ends in message
    assert len(message.splitlines()) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["build", "__init__"])
def test_it_may_not_end_it_later_either(make: Make, where: str) -> None:
    """When the module is built, or the package is imported."""
    files = {"__init__.py": "raise SystemExit(4)"} if where == "__init__" else {}
    code = "def build(pretrained=True): raise SystemExit(4)"
    with pytest.raises(ExportError, match=r"move what ends the program .* line 1: SystemExit: 4"):
        load_module(make(code, files), RANDOM)


def test_a_command_line_that_a_worker_has_otherwise_is_told(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The defaults hold here; a worker of TorchServe has options of its own, and would end."""
    with pytest.raises(
        ExportError, match=r"build\(pretrained=False\): move what ends the program .*argparse"
    ):
        build_artifacts(make(ARGPARSE.format("") + FLAT.format(LAYERS)), RANDOM, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert argparse.ArgumentParser().parse_args([]) == argparse.Namespace()


def test_a_source_that_asks_at_the_terminal_is_told(make: Make) -> None:
    """It would wait for ever, and its question is not shown."""
    with pytest.raises(ExportError, match=r"leave out what asks at the terminal: load\.py line 1"):
        load_module(make("input('name? ')" + BUILD.format(1)), RANDOM)


# -- the files that it reads --------------------------------------------------------------------

READS = "import pathlib\nTEXT = (pathlib.Path(__file__).parent / {!r}).read_text()\n"


@pytest.mark.parametrize("weights", [RANDOM, Weights()], ids=["random", "pretrained"])
def test_a_path_of_the_working_directory_is_told(make: Make, weights: Weights) -> None:
    """Not as a hub that cannot be reached."""
    code = "def build(pretrained=True): open('arch.json')"
    with pytest.raises(ExportError, match=r"write Path\(__file__\).parent / 'arch.json'.*line 1") as caught:
        load_module(make(code, {"arch.json": "{}"}), weights)
    assert not isinstance(caught.value, WeightsUnavailable)


def test_small_files_of_all_folders_are_packed_and_said(make: Make, tmp_path: Path) -> None:
    """But for golden requests, hidden files, caches, archives, environments and model.yaml itself."""
    left_out = {
        ".secret": "x",
        ".git/config": "x",
        "__pycache__/a.py": "x",
        "old.mar": "x",
        "old.mar.sig": "x",
        "env/pyvenv.cfg": "x",
        "env/lib/x.py": "x",
        "store/m-1/MAR-INF/MANIFEST.json": "x",
        "large.bin": "x" * 1_000_001,
        "golden/a.png": "x",
    }
    packed = {"arch.json": "{}", "nets/a.py": "", "nets/a/names.txt": "a", "LICENSE": "x"}
    source = make(READS.format("arch.json") + BUILD.format(1), {**packed, **left_out}, "golden: golden\n")
    found = {path.relative_to(source.directory).as_posix() for path in source.packed_files()}
    assert found == {"load.py", *packed}


def test_a_large_file_that_is_read_is_told_and_can_be_listed(make: Make, tmp_path: Path) -> None:
    """The module is built from what is packed: before that, one sentence says what to write."""
    files = {"large.txt": "x" * 1_000_001, "other.txt": "x"}
    code = READS.format("large.txt") + FLAT.format(LAYERS)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ExportError, match=r"list large\.txt under `files` in model\.yaml, which packs it"):
        build_artifacts(make(code, files), RANDOM, tmp_path / "a")
    artifact = build_artifacts(make(code, files, "files: [large.txt]\n"), RANDOM, tmp_path / "b")
    assert artifact.notes == ["packed with its code: large.txt"]


@pytest.mark.parametrize(
    ("listed", "packed"),
    [
        ("[]", {"load.py"}),
        ("[assets]", {"load.py", "assets/a.bin", "assets/deep/b.bin"}),
        ("[assets/]", {"load.py", "assets/a.bin", "assets/deep/b.bin"}),
        ("['**/*.bin', 'not?s.txt']", {"load.py", "assets/a.bin", "assets/deep/b.bin", "notes.txt"}),
        ("['**/notes.txt']", {"load.py", "notes.txt"}),
        ("['x[1].txt']", {"load.py", "x[1].txt"}),
        ("['*.bin']", {"load.py", "assets/a.bin", "assets/deep/b.bin"}),
        ("['assets/?.bin', notes.txt]", {"load.py", "assets/a.bin", "notes.txt"}),
    ],
)
def test_files_are_listed_by_name_folder_or_pattern(make: Make, listed: str, packed: set[str]) -> None:
    """Nothing but them and the Python files."""
    files = {"assets/a.bin": "a", "assets/deep/b.bin": "b", "notes.txt": "c", "x[1].txt": "d"}
    source = make(BUILD.format(1), files, f"files: {listed}\n")
    assert {path.relative_to(source.directory).as_posix() for path in source.packed_files()} == packed


@pytest.mark.parametrize("names", [("a.txt", "A.txt"), ("\u00e9.txt", "e\u0301.txt")])
def test_names_that_can_be_taken_for_each_other(make: Make, names: tuple[str, str]) -> None:
    """Of the model's folder, and not of an archive that nobody should serve."""
    source = make(BUILD.format(1), dict.fromkeys(names, "x"))
    with pytest.raises(SpecError, match=r"are one file to some machines .*rename one of them"):
        source.packed_files()


@pytest.mark.parametrize("pattern", ["nope", "../m/load.py", "/etc/passwd", "''", ".hidden"])
def test_files_that_are_not_there_are_problems_of_model_yaml(make: Make, pattern: str) -> None:
    """Also those outside the folder, which no archive may carry."""
    with pytest.raises(SpecError, match=r"files: no file .* beside model\.yaml"):
        make(BUILD.format(1), {".hidden": "x"}, f"files: [{pattern}]\n")


def test_a_data_set_beside_the_code_is_not_packed_unasked(make: Make) -> None:
    """Its owner says what is needed."""
    source = make(BUILD.format(1), {f"data/{number}.txt": "x" for number in range(1001)})
    with pytest.raises(SpecError, match=r"1,001 files of 1,001 bytes would be packed .*list those that"):
        source.packed_files()


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"two\nlines.txt", b"back\\slash.txt"])
def test_a_name_that_no_archive_can_hold_is_told(make: Make, name: bytes) -> None:
    """Before anything is exported; the file may be of no use to the model at all."""
    source = make(BUILD.format(1))
    (source.directory / os.fsdecode(name)).write_text("x")
    with pytest.raises(SpecError, match=r"cannot be the name of a file in an archive \(rename it"):
        source.packed_files()
