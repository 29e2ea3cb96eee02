"""Tokens: key_file.json is read as TorchServe writes it, read again when it changes, and never shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from torchmar.client import KeyFile, NoTokens, StaticTokens
from torchmar.client._tokens import Kind
from torchmar.errors import ClientError

EXPIRES = "2026-11-23T20:53:35.947098225Z"
BEFORE = datetime(2026, 11, 23, 20, 53, 34, tzinfo=timezone.utc)
AFTER = datetime(2026, 11, 23, 20, 53, 36, tzinfo=timezone.utc)


def write(path: Path, *, management: str = "wQSt3HO4", expires: str = EXPIRES) -> Path:
    """A key file in TorchServe's form."""
    content = {
        "management": {"key": management, "expiration time": expires},
        "inference": {"key": "TGDQ-rGR", "expiration time": expires},
        "API": {"key": "jk1z4gjb"},
    }
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key file as a server that has just started leaves it."""
    return write(tmp_path / "key_file.json")


def set_mtime(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


@contextmanager
def no_permissions(path: Path) -> Iterator[None]:
    """Nobody may read the file; root reads everything, so root becomes someone else meanwhile."""
    path.chmod(0)
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# -- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "key"), [("management", "wQSt3HO4"), ("inference", "TGDQ-rGR"), ("API", "jk1z4gjb")]
)
def test_each_kind_has_its_own_key(key_file: Path, kind: Kind, key: str) -> None:
    assert KeyFile(key_file).token(kind) == key


def test_path_may_be_text_and_the_file_may_come_later(tmp_path: Path) -> None:
    """A client can be made before the server has written its keys."""
    tokens = KeyFile(str(tmp_path / "key_file.json"))
    write(tmp_path / "key_file.json")
    assert tokens.token("management") == "wQSt3HO4"


def test_is_read_again_after_it_was_rewritten(key_file: Path) -> None:
    """As after a restart of the server: all keys are new."""
    tokens = KeyFile(key_file)
    assert tokens.token("management") == "wQSt3HO4"
    write(key_file, management="a-longer-one")
    assert tokens.token("management") == "a-longer-one"


def test_is_read_again_after_a_change_in_the_same_second_of_the_same_size(key_file: Path) -> None:
    """A renewal right after the start changes neither the second nor the size."""
    second = 1_795_465_667 * 10**9
    set_mtime(key_file, second)
    tokens = KeyFile(key_file)
    assert tokens.token("management") == "wQSt3HO4"
    write(key_file, management="XXXXXXXX")
    set_mtime(key_file, second + 1)
    assert tokens.token("management") == "XXXXXXXX"


def test_is_read_again_after_it_was_replaced_by_one_of_the_same_time_and_size(
    key_file: Path, tmp_path: Path
) -> None:
    """Another file under the same name is another file."""
    set_mtime(key_file, 10**18)
    tokens = KeyFile(key_file)
    assert tokens.token("management") == "wQSt3HO4"
    other = write(tmp_path / "other.json", management="XXXXXXXX")
    set_mtime(other, 10**18)
    other.replace(key_file)
    assert tokens.token("management") == "XXXXXXXX"


def test_a_key_file_that_was_removed_is_not_remembered(key_file: Path) -> None:
    """The server that it belonged to is gone; its tokens are worth nothing."""
    tokens = KeyFile(key_file)
    assert tokens.token("management") == "wQSt3HO4"
    key_file.unlink()
    with pytest.raises(ClientError, match="no such file"):
        tokens.token("management")


# -- expiry and refusal -------------------------------------------------------------------------


@pytest.mark.parametrize("expires", [EXPIRES, "2026-11-23T20:53:35Z", "2026-11-23T20:53:35.9Z"])
def test_expiry_is_read_in_every_precision_that_java_writes(key_file: Path, expires: str) -> None:
    """Java's Instant prints as many digits of the second as it needs: none, or up to nanoseconds."""
    write(key_file, expires=expires)
    assert not KeyFile(key_file, now=lambda: BEFORE).expired("management")
    assert KeyFile(key_file, now=lambda: AFTER).expired("management")
    assert KeyFile(key_file, now=lambda: AFTER).expired("inference")


def test_a_key_expires_at_its_moment_and_not_after_it(key_file: Path) -> None:
    """As TorchServe has it: at that very moment it is refused."""
    moment = datetime(2026, 11, 23, 20, 53, 35, 947098, tzinfo=timezone.utc)
    assert KeyFile(key_file, now=lambda: moment).expired("management")
    assert not KeyFile(key_file, now=lambda: moment - timedelta(microseconds=1)).expired("management")


def test_expiry_holds_whatever_zone_the_clock_is_in(key_file: Path) -> None:
    tokyo = timezone(timedelta(hours=9))
    assert not KeyFile(key_file, now=lambda: BEFORE.astimezone(tokyo)).expired("management")
    assert KeyFile(key_file, now=lambda: AFTER.astimezone(tokyo)).expired("management")


