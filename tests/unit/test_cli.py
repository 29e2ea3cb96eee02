"""The command line: its help teaches, it starts at once, a mistake ends in one message, JSON is only JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
import typer.main
from typer.testing import CliRunner

from tests import forked
from torchmar import __version__, errors
from torchmar.cli import app
from torchmar.cli._command import Shown, add
from torchmar.cli._events import EventPrinter
from torchmar.cli._options import made, parameters
from torchmar.cli._servers import ServerOptions
from torchmar.cli.models import show_state
from torchmar.errors import ReleaseError, TorchmarError
from torchmar.manage import ServerState
from torchmar.release import Entry, Options

from .servers_in_memory import version, worker

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"
SCHEMA = ROOT / "docs" / "model.schema.json"


def environment() -> dict[str, str]:
    """This one's, without what would colour the output or name a server."""
    dropped = re.compile("TORCHMAR_|FORCE_COLOR|NO_COLOR|TTY_|COLUMNS|TERM$")
    return {name: value for name, value in os.environ.items() if not dropped.match(name)}


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program as CI runs it."""
    return checked(
        subprocess.run(
            command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
    )


def checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """No output of ours has control characters where there is no terminal."""
    for text in (done.stdout, done.stderr):
        assert re.search(r"[^\n -~\u00a0-\uffff]", text) is None, text
    # On a slow machine it tells meanwhile what it is at.
    done.stderr = re.sub(r"(?m)^.*: .* \(\d+ s\)\n", "", done.stderr)
    return done


def torchmar(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`torchmar …`, in a process of its own."""
    return checked(forked.torchmar(arguments, cwd=cwd, environment=environment()))


# -- help ---------------------------------------------------------------------------------------

# What each command's help must tell besides its options: what happens next, what to beware of, an example.
TAUGHT = {
    "archive": "Example: torchmar archive models/resnet18 --weights random",
    "inspect": "without running its code",
    "verify": "Exit code 1 if a check fails",
    "adopt": "so look at them first",
    "golden": "without the signature of the old one",
    "sign": "as OpenSSF model signing does",
    "schema": "for editors",
    "evaluate": "whether the difference means anything",
    "drift": "chance alone raises no alarm",
    "finetune": "A run that was interrupted goes on where it was",
    "maintain": "Exit code 0: nothing to do; 10: released; 11: a candidate is in the store",
    "compress": "Typed again, a search goes on where it ended",
    "tune": "Let nothing else run on the machine meanwhile",
    "serve": "`torchmar stop` ends it",
    "stop": "with its workers",
    "doctor": "say how to mend it",
    "status": "every version that it serves",
    "register": "The first version of a model becomes its default",
    "scale": "wait until that many are READY",
    "versions": "the versions of one model",
    "predict": "show its answers",
    "unregister": "Make another version the default first",
    "set-default": "A version without a READY worker is refused",
    "release": "leaves the old version as it was",
    "rollback": "the previous version the default again",
    "resume": "an interrupted release",
    "reconcile": "what the journal records again after a restart",
    "repair": "without losing a request",
    "retire": "after its last answer",
    "history": "An archive stands below its parent",
    "init": "Example: torchmar init adder --handler adder.py",
    "quickstart": "A second run is quick",
}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def help_of(*command: str) -> str:
    """The help, as words: without frames and line ends."""
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", shown.output).split())


def test_help_shows_the_way_and_every_command() -> None:
    text = help_of()
    assert "torchmar quickstart shows all of it on a classifier" in text
    for command in TAUGHT:
        assert f" {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_teaches(command: str) -> None:
    assert TAUGHT[command] in help_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_brackets_in_help_are_shown(command: str) -> None:
    """The help is markup, where `torchmar[sign]` would be read as a style and left out."""
    texts = [COMMANDS[command].help or "", *(getattr(one, "help", "") for one in COMMANDS[command].params)]
    shown = help_of(command)
    for word in re.findall(r"\S*\[\S*\]", " ".join(filter(None, texts))):
        assert word.replace("\\[", "[") in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_and_argument_is_explained(command: str) -> None:
    for parameter in COMMANDS[command].params:
        assert parameter.name
        assert parameter.name == "help" or getattr(parameter, "help", None), parameter.name


