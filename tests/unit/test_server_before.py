"""What TorchServe would not start with is told before, or put right: settings, encodings, locale, disk."""

from __future__ import annotations

import codecs
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchmar.errors import ServerError, ServerNotStarted
from torchmar.server import (
    Java,
    ServerConfig,
    doubtful,
    free_ports,
    load_config,
    read_config,
    start,
    unreadable,
)
from torchmar.server import _before as before

from .test_server_config import needs_jdk, read_by_java

# -- values that TorchServe cannot read ---------------------------------------------------------


def told(**settings: str) -> list[str]:
    """What is wrong with settings, each with its remedy."""
    return [f"{one.what} → {one.remedy}" for one in unreadable(ServerConfig(None, settings))]


@pytest.mark.parametrize(
    ("address", "instead"),
    [
        ("http://[::1]:8080", "http://127.0.0.1:8080"),
        ("https://[::1]:8080", "https://127.0.0.1:8080"),
        ("http://[::1]", "http://127.0.0.1:PORT"),
        ("http://[::]:8080", "http://0.0.0.0:8080"),
        ("http://[::1]:8080/", "http://127.0.0.1:8080"),
        ("http://[fe80::1%eth0]:80", "http://127.0.0.1:80"),
        ("http://[2001:db8::5]:80", "http://127.0.0.1:80"),
        ("http://::1:8080", "http://127.0.0.1:PORT"),
    ],
)
@pytest.mark.parametrize("key", ["inference_address", "management_address", "metrics_address"])
def test_an_ipv6_address(key: str, address: str, instead: str) -> None:
    """TorchServe ends in a NullPointerException; what to write is said instead."""
    [line] = told(**{key: address})
    assert line == f"{key}={address}: TorchServe listens on IPv4 addresses only → write {key}={instead}"


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 300, "\u0661"])
def test_a_name_without_an_ipv4_address(host: str) -> None:
    [line] = told(inference_address=f"http://{host}:8080")
    assert "has no IPv4 address here" in line


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8080/",
        "http://127.0.0.1:8080 ",
        "127.0.0.1:8080",
        "",
        "http://",
        "ftp://127.0.0.1",
        "unix:x",
        "http://someone:secret@127.0.0.1:8080",
    ],
)
def test_no_address_by_torchserves_own_pattern(address: str) -> None:
    """It takes nothing after the port: no slash, and no space that an editor left there."""
    [line] = told(inference_address=address)
    assert "is no address → write inference_address=http://127.0.0.1:PORT" in line


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:0", "http://127.0.0.1:65535", "http://127.0.0.1:99999"]
)
def test_no_port(address: str) -> None:
    [line] = told(inference_address=address)
    assert "there is no such port → write one from 1 to 65534" in line


def test_a_unix_socket_with_a_long_path() -> None:
    """The system takes 107 bytes."""
    assert told(inference_address="unix:/tmp/a.sock") == []
    [line] = told(inference_address="unix:/" + "é" * 60)
    assert "may have 107 bytes, this one has 121" in line


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "HTTP://0.0.0.0", "http://localhost:80"])
def test_addresses_that_are_good(address: str) -> None:
    assert told(inference_address=address) == []


def test_two_settings_with_one_port() -> None:
    """Inference and management may share an address, where no token is asked for."""
    both = {"management_address": "http://127.0.0.1:8080"}
    assert told(**both, disable_token_authorization="true") == []
    [line] = told(**both)
    assert "no token can satisfy both checks" in line
    [line] = told(metrics_address="http://127.0.0.1:8081")
    assert "metrics_address and management_address are both on port 8081" in line


@pytest.mark.parametrize(
    "value", ["", "abc", "1.5", "6553500 ", " 5", "5s", "1_000", "99999999999", "\u0661", "0x10"]
)
@pytest.mark.parametrize(
    "key", ["max_request_size", "job_queue_size", "initial_worker_port", "number_of_gpu"]
)
def test_a_number_that_java_does_not_read(key: str, value: str) -> None:
    [line] = told(**{key: value})
    assert "is no whole number that TorchServe can read" in line
    assert ("space" in line) == (value != value.strip())


@pytest.mark.parametrize("value", ["0", "-1", "+5", "2147483647"])
def test_a_number_that_it_reads(value: str) -> None:
    assert told(max_request_size=value) == []


@pytest.mark.parametrize("value", ["0", "70000", "-1"])
def test_a_grpc_port_is_a_port(value: str) -> None:
    [line] = told(grpc_inference_port=value)
    assert line.startswith(f"grpc_inference_port={value} ")


