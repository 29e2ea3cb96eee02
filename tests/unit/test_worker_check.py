"""The check in a process of its own: started as TorchServe's worker starts, and what its verdict is worth."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchmar.errors import ArchiveError
from torchmar.worker import Check, check_archive

from .strangers import ECHO, FUNCTION, Folder, golden, pack

NOTHING_ASKED = "it has no golden requests, so nothing was asked of it: whether it answers is not known"

# -- as TorchServe's worker starts --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ts/__init__.py", ""),
        ("ts.py", ""),
        ("yaml.py", ""),
        ("yaml/__init__.py", "1 / 0\n"),
        ("psutil.py", "raise RuntimeError\n"),
        ("torch.py", "1 / 0\n"),
        ("json.py", ""),
        ("socket.py", ""),
        ("logging/__init__.py", ""),
        ("asyncio/__init__.py", ""),
        ("concurrent/__init__.py", ""),
    ],
)
def test_modules_that_take_the_place_of_the_workers_own(folder: Folder, name: str, content: str) -> None:
    """The archive stands before the standard library and the packages: TorchServe dies while it imports."""
    path = pack(folder(files={name: content}), plain=name == "torch.py")
    check = check_archive(path)
    module = name.partition("/")[0].removesuffix(".py")
    assert not check.ok
    assert f"{path}: rename {module} in the archive: in a worker it takes the place of" in check.reason
    assert "TorchServe's worker does not start with it: " in check.reason
    assert "Traceback" in check.details


@pytest.mark.parametrize("module", ["calendar", "code", "zipfile", "dataclasses", "secrets", "torchmar"])
def test_modules_of_such_a_name_that_a_worker_does_not_need(folder: Folder, module: str) -> None:
    """Harmless in TorchServe, and so here, although the check itself needs some of them: the handler gets
    the archive's own.
    """
    code = f"import {module}\n{FUNCTION.replace('function', '{}')}".replace("'{}'", f"{module}.WHO")
    answers = golden({"one": {"answer": "mine"}}, one="x")
    check = check_archive(pack(folder(code, files={f"{module}.py": "WHO = 'mine'\n", **answers})))
    assert (check.ok, check.reason) == (True, "")


def test_a_handler_that_is_named_like_a_module_of_the_standard_library(folder: Folder) -> None:
    """The archive's is found first, unless the worker has imported the other one already."""
    path = folder(None, "pickletools.py", files={"pickletools.py": FUNCTION})
    assert check_archive(pack(path)).ok
    path = folder(None, "json.py", files={"json.py": FUNCTION})
    assert "rename json in the archive" in check_archive(pack(path)).reason


@pytest.fixture
def without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which torch is not installed."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (shadow / "torch.py").write_text(missing)
    monkeypatch.setenv("PYTHONPATH", str(shadow))


@pytest.mark.usefixtures("without_torch")
def test_a_worker_that_needs_torch_where_there_is_none(folder: Folder) -> None:
    """TorchServe's worker imports it for any handler, unless the archive keeps it from doing so."""
    plain = pack(folder(), plain=True)
    check = check_archive(plain)
    assert not check.ok
    assert f"{plain}: install torch for the Python that the server runs" in check.reason
    assert check_archive(pack(folder())).ok
    uses = check_archive(pack(folder(f"import torch\ntorch.zeros(1)\n{FUNCTION}")))
    assert not uses.ok
    assert "No module named 'torch'" in uses.reason


def test_a_worker_that_loads_torch_says_so(folder: Folder) -> None:
    """The server may lack it: what is found here does not tell."""
    code = f"import torch\ntorch.zeros(1)\n{FUNCTION}"
    needs = "its worker loads torch: the server's Python must have it"
    assert needs in check_archive(pack(folder(code))).caveats
    assert needs not in check_archive(pack(folder())).caveats


def test_the_servers_python_runs_the_check(folder: Folder, tmp_path: Path) -> None:
    """One without torchserve, and what was not tried is told; one that is not there is one error."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "yaml").symlink_to(Path(yaml.__file__).parent)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{library}" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    check = check_archive(pack(folder(), plain=True), python=str(python))
    assert check.ok, check.details
    assert "torchserve is not installed here: what its worker imports besides was not tried" in check.caveats
    broken = check_archive(pack(folder(files={"socket.py": ""}), plain=True), python=str(python))
    assert "rename socket in the archive" in broken.reason
    with pytest.raises(ArchiveError, match=r"cannot be loaded here: .*no-python"):
        check_archive(pack(folder()), python=str(tmp_path / "no-python"))


def test_a_runtime_that_the_server_looks_up(folder: Folder) -> None:
    """`python3` is whatever its PATH says: that it was another one here is told."""
    path = folder()
    (path / "MAR-INF" / "MANIFEST.json").write_text(
        '{"runtime": "python3", "model": {"modelName": "m", "handler": "handler"}}'
    )
    caveat = "its manifest asks for python3: that is the first on the server's PATH"
    assert caveat in check_archive(pack(path)).caveats


def test_an_interpreter_by_a_path_from_here(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker begins in the archive's folder: the path is meant from where it was typed."""
    path = pack(folder())
    monkeypatch.chdir(Path(sys.executable).parent)
    assert check_archive(path, python=f"./{Path(sys.executable).name}").ok


