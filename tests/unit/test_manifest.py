"""What TorchServe, or its worker, cannot take of a manifest and a configuration."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from torchmar import mar
from torchmar.cli import app
from torchmar.errors import ArchiveCorrupt, ArchiveError
from torchmar.golden import GoldenRequest

HANDLER = "def handle(data, context):\n    return ['ok' for _ in data or ()]\n"


@dataclass(frozen=True)
class Odd:
    """A small archive in which one thing is odd.

    `top` and `model` replace parts of its manifest, None leaves one out; `raw` is said instead of the whole
    manifest, with NAME for the model's name. `config` is its configuration, as a file c.yaml.
    """

    top: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    config: str | bytes | None = None
    files: dict[str, str] = field(default_factory=dict)

    def manifest(self, name: str) -> bytes:
        """The manifest of a model of this name."""
        if self.raw is not None:
            return self.raw.replace(b"NAME", name.encode())
        model = {"modelName": name, "modelVersion": "1.0", "handler": "h.py", **self.model}
        if self.config is not None:
            model["configFile"] = "c.yaml"
        top = {"runtime": "python", "model": model, **self.top}
        return json.dumps({key: value for key, value in top.items() if value is not ...}).encode()

    def write(self, path: Path, name: str) -> Path:
        """The archive."""
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(mar.MANIFEST, self.manifest(name))
            if self.config is not None:
                archive.writestr("c.yaml", self.config)
            for file, content in {"h.py": HANDLER, **self.files}.items():
                archive.writestr(file, content)
        return path


def nested(levels: int) -> str:
    """A configuration of so many nodes in each other."""
    return "batchSize: 3\na: " + "[" * (levels - 1) + "]" * (levels - 1)


def aliased(count: int) -> str:
    """A configuration with so many aliases of a list."""
    return f"batchSize: 3\na: &a [1]\nb: [{', '.join(['*a'] * count)}]"


MODEL = b'{"model": {"modelName": "NAME", "handler": "h.py", "modelVersion": "1.0"}}'

# What TorchServe does, and what is said of it.
REFUSED = "refused"  # when it is registered
DIES = "dies"  # its worker does, when it loads
UNREAD = "unread"  # it is served without its configuration
FAULTS: dict[str, tuple[Odd, str, str]] = {
    "LSP": (Odd(top={"runtime": "LSP"}), DIES, "write 'python' as its `runtime`.* 'LSP'"),
    "runtime": (Odd(top={"runtime": "java"}), REFUSED, "write 'python' as its `runtime`.* 'java'"),
    "no runtime": (Odd(top={"runtime": None}), REFUSED, "write 'python' as its `runtime`.* nothing"),
    "runtime list": (Odd(top={"runtime": ["python"]}), REFUSED, "write 'python' as its `runtime`.* a list"),
    "description": (Odd(model={"description": ["x"]}), REFUSED, "write a text as its `description`.* a list"),
    "createdOn": (Odd(top={"createdOn": {}}), REFUSED, "write a text as its `createdOn`.* an object"),
    "no handler": (Odd(model={"handler": None}), DIES, "write a text as its `handler`.* nothing"),
    "handler list": (Odd(model={"handler": ["h.py"]}), REFUSED, "write a text as its `handler`.* a list"),
    "handler missing": (
        Odd(model={"handler": "nosuch.py"}),
        DIES,
        r"neither in the archive.*; pack nosuch\.py",
    ),
    "handler in a folder": (
        Odd(model={"handler": "sub/k.py"}, files={"sub/k.py": HANDLER}),
        DIES,
        r"'sub/k\.py' is neither in the archive",
    ),
    "handler bytecode": (Odd(model={"handler": "h.pyc"}), DIES, r"'h\.pyc' is neither in the archive"),
    "configFile": (Odd(model={"configFile": None}), DIES, "leave its `configFile` out"),
    "config list": (Odd(config="- a\n- b\n"), REFUSED, r"c\.yaml: write `name: value` lines.* a list"),
    "config text": (Odd(config="hello"), REFUSED, r"c\.yaml: write `name: value` lines.* 'hello'"),
    "config empty": (Odd(config=""), REFUSED, r"c\.yaml: write `name: value` lines.* nothing"),
    "config number": (Odd(config="1: a\n"), REFUSED, r"c\.yaml: put quotes around its key 1"),
    "config truth": (Odd(config="on: a\n"), REFUSED, r"c\.yaml: put quotes around its key True"),
    "config null": (Odd(config="~: a\n"), REFUSED, r"c\.yaml: put quotes around its key nothing"),
    "config deep": (Odd(config=nested(52)), UNREAD, r"c\.yaml: write it with at most 51 levels"),
    "config aliases": (Odd(config=aliased(51)), UNREAD, r"c\.yaml: write it with at most 51 levels and 50"),
    "config in UTF-16": (Odd(config="a: 1".encode("utf-16")), DIES, r"c\.yaml is not YAML.*utf-8"),
    "config in latin-1": (Odd(config="a: ü".encode("latin-1")), DIES, r"c\.yaml is not YAML.*utf-8"),
    "byte order mark": (Odd(raw=b"\xef\xbb\xbf" + MODEL), DIES, "save it without a byte order mark"),
    "manifest in UTF-16": (Odd(raw=MODEL.decode().encode("utf-16")), REFUSED, "not JSON.*utf-8"),
    "manifest with a comment": (Odd(raw=b"// hello\n" + MODEL), DIES, "not JSON"),
}
# What TorchServe takes, and so do we; where a configuration counts, batchSize is 3.
TAKEN: dict[str, Odd] = {
    "python3": Odd(top={"runtime": "python3"}),
    "no runtime": Odd(raw=MODEL),
    "no version": Odd(model={"modelVersion": None}),
    "function": Odd(model={"handler": "h:handle"}),
    "package": Odd(model={"handler": "p.k"}, files={"p/__init__.py": "", "p/k.py": HANDLER}),
    "path": Odd(model={"handler": "some/where/h.py"}),
    "a name of TorchServe's": Odd(model={"handler": "service.py"}, files={"service.py": HANDLER}),
    "path of a function": Odd(model={"handler": "sub/k.py:handle"}, files={"sub/k.py": HANDLER}),
    "description": Odd(model={"description": 7}),
    "key twice": Odd(raw=MODEL.replace(b'"handler"', b'"handler": "nosuch.py", "handler"')),
    "config with a mark": Odd(config=b"\xef\xbb\xbfbatchSize: 3\n"),
    "config deep": Odd(config=nested(51)),
    "config aliases": Odd(config=aliased(50)),
    "config key twice": Odd(config="batchSize: 2\nbatchSize: 3\n"),
    "config of numbers below": Odd(config="batchSize: 3\nnames: {1: one}\n"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_torchserve_cannot_serve_is_told(tmp_path: Path, kind: str) -> None:
    """By `verify`, with where it stands and what to do; `inspect` shows such an archive all the same."""
    odd, _, message = FAULTS[kind]
    path = odd.write(tmp_path / "m.mar", "m")
    with pytest.raises(ArchiveError, match=message) as caught:
        mar.verify(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    if "is not" in str(caught.value):  # nothing can be shown of what cannot be read
        assert isinstance(caught.value, ArchiveCorrupt)
    else:
        assert shown.exit_code == 0, shown.output
        assert "TorchServe cannot serve it" in shown.output
    assert CliRunner().invoke(app, ["verify", "--no-load", str(path)]).exit_code == 1


@pytest.mark.parametrize("kind", TAKEN)
def test_what_torchserve_takes_is_good(tmp_path: Path, kind: str) -> None:
    """However unusual."""
    archive = mar.verify(TAKEN[kind].write(tmp_path / "m.mar", "m"))
    assert archive.faults == ()
    assert (archive.name, archive.version) == ("m", "1.0")
    assert archive.config.get("batchSize", 3) == 3


def test_a_stock_handler_and_an_installed_one_need_not_be_packed(tmp_path: Path) -> None:
    """What TorchServe brings, and what is installed where the worker runs; nothing is imported to know."""
    for handler in ("image_classifier", "ts.torch_handler.base_handler", "json", "yaml.loader"):
        assert mar.verify(Odd(model={"handler": handler}).write(tmp_path / "m.mar", "m")).name == "m"
    for handler in ("nosuch", "nosuch.json", "my handler.py", ".h", "h..k"):
        with pytest.raises(ArchiveError, match="neither in the archive"):
            mar.verify(Odd(model={"handler": handler}).write(tmp_path / "m.mar", "m"))


@pytest.mark.parametrize(
    "handler", ["/tmp/h.py:handle", "/tmp/h.py", "../h.py:handle", "a/../../h.py:handle"]
)
def test_a_handler_outside_the_archive_is_told(tmp_path: Path, handler: str) -> None:
    """TorchServe would import it, though the archive shows one of that name."""
    with pytest.raises(ArchiveError, match="leads out of the archive"):
        mar.verify(Odd(model={"handler": handler}).write(tmp_path / "m.mar", "m"))


# -- names ----------------------------------------------------------------------------------------

UNSAYABLE: list[Any] = [
    "tokenizer",
    "a/b",
    "a<b",
    "[x]",
    "a\nb",
    "a\x1b[31mb",
    " x",
    "..",
    "\u202ex",
    "x" * 5_000,
    7,
    [],
    True,
]


@pytest.mark.parametrize("name", UNSAYABLE, ids=lambda name: ascii(name)[:12])
@pytest.mark.parametrize("what", ["modelName", "modelVersion"])
def test_names_that_cannot_be_managed_are_told_and_shown_safely(tmp_path: Path, what: str, name: Any) -> None:
    """TorchServe registers them, and nothing can be done with them afterwards."""
    if name == [] and what == "modelName":
        pytest.skip("no name at all")
    path = Odd(model={what: name}).write(tmp_path / "m.mar", "m")
    with pytest.raises(ArchiveError, match=f"`{what}`") as caught:
        mar.verify(path)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 1_000
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0, shown.output
    assert all(line.isprintable() for line in shown.output.splitlines())
    assert "\x1b" not in shown.output
    verified = CliRunner().invoke(app, ["verify", "--no-load", str(path)])
    assert verified.exit_code == 1
    assert all(line.isprintable() for line in verified.output.splitlines())


@pytest.mark.parametrize("version", ["", "all"])
def test_versions_that_mean_something_else(tmp_path: Path, version: str) -> None:
    """None at all, which is not the same as one that is left out, and every one."""
    path = Odd(model={"modelVersion": version}).write(tmp_path / "m.mar", "m")
    assert mar.read(path).version == version
    with pytest.raises(ArchiveError, match="`modelVersion`"):
        mar.verify(path)


def test_names_in_digests_are_shown_safely(tmp_path: Path) -> None:
    """They are what a stranger wrote, and need be no file's."""
    digests = {"algorithm": "sha256", "files": {"a\nb\x1b[2J": {}, "x" * 9_000: {}}}
    path = Odd(files={mar.DIGESTS: json.dumps(digests)}).write(tmp_path / "m.mar", "m")
    with pytest.raises(ArchiveCorrupt, match="missing") as caught:
        mar.verify(path)
    lines = str(caught.value).splitlines()
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 300


