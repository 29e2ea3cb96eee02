"""Tokens that expire and servers that restart; TLS with a certificate authority of one's own."""

from __future__ import annotations

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from torchmar.client import KeyFile, Server, StaticTokens, connect
from torchmar.errors import ConnectionFailed, NotAllowed
from torchmar.server import start, stop

from .servers import StartServer


def test_expired_tokens_are_renewed(start_server: StartServer) -> None:
    """After token_expiration_min the clients get new keys by themselves, for both APIs."""
    live = start_server(settings={"token_expiration_min": "0.05"})
    key_file = live.running.folder / "key_file.json"
    before = json.loads(key_file.read_text())
    old = StaticTokens(management=before["management"]["key"])
    tokens = KeyFile(key_file)
    deadline = time.monotonic() + 20
    while not (tokens.expired("management") and tokens.expired("inference")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with connect(management=live.management.address, tokens=old) as clients, pytest.raises(NotAllowed):
        list(clients.management.models())
    assert list(live.management.models()) == []
    assert live.inference.ping()
    after = json.loads(key_file.read_text())
    assert before["management"]["key"] != after["management"]["key"]
    assert before["inference"]["key"] != after["inference"]["key"]


def test_many_clients_of_one_key_file_at_an_expiry(start_server: StartServer) -> None:
    """Eight of them go on calling while the key expires, twice: none is refused for another's renewal."""
    live = start_server(settings={"token_expiration_min": "0.05"})
    key_file = live.running.folder / "key_file.json"

    def key() -> str:
        return str(json.loads(key_file.read_text())["inference"]["key"])

    seen = {key()}
    over = time.monotonic() + 30

    def call(clients: Server) -> int:
        count = 0
        while len(seen) < 3 and time.monotonic() < over:
            assert clients.inference.ping()
            assert list(clients.management.models()) == []
            with suppress(ValueError):  # it is being written
                seen.add(key())
            count += 1
        return count

    with ExitStack() as stack:
        addresses: dict[str, Any] = {
            "inference": live.inference.address,
            "management": live.management.address,
        }
        clients = [stack.enter_context(connect(**addresses, key_file=key_file)) for _ in range(8)]
        pool = stack.enter_context(ThreadPoolExecutor(8))
        assert all(pool.map(call, clients))
    assert len(seen) >= 3


def test_key_renewed_by_someone_else(start_server: StartServer) -> None:
    """A key that is void before its time is read anew from the file, once."""
    live = start_server()
    assert live.inference.ping()
    other = connect(management=live.management.address, key_file=live.running.folder / "key_file.json")
    with other:
        other.management._transport.renew("inference")
    assert live.inference.ping()


def test_a_copy_of_the_key_file(start_server: StartServer, tmp_path: Path) -> None:
    """One that grew old takes the keys from those who read the server's own once, and not with every call."""
    live = start_server()
    key_file = live.running.folder / "key_file.json"
    copy = tmp_path / "key_file.json"
    copy.write_bytes(key_file.read_bytes())
    live.management._transport.renew("inference")
    before = key_file.read_bytes()
    with connect(
        inference=live.inference.address, management=live.management.address, key_file=copy
    ) as clients:
        with pytest.raises(NotAllowed, match="is the key file a copy"):
            clients.inference.ping()
        after = key_file.read_bytes()
        assert after != before
        with pytest.raises(NotAllowed, match="is the key file a copy"):
            clients.inference.ping()
        assert key_file.read_bytes() == after
    alone = connect(inference=live.inference.address, key_file=copy)
    with alone, pytest.raises(NotAllowed, match="missing, wrong or expired"):  # nobody there to renew it
        alone.inference.ping()
    assert live.inference.ping()
    assert key_file.read_bytes() == after


def test_restarted_server_has_new_keys(start_server: StartServer) -> None:
    """The same clients go on working: the key file is read again."""
    live = start_server()
    assert list(live.management.models()) == []
    stop(live.running)
    again = start(live.running.folder, live.store, live.running.config, environment=os.environ)
    try:
        assert list(live.management.models()) == []
        assert live.inference.ping()
    finally:
        stop(again)


def test_key_file_is_for_its_owner_alone(start_server: StartServer) -> None:
    """Pinned: mode 0600, keys of 8 characters; stopping removes it."""
    live = start_server()
    key_file = live.running.folder / "key_file.json"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert {len(entry["key"]) for entry in json.loads(key_file.read_text()).values()} == {8}
    stop(live.running)
    assert not key_file.exists()


def test_what_is_answered_without_a_token(start_server: StartServer) -> None:
    """Pinned: what a health check without one can ask; and addresses that were exchanged are told."""
    live = start_server()
    here, key_file = live.running.config, live.running.key_file
    told = {
        url: requests.get(url, timeout=10).status_code
        for url in (
            f"{here.inference}/ping",
            f"{here.inference}/v2/health/ready",
            f"{here.inference}/api-description",
            f"{here.metrics}/metrics",
        )
    }
    assert list(told.values()) == [400, 400, 200, 200]
    with connect(inference=here.management, management=here.inference, key_file=key_file) as clients:
        with pytest.raises(NotAllowed, match=f"{here.management} is its management address"):
            clients.inference.ping()
        with pytest.raises(NotAllowed, match=f"{here.inference} is its inference address"):
            list(clients.management.models())


def test_server_without_tokens(start_server: StartServer) -> None:
    """NoTokens is enough where token authorization is disabled."""
    live = start_server(settings={"disable_token_authorization": "true"})
    assert live.running.key_file is None
    assert live.inference.ping()
    assert list(live.management.models()) == []
    clients = connect(inference=live.inference.address.replace("http:", "https:"))
    with clients, pytest.raises(ConnectionFailed, match="say http:// in its address"):
        clients.inference.ping()


def test_tls_with_a_ca_file(start_server: StartServer, tmp_path: Path) -> None:
    """https addresses work with the authority's certificate, and with no other are refused."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    certificate = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    ca_file, wrong = tmp_path / "ca.pem", tmp_path / "wrong.pem"
    authority.cert_pem.write_to_path(ca_file)
    trustme.CA().cert_pem.write_to_path(wrong)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    (tmp_path / "server.key").write_bytes(_pkcs8(certificate.private_key_pem.bytes()))
    https = dict.fromkeys(
        ("inference_address", "management_address", "metrics_address"), "https://127.0.0.1:0"
    )
    files = {
        "certificate_file": str(tmp_path / "server.pem"),
        "private_key_file": str(tmp_path / "server.key"),
    }
    live = start_server(settings={**https, **files}, ca_file=ca_file)
    assert live.inference.address.startswith("https://")
    assert live.inference.ping()
    assert list(live.management.models()) == []
    key_file = live.running.key_file
    for untrusted in (wrong, None):
        clients = connect(management=live.management.address, key_file=key_file, ca_file=untrusted)
        with clients, pytest.raises(ConnectionFailed, match="certificate"):
            list(clients.management.models())
    plain = live.management.address.replace("https:", "http:")
    clients = connect(management=plain, key_file=key_file)
    with clients, pytest.raises(ConnectionFailed, match="speaks https there"):
        list(clients.management.models())


def _pkcs8(pem: bytes) -> bytes:
    """The only form of a private key that TorchServe reads."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pem, password=None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
