"""Which names and versions a TorchServe can be asked for: torchmar.names says so, and here a server does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests

from torchmar.errors import ArchiveNotInStore, ClientError, ModelNotFound, NotAllowed, NoWorker
from torchmar.names import name_problem, unsayable, version_problem

from .named import make_named
from .servers import Live

# Every character of ASCII that is no letter or digit, and some of several bytes, or that nobody sees.
CHARACTERS = [chr(code) for code in range(128) if not chr(code).isalnum()]
CHARACTERS += [*"ßéя日", "\N{GRINNING FACE}", "\x85", "\u00a0", "\u2028", "\u202e", "\ufeff"]

LONGEST = "x" * 1900  # in a URL, of the 4,096 bytes for two of them and the rest of the line


@pytest.fixture
def empty(server: Live) -> Iterator[Live]:
    """The file's server; every test unregisters what it can."""
    before = server.running.folder.joinpath("key_file.json").read_bytes()
    yield server
    assert server.running.folder.joinpath("key_file.json").read_bytes() == before  # no key was renewed


def register(live: Live, name: str, version: str) -> None:
    """Without a worker, past all that torchmar refuses, as curl would do it."""
    make_named(live.store, "named.mar", name, version)
    live.management.register("named.mar", initial_workers=0)


def manage(live: Live, name: str, version: str) -> None:
    """Everything that a client does with a model, down to unregistering it."""
    management = live.management
    assert name in [entry.name for entry in management.models()]
    assert management.default_version(name) == version
    assert management.describe(name, version).name == name
    assert [one.version for one in management.versions(name)] == [version]
    management.scale(name, 0, version)
    management.set_default(name, version)
    for asked in (None, version):
        with pytest.raises(NoWorker):  # TorchServe found it
            live.inference.predict(name, b"x", version=asked)
    management.unregister(name, version)
    with pytest.raises(ModelNotFound):
        management.describe(name)


def ask(live: Live, method: str, path: str) -> requests.Response:
    """A call as anybody makes it, with the management key."""
    assert live.running.key_file is not None
    key = json.loads(live.running.key_file.read_text())["management"]["key"]
    headers = {"Authorization": f"Bearer {key}"}
    return requests.request(method, live.management.address + path, headers=headers, timeout=10)


def test_every_character_but_one_can_be_said(empty: Live) -> None:
    """In names and in versions, in the middle and at an end: TorchServe decodes what is quoted."""
    for character in CHARACTERS:
        for text in (f"n{character}m", f"{character}n", f"n{character}"):
            assert (unsayable(text) is None) == (character != "/")
            if character != "/":
                register(empty, text, text)
                manage(empty, text, text)


def test_a_slash_cannot_be_said(empty: Live) -> None:
    """TorchServe decodes before it splits. Until it is restarted the model stays, and hinders no other."""
    register(empty, "a/b", "1.0")
    register(empty, "slash", "release/1")
    assert {"a/b", "slash"} <= {entry.name for entry in empty.management.models()}
    assert ask(empty, "GET", "/models/a%2Fb").status_code == 404
    assert ask(empty, "DELETE", f"/models/{quote('a/b', safe='')}/1.0").status_code == 404
    assert ask(empty, "DELETE", "/models/slash/release%2F1").status_code == 404
    assert [one.version for one in empty.management.versions("slash")] == ["release/1"]
    with pytest.raises(ClientError, match="only a restart of TorchServe removes it"):
        empty.management.unregister("a/b", "1.0")


def test_token_can_be_said_by_us_alone(empty: Live) -> None:
    """Anybody else's request for such a model is taken for a call to the token API."""
    register(empty, "tokenizer", "tokens")
    for method in ("GET", "PUT", "DELETE"):
        for path in ("/models/tokenizer", "/models/tokenizer/tokens"):
            answer = ask(empty, method, path)
            assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")
    manage(empty, "tokenizer", "tokens")
    for text in ("mytoken", "Token", "a token"):
        assert name_problem(text) is None
        register(empty, text, text)
        assert ask(empty, "GET", f"/models/{quote(text)}/{quote(text)}").status_code == 200
        manage(empty, text, text)


@pytest.mark.parametrize("text", ["all", "set-default", "models", "%74oken", "a%2Fb", " ", LONGEST])
def test_words_and_lengths_that_can_be_said(empty: Live, text: str) -> None:
    """`all` means every version only where it is asked for, which describe sees through."""
    assert unsayable(text) is None
    register(empty, text, text)
    manage(empty, text, text)


def test_what_is_too_long_cannot_be_said(empty: Live) -> None:
    """TorchServe reads 4,096 bytes of the first line."""
    assert unsayable(LONGEST + "x") is not None
    assert unsayable("\N{GRINNING FACE}" * 159) is not None  # twelve bytes each
    assert unsayable("\N{GRINNING FACE}" * 158) is None
    register(empty, "y" * 5000, "1.0")
    answer = ask(empty, "GET", f"/models/{'y' * 5000}")
    assert (answer.status_code, answer.json()["message"]) == (400, "Invalid HTTP message.")
    assert "y" * 5000 in [entry.name for entry in empty.management.models()]


def test_half_a_character_cannot_be_said(empty: Live) -> None:
    """JSON can hold it, and no URL."""
    assert unsayable("a\ud800b") is not None
    register(empty, "a\ud800b", "1.0")
    assert ask(empty, "GET", "/models/a%ED%A0%80b").status_code == 404
    assert ask(empty, "GET", "/models/a%3Fb").status_code == 404


@pytest.mark.parametrize(
    "file",
    ["with space.mar", "a+b.mar", "a&b=c.mar", "a#b?c.mar", "a%41.mar", "token.mar", "日本.mar", "[x].mar"],
)
def test_file_names_that_are_taken(empty: Live, file: str) -> None:
    """What is a query is quoted."""
    make_named(empty.store, file, "filed")
    empty.management.register(file, initial_workers=0)
    assert empty.management.describe("filed").archive == file
    empty.management.unregister("filed", "1.0")


def test_file_names_that_are_not(empty: Live) -> None:
    """Pinned: two dots anywhere are a path to TorchServe; of any other path it takes the last name."""
    make_named(empty.store, "a..b.mar", "filed")
    with pytest.raises(NotAllowed, match=r"under a name without '\.\.'"):
        empty.management.register("a..b.mar")
    (empty.store / "token").mkdir()
    make_named(empty.store, "token/inner.mar", "filed")
    with pytest.raises(ArchiveNotInStore, match=r"token/inner\.mar"):
        empty.management.register("token/inner.mar")
    make_named(empty.store, "outer.mar", "filed")
    empty.management.register("/nowhere/token/outer.mar", initial_workers=0)
    empty.management.unregister("filed", "1.0")


def test_what_is_refused_holds_what_cannot_be_said() -> None:
    """What torchmar would not register is never less than that."""
    for text in ("", "/", ".", "..", "x" * 2000, "\ud800"):
        assert name_problem(text) is not None
        assert version_problem(text) is not None
