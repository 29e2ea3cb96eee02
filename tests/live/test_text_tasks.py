"""Tasks on text with real models, from model.yaml to answers on a live server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from torchmar.archive import build
from torchmar.errors import TorchmarError
from torchmar.spec import load_model

from .servers import ROOT, Live, StartServer

pytestmark = pytest.mark.tasks

_OPEN = {"disable_token_authorization": "true"}


def served(server: Live, model: str) -> str:
    """The name of a model under models/, built and READY; skips where its package is missing."""
    try:
        built = build(load_model(ROOT / "models" / model), server.store)
    except TorchmarError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise
    return server.serve(built.archive.path.name)


def ask(server: Live, name: str, *bodies: Any) -> list[tuple[int, Any]]:
    """Status and answer of each, sent at the same time: text as text, objects as JSON."""

    def one(body: Any) -> tuple[int, Any]:
        sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = "text/plain" if isinstance(body, str) else "application/json"
        url = f"{server.running.config.inference}/predictions/{name}"
        answer = requests.post(url, sent, headers={"Content-Type": kind}, timeout=60)
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(one, bodies))


def test_words_become_phonemes(start_server: StartServer) -> None:
    """Two ONNX parts and a beam search; a bad word among good ones fails alone."""
    server = start_server(settings=_OPEN)
    found = ask(
        server, served(server, "g2p"), "hello", "a" * 50, {"text": "otter"}, {"instances": ["translation"]}
    )
    assert [status for status, _ in found] == [200, 413, 200, 200]
    assert found[0][1]["text"] == "HH EH1 L OW0"
    assert found[2][1]["text"] == "AA1 T ER0"
    assert found[3][1]["predictions"][0]["text"] == "T R AE0 N S L EY1 SH AH0 N"


def test_the_same_seed_writes_the_same_text(start_server: StartServer) -> None:
    """On the server as in the module, whatever shares the batch."""
    server = start_server(settings=_OPEN)
    body = {"text": "The cat", "seed": 7, "temperature": 0.5, "length": 60}
    name = served(server, "textgenrnn")
    found = ask(server, name, body, {**body, "seed": 8}, {**body, "length": 0}, body)
    assert [status for status, _ in found] == [200, 200, 400, 200]
    assert found[0] == found[3] != found[1]
    assert found[0][1]["text"] == " for making a code by a trade to the top of the world is abo"
