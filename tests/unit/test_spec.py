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

from handlers.labels import read_labels
from torchmar.errors import Problem, SpecError
from torchmar.export import Weights, inputs_digest
from torchmar.handler_code import ModelCode
from torchmar.spec import ModelSource, ModelSpec, json_schema, load_model, parse_spec

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
REAL = sorted(ROOT.glob("models/*/model.yaml"))

GOOD = """\
name: good
version: "1.0"
handler: image_classifier
source: load:build
params: {size: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]}
"""

SIZES = "size: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]"


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
    """Each folder under models/ loads by its folder and by its file."""
    source = load_model(file.parent)
    assert source == load_model(file)
    assert source.file == file
    assert source.spec.name == file.parent.name


def test_three_models_are_there() -> None:
    """The test above has something to look at."""
    assert {file.parent.name for file in REAL} >= {"efficientnet_lite0", "resnet18", "vgg16"}


def test_what_is_not_given_has_the_documented_defaults(load: Callable[..., ModelSource]) -> None:
    """ONNX, exact parity, one worker, no golden requests, nothing packed besides."""
    source = load(GOOD)
    spec = source.spec
    assert (spec.export_to, spec.golden, spec.requirements) == ("onnx", None, [])
    assert (spec.accept.agreement, spec.accept.max_abs_error) == (1.0, 0.001)
    assert (spec.serving.min_workers, spec.serving.max_workers, spec.serving.batch_size) == (1, None, 1)
    assert source.golden_files() == []
    assert source.packed_files() == []
    assert [file.name for file in load(GOOD, {"runtime": "eager"}).packed_files()] == ["load.py"]


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
handler: image_classifier
source: load.py:build
params:
  size: [8, eight]
  mean: [0, 0]
  std: [1, 1, 1]
  interpolaton: bilinear
  topk: 0
  labels: nowhere.txt
  limits: {max_byte: 1}
runtime: onxx
accept: {agreement: 2}
serving:
  batch_size: 8
  minWorkers: 2
  threads: 1
  threads: 2
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
        "source": (4, "found 'load.py:build'", "write file:function, without .py"),
        "params.size.1": (6, "found 'eight'", ""),
        "params.mean": (7, "found [0, 0], expected 3 numbers in a list", ""),
        "params.interpolaton": (9, "not a known key", "did you mean interpolation?"),
        "params.topk": (10, "found 0", ""),
        "params.labels": (11, "no file nowhere.txt beside model.yaml", ""),
        "params.limits.max_byte": (12, "not a known key", "did you mean max_bytes?"),
        "runtime": (13, "found 'onxx'", "did you mean onnx?"),
        "accept.agreement": (14, "found 2", ""),
        "serving.batch_size": (16, "not a known key", "did you mean batchSize?"),
        "serving.threads": (19, "given twice, first in line 18", ""),
        "golden": (20, "no folder nowhere", ""),
        "zzz": (21, "not a known key", "known: name, version, handler"),
    }
    for where, (line, what, remedy) in expected.items():
        problem = found[where]
        assert problem.line == line, problem
        assert problem.what.startswith(what), problem
        assert problem.remedy.startswith(remedy), problem
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("mean: 0", "found 0, expected 3 numbers in a list", "write [0, 0, 0]"),
        ("size: [8]", "found [8], expected 2 numbers in a list", ""),
        ("size: [8, 8, 8]", "found [8, 8, 8], expected 2 numbers in a list", ""),
        ("size: {a: 1}", "found {'a': 1}, expected a whole number or 2 numbers in a list", ""),
        ("size: null", "found nothing, expected a whole number or 2 numbers in a list", ""),
        ("crop: 64", "found 64, expected 2 numbers in a list", "write [64, 64]"),
        ("topk: true", "found true, expected a whole number", ""),
        ("labels: 5", "found the number 5", 'write it in quotes: "5"'),
        ("labels: [a]", "found ['a'], expected 'imagenet1k' or a text", ""),
        ("files: a.txt", "found 'a.txt', expected a list, as [a, b]", "write [a.txt]"),
        ("compare: boxes", "found 'boxes', expected keys with values", ""),
        ("torch_free: maybe", "found 'maybe', expected true or false", ""),
        ("accept: {agreement: 2}", "found 2, expected at most 1", ""),
        ("serving: {threads: 0}", "found 0, expected at least 1 or 'auto'", ""),
        ("serving: {minWorkers: 9999999999}", "found 9999999999, expected less than 2147483648", ""),
        ("source: 5", "found the number 5", 'write it in quotes: "5"'),
        ("source: [a]", "found ['a'], expected a text or keys with values", ""),
        ("config: {1: 2}", "found the number 1", 'write it in quotes: "1"'),
    ],
)
def test_a_value_of_another_kind_is_told_in_words_of_yaml(
    problems: Callable[..., tuple[Problem, ...]], line: str, what: str, remedy: str
) -> None:
    """What was found, what is expected, and what to write; nothing of the library that checks types."""
    key, _, value = line.partition(": ")
    content = yaml.safe_load(GOOD)
    part = content["params"] if key in {"mean", "size", "crop", "topk", "labels"} else content
    part[key] = yaml.safe_load(value)
    [problem] = problems(yaml.safe_dump(content))
    assert (problem.what, problem.remedy) == (what, remedy)


