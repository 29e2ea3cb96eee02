"""Whose tokens are sent where: this folder's go to the server that runs in it, and to no other address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import torchmar.server
from torchmar.cli import app
from torchmar.cli._servers import FleetOptions, ServerOptions
from torchmar.client import TokenFile
from torchmar.connection import connect
from torchmar.errors import ClientError
from torchmar.server import ServerConfig

from .test_http_errors import HEALTHY, Heard, answers, listening, sends

WHOSE = r"give that server's key_file\.json .*--key-file.*--no-token"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a server, with its tokens."""
    entry = {"key": "ours"}
    content = {"inference": entry, "management": entry, "API": {"key": "api"}}
    (tmp_path / "key_file.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


@pytest.fixture
def elsewhere() -> Iterator[Heard]:
    """Somebody who listens, and notes what comes."""
    with listening(sends(answers(200, HEALTHY))) as heard:
        yield heard


def running(monkeypatch: pytest.MonkeyPatch, address: str, **settings: str) -> None:
    """A server runs in whatever folder is asked for, at this address."""
    keys = ("inference_address", "management_address", "metrics_address")
    config = ServerConfig(None, {**dict.fromkeys(keys, address), **settings})
    found = SimpleNamespace(config=config, model_store=None)
    monkeypatch.setattr(torchmar.server, "find_running", lambda _: found)


def test_a_program_finds_the_server_as_the_commands_do(
    folder: Path, elsewhere: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the folder; by variables of the environment with their tokens; and what is given wins."""
    running(monkeypatch, elsewhere.address)
    with connect(folder, environment={}) as server:
        server.inference.ping()
    named = {"TORCHMAR_INFERENCE": elsewhere.address, "TORCHMAR_INFERENCE_TOKEN": "theirs"}
    with connect(folder, environment=named) as server:
        server.inference.ping()
    with connect(folder, environment={"TORCHMAR_INFERENCE": "http://127.0.0.1:9"}, no_token=True) as server:
        assert server.inference.address == "http://127.0.0.1:9"
    with connect(folder, environment=named, no_token=True, inference=f"{elsewhere.address}/") as server:
        server.inference.ping()
    assert elsewhere.header("authorization") == ["Bearer ours", "Bearer theirs", ""]


@pytest.mark.parametrize("name", ["inference", "management"])
@pytest.mark.parametrize("runs", [False, True])
def test_another_address_needs_tokens_of_its_own(
    folder: Path, elsewhere: Heard, monkeypatch: pytest.MonkeyPatch, name: str, *, runs: bool
) -> None:
    """Whether or not a server runs here: nothing is sent."""
    if runs:
        running(monkeypatch, "http://127.0.0.1:9")
    options: dict[str, Any] = {name: elsewhere.address}
    with pytest.raises(ClientError, match=WHOSE):
        ServerOptions(directory=folder, **options).connect()
    assert elsewhere.requests == []


def test_one_strange_address_beside_the_servers_own(
    folder: Path, elsewhere: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them must be its own."""
    running(monkeypatch, "http://127.0.0.1:9")
    own = {"inference": "http://127.0.0.1:9", "management": elsewhere.address}
    with pytest.raises(ClientError, match=WHOSE):
        ServerOptions(directory=folder, **own).connect()  # type: ignore[arg-type]


def test_the_servers_own_address_may_be_given(
    folder: Path, elsewhere: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by TORCHMAR_INFERENCE in a shell that stays."""
    running(monkeypatch, elsewhere.address)
    with ServerOptions(directory=folder, inference=f"{elsewhere.address}/").connect() as server:
        assert server.inference.ping()
    with ServerOptions(directory=folder).connect() as server:
        assert server.inference.ping()
    assert elsewhere.header("authorization") == ["Bearer ours"] * 2
    running(monkeypatch, elsewhere.address, disable_token_authorization="true")
    with ServerOptions(directory=folder, inference=elsewhere.address).connect() as server:
        assert server.inference.ping()
    assert elsewhere.header("authorization")[2:] == [""]


def test_what_is_said_is_sent(folder: Path, elsewhere: Heard) -> None:
    """A key file, or none at all."""
    other = folder / "theirs.json"
    other.write_text('{"inference": {"key": "theirs"}}', encoding="utf-8")
    with ServerOptions(directory=folder, inference=elsewhere.address, key_file=other).connect() as server:
        assert server.inference.ping()
    with ServerOptions(directory=folder, inference=elsewhere.address, no_token=True).connect() as server:
        assert server.inference.ping()
    assert elsewhere.header("authorization") == ["Bearer theirs", ""]


def test_metrics_need_no_token(folder: Path, elsewhere: Heard) -> None:
    """None is sent there, so its address alone is asked for nothing."""
    with ServerOptions(directory=folder, metrics=elsewhere.address).connect() as server:
        assert server.metrics.text()
    assert elsewhere.header("authorization") == [""]


def test_in_a_file_of_hosts(folder: Path, elsewhere: Heard) -> None:
    """The folder of the file may be that of a server, too; its tokens are for none of the others."""
    hosts = folder / "hosts.yaml"
    (folder / "b.json").write_text('{"inference": {"key": "theirs"}}', encoding="utf-8")
    entries = {
        "": WHOSE,
        f"dir: {folder}, ": WHOSE,
        "key_file: b.json, ": None,
        "no_token: true, ": None,
        'key_file: "", ': "key_file: found ''",
    }
    for entry, refusal in entries.items():
        text = f"- {{name: b, {entry}inference: {elsewhere.address}}}"
        hosts.write_bytes(b"\xef\xbb\xbf" + text.encode())
        with ExitStack() as stack:
            if refusal is not None:
                stack.enter_context(pytest.raises(Exception, match=refusal))
            fleet = stack.enter_context(FleetOptions(hosts=hosts).fleet())
            assert fleet.hosts[0].server.inference.ping()
    assert elsewhere.header("authorization") == ["Bearer theirs", ""]


@pytest.mark.parametrize("how", ["option", "environment"])
@pytest.mark.parametrize(
    "command", [["status"], ["versions", "m"], ["predict", "m", "x"], ["scale", "m", "1"]]
)
def test_by_commands(folder: Path, elsewhere: Heard, how: str, command: list[str]) -> None:
    """Typed, or set in the environment."""
    (folder / "x").write_bytes(b"x")
    command = [part if part != "x" else str(folder / "x") for part in command]
    given = [*command, "--dir", str(folder)]
    environment: dict[str, str] = {}
    for name in ("inference", "management"):
        given += [f"--{name}", elsewhere.address] if how == "option" else []
        environment |= {f"TORCHMAR_{name.upper()}": elsewhere.address} if how == "environment" else {}
    done = CliRunner().invoke(app, given, env=environment)
    assert isinstance(done.exception, ClientError)
    assert "--key-file" in str(done.exception)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- {name: a, inference: ''}", "inference: found '', expected text"),
        ("- {name: a, dir: ''}", "dir: found '', expected text"),
        ('- {name: "a\\nb", dir: .}', "expected a line of text"),
        ("- {name: a, dir: 2026-99-99}", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("\xff", "is not YAML"),
    ],
)
def test_a_file_of_hosts_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    """One sentence, and no traceback."""
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(text, encoding="latin-1")
    with pytest.raises(Exception, match=says) as caught, FleetOptions(hosts=hosts).fleet():
        pass
    assert type(caught.value).__name__ == "ReleaseError"


def test_tokens_themselves_may_be_given(
    folder: Path, elsewhere: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By variables, as a CI has its secrets; by a file, before them; by a key file, before both."""
    file = tmp_path / "token"
    file.write_text("of-the-file\n")
    monkeypatch.setenv("TORCHMAR_MANAGEMENT_TOKEN", "mine")
    monkeypatch.setenv("TORCHMAR_INFERENCE_TOKEN", "theirs")
    address = {"inference": elsewhere.address, "management": elsewhere.address}
    for more in ({}, {"token_file": file}, {"token_file": file, "key_file": folder / "key_file.json"}):
        with ServerOptions(directory=folder, **address, **more).connect() as server:  # type: ignore[arg-type]
            server.inference.ping()
    assert elsewhere.header("Authorization") == ["Bearer theirs", "Bearer of-the-file", "Bearer ours"]


@pytest.mark.parametrize("content", [None, b"", b"two words", b"a\nb", "é".encode(), b"\xff"])
def test_a_file_that_holds_no_token(tmp_path: Path, content: bytes | None) -> None:
    """Nothing that could not be a header's value is taken for one; another one is read at the next call."""
    file = tmp_path / "token"
    tokens = TokenFile(file)
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ClientError, match=r"expected .* token"):
        tokens.token("inference")
    file.write_bytes(b"new\n")
    assert tokens.token("inference") == "new"
    assert tokens.refused("inference", "old")
    assert not tokens.refused("inference", "new")