# They print as they go on, for whoever looks on.
WITHOUT_JSON = {"quickstart"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_machines(command: str) -> None:
    """By construction: it returns what it found, and one wrapper prints that."""
    options = [option for parameter in COMMANDS[command].params for option in parameter.opts]
    assert ("--json" in options) is (command not in WITHOUT_JSON)


def test_force_is_to_lose_something() -> None:
    """Nothing else: an archive that is there is replaced by --replace."""
    forced = {
        name
        for name, command in COMMANDS.items()
        if any("--force" in parameter.opts for parameter in command.params)
    }
    assert forced == {"rollback", "scale", "set-default", "unregister"}


def test_exit_codes_are_told() -> None:
    """In the help, and in docs/releases.md."""
    told = help_of().split("Exit codes: ")[1]
    documented = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "releases.md").read_text(), re.MULTILINE)
    assert documented[:5] == [code for code in ("0", "1", "2", "3", "130") if f"{code} " in told]


def test_what_to_do_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the error knows it, as of a misspelt value in model.yaml."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["archive", str(TINY), "--runtime", "onx", "--json"])
    error = json.loads(done.stdout)["error"]
    assert error["hint"] == "did you mean onnx?"
    assert error["hint"] in error["message"]


def test_help_as_it_is_installed() -> None:
    """The entry point beside the interpreter, and short options."""
    done = run([str(Path(sys.executable).parent / "torchmar"), "-h"], ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quickstart" in done.stdout


def test_version() -> None:
    done = torchmar("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"torchmar {__version__}\n", "")


# -- it starts at once --------------------------------------------------------------------------

HEAVY = ["torch", "numpy", "onnx", "onnxruntime", "PIL", "torchmar.spec"]


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        pytest.param("import torchmar.client", [*HEAVY, "pydantic", "typer"], id="client"),
        pytest.param("import torchmar.server", [*HEAVY, "pydantic", "typer"], id="server"),
        pytest.param("run('--help')", [*HEAVY, "pydantic", "requests", "yaml"], id="help"),
        # From 0.29 on typer itself reads arguments with pydantic.
        pytest.param("run('status', '--no-token', '--inference', 'http://127.0.0.1:1')", HEAVY, id="status"),
        pytest.param("run('inspect', 'missing.mar')", HEAVY, id="inspect"),
    ],
)
def test_nothing_heavy_is_imported(code: str, heavy: list[str], tmp_path: Path) -> None:
    """The client and what releases models must run where no torch is, and at once where it is."""
    program = (
        "import contextlib\n"
        "import sys\n"
        "def run(*arguments):\n"
        "    sys.argv[1:] = arguments\n"
        "    from torchmar.cli import main\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main()\n"
        f"{code}\n"
        f"print('loaded:', *(name for name in {heavy} if name in sys.modules))\n"
    )
    done = run([sys.executable, "-c", program], tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "loaded:"


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["archive", "nowhere"], "give a folder that holds a model.yaml"),
        (["archive", str(TINY), "--runtime", "onx"], "did you mean onnx?"),
        (["inspect", "missing.mar"], "missing.mar: no such file"),
        (["verify", "broken.mar"], "broken.mar: not a model archive"),
        (["serve", "--config", "missing.properties"], "missing.properties: cannot be read"),
        (["status"], "is running: `torchmar serve` starts one"),
        (["status", "--key-file", "broken.mar"], "broken.mar: cannot be read"),
        (["status", "--no-token", "--inference", "http://127.0.0.1:1"], "is the server started?"),
        (["register", "broken.mar"], "broken.mar: not a model archive"),
        (["predict", "tiny", "missing.png"], "missing.png: cannot be read"),
        (["versions", "", "--no-token"], "cannot be a model's name or version"),
        (["init", "a b"], "name: found 'a b', which TorchServe cannot manage"),
    ],
    ids=lambda value: " ".join(value).replace(str(ROOT), "") if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_message(arguments: list[str], says: str, tmp_path: Path) -> None:
    """On stderr, with what to do; several problems of one file are indented below it."""
    (tmp_path / "broken.mar").write_text("no zip", encoding="utf-8")
    done = torchmar(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    first, *more = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("  ") for line in more)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