# -- a book of a manifest ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {f"k{number}": "v" for number in range(200_000)},
        {"description": "word " * 1_000_000},
        {"description": "[red]" * 1_000_000},
        {"description": [["x"] * 1_000] * 1_000},
    ],
    ids=["keys", "words", "markup", "lists"],
)
def test_inspect_shows_the_beginning_of_a_book(tmp_path: Path, more: dict[str, Any]) -> None:
    """What fits a screen, and in seconds; --json shows all of it."""
    path = Odd(model=more).write(tmp_path / "m.mar", "m")
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0
    assert len(shown.output) < 100_000
    told = CliRunner().invoke(app, ["inspect", "--json", str(path)])
    assert json.loads(told.output)["manifest"]["model"].items() >= more.items()


def test_a_config_of_a_book_is_refused_at_once(tmp_path: Path) -> None:
    """PyYAML would take minutes for what TorchServe does not read."""
    path = Odd(config="a: '" + "x" * 2**20 + "'").write(tmp_path / "m.mar", "m")
    with pytest.raises(ArchiveCorrupt, match=r"c\.yaml has 1,048,58. bytes, at most 1,048,576"):
        mar.read(path)


# -- golden requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "../../MAR-INF/MANIFEST.json", "/etc/passwd", "nosuch.png", "answers.json", "a\nb"]
)
def test_answers_are_expected_of_golden_requests_alone(tmp_path: Path, name: str) -> None:
    """Not of files beside them, and not of what is not there."""
    answers = json.dumps({name: {"index": 1}, "ok.png": {"index": 1}})
    files = {mar.GOLDEN_ANSWERS: answers, f"{mar.GOLDEN}/ok.png": "x"}
    path = Odd(files=files).write(tmp_path / "m.mar", "m")
    with pytest.raises(ArchiveError, match=r"answers\.json: take '.*' out: it is no request of") as caught:
        mar.verify(path)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert "ok.png" not in str(caught.value)