@pytest.mark.parametrize("value", ["{", "[]", "5", "[" * 100_000])
def test_models_that_are_no_json_object(value: str) -> None:
    [line] = told(models=value)
    assert "models is no JSON object" in line
    assert told(models='{"tiny": {"1.0": {}}}') == []


@pytest.mark.parametrize("value", ["yes", "1", "true ", "on"])
def test_a_switch_that_says_something_else(value: str) -> None:
    """TorchServe starts, and takes it for false."""
    [problem] = doubtful(ServerConfig(None, {"enable_model_api": value}))
    assert "takes it for false" in problem.what
    assert not list(doubtful(ServerConfig(None, {"enable_model_api": "TRUE"})))


def test_nothing_that_is_told_holds_a_line_end_or_escape() -> None:
    """Values come from outside."""
    bad = "x\x1b[2J\ny"
    found = told(inference_address=bad, max_request_size=bad) + [
        one.what for one in doubtful(ServerConfig(None, {"debug": bad}))
    ]
    assert len(found) == 3
    assert all(line.isprintable() for line in found)


def test_a_server_is_not_started_with_them(tmp_path: Path) -> None:
    """All of them are told at once."""
    config = free_ports(ServerConfig(None, {"max_request_size": "6 MB", "job_queue_size": "many"}))
    with pytest.raises(ServerNotStarted) as caught:
        start(tmp_path, tmp_path, config, environment={}, java=JAVA)
    assert "max_request_size=6 MB" in str(caught.value)
    assert "job_queue_size=many" in str(caught.value)


JAVA = Java(Path("/nowhere/bin/java"), 17, "test")


def test_what_the_environment_says() -> None:
    """As TorchServe puts it in; what is not there is named."""
    settings = {"inference_address": "http://$$HOST$$:$$PORT$$", "job_queue_size": "$$QUEUE$$"}
    config = ServerConfig(Path("config.properties"), settings)
    found = config.resolved({"HOST": "127.0.0.1", "PORT": "9080", "QUEUE": "10", "TS_JOB_QUEUE_SIZE": "x"})
    assert (found.inference, found.get("job_queue_size")) == ("http://127.0.0.1:9080", "10")
    assert (found.path, unreadable(found)) == (config.path, [])
    [problem] = unreadable(config.resolved({"HOST": "127.0.0.1", "PORT": "9080"}))
    assert problem.what == "job_queue_size names $$QUEUE$$, and there is no such variable in the environment"


def test_variables_that_replace_settings() -> None:
    """Where the file allows it; the URLs that archives may come from need a leave of their own."""
    variables = {"TS_INFERENCE_ADDRESS": "http://127.0.0.1:9080", "TS_ALLOWED_URLS": ".*"}
    config = ServerConfig(None, {"allowed_urls": "^$"})
    assert config.resolved(variables) == config
    config = config.with_settings({"enable_envvars_config": "true"})
    found = config.resolved(variables)
    assert (found.inference, found.get("allowed_urls")) == ("http://127.0.0.1:9080", "^$")
    config = config.with_settings({"use_env_allowed_urls": "true"})
    assert config.resolved(variables).get("allowed_urls") == ".*"


# -- files that TorchServe reads otherwise ------------------------------------------------------

