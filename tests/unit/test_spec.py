"""model.yaml → ModelSpec: what is accepted, and that everything wrong is told at once, with its line."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar.errors import Problem, SpecError
from torchmar.spec import ModelSource, ModelSpec, json_schema, load_model, parse_spec

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
REAL = sorted(ROOT.glob("models/*/model.yaml"))

GOOD = """\
name: good
version: "1.0"
task: image_classification
source: load:build
input:
  image: {size: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty model folder, but for the code that GOOD names."""
    (tmp_path / "load.py").write_text("def build(pretrained=True): ...\n")
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[..., ModelSource]:
    """Write a model.yaml and load it, as users do."""

    def write_and_load(text: str, overrides: dict[str, Any] | None = None) -> ModelSource:
        (folder / "model.yaml").write_text(text, encoding="utf-8")
        return load_model(folder, overrides)

    return write_and_load


@pytest.fixture
def problems(load: Callable[..., ModelSource]) -> Callable[..., tuple[Problem, ...]]:
    """The problems of a model.yaml that must be refused."""

    def refused(text: str, overrides: dict[str, Any] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(SpecError) as caught:
            load(text, overrides)
        return caught.value.problems

    return refused


def with_(line: str, *, instead_of: str = "") -> str:
    """GOOD with one more line, or with one replaced; `instead_of` is how that one begins."""
    if not instead_of:
        return f"{GOOD}{line}\n"
    lines = [line if old.lstrip().startswith(instead_of) else old for old in GOOD.splitlines()]
    assert line in lines
    return "\n".join(lines) + "\n"


# -- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.parent.name)
def test_the_projects_own_models_load(file: Path) -> None:
    """Each folder under models/ loads by its folder and by its file, with the labels of its classes."""
    source = load_model(file.parent)
    assert source == load_model(file)
    assert source.file == file
    assert source.spec.name == file.parent.name
    labels = source.labels()
    assert labels is not None
    assert len(labels) == 1000


def test_three_models_are_there() -> None:
    """The test above has something to look at."""
    assert {file.parent.name for file in REAL} == {"efficientnet_lite0", "resnet18", "vgg16"}


def test_what_is_not_given_has_the_documented_defaults(load: Callable[..., ModelSource]) -> None:
    """ONNX, five classes, exact parity, one worker, no golden requests, no labels."""
    source = load(GOOD)
    spec = source.spec
    assert (spec.runtime, spec.output.topk, spec.golden, spec.requirements) == ("onnx", 5, None, [])
    assert (spec.accept.top1_agreement, spec.accept.max_abs_error) == (1.0, 0.001)
    assert (spec.serving.min_workers, spec.serving.max_workers, spec.serving.batch_size) == (1, None, 1)
    assert source.labels() is None
    assert source.golden_files() == []
    assert [file.name for file in source.code_files()] == ["load.py"]


def test_overrides_replace_keys_of_the_file(load: Callable[..., ModelSource]) -> None:
    """`--version` and `--runtime` win over the file, and the rest of it stays."""
    source = load(with_("runtime: onnx"), {"version": "7", "runtime": "eager"})
    assert (source.spec.name, source.spec.version, source.spec.runtime) == ("good", "7", "eager")


def test_an_override_mends_what_the_file_has_wrong(load: Callable[..., ModelSource]) -> None:
    """What is overridden is not read at all."""
    text = with_("version: 1.10", instead_of="version")
    assert load(text, {"version": "1.10"}).spec.version == "1.10"


def test_a_wrong_override_blames_no_line_of_the_file(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """The file's own runtime is right: naming its line would send the reader to the wrong place."""
    [problem] = problems(with_("runtime: onnx"), {"runtime": "onxx"})
    assert (problem.where, problem.line, problem.remedy) == ("runtime", 0, "did you mean onnx?")


def test_a_file_of_another_name_is_remembered(folder: Path) -> None:
    """What is packed later is the file that was loaded."""
    (folder / "variant.yaml").write_text(GOOD)
    assert load_model(folder / "variant.yaml").file == folder / "variant.yaml"


# -- what is refused ----------------------------------------------------------------------------

BAD = """\
nmae: bad
version: 1.10
task: image_clasification
source: load.py:build
input:
  image:
    size: [8, eight]
    mean: [0, 0]
    std: [1, 1, 1]
    interpolaton: bilinear
runtime: onxx
output: {topk: 0}
accept: {top1_agreement: 2}
serving:
  batch_size: 8
  minWorkers: 2
  threads: 1
  threads: 2
labels: nowhere.txt
golden: nowhere
zzz: 1
"""


def test_every_problem_is_told_at_once_with_its_line_and_remedy(
    problems: Callable[..., tuple[Problem, ...]],
) -> None:
    """One run of the tool, one list: nothing hides behind something else, not even missing files."""
    found = {problem.where: problem for problem in problems(BAD)}
    expected = {
        "nmae": (1, "not a known key", "did you mean name?"),
        "name": (0, "missing", ""),
        "version": (2, "found the number 1.1", 'write it in quotes: "1.10"'),
        "task": (3, "found 'image_clasification'", "did you mean image_classification?"),
        "source": (4, "found 'load.py:build'", "write file:function, without .py"),
        "input.image.size.1": (7, "found 'eight'", ""),
        "input.image.mean.2": (8, "missing", ""),
        "input.image.interpolaton": (10, "not a known key", "did you mean interpolation?"),
        "runtime": (11, "found 'onxx'", "did you mean onnx?"),
        "output.topk": (12, "found 0", ""),
        "accept.top1_agreement": (13, "found 2", ""),
        "serving.batch_size": (15, "not a known key", "did you mean batchSize?"),
        "serving.threads": (18, "given twice, first in line 17", ""),
        "labels": (19, "nowhere.txt", "a file beside model.yaml, or imagenet1k"),
        "golden": (20, "no folder nowhere", ""),
        "zzz": (21, "not a known key", "known: name, version, task"),
    }
    for where, (line, what, remedy) in expected.items():
        problem = found[where]
        assert problem.line == line, problem
        assert problem.what.startswith(what), problem
        assert problem.remedy.startswith(remedy), problem
    assert found.keys() - expected.keys() <= {"input.image.size"}  # the other branch of its union


def test_the_message_lists_the_problems_in_the_order_of_the_file(load: Callable[..., ModelSource]) -> None:
    """`str(error)` is what the command line prints: the file, the count, then a line for each."""
    with pytest.raises(SpecError) as caught:
        load(BAD)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{caught.value.file}: {len(caught.value.problems)} problems"
    assert len(rest) == len(caught.value.problems)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)
    assert "  line 11: runtime: found 'onxx', expected 'onnx', 'aoti' or 'eager' (did you mean onnx?)" in rest