def test_golden_requests_are_those_that_were_verified(tmp_path: Path) -> None:
    """And not what somebody has put there since."""
    files = {
        mar.GOLDEN_ANSWERS: '{"ok.png": {"index": 1}}',
        f"{mar.GOLDEN}/ok.png": "x",
        mar.SPEC: "accept: {}\n",
    }
    archive = mar.verify(Odd(files=files).write(tmp_path / "m.mar", "m"))
    assert mar.golden_requests(archive) == (GoldenRequest("ok.png", b"x", {"index": 1}),)
    mar.accepted(archive)
    Odd(files={**files, f"{mar.GOLDEN}/ok.png": "y", mar.SPEC: "accept: {a: 1}\n"}).write(
        tmp_path / "m.mar", "m"
    )
    with pytest.raises(ArchiveError, match="changed since it was verified"):
        mar.golden_requests(archive)
    with pytest.raises(ArchiveError, match="changed since it was verified"):
        mar.accepted(archive)


@pytest.mark.parametrize("name", ["m.zip", "m.MAR", "m"])
def test_a_mar_of_another_name_is_told(tmp_path: Path, name: str) -> None:
    """TorchServe goes by it: it can be read, and would not be served."""
    path = Odd().write(tmp_path / name, "m")
    assert mar.read(path).name == "m"
    with pytest.raises(ArchiveError, match=r"let its name end in \.mar"):
        mar.verify(path)