ADDRESS = "inference_address=http://127.0.0.1:18080"
NAMED = "model_store=/srv/modèles"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (
            codecs.BOM_UTF8 + ADDRESS.encode(),
            "byte order mark: TorchServe does not find or misreads inference_address",
        ),
        (codecs.BOM_UTF8 + f"# {ADDRESS}\n{ADDRESS}".encode(), ""),
        (ADDRESS.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + ADDRESS.encode("utf-16-be"), "UTF-16"),
        (ADDRESS.encode("utf-16-le"), "UTF-16"),
        (ADDRESS.encode("utf-16-be"), "UTF-16"),
        (f"{NAMED}\n{ADDRESS}".encode(), "UTF-8, and TorchServe reads Latin-1: it misreads model_store"),
        (f"# modèles\n{ADDRESS}".encode(), ""),
        (f"{NAMED}\n{ADDRESS}".encode("latin-1"), "is not written in UTF-8"),
        (f"a=\\users\n{ADDRESS}".encode(), "without four hexadecimal digits"),
        (f"a=\\\\users\n{ADDRESS}".encode(), ""),
        (f"# \\users\n{ADDRESS}".encode(), ""),
        (f"{ADDRESS}\nvmargs: -Xmx1g\n".encode(), "gives vmargs otherwise than as KEY=VALUE"),
        (f"{ADDRESS}\nvmargs -Xmx1g\n".encode(), "gives vmargs otherwise"),
        (f"{ADDRESS}\nvmargs=-Xmx1g \\\n -Da=b\n".encode(), "gives vmargs otherwise"),
        (f"{ADDRESS}\nvm\\u0061rgs=-Xmx1g\n".encode(), "gives vmargs otherwise"),
        (f"{ADDRESS}\nmodels={{\\\nplugins_path=/srv}}\n".encode(), "gives plugins_path otherwise"),
        (f"{ADDRESS}\n vmargs = -Xmx1g -Da=b\n#vmargs=\n!vmargs=\n".encode(), ""),
        (f"{ADDRESS}\nvmargs=-Da=C:\\\\x\n".encode(), ""),
        (ADDRESS.encode(), ""),
        (b"", ""),
    ],
)
def test_a_file_that_torchserve_reads_otherwise(tmp_path: Path, raw: bytes, why: str) -> None:
    """Torchmar reads what was meant, and knows what TorchServe makes of it."""
    file = tmp_path / "config.properties"
    file.write_bytes(raw)
    config = load_config(file)
    assert why in config.misread if why else not config.misread
    if raw:
        assert config.inference == "http://127.0.0.1:18080"
    if b"model_store" in raw:
        assert config.store(tmp_path) == Path("/srv/modèles")


@pytest.mark.parametrize(
    ("text", "variable"),
    [("vmargs=-Xmx$$HEAP$$", "HEAP"), ("enable_envvars_config=true\nvmargs=-Xmx1g", "TS_VMARGS")],
)
def test_what_the_environment_says_to_java_alone(tmp_path: Path, text: str, variable: str) -> None:
    """TorchServe's launcher, which starts the JVM, takes its options from the file as they are there."""
    file = tmp_path / "config.properties"
    file.write_text(text)
    config = load_config(file).resolved({variable: "512m"})
    assert "leaves vmargs to the environment" in config.misread
    copy = load_config(config.write(tmp_path / "copy").path or file)
    assert (copy.misread, copy.get("vmargs")[-4:]) == ("", "512m")
    assert not load_config(file).resolved({}).misread


@needs_jdk
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8", "latin-1"])
def test_the_copy_that_torchserve_is_given(tmp_path: Path, encoding: str) -> None:
    """Java reads from it what was meant; as it is, Java reads something else."""
    text = f"{ADDRESS}\n{NAMED}\nsch\\ lüssel=wert\n"
    (tmp_path / "config.properties").write_bytes(text.encode(encoding))
    config = load_config(tmp_path / "config.properties")
    copy = config.write(tmp_path / "copy.properties")
    assert (tmp_path / "copy.properties").read_bytes().isascii()
    assert read_by_java(tmp_path / "copy.properties", tmp_path) == copy.settings
    assert copy.settings["sch lüssel"] == "wert"
    if encoding != "latin-1":
        assert read_by_java(tmp_path / "config.properties", tmp_path) != copy.settings


def test_what_java_reads_of_a_server_that_was_started_by_hand(tmp_path: Path) -> None:
    """It was not given the copy: it listens on TorchServe's default."""
    file = tmp_path / "config.properties"
    file.write_bytes(codecs.BOM_UTF8 + ADDRESS.encode())
    assert load_config(file).inference == "http://127.0.0.1:18080"
    assert load_config(file, by_java=True).inference == "http://127.0.0.1:8080"


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_file_that_is_there_and_cannot_be_read(tmp_path: Path, is_folder: bool) -> None:
    """It is not taken for one that is not there: TorchServe's defaults would be used unseen."""
    file = tmp_path / "config.properties"
    if is_folder:
        file.mkdir()
    else:
        file.symlink_to(file)
    with pytest.raises(ServerError, match="cannot be read"):
        read_config(file)


# -- the model store ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "store"),
    [
        (None, "/served/model_store"),
        ("", "/served/model_store"),
        ("/srv/models", "/srv/models"),
        ("archives", "/served/archives"),
        ("../archives", "/served/../archives"),
        ("~/archives", "/home/me/archives"),
        ("~nobody-of-this-name/archives", "/served/~nobody-of-this-name/archives"),
    ],
)
def test_the_model_store_that_a_configuration_names(
    monkeypatch: pytest.MonkeyPatch, named: str | None, store: str
) -> None:
    """A relative one lies where the server runs, as for TorchServe."""
    monkeypatch.setenv("HOME", "/home/me")
    config = ServerConfig(None, {} if named is None else {"model_store": named})
    assert config.store(Path("/served")) == Path(store)