@pytest.mark.parametrize(
    ("written", "found", "quoted"),
    [
        ("1.10", "the number 1.1", '"1.10"'),
        ("2", "the number 2", '"2"'),
        ("2024-01-01", "the date 2024-01-01", '"2024-01-01"'),
        ("on", "the bool True", '"on"'),
    ],
)
def test_a_version_without_quotes(
    problems: Callable[..., tuple[Problem, ...]], written: str, found: str, quoted: str
) -> None:
    """The remedy is what was written, in quotes: not what YAML made of it."""
    [problem] = problems(with_(f"version: {written}", instead_of="version"))
    assert problem == Problem("version", f"found {found}", 2, f"write it in quotes: {quoted}")


@pytest.mark.parametrize("name", ["token", "tokenizer", "_x", "a b", "a/b", "ä", "", ".hidden", "-x", "a..b"])
def test_names_that_torchserve_cannot_manage(problems: Callable[..., tuple[Problem, ...]], name: str) -> None:
    """TorchServe takes /token… for its token API, and refuses everything but its own pattern."""
    [problem] = problems(with_(f"name: '{name}'", instead_of="name"))
    assert (problem.where, problem.line) == ("name", 1)
    assert "TorchServe cannot manage" in problem.what
    assert "not beginning with `token`" in problem.remedy


@pytest.mark.parametrize("version", ["all", "token2", "1/2", "", "1..0", "1."])
def test_versions_that_torchserve_cannot_manage(
    problems: Callable[..., tuple[Problem, ...]], version: str
) -> None:
    """`GET /models/NAME/all` means every version."""
    [problem] = problems(with_(f"version: '{version}'", instead_of="version"))
    assert (problem.where, problem.line) == ("version", 2)
    assert "`all` is TorchServe's word for every version" in problem.remedy