def test_the_usual_clock_is_the_machines(key_file: Path) -> None:
    write(key_file, expires="1999-01-01T00:00:00Z")
    assert KeyFile(key_file).expired("management")
    write(key_file, expires="2999-01-01T00:00:00Z")
    assert not KeyFile(key_file).expired("management")


def test_the_api_key_never_expires(key_file: Path) -> None:
    assert not KeyFile(key_file, now=lambda: AFTER).expired("API")


@pytest.mark.parametrize("expires", ["", "soon", "null"])
def test_an_expiry_that_cannot_be_read_is_none(key_file: Path, expires: str) -> None:
    """The server decides then: a key that it refuses is looked up again."""
    write(key_file, expires=expires)
    assert not KeyFile(key_file, now=lambda: AFTER).expired("management")


def test_refused_finds_a_new_key_that_no_stamp_tells_of(key_file: Path) -> None:
    """Rewritten in place within the clock's tick: only reading it again can tell."""
    set_mtime(key_file, 10**18)
    tokens = KeyFile(key_file)
    assert tokens.token("management") == "wQSt3HO4"
    write(key_file, management="XXXXXXXX")
    set_mtime(key_file, 10**18)
    assert tokens.token("management") == "wQSt3HO4"  # by its stamp it is the same file
    assert tokens.refused("management", "wQSt3HO4")
    assert tokens.token("management") == "XXXXXXXX"


def test_refused_says_no_where_the_file_has_no_other_key(key_file: Path) -> None:
    """A second call with the same key would be refused as well."""
    tokens = KeyFile(key_file)
    assert not tokens.refused("management", "wQSt3HO4")
    assert tokens.refused("management", None)


# -- what is no key file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b'{"management": {"key": "wQS', "cannot be read", id="half"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="no text"),
        pytest.param(b"[" * 100_000, "cannot be read", id="nested"),
        pytest.param(b'["management"]', "holds no JSON object", id="list"),
        pytest.param(b"{}", "holds no management key", id="no such key"),
        pytest.param(b'{"management": "wQSt3HO4"}', "holds no management key", id="key in the wrong place"),
        pytest.param(b'{"management": {"key": ""}}', "holds no management key", id="empty key"),
        pytest.param(b'{"management": {"key": null}}', "holds no management key", id="null"),
        pytest.param(b'{"management": {"key": true}}', "holds no management key", id="no text"),
    ],
)
def test_what_is_no_key_file_is_said_with_its_path(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "key_file.json"
    path.write_bytes(content)
    with pytest.raises(ClientError, match=r"key_file\.json (of|that) TorchServe") as caught:
        KeyFile(path).token("management")
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_file_tells_where_torchserve_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    with pytest.raises(ClientError) as caught:
        KeyFile(path).token("management")
    assert str(path) in str(caught.value)
    assert "TorchServe writes key_file.json where it is started" in str(caught.value)


def test_an_unreadable_file_tells_who_may_read_it(key_file: Path) -> None:
    tokens = KeyFile(key_file)
    with no_permissions(key_file), pytest.raises(ClientError) as caught:
        tokens.token("management")
    assert str(key_file) in str(caught.value)
    assert "only the user who started TorchServe may read it" in str(caught.value)


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot be read"):
        KeyFile(tmp_path).token("management")


def test_errors_never_quote_the_file(tmp_path: Path) -> None:
    """A key file that is broken still holds keys."""
    path = tmp_path / "key_file.json"
    path.write_text('{"management": {"key": "wQSt3HO4"},}', encoding="utf-8")
    with pytest.raises(ClientError) as caught:
        KeyFile(path).token("management")
    assert "wQSt3HO4" not in str(caught.value)


# -- the other sources --------------------------------------------------------------------------


def test_no_tokens_has_none_and_asks_for_none() -> None:
    tokens = NoTokens()
    assert tokens.token("management") is None
    assert not tokens.expired("management")
    assert not tokens.refused("management", None)


def test_static_tokens_are_sent_as_given_and_never_renewed() -> None:
    tokens = StaticTokens(management="m", inference="i")
    assert (tokens.token("management"), tokens.token("inference"), tokens.token("API")) == ("m", "i", None)
    assert not tokens.expired("management")
    assert not tokens.refused("management", "m")


def test_no_secret_is_in_a_repr(key_file: Path) -> None:
    """What is logged or shown in a traceback must not give the server away."""
    read = KeyFile(key_file)
    assert read.token("management") == "wQSt3HO4"
    given = StaticTokens(management="secret-m", inference="secret-i", api="secret-a")
    for shown in (repr(read), str(read), f"{read}", repr(given), str(given), f"{given}"):
        assert not any(secret in shown for secret in ("wQSt3HO4", "TGDQ-rGR", "jk1z4gjb", "secret-"))
    assert repr(read) == f"KeyFile({str(key_file)!r})"
    assert repr(given) == "StaticTokens(management=***, inference=***, api=***)"
    assert repr(StaticTokens(inference="i")) == "StaticTokens(inference=***)"