def test_the_message_lists_the_problems_in_the_order_of_the_file(load: Callable[..., ModelSource]) -> None:
    """`str(error)` is what the command line prints: the file, the count, then a line for each."""
    with pytest.raises(SpecError) as caught:
        load(BAD)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{caught.value.file}: {len(caught.value.problems)} problems"
    assert len(rest) == len(caught.value.problems)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)
    assert "  line 13: runtime: found 'onxx', expected 'onnx', 'aoti' or 'eager' (did you mean onnx?)" in rest


@pytest.mark.parametrize(
    ("written", "found", "quoted"),
    [
        ("1.10", "the number 1.1", '"1.10"'),
        ("2", "the number 2", '"2"'),
        ("2024-01-01", "the date 2024-01-01", '"2024-01-01"'),
        ("on", "the word on", '"on"'),
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
    ("params", "where", "what"),
    [
        ("{size: 8, mean: [0, 0, 0], std: [1, 1, 1]}", "params.size", "pictures of different shapes"),
        (
            "{size: 8, crop: [9, 8], mean: [0, 0, 0], std: [1, 1, 1]}",
            "params.crop",
            "[9, 8] is larger than size",
        ),
        (
            "{size: [8, 9], crop: [9, 8], mean: [0, 0, 0], std: [1, 1, 1]}",
            "params.crop",
            "is larger than size",
        ),
        ("{size: [8, 8], mean: [0, 0, 0], std: [1, 0, 1]}", "params.std", "each must be above 0"),
        ("{size: [8, 8], mean: [0, 0, 0], std: [1, .nan, 1]}", "params.std.1", "finite"),
        ("{size: [8, 8], mean: [.inf, 0, 0], std: [1, 1, 1]}", "params.mean.0", "finite"),
        ("{mean: [0, 0, 0], std: [1, 1, 1]}", "params.size", "missing"),
    ],
)
def test_pictures_that_cannot_become_one_tensor(
    problems: Callable[..., tuple[Problem, ...]], params: str, where: str, what: str
) -> None:
    """A handler's own rules of its `params`, told at their line."""
    [problem] = problems(with_(f"params: {params}", instead_of="params"))
    assert (problem.where, problem.line) == (where, 5)
    assert what in problem.what


def test_one_number_for_size_is_right_with_a_crop(load: Callable[..., ModelSource]) -> None:
    """Resize the shorter side, then crop: torchvision's usual evaluation transform."""
    line = "params: {size: 9, crop: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]}"
    assert load(with_(line, instead_of="params")).spec.params["crop"] == [8, 8]


# -- the handler --------------------------------------------------------------------------------

OWN = """
from dataclasses import dataclass

import numpy as np
from handlers.base import BatchHandler, Decoded
from handlers.params import File, Positive


@dataclass(frozen=True)
class Params:
    vocabulary: File
    most: Positive = 3

    def __post_init__(self):
        if self.most > 9:
            raise ValueError("most: 9 are the most; write fewer")


class Mine(BatchHandler[Params]):
    def setup(self):
        self.words = (self.files / self.params.vocabulary).read_text().split()
        if not self.words:
            raise ValueError("vocabulary: holds no words")

    def example(self):
        return {"ids": np.zeros(3)}

    def decode(self, request):
        return Decoded([self.example()])

    def encode(self, output, about):
        return 1
"""
MINE = """\
name: mine
version: "1.0"
handler: mine.py
source: load:build
params: {vocabulary: words.txt}
"""


@pytest.fixture
def own(folder: Path) -> Path:
    """A model folder with a handler of its own."""
    (folder / "mine.py").write_text(OWN)
    (folder / "words.txt").write_text("a b")
    return folder


@pytest.mark.parametrize(
    ("kind", "default", "value"),
    [
        ("frozenset[str]", "frozenset()", "[a, a]"),
        ("Mode", "Mode.A", "b"),
        ("dict[str, tuple[int, int]]", "None", "{a: [1, 2]}"),
    ],
)
def test_a_type_that_a_worker_does_not_make(
    own: Path, load: Callable[..., ModelSource], kind: str, default: str, value: str
) -> None:
    """The build would have another value than the worker, and so other answers."""
    mode = 'class Mode(enum.Enum):\n    A, B = "a", "b"\n\n\n@dataclass(frozen=True)\nclass Params:'
    code = OWN.replace("@dataclass(frozen=True)\nclass Params:", mode).replace(
        "from data", "import enum\nfrom data"
    )
    (own / "mine.py").write_text(
        code.replace("most: Positive = 3", f"most: Positive = 3\n    odd: {kind} = {default}")
    )
    with pytest.raises(SpecError, match=r"params\.odd: its type makes .* of it, and a worker has .*str, int"):
        load(MINE.replace("words.txt}", f"words.txt, odd: {value}}}"))


@pytest.mark.usefixtures("own")
def test_a_handler_of_ones_own_says_which_params_there_are(load: Callable[..., ModelSource]) -> None:
    """Its code is packed, and the files that its params name."""
    source = load(MINE)
    assert source.handler.is_batch
    assert [path.name for path in source.packed_files()] == ["load.py", "mine.py", "words.txt"]


@pytest.mark.parametrize("runtime", ["onnx", "eager"])
def test_a_folder_that_params_name_is_packed_whole(
    load: Callable[..., ModelSource], folder: Path, runtime: str
) -> None:
    """What `files` lists besides, too; and a change in either is another archive."""
    (folder / "mine.py").write_text(OWN.replace("(self.files / self.params.vocabulary).read_text()", "'a'"))
    (folder / "words" / "more").mkdir(parents=True)
    for name in ("words/a.txt", "words/more/b.txt", "other.txt", "listed.txt"):
        (folder / name).write_text("a")
    text = MINE.replace("words.txt", "words") + "files: [listed.txt]\n"
    source = load(text, {"runtime": runtime})
    found = [
        path.relative_to(folder).as_posix()
        for path in source.packed_files(source.handler_class(ModelCode(folder)))
    ]
    assert found == ["listed.txt", "load.py", "mine.py", "words/a.txt", "words/more/b.txt"]
    for name in ("words/more/b.txt", "listed.txt"):
        before = inputs_digest(source, Weights())
        (folder / name).write_text("b")
        assert inputs_digest(source, Weights()) != before


@pytest.mark.parametrize("listed", ["", "files: [listed.txt]\n"])
def test_files_are_packed_with_one_of_torchmars_handlers_too(
    load: Callable[..., ModelSource], folder: Path, listed: str
) -> None:
    """Exported to ONNX: no code goes along, and no data that nobody named."""
    (folder / "labels.txt").write_text("a")
    (folder / "listed.txt").write_text("a")
    source = load(GOOD.replace("std:", "labels: labels.txt, std:") + listed)
    found = [path.name for path in source.packed_files(source.handler_class(ModelCode(folder)))]
    assert found == ["labels.txt", *(["listed.txt"] if listed else [])]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("params", "where", "told"),
    [
        ("{vocabulary: words.txt, mots: 2}", "params.mots", "not a known key (did you mean most?)"),
        ("{vocabulary: words.txt, most: 0}", "params.most", "at least 1"),
        ("{vocabulary: words.txt, most: '2'}", "params.most", "a whole number"),
        ("{vocabulary: words.txt, most: 10}", "params.most", "9 are the most (write fewer)"),
        ("{vocabulary: nowhere.txt}", "params.vocabulary", "no file nowhere.txt beside model.yaml"),
        ("{vocabulary: empty.txt}", "params.vocabulary", "holds no words"),
        ("{}", "params.vocabulary", "missing"),
        ("[1]", "params", "keys with values"),
    ],
)
def test_what_it_will_not_take_is_told_at_its_line(
    own: Path, problems: Callable[..., tuple[Problem, ...]], params: str, where: str, told: str
) -> None:
    """As for torchmar's own handlers: by its dataclass, by its own checks, and by what it finds in files."""
    (own / "empty.txt").touch()
    [problem] = problems(MINE.replace("{vocabulary: words.txt}", params))
    assert (problem.where, problem.line) == (where, 5)
    assert told in str(problem)


