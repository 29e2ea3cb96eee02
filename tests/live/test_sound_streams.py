"""Streams of sound on a real TorchServe: what one worker remembers of each, request by request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import requests

from handlers.audio import read_wav, resampled
from torchmar.archive import build
from torchmar.client import KeyFile
from torchmar.spec import load_model

from ..waves import pcm, wav
from .servers import ROOT, StartServer

pytest.importorskip("silero_vad", reason="pip install --no-deps silero-vad==6.2.3")
pytestmark = [pytest.mark.live, pytest.mark.tasks]


def test_streams_are_told_apart_by_their_header(start_server: StartServer) -> None:
    """Two at once, in pieces of half a second, hear what each file holds; the archive needs no torch."""
    live = start_server(timeout=120)
    assert live.running.key_file is not None
    built = build(load_model(ROOT / "models" / "silero"), live.store)
    live.serve(built.archive.path.name)
    wave = read_wav((ROOT / "models/silero/golden/circuits.wav").read_bytes())
    sentence = resampled(wave.mono(), wave.rate, 16_000).astype(np.float64)
    silence = np.zeros(16_000)
    sounds = {
        "one": np.concatenate([silence, sentence, silence]),
        "two": np.concatenate([sentence, silence, silence]),
    }
    key = {"Authorization": f"Bearer {KeyFile(live.running.key_file).token('inference')}"}
    session = requests.Session()
    found: dict[str, list[Any]] = {name: [] for name in sounds}
    for start in range(0, len(silence) * 5, 8_000):
        for name, sound in sounds.items():
            last = start + 8_000 >= len(sound)
            if start < len(sound):
                headers = {"ts_request_sequence_id": name, "ts_request_sequence_end": str(last)}
                answer = session.post(
                    f"{live.inference.address}/predictions/silero",
                    data=pcm(sound[start : start + 8_000]),
                    headers={"Content-Type": "application/octet-stream", **key, **headers},
                    timeout=30,
                )
                assert answer.status_code == 200, answer.text
                found[name] += answer.json()["speech"]
    for name, sound in sounds.items():
        assert found[name] == live.inference.predict("silero", wav(sound)).json()["speech"]
        assert len(found[name]) == 1