HOSTS = {
    "a port alone": ("- {name: a, inference: 8080}", "server a: inference: found 8080, expected text"),
    "keys of two kinds": (
        "- {name: a, 1: x, dri: y}",
        "line 1: server a: 1: no such key, known: ca_file, dir",
    ),
    "a key that was meant": (
        "- name: a\n  dri: y",
        "hosts.yaml: line 2: server a: dri: no such key, did you mean dir?",
    ),
    "true as text": ("- {name: a, no_token: 'false'}", "no_token: found 'false', expected true or false"),
}


def test_a_file_of_hosts_that_windows_has_written(tmp_path: Path) -> None:
    """It is read as any text from outside."""
    (tmp_path / "hosts.yaml").write_text("- {name: a, dri: y}", encoding="utf-16")
    assert "server a: dri: no such key" in torchmar("status", "--hosts", "hosts.yaml", cwd=tmp_path).stderr


@pytest.mark.parametrize("mistake", HOSTS)
def test_a_mistake_in_a_file_of_hosts(mistake: str, tmp_path: Path) -> None:
    """Ends in one message, too, before anybody is asked."""
    (tmp_path / "hosts.yaml").write_text(HOSTS[mistake][0], encoding="utf-8")
    done = torchmar("status", "--hosts", "hosts.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert HOSTS[mistake][1] in done.stderr


@pytest.mark.parametrize(
    "option", [["--key-file", "key.json"], ["--inference", "http://127.0.0.1:1"], ["--store", "here"]]
)
def test_no_option_is_ignored_for_a_file_of_hosts(option: list[str], tmp_path: Path) -> None:
    """What is of one server is refused, and the message says where to write it."""
    (tmp_path / "hosts.yaml").write_text("- {name: a, dir: .}", encoding="utf-8")
    done = torchmar("scale", "m", "1", "--hosts", "hosts.yaml", *option, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{option[0]}: for one server, and --hosts names several" in done.stderr


def test_a_release_that_is_not_begun_is_told_to_machines(tampered: Path, tmp_path: Path) -> None:
    """A server that is down, and an archive with a flipped byte: JSON on stdout, the error on stderr."""
    server = ["--no-token", "--inference", "http://127.0.0.1:1", "--management", "http://127.0.0.1:1"]
    for arguments, said in (([], "no TorchServe that was started"), (server, "does not match its digests")):
        for events in ([], ["--events"]):
            done = torchmar("release", tampered, *arguments, "--json", *events, cwd=tmp_path)
            assert done.returncode == 1
            told = json.loads(done.stdout)
            assert (told["outcome"], told["plans"]) == ("refused", [])
            assert said in told["reason"]
            assert said in done.stderr


def test_what_ended_by_an_error_half_way_is_not_called_refused() -> None:
    """As a `resume` that undid two of three servers."""
    for acts, outcome in ((0, "refused"), (1, "failed")):

        def command(printer: EventPrinter, acts: int = acts) -> Shown:
            for _ in range(acts):
                printer(Entry("2026-11-27T00:00:00Z", "1", "begin", "a", "undo"))
            raise ReleaseError("c could not be put back")

        own = typer.Typer()
        add(own, "", command)
        told = json.loads(CliRunner().invoke(own, ["--json"]).stdout)
        assert (told["outcome"], told["reason"]) == (outcome, "c could not be put back")
        assert told["error"] == {"type": "ReleaseError", "message": "c could not be put back", "hint": ""}


REFUSALS = {
    "rollback m": "no {folder}/releases/m.jsonl",
    "resume m": "no {folder}/releases/m.jsonl",
    "reconcile m": "no {folder}/releases/m.jsonl",
    "reconcile": "{folder}/releases: give --journal FOLDER",
    "retire m 1.0": "nothing listens there",
    "status": "nothing listens there",
    "versions m": "nothing listens there",
    "predict m x.bin": "nothing listens there",
    "set-default m 1.0": "nothing listens there",
    "scale m 1": "nothing listens there",
    "repair m": "its model store cannot be reached from here",
    "unregister m 1.0": "nothing listens there",
    "register m-1.0.mar": "nothing listens there",
    "inspect missing.mar": "no such file",
    "archive missing": "give a folder that holds a model.yaml",
    "serve --config missing": "cannot be read",
}


@pytest.mark.parametrize("command", REFUSALS)
def test_what_ends_a_command_is_told_to_machines(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json, and with --events where there are any: one document, or one line at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHMAR_MANAGEMENT", "http://127.0.0.1:1")
    monkeypatch.setenv("TORCHMAR_INFERENCE", "http://127.0.0.1:1")
    (tmp_path / "x.bin").write_bytes(b"x")
    words = command.split()
    own = [] if words[0] in {"inspect", "archive", "serve"} else ["--no-token"]
    has_events = words[0] in {"rollback", "resume", "reconcile", "retire", "scale", "repair"}
    for option in ("--json", "--events") if has_events else ("--json",):
        done = CliRunner().invoke(app, [*words, *own, option])
        assert done.exit_code == 1
        error = json.loads(done.stdout)["error"]
        assert REFUSALS[command].format(folder=tmp_path) in error["message"]
        assert issubclass(getattr(errors, error["type"]), TorchmarError)


def test_a_folder_without_a_configuration_is_told(tmp_path: Path) -> None:
    """As that of a server that another one's container runs: which addresses are asked is a guess."""
    entry = {"key": "x"}
    (tmp_path / "key_file.json").write_text(json.dumps({"management": entry, "inference": entry}))
    options = ServerOptions(directory=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("torchmar.cli._output.err.print", lambda text, **_: told.append(text))
        options.connect().close()
        assert "has no config.properties" in told[0]
        (tmp_path / "config.properties").touch()
        options.connect().close()
    assert len(told) == 1


def test_health_above_a_dead_default_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What TorchServe calls Healthy has a default version that answers nobody."""
    dead = version("2.0", workers=(worker(ready=False),))
    show_state(ServerState(True, {}, ((version("1.0"), False), (dead, True)), {}), is_known=True)
    assert "Healthy by /ping, but without a READY worker: m 2.0\n" in capsys.readouterr().out


def test_a_long_name_of_a_server_is_told_apart_from_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    """As the address that a server is called by."""
    data = {"text": "2 READY", "seconds": 1.0}
    EventPrinter()(Entry("2026-11-27T00:00:00Z", "1", "done", "http://127.0.0.1:8081", "ready", data))
    assert capsys.readouterr().out.startswith("http://127.0.0.1:8081 ready ")


def test_the_defaults_of_a_release_are_those_of_its_options() -> None:
    """The command says them in its help; what is said of no field is no option."""
    typed = {one.name: one.default for one in parameters(Options)}
    assert made(Options, typed) == Options()
    assert {field.name for field in dataclasses.fields(Options)} - typed.keys() == {"pinned_unseen"}


def test_what_a_release_is_told_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are those of the folder that it was typed in: it may be resumed from another one."""
    monkeypatch.chdir(tmp_path)
    typed = {"samples": 7, "canary": "1,25", "nginx": Path("n.conf"), "shadow": [Path("*.jsonl")]}
    assert made(Options, typed) == Options(
        samples=7, canary=(1.0, 25.0), nginx=str(tmp_path / "n.conf"), shadow=(str(tmp_path / "*.jsonl"),)
    )


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["verify"], ["scale", "tiny", "many"], ["status", "--bogus"]]
)
def test_a_wrong_call_shows_how_to_call_it(arguments: list[str]) -> None:
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 2
    assert "Usage: " in shown.output
    assert "--help" in shown.output or "-h" in shown.output


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`torchmar schema | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "torchmar", "schema"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before it has come to print anything
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


def test_stop_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    """And is told, in JSON as well."""
    done = torchmar("stop", "--dir", tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"stopped": False, "pid": None}


# -- schema -------------------------------------------------------------------------------------


def test_the_schema_in_docs_is_the_one_of_the_code() -> None:
    """If not: .venv/bin/torchmar schema > docs/model.schema.json"""
    done = torchmar("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert done.stdout == SCHEMA.read_text(encoding="utf-8")


# -- archives -----------------------------------------------------------------------------------


@pytest.fixture
def tampered(tiny_onnx: Path, tmp_path: Path) -> Path:
    """The archive with one label changed after it was built."""
    path = tmp_path / "tampered.mar"
    with zipfile.ZipFile(tiny_onnx) as source, zipfile.ZipFile(path, "w") as sink:
        for info in source.infolist():
            content = source.read(info)
            sink.writestr(
                info,
                content.replace(b"zero", b"nine") if info.filename == "model_source/labels.txt" else content,
            )
    return path


def test_inspect_shows_what_is_inside(tiny_onnx: Path) -> None:
    done = torchmar("inspect", tiny_onnx)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("tiny 2.0", "handler.py", "MAR-INF/digests.json", "Parity", "Digests  match"):
        assert part in done.stdout


def test_inspect_as_json(tiny_eager: Path) -> None:
    done = torchmar("inspect", tiny_eager, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert (content["name"], content["version"], content["digests"]) == ("tiny", "1.0", "match")
    assert content["parity"]["runtime"] == "eager"
    assert "model_source/load.py" in [file["name"] for file in content["files"]]


def test_inspect_of_a_changed_archive_names_what_was_changed(tampered: Path) -> None:
    """It shows; it does not judge."""
    done = torchmar("inspect", tampered)
    assert done.returncode == 0
    assert "Digests  do not match:\n  model_source/labels.txt: changed after the build" in done.stdout


def test_verify_loads_and_replays(tiny_onnx: Path) -> None:
    done = torchmar("verify", tiny_onnx)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"ok  {re.escape(str(tiny_onnx))}: digests match, loads in [0-9.]+ s, "
        r"2 golden answered as expected\n",
        done.stdout,
    )


def test_verify_as_json(tiny_onnx: Path, tiny_eager: Path) -> None:
    """Of several, one list; without loading, nothing of an archive is run."""
    done = torchmar("verify", tiny_onnx, tiny_eager, "--json", "--no-load")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert [result["path"] for result in content] == [str(tiny_onnx), str(tiny_eager)]
    assert all(result["ok"] and not result["loaded"] for result in content)
    assert {result["digests"] for result in content} == {"match"}


@pytest.mark.parametrize("options", [[], ["--no-load"]])
def test_verify_refuses_a_changed_archive(tampered: Path, options: list[str]) -> None:
    """Before anything of it is run."""
    done = torchmar("verify", tampered, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tampered}: does not match its digests\n")
    assert "model_source/labels.txt: changed after the build" in done.stderr


def test_verify_as_json_tells_of_each(tampered: Path, tiny_onnx: Path) -> None:
    """One that is refused does not hide what the others are; the exit code is 1."""
    done = torchmar("verify", tampered, tiny_onnx, "--json", "--no-load")
    assert (done.returncode, done.stderr) == (1, "")
    refused, good = json.loads(done.stdout)
    assert (refused["ok"], good["ok"]) == (False, True)
    assert "model_source/labels.txt: changed after the build" in refused["error"]


def test_verify_shows_why_a_strangers_archive_does_not_load(tmp_path: Path) -> None:
    """The reason in one line, with who asks for it; the exit code holds for JSON, too."""
    path = tmp_path / "mine.mar"
    with zipfile.ZipFile(path, "w") as mar:
        manifest = {"model": {"modelName": "mine", "handler": "handler:handle"}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        mar.writestr("handler.py", "import no_such_package\n")
    done = torchmar("verify", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path}: ")
    assert "No module named 'no_such_package'" in done.stderr.splitlines()[0]
    assert "which handler.py line 1 asks for" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = torchmar("verify", path, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    [result] = json.loads(done.stdout)
    assert (result["ok"], result["digests"]) == (False, "none")


def test_scripts_archive_builds_and_leaves_alone_what_is_up_to_date(tmp_path: Path) -> None:
    """The command that design and documentation name, from the checkout, without installation."""
    command = [sys.executable, "scripts/archive.py", "tests/models/tiny", "--store", str(tmp_path)]
    done = run(command, ROOT)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "tiny-1.0.mar"
    assert done.stdout.startswith(f"{path}  ")
    assert "  built\n" in done.stdout
    assert "2 golden answered" in done.stdout
    before = path.stat()
    done = run([*command, "--json"], ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    [result] = json.loads(done.stdout)
    assert (result["path"], result["was_there"]) == (str(path), True)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny-1.0.mar"]


def test_archive_will_not_replace_what_was_built_from_something_else(tiny_onnx: Path, tmp_path: Path) -> None:
    """A served version must not change under its name."""
    shutil.copyfile(tiny_onnx, tmp_path / "tiny-2.0.mar")
    done = torchmar("archive", TINY, "--store", tmp_path, "--version", "2.0", "--weights", "random")
    assert (done.returncode, done.stdout) == (1, "")
    assert "raise `version` in model.yaml" in done.stderr
    assert (tmp_path / "tiny-2.0.mar").read_bytes() == tiny_onnx.read_bytes()


def test_whose_version_is_new_where_others_register_too(tiny_onnx: Path) -> None:
    """What the archive says of itself; only where that is not known there must be just one."""
    from torchmar import mar
    from torchmar.errors import ClientError
    from torchmar.manage._register import _the_new_one

    known, others = mar.read(tiny_onnx), {("tiny", "9.0"), ("other", "1.0")}
    assert _the_new_one({("tiny", "2.0"), *others}, known) == ("tiny", "2.0")
    assert _the_new_one({("other", "1.0")}, None) == ("other", "1.0")
    with pytest.raises(ClientError, match="is unknown"):
        _the_new_one(others, None)


def test_one_dead_server_is_gone_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are connected, and why it is not is told under its name; unless asked for it is an error."""
    from torchmar.cli._servers import FleetOptions
    from torchmar.errors import ConnectionFailed
    from torchmar.manage import _hosts
    from torchmar.release import Host

    def host_of(_stack: object, name: str, *_: object) -> Host:
        if name == "b":
            raise ConnectionFailed("nothing listens there")
        return Host(name, cast("Any", None))

    monkeypatch.setattr(_hosts, "host_of", host_of)
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text("[{name: a, dir: a}, {name: b, dir: b}]")
    servers = FleetOptions(hosts=hosts)
    with servers.fleet(go_without=True) as fleet:
        assert ([host.name for host in fleet.hosts], fleet.missing) == (["a"], {"b": "nothing listens there"})
    with pytest.raises(ConnectionFailed), servers.fleet():
        pass


def test_commands_that_are_told_mean_the_same_servers() -> None:
    """What is shown to be typed next has the options that this command was given, quoted for a shell."""
    from torchmar.cli._servers import FleetOptions

    assert FleetOptions(timeout=5).as_typed == ""
    given = FleetOptions(directory=Path("/srv/my models"), no_token=True, journal=Path("j"))
    assert given.as_typed == " --dir '/srv/my models' --no-token --journal j"
