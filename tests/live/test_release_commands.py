"""Releases by commands: what people type and pipelines call."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchmar.mar import file_sha256
from torchmar.release import history
from torchmar.release._journal import Journal
from torchmar.server import find_running, stop

from .candidates import candidate
from .servers import ROOT
from .test_commands import Commands

# torchmar's command, ended as by `kill -9` where it asks the server for another number of workers.
KILLED_WHERE_IT_SCALES = """
import os
from unittest.mock import patch
from torchmar.cli import main
from torchmar.client import Management
with patch.object(Management, "scale", lambda *_: os.kill(os.getpid(), 9)):
    main()
"""
FAST = ("--samples", "24", "--max-slowdown", "3", "--watch", "0.3", "--longest", "0.2")


@pytest.fixture(scope="module")
def torchmar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A server that was started by `torchmar serve`."""
    commands = Commands(tmp_path_factory.mktemp("releasing"))
    commands("serve")
    yield commands
    end(commands)


def end(commands: Commands) -> None:
    """What was served there is not any more."""
    running = find_running(commands.folder)
    if running is not None:
        stop(running, timeout=0)


@pytest.mark.slow  # the tour of the README takes the same road
def test_the_road_by_commands(torchmar: Commands, tmp_path: Path) -> None:
    """Dry run, release, bad ones, rollback, restart, reconcile, retire: each says what it did."""
    one, two, three = (candidate(tmp_path, "typed", version) for version in ("1.0", "2.0", "3.0"))
    shown = torchmar("release", one, "--dry-run", *FAST)
    assert "nothing is served under this name yet" in shown
    assert "way back" in shown
    assert "the server counts its answers" in shown
    assert not (torchmar.folder / "releases").exists()
    said = torchmar("release", one, *FAST)
    assert "typed 1.0 is the default" in said
    done = torchmar.json("release", two, *FAST)
    assert (done["outcome"], done["version"]) == ("promoted", "2.0")
    assert [step["step"] for step in done["steps"]][-2:] == ["default", "watch"]
    page = (torchmar.above / done["page"]).read_text()
    assert "<h1>typed 1.0 → 2.0</h1>" in page
    assert "nothing to do" in torchmar("release", two, *FAST)

    slow = candidate(tmp_path, "typed", "4.0", seconds=0.2)
    said = torchmar("release", slow, *FAST, code=1)
    assert "did not pass the gate" in said
    assert "everything was put back" in said
    silent = candidate(tmp_path, "typed", "5.0", golden=False)
    for dry in (("--dry-run",), ()):
        untold = torchmar("release", silent, *FAST, *dry, code=3)
        assert "--promote-inconclusive" in untold
        assert "put back" not in untold, "nothing was done"
    assert "expected" in torchmar("release", three, "--sha256", "0" * 64, code=1)

    assert "4.0 was not released, so there is nothing to roll back: 2.0 goes on" in torchmar(
        "rollback", "typed", code=1
    )
    back = torchmar("rollback", "typed", "--to", "1.0")
    assert "the default is 1.0" in back
    assert "--to" in torchmar("rollback", "typed", code=1)
    assert "is not registered" in torchmar("retire", "typed", "9.0", code=1)
    assert "is the default version of typed" in torchmar("retire", "typed", "1.0", code=1)

    torchmar("stop")
    torchmar("serve")
    status = torchmar("status")
    assert "the journal says 1.0: torchmar reconcile typed" in status
    assert "registered, 1 READY now" in torchmar("reconcile")
    assert "as it should be" in torchmar("reconcile", "typed")
    assert "reconcile typed" not in torchmar("status")
    assert "retired" in torchmar("retire", "typed", "2.0", "--longest", "0.2")
    [row] = torchmar.json("versions", "typed")
    assert (row["version"], row["default"]) == ("1.0", True)