@pytest.mark.parametrize(
    ("handler", "code", "told"),
    [
        ("image_clasifier", "", "there is no handler 'image_clasifier' (did you mean image_classifier?)"),
        ("zzz", "", "there is no handler 'zzz' (one of "),
        ("torchserve:image_clasifier", "", "TorchServe has no handler 'image_clasifier' (image_classifier"),
        ("nowhere.py", "", "no file nowhere.py beside model.yaml"),
        (
            "h.py",
            "import handlers.base\n",
            "derive a class from BatchHandler[Params]: the handlers in h.py are none",
        ),
        ("h.py:Other", OWN, "write h.py:CLASS: the handlers in h.py are Mine"),
        (
            "h.py",
            OWN + "\n\nclass Two(Mine):\n    pass\n",
            "write h.py:CLASS: the handlers in h.py are Mine, Two",
        ),
        ("h.py", OWN.replace("def example", "def _example"), "h.py: write example in class Mine"),
        ("h.py", OWN.replace("[Params]", ""), "Mine: write class Mine(BatchHandler[Params])"),
        ("h.py", "from handlers.base import *\nimport not_there_\n", "not_there_"),
        ("h.py", OWN.replace("Positive = 3", "np.ndarray = None"), "has a type that cannot be checked"),
    ],
)
def test_handlers_that_are_none(
    folder: Path, problems: Callable[..., tuple[Problem, ...]], handler: str, code: str, told: str
) -> None:
    """What is there instead, and what to write."""
    if code:
        (folder / "h.py").write_text(code)
    (folder / "words.txt").write_text("a b")
    found = problems(MINE.replace("handler: mine.py", f"handler: {handler}"))
    assert [problem.line for problem in found if problem.where == "handler"] == [3]
    assert told in " ".join(map(str, found))