# -- the locale ---------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "darwin", reason="Java takes UTF-8 there, whatever the locale")
@pytest.mark.parametrize(
    ("variables", "is_changed"),
    [
        ({}, True),
        ({"LC_ALL": "C"}, True),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, True),
        ({"LC_ALL": "C", "PYTHONUTF8": "1"}, True),
        ({"LANG": "xx_XX.UTF-8"}, True),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "xx_XX.UTF-8"}, True),
        ({"LANG": "C.UTF-8"}, False),
        ({"LC_ALL": "C.UTF-8", "LANG": "C"}, False),
    ],
)
def test_the_server_gets_a_locale_with_utf_8(
    tmp_path: Path, variables: dict[str, str], is_changed: bool
) -> None:
    """By what the C library makes of the environment, as Java does: a locale may not be installed."""
    given = {"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii", **variables}
    found = before.server_environment(given, JAVA, tmp_path, tmp_path, sys.executable)
    assert (found.get("LC_ALL") != given.get("LC_ALL")) == is_changed
    assert "PYTHONIOENCODING" not in found
    ask = "import os; print(os.fsencode(os.listdir(b'.')[0].decode()))"
    (tmp_path / "é").touch()
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env={**found, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == b"b'\\xc3\\xa9'"


def test_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    """Java could not open it: told before, in one sentence."""
    folder = tmp_path / os.fsdecode(b"mod\xe8les")
    folder.mkdir()
    with pytest.raises(ServerNotStarted, match="is not UTF-8, and TorchServe's Java opens no such files"):
        start(folder, folder, free_ports(ServerConfig(None, {})), environment={}, java=JAVA)


def test_a_folder_that_the_locale_cannot_name(tmp_path: Path) -> None:
    """It is there, and named in config.properties: it is the locale that is blamed."""
    (tmp_path / "störe").mkdir()
    code = (
        "from pathlib import Path; from torchmar.server import ServerConfig, free_ports\n"
        "from torchmar.server._before import require_ready\n"
        "require_ready(Path(), Path('st\\xf6re'), free_ports(ServerConfig(None, {})), 'python')"
    )
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **posix},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "export LC_ALL=C.UTF-8: in this locale no file can be named so" in done.stderr
    assert "no such folder" not in done.stderr


# -- disks --------------------------------------------------------------------------------------


def test_a_full_disk_where_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun."""
    monkeypatch.setattr(before, "free_bytes", lambda _: 10)
    with pytest.raises(
        ServerNotStarted, match=r"the disk is full: 0\.0 MB are free where .* Remove something there"
    ):
        start(tmp_path, tmp_path, free_ports(ServerConfig(None, {})), environment={}, java=JAVA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("what", ["mkdir", "write_text", "open"])
def test_a_disk_that_fails_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    """One error of torchmar's, whatever could not be written, and nothing is left of the start."""

    def fail(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    config = free_ports(ServerConfig(None, {}))
    folder, store = tmp_path / "served", tmp_path / "store"
    folder.mkdir()
    store.mkdir()
    temporary = set(Path("/tmp").glob("torchmar-????????"))
    with monkeypatch.context() as patched:
        patched.setattr(Path, what, fail)
        with pytest.raises(ServerNotStarted) as caught:
            start(folder, store, config, environment={}, java=JAVA)
    assert ("the disk is full" in str(caught.value)) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert os.strerror(number) in str(caught.value) or "the disk is full" in str(caught.value)
    assert {path for path in set(Path("/tmp").glob("torchmar-????????")) - temporary if _empty(path)} == set()


def _empty(path: Path) -> bool:
    """Other servers of this machine may start at the same time."""
    return not any(path.iterdir())


def test_what_is_to_be_loaded_and_is_not_there_is_told(tmp_path: Path) -> None:
    """TorchServe starts without it, and says so in its log alone; a URL and its own words are no files."""
    (tmp_path / "a.mar").touch()
    for named, told in (
        ("a.mar", []),
        ("x=a.mar, nope.mar", ["nope.mar"]),
        ("all", []),
        ("", []),
        ("m=http://h/m.mar", []),
    ):
        notes = before.not_in_store(ServerConfig(None, {"load_models": named}), tmp_path)
        assert [one.split()[2].rstrip(",") for one in notes] == told