@pytest.mark.parametrize(
    ("name", "version", "where"),
    [
        ("m" * 300, "1", "name"),
        ("m", "1" * 300, "version"),
        ("m" * 150, "1" * 51, "name"),
        ("m" * 99, "1" * 102, "version"),
    ],
)
def test_names_that_no_file_can_have(
    problems: Callable[..., tuple[Problem, ...]], name: str, version: str, where: str
) -> None:
    """Alone or together: they are the name of one file, which torchmar writes under a longer one first."""
    [problem] = problems(with_(f"name: {name}", instead_of="name"), {"version": version})
    assert problem.where == where
    assert "characters together" in problem.what
    assert "at most 200" in problem.remedy
    assert len(str(problem)) < 200


def test_the_longest_names_that_a_file_can_have(load: Callable[..., ModelSource], tmp_path: Path) -> None:
    """With all that is written around them while it is packed."""
    spec = load(with_(f"name: {'m' * 150}", instead_of="name"), {"version": "1" * 50}).spec
    (tmp_path / f".{spec.name}-{spec.version}.mar.4194304-0123abcd.old.tmp").touch()


@pytest.mark.parametrize("name", ["all", "mytoken", "Token", "0", "a.b-c_d"])
def test_names_that_torchserve_can_manage(load: Callable[..., ModelSource], name: str) -> None:
    """Only the beginning `token` is a trap, and `all` only as a version."""
    assert load(with_(f"name: '{name}'", instead_of="name")).spec.name == name


@pytest.mark.parametrize(
    ("image", "where", "what"),
    [
        ("{size: 8, mean: [0, 0, 0], std: [1, 1, 1]}", "input.image.size", "pictures of different shapes"),
        (
            "{size: 8, crop: [9, 8], mean: [0, 0, 0], std: [1, 1, 1]}",
            "input.image.crop",
            "[9, 8] is larger than size",
        ),
        (
            "{size: [8, 9], crop: [9, 8], mean: [0, 0, 0], std: [1, 1, 1]}",
            "input.image.crop",
            "is larger than size",
        ),
        ("{size: [8, 8], mean: [0, 0, 0], std: [1, 0, 1]}", "input.image.std", "each must be above 0"),
        ("{size: [8, 8], mean: [0, 0, 0], std: [1, .nan, 1]}", "input.image.std.1", "finite"),
        ("{size: [8, 8], mean: [.inf, 0, 0], std: [1, 1, 1]}", "input.image.mean.0", "finite"),
        ("{mean: [0, 0, 0], std: [1, 1, 1]}", "input.image.size", "missing"),
    ],
)
def test_pictures_that_cannot_become_one_tensor(
    problems: Callable[..., tuple[Problem, ...]], image: str, where: str, what: str
) -> None:
    """Each rule of `input.image`, told at the line of the picture."""
    [problem] = problems(with_(f"  image: {image}", instead_of="image"))
    assert (problem.where, problem.line) == (where, 6)
    assert what in problem.what


def test_one_number_for_size_is_right_with_a_crop(load: Callable[..., ModelSource]) -> None:
    """Resize the shorter side, then crop: torchvision's usual evaluation transform."""
    image = load(
        with_("  image: {size: 9, crop: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]}", instead_of="image")
    )
    assert (image.spec.input.image.size, image.spec.input.image.crop) == (9, (8, 8))