@pytest.mark.parametrize("name", ["handle", "Plain"])
def test_a_handler_of_torchserves_kind_is_never_imported(
    folder: Path, load: Callable[..., ModelSource], name: str
) -> None:
    """What it needs may not be installed here; its params are its own affair."""
    (folder / "plain.py").write_text(
        "raise SystemExit(1)\ndef handle(data, context): ...\nclass Plain: ...\n"
    )
    source = load(f"name: a\nversion: '1'\nhandler: plain.py:{name}\nparams: {{anything: [1]}}\n")
    assert not source.handler.is_batch
    assert source.handler.names_a_class == (name == "Plain")
    assert [path.name for path in source.packed_files()] == ["load.py", "plain.py"]


def test_what_only_a_batch_handler_has(folder: Path, problems: Callable[..., tuple[Problem, ...]]) -> None:
    """Nothing is exported for a handler that loads its model itself."""
    (folder / "plain.py").touch()
    found = problems("name: a\nversion: '1'\nhandler: plain.py\nsource: load:build\nruntime: onnx\n")
    assert [(problem.where, problem.line) for problem in found] == [("source", 4), ("runtime", 5)]


def test_neither_module_nor_artifact(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """One of both says what is served."""
    text = "".join(line + "\n" for line in GOOD.splitlines() if not line.startswith("source"))
    [problem] = problems(text)
    assert problem.where == "source"
    assert "`artifact` for a file that exists" in problem.remedy


def test_a_model_yaml_of_the_first_form_is_told_in_new_lines(
    problems: Callable[..., tuple[Problem, ...]],
) -> None:
    """One error, with the lines to write; they load."""
    [problem] = problems(
        "name: a\nversion: '1'\ntask: image_classification\nsource: load:build\n"
        "input:\n  image: {size: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]}\n  limits: {max_pixels: 5}\n"
        "output: {topk: 2}\naccept: {top1_agreement: 0.9}\n"
    )
    lines = yaml.safe_load(problem.what.partition("\n")[2])
    assert lines == {
        "handler": "image_classifier",
        "params": {
            "size": [8, 8],
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            "topk": 2,
            "limits": {"max_pixels": 5},
        },
        "accept": {"agreement": 0.9},
    }


def test_fewer_workers_at_most_than_at_least(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """TorchServe ignores both without a word."""
    [problem] = problems(with_("serving: {minWorkers: 3, maxWorkers: 2}"))
    assert (problem.where, problem.line) == ("serving.maxWorkers", 6)
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
    assert "a whole number" in problem.what


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
    assert (problem.where, problem.line) == ("golden", 6)
    assert "with files in it" in problem.what


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.txt", None),
        ("empty.txt", b""),
        ("latin.txt", "Käse".encode("latin-1")),
        ("broken.json", b"[1"),
        ("numbers.json", b"[1, 2]"),
        ("object.json", b'{"1": "cat"}'),
        ("dict.txt", b"{0: 'cat',\n 1: 'dog'}\n"),
        ("list.txt", b'["cat",\n"dog"]'),
        ("deep.json", b"[" * 100_000),
        ("imagenet21k", b"a"),
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
    [problem] = problems(labelled(name))
    assert (problem.where, problem.line) == ("params.labels", 5)
    assert problem.what.startswith((f"{name}: ", f"no file {name} "))


def read(folder: Path, source: ModelSource) -> list[str]:
    return read_labels(source.spec.params["labels"], folder)


def labelled(name: str) -> str:
    return with_(f"params: {{{SIZES}, labels: {name}}}", instead_of="params")


@pytest.mark.parametrize(
    ("name", "content"),
    [("l.txt", "Käse\ntench, Tinca tinca\n"), ("l.json", '["Käse", "tench, Tinca tinca"]')],
)
def test_labels_of_ones_own(folder: Path, load: Callable[..., ModelSource], name: str, content: str) -> None:
    """One label a line, or a JSON list; UTF-8, commas belong to the label."""
    (folder / name).write_text(content, encoding="utf-8")
    assert read(folder, load(labelled(name))) == ["Käse", "tench, Tinca tinca"]


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
        ("16le.txt", "cat\nf\u00e4hre".encode("utf-16-le")),
        ("32.txt", "cat\nf\u00e4hre".encode("utf-32")),
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
    assert read(folder, load(labelled(name))) == ["cat", "f\u00e4hre"]


@pytest.mark.parametrize("size", ["[100000, 100000]", "100000"])
def test_a_size_that_no_machine_has_memory_for(
    problems: Callable[..., tuple[Problem, ...]], size: str
) -> None:
    """It would end in a MemoryError, with a traceback."""
    text = re.sub(r"size: (\[.*?\]|\d+)", f"size: {size}, crop: [2, 2]", GOOD)
    [problem] = problems(text)
    assert problem.where == "params.size"


def test_a_number_that_java_would_not_take(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """It would warn in its log, and take its own default."""
    [problem] = problems(with_("serving: {maxBatchDelay: 2147483648}"))
    assert problem.where == "serving.maxBatchDelay"


def test_only_line_ends_end_a_label(folder: Path, load: Callable[..., ModelSource]) -> None:
    """str.splitlines() would make five of these two."""
    (folder / "l.txt").write_text("a\x0bb\x1cc\u2028d\x85e\nf\n", encoding="utf-8")
    assert read(folder, load(labelled("l.txt"))) == ["a\x0bb\x1cc\u2028d\x85e", "f"]


@pytest.mark.parametrize("content", ["cat\n\ndog\n", "\ncat\n", "cat\n \t\ndog"])
def test_an_empty_label_is_told_with_its_number(
    folder: Path, problems: Callable[..., tuple[Problem, ...]], content: str
) -> None:
    """All after it would be those of the class before."""
    (folder / "l.txt").write_text(content)
    [problem] = problems(labelled("l.txt"))
    assert re.search(r"l\.txt: label \d of \d is empty", problem.what)


def test_a_label_that_is_half_a_character(folder: Path, problems: Callable[..., tuple[Problem, ...]]) -> None:
    """JSON can say it, and no file can hold it."""
    (folder / "l.json").write_text('["a", "\\ud800"]')
    [problem] = problems(labelled("l.json"))
    assert problem.where == "params.labels"


@pytest.mark.parametrize("encode", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.encode("utf-16")])
def test_a_model_yaml_however_an_editor_has_written_it(folder: Path, encode: Callable[[str], bytes]) -> None:
    """The mark is no part of the first key, and lines are counted as they are."""
    (folder / "model.yaml").write_bytes(encode(GOOD.replace("\n", "\r\n")))
    assert load_model(folder).spec.name == "good"
    (folder / "model.yaml").write_bytes(encode(with_("topk: 1")))
    with pytest.raises(SpecError) as caught:
        load_model(folder)
    assert [(problem.where, problem.line) for problem in caught.value.problems] == [("topk", 6)]


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
    assert (problem.where, problem.line) == ("golden", 6)
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
    labels = read_labels(load(labelled("imagenet1k")).spec.params["labels"], ROOT)
    assert (len(labels), labels[0], labels[-1]) == (1000, "tench", "toilet tissue")


def test_duplicate_keys_are_told_at_every_depth(problems: Callable[..., tuple[Problem, ...]]) -> None:
    """YAML keeps the last without a word; here the second is a problem that names the first."""
    text = GOOD + "serving: {batchSize: 2, batchSize: 4}\nname: other\n"
    assert [(p.where, p.line, p.what) for p in problems(text)] == [
        ("serving.batchSize", 6, "given twice, first in line 6"),
        ("name", 7, "given twice, first in line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("name: [1, 2", 1, "not YAML"),
        ("name: a\n\tversion: b", 2, "not YAML"),
        (f"{GOOD}---\n{GOOD}", 6, "not YAML"),
        ("", 0, "the file is empty"),
        ("- a\n- b\n", 0, "expected keys with values, found a list"),
        ("text", 0, "expected keys with values, found only 'text'"),
        ("[" * 100_000, 0, "not YAML"),
        (f"{GOOD}requirements: &a [*a]\n", 0, "not YAML"),
        (f"{GOOD}x: &a {{b: *a}}\n", 0, "not YAML"),
        (f"{GOOD}description: 0x{'f' * 5000}\n", 0, "not YAML"),
        (f"{GOOD}description: !!bool maybe\n", 0, "not YAML"),
        (f"{GOOD}description: !!timestamp now\n", 0, "not YAML"),
        (f"{GOOD}description: !!int ''\n", 0, "not YAML"),
        (f"{GOOD}description: {':'.join(['1'] * 400)}.5\n", 0, "not YAML"),
        (f"{GOOD}description: !!python/object/apply:os.getcwd []\n", 6, "not YAML"),
    ],
)
def test_files_that_are_no_keys_with_values(
    problems: Callable[..., tuple[Problem, ...]], text: str, line: int, what: str
) -> None:
    """Everything that PyYAML stumbles over is one problem, with its line where it knows one."""
    [problem] = problems(text)
    assert problem.line == line
    assert problem.what.startswith(what)


@pytest.mark.parametrize("name", ["missing", "missing.yaml", "folder.yaml", "a" * 300, "a\0b.yaml"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """No such file, a folder without model.yaml, an impossible name: told with what to give."""
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(SpecError) as caught:
        load_model(tmp_path / name)
    [problem] = caught.value.problems
    found = {"no such file or folder", "no model.yaml in it", "cannot be read: Is a directory"}
    assert problem.what in found
    assert "Errno" not in str(caught.value)
    assert problem.remedy == "give a folder that holds a model.yaml"


def test_a_file_in_another_encoding_is_to_be_saved_anew(tmp_path: Path) -> None:
    """Editors of Windows still write Latin-1."""
    (tmp_path / "model.yaml").write_bytes("name: Käse".encode("latin-1"))
    with pytest.raises(SpecError, match="save it as UTF-8"):
        load_model(tmp_path)


def test_what_windows_leaves_in_folders_is_no_request(load: Callable[..., ModelSource], folder: Path) -> None:
    """It is passed over as what is hidden, and packed nowhere."""
    (folder / "golden").mkdir()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "a.jpg"):
        (folder / "golden" / name).write_bytes(b"x")
        (folder / name).write_bytes(b"x")
    source = load(GOOD + "golden: golden\n", {"runtime": "eager"})
    assert [path.name for path in source.golden_files()] == ["a.jpg"]
    assert [path.name for path in source.packed_files()] == ["a.jpg", "load.py"]


@pytest.mark.parametrize("key", ["1", "~", "2020-01-01", "a.b", '"\\ud800"', "'params.size'"])
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
        (f"params: {{{SIZES}, topk: 0}}", "params"),
        (f"params: {{{SIZES}, topK: 2}}", "params"),
        ("params: {size: [8, 8, 8], mean: [0, 0, 0], std: [1, 1, 1]}", "params"),
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
    | st.sampled_from(["good", "1.0", "image_classifier", "load:build", "load.txt", ".", "onnx"])
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


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_any_values_give_a_spec_or_a_spec_error(changed: dict[str, Any]) -> None:
    """A sound file with arbitrary values under known keys: never another exception."""
    spec_or_spec_error(yaml.safe_dump({**GOOD_DATA, "source": "load:tiny", **changed}))


@settings(max_examples=200)
@given(VALUES)
def test_any_yaml_gives_a_spec_or_a_spec_error(value: Any) -> None:
    """Whatever YAML can hold: never another exception."""
    spec_or_spec_error(yaml.safe_dump(value))


@settings(max_examples=300)
@given(
    st.text()
    | st.text(alphabet="abn:-[]{}&*!?|>'\"#%@,. \n\t~=<0123456789", max_size=40)
    | st.tuples(st.sampled_from(KEYS), st.text(max_size=20)).map(lambda pair: f"{GOOD}{pair[0]}: {pair[1]}")
)
def test_any_text_gives_a_spec_or_a_spec_error(text: str) -> None:
    """Whatever a file can hold: never another exception."""
    spec_or_spec_error(text)