def test_lineage_as_the_docs_show_it(torchmar: Commands, tiny_eager: Path) -> None:
    """docs/lineage.md's block: a child is built and released, and history shows both and the default."""
    text = (ROOT / "docs" / "lineage.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    folder = torchmar.folder
    shutil.copytree(ROOT / "tests" / "models" / "tiny", folder / "models" / "tiny")
    with (folder / "models" / "tiny" / "model.yaml").open("a") as spec:
        spec.write("runtime: eager\n")
    with zipfile.ZipFile(tiny_eager) as archive:
        [weights] = [name for name in archive.namelist() if name.endswith(".pth")]
        (folder / "new.pth").write_bytes(archive.read(weights))
    shutil.copytree(ROOT / "tests" / "models" / "tiny" / "golden", folder / "data" / "train" / "noise")
    shutil.copyfile(tiny_eager, torchmar.store / tiny_eager.name)
    few = ("--samples", "3", "--gate-seconds", "1", "--watch", "0.1", "--max-slowdown", "100")
    unjudged = (*few, "--promote-inconclusive")
    torchmar("release", torchmar.store / tiny_eager.name, *unjudged)
    release = "torchmar release model_store/tiny-1.1.mar"
    commands = block.replace("mine", "tiny").replace(release, " ".join((release, *unjudged)))
    assert unjudged[-1] in commands
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Lineage  from tiny 1.0 (sha256 " in done.stdout
    assert "it was built from tiny 1.0" in done.stdout
    drawn = r"\n    └── 1\.1  default\n(        .*\n)+ +\S+  \S+ released\n"
    assert re.search(drawn, done.stdout), done.stdout
    assert "<h1>tiny, history</h1>" in (folder / "tiny.html").read_text(encoding="utf-8")
    torchmar("rollback", "tiny")
    told = torchmar.json("history", "tiny")
    assert told["defaults"] == {"local": "1.0"}
    parent, child = told["versions"]
    assert child["parent"]["sha256"] == parent["archive"]["sha256"] == file_sha256(tiny_eager)
    assert child["archive"]["lineage"]["weights_sha256"] == file_sha256(folder / "new.pth")
    assert [one["what"] for one in parent["events"]] == ["released", "default again"]
    assert [one["what"] for one in child["events"]] == ["released", "rolled back"]


def test_by_hand_is_journaled(torchmar: Commands, tmp_path: Path) -> None:
    """What is changed besides releases is what `reconcile` brings back, too."""
    torchmar("release", candidate(tmp_path, "handled", "1.0"), *FAST, "--workers", "2")
    torchmar("release", candidate(tmp_path, "handled", "2.0"), *FAST)
    torchmar("set-default", "handled", "1.0")
    candidate(torchmar.store, "handled", "3.0")
    torchmar("register", "handled-3.0.mar", "--default")
    assert "reconcile handled" not in torchmar("status")
    torchmar("set-default", "handled", "1.0")
    candidate(torchmar.store, "handled", "4.0")
    torchmar("register", "handled-4.0.mar")
    torchmar("unregister", "handled", "3.0")
    assert torchmar.json("scale", "handled", "1", "--longest", "0.2")["ready_workers"] == 1
    assert "none is dead" in torchmar("repair", "handled")
    torchmar("unregister", "handled", "2.0")
    torchmar("stop")
    torchmar("serve")
    [done] = [one for one in torchmar.json("reconcile") if one["model"] == "handled"]
    assert done["acts"] == ["1.0: registered, 1 READY now", "4.0: registered, 1 READY now"]


def test_what_may_not_be_registered_is_registered_no_more(torchmar: Commands, tmp_path: Path) -> None:
    """Which model an archive is of that is not here, only the server knows, too late to ask who holds it."""
    torchmar("release", candidate(tmp_path, "held", "1.0"), *FAST)
    candidate(torchmar.store, "held", "2.0")
    found = torchmar.json("status")
    addresses = ("--inference", found["inference"], "--management", found["management"])
    elsewhere = (*addresses, "--key-file", torchmar.folder / "key_file.json")
    with Journal(torchmar.folder / "releases", "held").locked():
        said = torchmar("register", "held-2.0.mar", *elsewhere, code=1)
    assert "is changing it" in said
    assert "It was unregistered again" in said
    assert [row["version"] for row in torchmar.json("versions", "held")] == ["1.0"]


def test_what_cannot_be_asked_is_found_before_anything_is_done(torchmar: Commands, tmp_path: Path) -> None:
    """A wrong token for predictions refuses the plan; without metrics it says what is not seen."""
    found = torchmar.json("status")
    keys = json.loads((torchmar.folder / "key_file.json").read_text())
    keys["inference"]["key"] = "wrong"
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(keys))
    addresses = ("--inference", found["inference"], "--management", found["management"])
    archive = candidate(tmp_path, "unasked", "1.0")
    [told] = json.loads(
        torchmar("release", archive, "--dry-run", "--json", *addresses, "--key-file", file, code=1).split(
            "error:"
        )[0]
    )
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["rights"]["outcome"] == "ok"
    assert checks["inference"]["outcome"] == "refused"
    assert "token" in checks["inference"]["text"]
    assert "the watch sees golden requests and workers" in checks["metrics"]["text"]
    assert told["steps"] == []


def test_a_scaling_that_was_killed(torchmar: Commands, tmp_path: Path) -> None:
    """Its standby answers until the same command is typed again; a release is refused meanwhile."""
    torchmar("release", candidate(tmp_path, "shrunk", "1.0"), *FAST, "--workers", "2")
    options = ("scale", "shrunk", "1", "--longest", "0.2", "--dir", str(torchmar.folder))
    killed = subprocess.run([sys.executable, "-c", KILLED_WHERE_IT_SCALES, *options], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    rows = {row["version"]: row for row in torchmar.json("versions", "shrunk")}
    assert rows["1.0-standby"]["default"]
    said = torchmar("release", candidate(tmp_path, "shrunk", "2.0"), *FAST, code=1)
    assert "torchmar scale shrunk 1" in said
    assert torchmar.json("scale", "shrunk", "1", "--longest", "0.2")["version"] == "1.0"
    [row] = torchmar.json("versions", "shrunk")
    assert (row["version"], row["default"], row["ready_workers"]) == ("1.0", True, 1)
    assert not list(torchmar.store.glob("shrunk-1.0-standby*"))


def test_what_could_not_be_put_back_is_not_called_so(torchmar: Commands, tmp_path: Path) -> None:
    """nginx can be told no more: the release fails, and so does the way back, which is said.

    Where nginx never heard of the candidate, all is put back.
    """
    torchmar("release", candidate(tmp_path, "stuck", "1.0"), *FAST)
    two = candidate(tmp_path, "stuck", "2.0")
    canary = ("--canary", "5,100", "--nginx", tmp_path / "nginx.conf", "--access-log", tmp_path / "log")
    said = torchmar(
        "release", two, *FAST, *canary, "--canary-seconds", "0.1", "--nginx-reload", "false", code=1
    )
    assert "false: exit code 1" in said
    assert "everything was put back" in said
    once = f"mkdir {tmp_path / 'told'}"
    said = torchmar("release", two, *FAST, *canary, "--canary-seconds", "0.1", "--nginx-reload", once, code=3)
    assert f"nginx has not read that: {once}: " in said
    assert "everything was put back" not in said
    assert "torchmar rollback stuck" in said
    assert "give --nginx-reload again" in torchmar("rollback", "stuck", code=1)
    said = torchmar("rollback", "stuck", "--nginx-reload", once, code=1)
    assert "File exists" in said
    (tmp_path / "told").rmdir()
    torchmar("rollback", "stuck", "--nginx-reload", once)


def test_events_and_the_script(torchmar: Commands, tmp_path: Path) -> None:
    """scripts/release.py is the command; --events prints what is journaled, a JSON object a line."""
    archive = candidate(tmp_path, "piped", "1.0")
    command = [sys.executable, str(ROOT / "scripts" / "release.py"), str(archive), *FAST, "--events"]
    done = subprocess.run(
        [*command, "--dir", str(torchmar.folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert events[0]["event"] == "plan"
    assert {"name", "outcome", "text"} == events[0]["checks"][0].keys()
    assert events[1]["event"] == "planned"
    assert events[-1]["event"] == "finished"
    assert events[-1]["data"]["outcome"] == "promoted"
    journaled = (torchmar.folder / "releases" / "piped.jsonl").read_text().splitlines()
    assert len(events) == 1 + len(journaled)


@pytest.mark.parametrize(
    ("step", "for_long"),
    [
        ("gate", ("--samples", "9999", "--gate-seconds", "99")),
        ("watch", ("--samples", "3", "--promote-inconclusive", "--watch", "99")),
    ],
)
def test_ctrl_c(torchmar: Commands, tmp_path: Path, step: str, for_long: tuple[str, ...]) -> None:
    """Before the switch and after it: everything is put back, and the exit code says why it ended."""
    name = f"stopped_{step}"
    torchmar("release", candidate(tmp_path, name, "1.0"), *FAST)
    command: list[Any] = [
        Path(sys.executable).parent / "torchmar",
        "release",
        candidate(tmp_path, name, "2.0"),
    ]
    command += ["--dir", torchmar.folder, *FAST, *for_long, "--events"]
    # Who runs these tests in the background ignores it, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for event in map(json.loads, process.stdout):
            if (event["event"], event.get("step")) == ("begin", step):
                process.send_signal(signal.SIGINT)
        assert "interrupted (Ctrl-C)" in process.stderr.read()
    assert process.returncode == 130
    [served] = torchmar.json("versions", name)
    assert (served["version"], served["default"]) == ("1.0", True)
    [told] = [one for one in torchmar.json("status")["releases"] if one["model"] == name]
    assert (told["outcome"], told["to_do"]) == ("interrupted", "")


@pytest.mark.parametrize(
    ("command", "leaves"),
    [
        (("retire", "1.0"), "the version may still be registered"),
        (("scale", "1"), "its standby was removed, and the version answers by itself"),
    ],
)
def test_ctrl_c_while_it_drains(
    torchmar: Commands, tmp_path: Path, command: tuple[str, ...], leaves: str
) -> None:
    """A pipe has a sign of life while it waits; after Ctrl-C it is said what is, and what goes on with it."""
    verb, number = command
    name = f"drained_{verb}"
    torchmar("release", candidate(tmp_path, name, "1.0"), *FAST, "--workers", "2")
    if verb == "retire":
        torchmar("release", candidate(tmp_path, name, "2.0"), *FAST)
    program: list[Any] = [Path(sys.executable).parent / "torchmar", verb, name, number, "--longest", "12"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*program, "--dir", torchmar.folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        step = "retire" if verb == "retire" else "drain "
        for line in process.stderr:
            if step in line and " s" in line:
                process.send_signal(signal.SIGINT)
                break
        error = process.stderr.read()
    assert process.returncode == 130
    assert leaves in error
    assert f"`torchmar {verb} {name} {number} --longest 12 --dir {torchmar.folder}` goes on with it" in error
    served = torchmar.json("versions", name)
    expected = {"retire": [("1.0", 2), ("2.0", 2)], "scale": [("1.0", 2)]}[verb]
    assert sorted((one["version"], one["ready_workers"]) for one in served) == expected
    torchmar(verb, name, number, "--longest", "0.2")


def test_hosts_in_a_file(torchmar: Commands, tmp_path: Path) -> None:
    """A server is told by its folder; what is wrong in the file is told with the file's name."""
    archive = candidate(tmp_path, "hosted", "1.0")
    file = tmp_path / "hosts.yaml"
    file.write_text(yaml.safe_dump([{"name": "first", "dir": str(torchmar.folder)}]))
    assert "first" in torchmar("release", archive, *FAST, "--hosts", file)
    assert (tmp_path / "releases" / "hosted.jsonl").exists()
    status = torchmar.json("status", "--hosts", file)
    assert [(one["host"], one["healthy"]) for one in status["hosts"]] == [("first", True)]
    assert [(one["model"], one["to_do"]) for one in status["releases"]] == [("hosted", "")]
    # What is done by hand is told to the same journal: with the file, and with the journal's folder.
    two = candidate(torchmar.store, "hosted", "2.0")
    [told] = torchmar.json("register", two, "--hosts", file)
    assert (told["host"], told["version"], told["ready_workers"]) == ("first", "2.0", 1)
    torchmar("set-default", "hosted", "2.0", "--hosts", file)
    *events, last = torchmar("scale", "hosted", "2", "--hosts", file, "--events", "--json").splitlines()
    steps = [(one["event"], one["step"]) for one in map(json.loads, events) if one["step"]]
    assert steps == [("begin", "scale"), ("done", "scale")]
    assert [one["ready_workers"] for one in json.loads(last)] == [2]
    assert "first: hosted 2.0: none is dead, 2 workers" in torchmar("repair", "hosted", "--hosts", file)
    torchmar("unregister", "hosted", "1.0", "--hosts", file)
    kinds = [record.kind for record in history(Journal(tmp_path / "releases", "hosted")).records]
    assert kinds == ["release", "register", "set-default", "scale", "repair", "unregister"]
    file.write_text(f"- {{name: first, dir: {torchmar.folder}}}\n- {{name: second, dir: {tmp_path}}}")
    said = torchmar("status", "--hosts", file, code=1)
    assert "hosted" in said
    assert "these servers do not respond" in said
    assert "second: no TorchServe that was started in" in said
    for content, said in (
        ("- {name: a, dri: /srv}", "server a: dri: no such key"),
        ("name: a", "expected a list of servers"),
        ("- {name: a}\n- {name: a}", "more than one server has the name a"),
        ("- [", "is not YAML"),
    ):
        file.write_text(content)
        assert said in torchmar("release", archive, "--hosts", file, code=1)
    assert "cannot be read" in torchmar("release", archive, "--hosts", tmp_path / "none.yaml", code=1)


def test_two_servers_of_which_one_goes_away(torchmar: Commands, tmp_path: Path) -> None:
    """Later only one answers: it goes back, and is brought back, and the other is told of."""
    second = Commands(tmp_path / "second")
    second("serve")
    file = tmp_path / "hosts.yaml"
    folders = {"first": torchmar.folder, "second": second.folder}
    file.write_text(yaml.safe_dump([{"name": name, "dir": str(path)} for name, path in folders.items()]))
    try:
        for version in ("1.0", "2.0"):
            archive = candidate(tmp_path, "pair", version)
            done = torchmar.json("release", archive, *FAST, "--hosts", file)
            assert done["outcome"] == "promoted"
            assert {step["host"] for step in done["steps"]} == {"first", "second"}
    finally:
        end(second)
    said = torchmar("rollback", "pair", "--hosts", file, code=1)
    assert "second did not go back to 1.0: no TorchServe that was started in" in said
    said = torchmar("reconcile", "pair", "--hosts", file, code=1)
    assert "first  pair  default 1.0: as it should be" in said
    assert "second: no TorchServe that was started in" in said
    second("serve")
    try:
        [first, other] = torchmar.json("reconcile", "pair", "--hosts", file)
        assert (first["acts"], other["acts"][-1]) == ([], "2.0: registered, 1 READY now")
        assert "the default is 1.0" in torchmar("rollback", "pair", "--hosts", file)
        assert torchmar.json("status", "--hosts", file)["releases"][0]["to_do"] == ""
    finally:
        end(second)