def test_fewer_workers_at_most_than_at_least(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """TorchServe ignores both without a word."""
    [problem] = problems(with_("serving: {minWorkers: 3, maxWorkers: 2}"))
    assert (problem.where, problem.line) == ("serving.maxWorkers", 7)
    assert problem.what == "2 is below minWorkers, 3"


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", ".001"])
def test_small_numbers_however_they_are_written(load: Callable[..., ModelSource], written: str) -> None:
    """PyYAML takes 1e-3 for text; a user does not."""
    assert load(with_(f"accept: {{max_abs_error: {written}}}")).spec.accept.max_abs_error == 0.001


@pytest.mark.parametrize("setting", ["batchSize: yes", "batchSize: '8'", "batchSize: 8.5"])
def test_what_only_looks_like_a_number_is_none(
    problems: Callable[..., tuple[Problem, ...]], setting: str
) -> None:
    """`batchSize: yes` is not a batch of one."""
    [problem] = problems(with_(f"serving: {{{setting}}}"))
    assert problem.where == "serving.batchSize"
    assert "valid integer" in problem.what


@pytest.mark.parametrize(
    ("line", "where", "what"),
    [
        ("source: missing:build", "source", "no file missing.py beside model.yaml"),
        (f"source: {'a' * 300}:build", "source", "no file aaa"),
        ("source: load", "source", "found 'load'"),
        ("source: ../load:build", "source", "found '../load:build'"),
        ("source: load:1", "source", "found 'load:1'"),
    ],
)
def test_sources_that_are_not_there(
    problems: Callable[..., tuple[Problem, ...]], line: str, where: str, what: str
) -> None:
    """A file beside model.yaml and a function, or it is told before torch is imported."""
    [problem] = problems(with_(line, instead_of="source"))
    assert (problem.where, problem.line) == (where, 4)
    assert problem.what.startswith(what)


@pytest.mark.parametrize("golden", ["nowhere", "empty", "load.py", "'a\\0b'".replace("'", '"'), "a" * 300])
def test_golden_folders_without_requests(
    folder: Path, problems: Callable[..., tuple[Problem, ...]], golden: str
) -> None:
    """Missing, empty (a folder in it does not count), a file, no name at all, a name too long."""
    (folder / "empty" / "folder").mkdir(parents=True)
    [problem] = problems(with_(f"golden: {golden}"))
    assert (problem.where, problem.line) == ("golden", 7)
    assert "with files in it" in problem.what


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.txt", None),
        ("empty.txt", b""),
        ("latin.txt", "Käse".encode("latin-1")),
        ("broken.json", b"[1"),
        ("numbers.json", b"[1, 2]"),
        ("object.json", b'{"0": "cat"}'),
        ("dict.txt", b"{0: 'cat',\n 1: 'dog'}\n"),
        ("list.txt", b'["cat",\n"dog"]'),
        ("16le.txt", "cat\ndog".encode("utf-16-le")),
        ("32.txt", "cat\ndog".encode("utf-32")),
        ("deep.json", b"[" * 100_000),
        ("imagenet21k", None),
        (".", None),
        ("pipe", None),
    ],
)
def test_labels_that_are_no_list_of_labels(
    folder: Path, problems: Callable[..., tuple[Problem, ...]], name: str, content: bytes | None
) -> None:
    """Whatever is wrong with the file, it is a problem at `labels` that names it; no pipe is waited for."""
    os.mkfifo(folder / "pipe")
    if content is not None:
        (folder / name).write_bytes(content)
    [problem] = problems(with_(f"labels: {name}"))
    assert (problem.where, problem.line) == ("labels", 7)
    assert problem.what.startswith(f"{name}: ")
    assert "imagenet1k" in problem.remedy


@pytest.mark.parametrize(
    ("name", "content"),
    [("l.txt", "Käse\ntench, Tinca tinca\n"), ("l.json", '["Käse", "tench, Tinca tinca"]')],
)
def test_labels_of_ones_own(folder: Path, load: Callable[..., ModelSource], name: str, content: str) -> None:
    """One label a line, or a JSON list; UTF-8, commas belong to the label."""
    (folder / name).write_text(content, encoding="utf-8")
    assert load(with_(f"labels: {name}")).labels() == ["Käse", "tench, Tinca tinca"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.txt", b"\xef\xbb\xbfcat\nf\xc3\xa4hre\n"),
        ("crlf.txt", b"cat\r\nf\xc3\xa4hre\r\n"),
        ("cr.txt", b"cat\rf\xc3\xa4hre\r"),
        ("end.txt", b"cat\nf\xc3\xa4hre\n\n \n\r\n"),
        ("none.txt", b"cat\nf\xc3\xa4hre"),
        ("16.txt", "cat\r\nf\u00e4hre\r\n".encode("utf-16")),
        ("16be.txt", b"\xfe\xff" + "cat\nf\u00e4hre".encode("utf-16-be")),
        ("bom.json", b'\xef\xbb\xbf["cat", "f\xc3\xa4hre"]'),
        ("16.json", '["cat", "f\u00e4hre"]'.encode("utf-16")),
        ("joined.txt", b"\xef\xbb\xbfcat\n\xef\xbb\xbff\xc3\xa4hre\n"),
        ("l.JSON", '["cat",\n"f\u00e4hre"]'.encode()),
    ],
)
def test_labels_however_an_editor_has_written_them(
    folder: Path, load: Callable[..., ModelSource], name: str, content: bytes
) -> None:
    """Marks, line ends and empty lines at the end are no part of them."""
    (folder / name).write_bytes(content)
    assert load(with_(f"labels: {name}")).labels() == ["cat", "f\u00e4hre"]