TELLS = """
import os, sys
def handle(data, context):
    if data is None:
        assert os.path.samefile(os.getcwd(), context.system_properties["model_dir"]), os.getcwd()
        assert sys.argv[1:4] == ["--sock-type", "unix", "--sock-name"], sys.argv
        assert os.path.basename(sys.argv[0]) == "model_service_worker.py", sys.argv
        assert not [entry for entry in sys.path if entry.endswith(("/ts", "/torchmar/worker"))], sys.path
        assert sys.stdin.read() == ""
        assert os.environ["PYTHONPATH"] == os.getcwd(), os.environ["PYTHONPATH"]
        return
    return [sys.modules["__main__"].__name__]
"""


def test_its_process_looks_like_a_workers(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working directory, arguments, search path; nothing of the check's own stands there."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    check = check_archive(pack(folder(TELLS)))
    assert check.ok, check.details


def test_a_handlers_own_folder_is_searched_first(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then PYTHONPATH of the server, then the archive: a handler `deep/handler.py:handle` is found."""
    other = folder(None, files={"who.py": "WHO = 'the environment'\n"})
    monkeypatch.setenv("PYTHONPATH", str(other))
    code = "import who\ndef handle(data, context):\n    return data and [who.WHO]\n"
    files = {"deep/handler.py": code, "who.py": "WHO = 'the archive'\n"}
    answers = golden({"one": {"answer": "the environment"}}, one="x")
    path = folder(None, "deep/handler.py:handle", files={**files, **answers})
    assert check_archive(pack(path)).reason == ""
    (path / "deep" / "who.py").write_text("WHO = 'deep'\n")
    assert "found {'answer': 'deep'}" in check_archive(pack(path)).reason


# -- the verdict --------------------------------------------------------------------------------

VERDICT = {
    "path": "x",
    "ok": True,
    "reason": "",
    "details": "",
    "load_seconds": 0.1,
    "golden": [],
    "caveats": [],
}
FORGES = f"""
import glob, json, os, sys
verdict = {VERDICT!r}
lines = map(json.dumps, (verdict, {{"check": verdict}}, {{"nonce": "", "check": verdict}}))
text = "\\n".join(["", *lines, ""]).encode()
for fd in range(3, 64):
    try:
        os.write(fd, text)
    except OSError:
        pass
"""
ALSO_BY_NAME = """
own = os.environ["OWN_TEMP"]
told = [*sys.argv, *open("/proc/self/cmdline").read().split("\\0"), *os.environ.values()]
named = [name for name in told if name.startswith(own) and not os.path.isdir(name)]
for name in [*named, *glob.glob(own + "/**", recursive=True)]:
    try:
        with open(name, "w") as file:
            json.dump(verdict, file)
    except OSError:
        pass
os._exit(0)
"""


@pytest.fixture
def own_temp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A temporary folder in which there is nobody else's file to be overwritten."""
    own = tmp_path / "own-temp"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    monkeypatch.setenv("OWN_TEMP", str(own))


@pytest.mark.usefixtures("own_temp")
def test_a_handler_cannot_write_its_verdict(folder: Folder) -> None:
    """Into no file by name, and not into the open one without the number that was drawn for this check."""
    path = pack(folder(FORGES + ALSO_BY_NAME))
    check = check_archive(path)
    assert (check.ok, check.reason) == (False, f"{path}: its worker process died (exit code 0)")


def test_what_a_handler_writes_there_does_not_spoil_the_verdict(folder: Folder) -> None:
    """Nor does text that is no JSON."""
    files = golden({"one": {"answer": "else"}}, one="x")
    check = check_archive(pack(folder(FORGES + FUNCTION, files=files)))
    assert not check.ok
    assert check.reason.endswith("one: expected {'answer': 'else'}, found {'answer': 'function'}")


def test_an_archive_that_was_asked_nothing(folder: Folder) -> None:
    """One that answers everything with 503 is not called good without that sentence."""
    code = "def handle(data, context):\n    if data is not None:\n        raise KeyError\n"
    check = check_archive(pack(folder(code)))
    assert (check.ok, check.golden, check.caveats) == (True, (), (NOTHING_ASKED,))
    empty = check_archive(pack(folder(files=golden({}))))
    assert (empty.ok, empty.caveats) == (True, (NOTHING_ASKED,))
    asked = check_archive(pack(folder(ECHO, files=golden({"one": {"index": 1}}, one="1"))))
    assert (asked.ok, asked.caveats) == (True, ())


@pytest.mark.parametrize(
    "name",
    ["../../secret", "../answers.json/../../secret", "/etc/hostname", "a/../../../secret", "..\\x", "", "."],
)
def test_a_golden_request_that_lies_elsewhere(folder: Folder, name: str) -> None:
    """A name in answers.json never leads out of its folder."""
    path = pack(folder(ECHO, files={**golden({name: {"index": 1}}), "secret": "1"}))
    check = check_archive(path)
    assert not check.ok
    assert check.reason.startswith(f"{path}: MAR-INF/golden/answers.json names ")
    assert "which leads out of MAR-INF/golden" in check.reason


def test_golden_requests_in_folders_and_missing_ones(folder: Folder) -> None:
    """A folder below is inside; a request that is not there is named."""
    files = golden({"deep/one": {"index": 1}}, **{"deep/one": "1"})
    assert check_archive(pack(folder(ECHO, files=files))).ok
    path = pack(folder(ECHO, files=golden({"gone\n": {"index": 1}})))
    check = check_archive(path)
    assert not check.ok
    assert check.reason.startswith(f"{path}: add the golden request gone\N{REPLACEMENT CHARACTER} to ")


@pytest.mark.parametrize("content", ["[]", "{", "[" * 5000, "\udcff"])
def test_answers_that_cannot_be_read(folder: Folder, content: str) -> None:
    """One reason, no traceback."""
    path = folder(ECHO)
    (path / "MAR-INF" / "golden").mkdir()
    (path / "MAR-INF/golden/answers.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    check = check_archive(pack(path))
    assert not check.ok
    assert "its MAR-INF/golden/answers.json " in check.reason
    assert "Traceback" not in check.details


def test_answers_nested_as_deeply_as_json_allows(folder: Folder) -> None:
    """What cannot be compared is told in short, and ends no check."""
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    code = f"def handle(data, context):\n    return data and [b'{json.dumps(deep)}']\n"
    check = check_archive(pack(folder(code, files=golden({"one": {"answer": [deep]}}, one="x"))))
    assert not check.ok
    assert "golden request one: expected " in check.reason
    assert len(check.reason) < 1000


def test_what_it_was_at_when_it_died_or_hung(folder: Folder) -> None:
    """Loading, or a golden request, by its name."""
    dies = "import os\ndef handle(data, context):\n    if data is not None: os._exit(3)\n"
    path = pack(folder(dies, files=golden({"one": {"index": 1}}, one="x")))
    assert (
        check_archive(path).reason == f"{path}: its worker process died at golden request one (exit code 3)"
    )
    hangs = "def handle(data, context):\n    if data is not None: __import__('threading').Event().wait()\n"
    path = pack(folder(hangs, files=golden({"one": {"index": 1}}, one="x")))
    check = check_archive(path, timeout=4)
    assert check.reason == f"{path}: its handler did not answer golden request one within 4 s"


def test_only_the_end_of_what_a_handler_prints_is_kept(folder: Folder) -> None:
    """However much that is, and whatever bytes."""
    code = "import os, sys\nfor _ in range(3000):\n    os.write(1, b'\\xff' * 1000 + b'\\n')\n"
    check = check_archive(pack(folder(code + "os.write(2, b'last words')\nos._exit(1)\n")))
    assert not check.ok
    assert len(check.details) < 70_000
    assert check.details.endswith("last words")


def test_a_thread_of_the_handlers_does_not_keep_a_check_that_failed(folder: Folder) -> None:
    """Also where the handler raises what nobody catches."""
    waiting = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    path = pack(folder(waiting + "raise KeyboardInterrupt\n"))
    check = check_archive(path, timeout=60)
    assert check.reason == f"{path}: its worker process died (exit code 1)"
    assert "KeyboardInterrupt" in check.details


def test_no_room_for_what_a_check_writes_down(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One error with the archive's name; a folder needs no copy, and a temporary folder all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nonesuch"))
    path = folder()
    with pytest.raises(ArchiveError) as caught:
        check_archive(path)
    assert str(caught.value).startswith(f"{path}: cannot be ")
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ArchiveError, match=r"cannot be loaded here: .*No space left"):
        check_archive(path)


def test_a_temporary_folder_that_no_search_path_can_hold(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONPATH has no way to say a colon: the archive is not blamed for it."""
    (tmp_path / "a:b").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a:b"))
    with pytest.raises(ArchiveError, match="set TMPDIR, or give a store, without ':' in its path"):
        check_archive(pack(folder(FUNCTION)))


def test_a_locale_without_the_characters_that_a_handler_says(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason arrives whole, whatever its own standard output can hold."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("LC_ALL", "C")
    path = pack(folder("raise ValueError('Größe \\udcff')\n"))
    check = check_archive(path)
    assert check == Check(
        str(path),
        ok=False,
        reason=f"{path}: its handler handler would not load: ValueError: Größe \udcff",
        details=check.details,
    )
    os.fsencode(check.reason)
