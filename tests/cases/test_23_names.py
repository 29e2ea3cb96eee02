"""Names that TorchServe takes and cannot manage: refused before a call, and no hindrance where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.named import make_named
from tests.live.test_commands import Commands
from torchmar.client import KeyFile, Server, connect
from torchmar.server import find_running, stop

pytestmark = pytest.mark.live

BAD = ["tokenizer", "token", "a/b", "a<b", "a[0]", "a\x1b[31mb", "a\nb", "..", "x" * 5000]


class Served(Commands):
    """Commands for a server that has a model to which nothing may happen, and its clients."""

    def __init__(self, above: Path) -> None:
        super().__init__(above)
        self("serve")
        make_named(self.store, "good.mar", "good")
        self("register", "good.mar")
        running = find_running(self.folder)
        assert running is not None
        self.running = running
        self.keys = self.folder / "key_file.json"
        self.clients: Server = connect(
            inference=running.config.inference,
            management=running.config.management,
            tokens=KeyFile(self.keys),
        )

    def by_curl(self, name: str, version: str = "1.0") -> None:
        """Register it past torchmar."""
        make_named(self.store, "curled.mar", name, version)
        self.clients.management.register("curled.mar", initial_workers=0)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.clients.management.models())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("above"))
    yield served
    served.clients.close()
    stop(served.running, timeout=0)


@pytest.fixture
def torchmar(served: Served) -> Iterator[Served]:
    before = served.keys.read_bytes()
    yield served
    assert served.keys.read_bytes() == before  # nobody was robbed of a key


def test_refused_before_a_call(torchmar: Served) -> None:
    """As a name and as a version, in a few words that drive no terminal."""
    before = torchmar.names()
    for name, version in [*((bad, "1.0") for bad in BAD), *(("fine", bad) for bad in (*BAD[::3], "all"))]:
        make_named(torchmar.store, "bad.mar", name, version)
        said = torchmar("register", "bad.mar", code=1)
        assert "must be another one" in said
        assert all(line.isprintable() for line in said.splitlines())
        assert len(said.splitlines()) == 2
        assert len(said) < 600
    assert torchmar.names() == before


def test_what_looks_odd_and_can_be_said(torchmar: Served) -> None:
    """A version of PyTorch's own making: registered, asked, and unregistered again."""
    odd = "1.0.0+cu118 (rc 1)"
    make_named(torchmar.store, "plain.mar", "plain", odd)
    assert f"plain {odd}: 1 READY" in torchmar("register", "plain.mar")
    assert [row["version"] for row in torchmar.json("versions", "plain")] == [odd]
    sent = torchmar.above / "in.txt"
    sent.write_text("hi")
    assert torchmar.json("predict", "plain", sent, "--version", odd)[0]["answer"] == "hi"
    assert "unregistered" in torchmar("unregister", "plain", odd)
    assert "plain" not in torchmar.names()


def test_those_that_are_there_hinder_no_other(torchmar: Served) -> None:
    """Registered by somebody's curl: status tells of them, and all others are managed as before."""
    for bad in BAD:
        torchmar.by_curl(bad)
    torchmar.by_curl("slash", "release/1")
    torchmar.by_curl("every", "all")
    said = torchmar("status")
    assert "\x1b" not in said
    assert "a\ufffd[31mb" in said
    assert "'a/b' holds '/'" in said
    told = torchmar.json("status")
    assert {"a/b", "..", "x" * 5000} <= set(told["unmanageable"])
    rows = [line for line in said.splitlines() if line.endswith(".mar")]
    assert len(rows) == len(told["models"])  # a name breaks no line
    assert {"good", "tokenizer", "token", "slash", "every"} <= {row["name"] for row in told["models"]}

    make_named(torchmar.store, "more.mar", "more")
    assert "more 1.0: 1 READY" in torchmar("register", "more.mar")
    assert "unregistered" in torchmar("unregister", "more", "1.0")
    assert "good 1.0: 2 READY" in torchmar("scale", "good", "2")

    assert "tokenizer 1.0: 1 READY" in torchmar("scale", "tokenizer", "1")
    sent = torchmar.above / "in.txt"
    sent.write_text("hi")
    assert torchmar.json("predict", "tokenizer", sent)[0]["answer"] == "hi"
    for name, version in (("tokenizer", "1.0"), ("token", "1.0"), ("a\nb", "1.0"), ("every", "all")):
        said = torchmar("unregister", name, version)
        assert said.count("\n") == 1
    for name, version in (("a/b", "1.0"), ("slash", "release/1"), ("..", "1.0")):
        said = torchmar("unregister", name, version, code=1)
        assert "only a restart of TorchServe removes it" in said


def test_an_archive_that_only_the_server_can_read(torchmar: Served) -> None:
    """Its name is known when it is registered: what can be taken back is, and the rest is told."""
    config = torchmar.running.config
    elsewhere: tuple[str, ...] = ("--inference", config.inference, "--management", config.management)
    elsewhere += ("--key-file", str(torchmar.keys))
    make_named(torchmar.store, "tokens.mar", "tokenizer")
    said = torchmar("register", "tokens.mar", *elsewhere, code=1)
    assert "begins with 'token'" in said
    assert "It was unregistered again" in said
    make_named(torchmar.store, "slashed.mar", "c/d")
    said = torchmar("register", "slashed.mar", *elsewhere, code=1)
    assert "only a restart of TorchServe removes it" in said
    assert "c/d" in torchmar.names()
    assert torchmar.json("status")["unmanageable"]["c/d"]