@pytest.mark.parametrize("size", ["[100000, 100000]", "100000"])
def test_a_size_that_no_machine_has_memory_for(
    problems: Callable[..., tuple[Problem, ...]], size: str
) -> None:
    """It would end in a MemoryError, with a traceback."""
    text = re.sub(r"size: (\[.*?\]|\d+)", f"size: {size}, crop: [2, 2]", GOOD)
    [problem] = problems(text)
    assert problem.where == "input.image.size"


def test_a_number_that_java_would_not_take(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """It would warn in its log, and take its own default."""
    [problem] = problems(with_("serving: {maxBatchDelay: 2147483648}"))
    assert problem.where == "serving.maxBatchDelay"


def test_only_line_ends_end_a_label(folder: Path, load: Callable[..., ModelSource]) -> None:
    """str.splitlines() would make five of these two."""
    (folder / "l.txt").write_text("a\x0bb\x1cc\u2028d\x85e\nf\n", encoding="utf-8")
    assert load(with_("labels: l.txt")).labels() == ["a\x0bb\x1cc\u2028d\x85e", "f"]


@pytest.mark.parametrize("content", ["cat\n\ndog\n", "\ncat\n", "cat\n \t\ndog"])
def test_an_empty_label_is_told_with_its_number(
    folder: Path, problems: Callable[..., tuple[Problem, ...]], content: str
) -> None:
    """All after it would be those of the class before."""
    (folder / "l.txt").write_text(content)
    [problem] = problems(with_("labels: l.txt"))
    assert re.search(r"l\.txt: label \d of \d is empty", problem.what)


def test_a_label_that_is_half_a_character(folder: Path, problems: Callable[..., tuple[Problem, ...]]) -> None:
    """JSON can say it, and no file can hold it."""
    (folder / "l.json").write_text('["a", "\\ud800"]')
    [problem] = problems(with_("labels: l.json"))
    assert problem.where == "labels"


@pytest.mark.parametrize("encode", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.encode("utf-16")])
def test_a_model_yaml_however_an_editor_has_written_it(folder: Path, encode: Callable[[str], bytes]) -> None:
    """The mark is no part of the first key, and lines are counted as they are."""
    (folder / "model.yaml").write_bytes(encode(GOOD.replace("\n", "\r\n")))
    assert load_model(folder).spec.name == "good"
    (folder / "model.yaml").write_bytes(encode(with_("topk: 1")))
    with pytest.raises(SpecError) as caught:
        load_model(folder)
    assert [(problem.where, problem.line) for problem in caught.value.problems] == [("topk", 7)]


@pytest.mark.parametrize("inside", ["folder/", "nowhere ->", "pipe |", "new\nline"])
def test_golden_folders_with_what_is_no_request(
    folder: Path, problems: Callable[..., tuple[Problem, ...]], inside: str
) -> None:
    """It would not be asked, and nobody would know: a folder, a dead link, a pipe, a name of two lines."""
    golden = folder / "golden"
    golden.mkdir()
    (golden / "a.png").touch()
    (golden / ".hidden").mkdir()
    name, _, kind = inside.partition(" ")
    if kind == "->":
        (golden / name).symlink_to("nothing")
    elif kind == "|":
        os.mkfifo(golden / name)
    elif name.endswith("/"):
        (golden / name).mkdir()
    else:
        (golden / name).touch()
    [problem] = problems(with_("golden: golden"))
    assert (problem.where, problem.line) == ("golden", 7)
    assert repr(name.rstrip("/")) in problem.remedy


def test_hidden_folders_beside_golden_requests_do_not_count(
    folder: Path, load: Callable[..., ModelSource]
) -> None:
    """Notebooks and file managers leave them."""
    (folder / "golden" / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / "golden" / "a.png").touch()
    assert [path.name for path in load(with_("golden: golden")).golden_files()] == ["a.png"]


# -- the folder's files -------------------------------------------------------------------------


def test_links_are_followed_and_end_somewhere(folder: Path, load: Callable[..., ModelSource]) -> None:
    """To folders elsewhere, twice to the same, to one that it lies in, in a circle, and to nothing."""
    elsewhere = folder.parent / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "a.py").touch()
    (folder / "one").symlink_to(elsewhere)
    (folder / "two").symlink_to(elsewhere)
    (elsewhere / "deep" / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    (folder / "nothing").symlink_to("nowhere")
    names = {path.relative_to(folder).as_posix() for path in load(GOOD).all_files()}
    assert names == {"load.py", "model.yaml", "one/a.py", "two/a.py"}


def test_folders_may_be_deep(folder: Path, load: Callable[..., ModelSource]) -> None:
    """Deeper than calls may be nested is told or done; here it is done."""
    deep = folder
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    (deep / "x.py").touch()
    assert len(load(GOOD).all_files()) == 3


def test_a_folder_that_may_not_be_read_is_told(
    load: Callable[..., ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it would be no input, and an archive up to date that is not."""
    source = load(GOOD)

    def scandir(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SpecError, match=r"cannot be read: Permission denied.*make it readable"):
        source.all_files()


@pytest.mark.parametrize("requirement", ["a\nb", "\ufeffnumpy"])
def test_a_requirement_is_one_line(problems: Callable[..., tuple[Problem, ...]], requirement: str) -> None:
    """Pip would read two, or a package of another name."""
    [problem] = problems(with_(f"requirements: [{json.dumps(requirement)}]"))
    assert problem.where == "requirements"


def test_labels_of_imagenet(load: Callable[..., ModelSource]) -> None:
    """The thousand that torchmar carries, in the order of torchvision's weights."""
    labels = load(with_("labels: imagenet1k")).labels()
    assert labels is not None
    assert (len(labels), labels[0], labels[-1]) == (1000, "tench", "toilet tissue")


def test_duplicate_keys_are_told_at_every_depth(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """YAML keeps the last without a word; here the second is a problem that names the first."""
    text = GOOD + "serving: {batchSize: 2, batchSize: 4}\nname: other\n"
    assert [(p.where, p.line, p.what) for p in problems(text)] == [
        ("serving.batchSize", 7, "given twice, first in line 7"),
        ("name", 8, "given twice, first in line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("name: [1, 2", 1, "not YAML"),
        ("name: a\n\tversion: b", 2, "not YAML"),
        (f"{GOOD}---\n{GOOD}", 7, "not YAML"),
        ("", 0, "expected keys with values, found NoneType"),
        ("- a\n- b\n", 0, "expected keys with values, found list"),
        ("text", 0, "expected keys with values, found str"),
        ("[" * 100_000, 0, "not YAML"),
        (f"{GOOD}requirements: &a [*a]\n", 0, "not YAML"),
        (f"{GOOD}x: &a {{b: *a}}\n", 0, "not YAML"),
        (f"{GOOD}description: 0x{'f' * 5000}\n", 0, "not YAML"),
        (f"{GOOD}description: !!bool maybe\n", 0, "not YAML"),
        (f"{GOOD}description: !!timestamp now\n", 0, "not YAML"),
        (f"{GOOD}description: !!int ''\n", 0, "not YAML"),
        (f"{GOOD}description: {':'.join(['1'] * 400)}.5\n", 0, "not YAML"),
        (f"{GOOD}description: !!python/object/apply:os.getcwd []\n", 7, "not YAML"),
    ],
)
def test_files_that_are_no_keys_with_values(
    problems: Callable[..., tuple[Problem, ...]], text: str, line: int, what: str
) -> None:
    """Everything that PyYAML stumbles over is one problem, with its line where it knows one."""
    [problem] = problems(text)
    assert problem.line == line
    assert problem.what.startswith(what)


@pytest.mark.parametrize(
    "name", ["missing", "missing.yaml", "latin.yaml", "folder.yaml", "a" * 300, "a\0b.yaml"]
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """No such file, not UTF-8, a folder without model.yaml, an impossible name: told with what to give."""
    (tmp_path / "latin.yaml").write_bytes("name: Käse".encode("latin-1"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(SpecError) as caught:
        load_model(tmp_path / name)
    [problem] = caught.value.problems
    assert problem.what.startswith("cannot be read: ")
    assert problem.remedy == "give a folder that holds a model.yaml"


@pytest.mark.parametrize("key", ["1", "~", "2020-01-01", "a.b", '"\\ud800"', "'input.image'"])
def test_keys_that_are_no_plain_words(problems: Callable[..., tuple[Problem, ...]], key: str) -> None:
    """YAML allows any key; here they are problems and not crashes."""
    assert len(problems(with_(f"{key}: 1"))) == 1


# -- the JSON schema ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    """What editors check a model.yaml with."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("file", [*REAL, TINY / "model.yaml"], ids=lambda file: file.parent.name)
def test_the_schema_accepts_real_files(schema: jsonschema.Draft202012Validator, file: Path) -> None:
    """Editors show no false alarm."""
    assert list(schema.iter_errors(yaml.safe_load(file.read_text()))) == []


@pytest.mark.parametrize(
    ("line", "instead_of"),
    [
        ("nmae: good", "name"),
        ("version: 1.10", "version"),
        ("serving: {batch_size: 8}", ""),
        ("serving: {batchSize: yes}", ""),
        ("runtime: onxx", ""),
        ("output: {topk: 0}", ""),
        ("  image: {size: [8, 8, 8], mean: [0, 0, 0], std: [1, 1, 1]}", "image"),
    ],
)
def test_the_schema_and_the_spec_refuse_the_same(
    schema: jsonschema.Draft202012Validator,
    problems: Callable[..., tuple[Problem, ...]],
    line: str,
    instead_of: str,
) -> None:
    """A misspelt key, a wrong type, a wrong value: red in the editor as well as on the command line."""
    text = with_(line, instead_of=instead_of)
    assert list(schema.iter_errors(yaml.safe_load(text)))
    assert problems(text)


def test_the_schema_explains_every_key() -> None:
    """Each key of a section has a description for the editor to show, but for the sections themselves."""
    definitions = json_schema()["$defs"]
    bare = {
        f"{section}.{key}"
        for section, definition in definitions.items()
        for key, value in definition["properties"].items()
        if "description" not in value and "$ref" not in value
    }
    assert bare == set()


# -- anything at all ----------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
    | st.sampled_from(["good", "1.0", "image_classification", "load:build", "load.txt", ".", "onnx"])
)
_SCHEMA = json_schema()
KEYS = sorted(
    {*_SCHEMA["properties"], *(key for part in _SCHEMA["$defs"].values() for key in part["properties"])}
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5) | SCALARS, inner, max_size=4)
    ),
    max_leaves=12,
)
GOOD_DATA = yaml.safe_load(GOOD)


def spec_or_spec_error(text: str) -> ModelSpec | None:
    """What parse_spec returns; None where it raises SpecError; anything else fails the test."""
    try:
        return parse_spec(text, "model.yaml", TINY)
    except SpecError as error:
        told = (error.problems, str(error))
    assert all(told)
    return None


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_any_values_give_a_spec_or_a_spec_error(changed: dict[str, Any]) -> None:
    """A sound file with arbitrary values under known keys: never another exception."""
    spec_or_spec_error(yaml.safe_dump({**GOOD_DATA, "source": "load:tiny", **changed}))


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_any_yaml_gives_a_spec_or_a_spec_error(value: Any) -> None:
    """Whatever YAML can hold: never another exception."""
    spec_or_spec_error(yaml.safe_dump(value))


@settings(deadline=None, max_examples=300)
@given(
    st.text()
    | st.text(alphabet="abn:-[]{}&*!?|>'\"#%@,. \n\t~=<0123456789", max_size=40)
    | st.tuples(st.sampled_from(KEYS), st.text(max_size=20)).map(lambda pair: f"{GOOD}{pair[0]}: {pair[1]}")
)
def test_any_text_gives_a_spec_or_a_spec_error(text: str) -> None:
    """Whatever a file can hold: never another exception."""
    spec_or_spec_error(text)
