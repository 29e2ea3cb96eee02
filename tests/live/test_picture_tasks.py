"""Tasks on pictures on a real TorchServe: boxes, masks, sequences of frames; a broken version is refused."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml
from PIL import Image

from torchmar import mar
from torchmar.archive import build
from torchmar.client import KeyFile
from torchmar.compare import is_close
from torchmar.errors import WeightsUnavailable
from torchmar.release import observe, release
from torchmar.spec import load_model

from .candidates import QUICK, fleet_of
from .servers import ROOT, Live, StartServer

pytestmark = [pytest.mark.live, pytest.mark.tasks, pytest.mark.network]

MODELS = ROOT / "models"
HOPPER = MODELS / "nanodet" / "golden" / "grace_hopper.jpg"


def built(name: str, store: Path, **changes: Any) -> Path:
    """The archive of a model folder; skips where its weights are missing."""
    try:
        return build(load_model(MODELS / name, changes), store).archive.path
    except WeightsUnavailable as error:
        pytest.skip(str(error))


def params_of(name: str, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((MODELS / name / "model.yaml").read_text())["params"], **changes}


def test_masks_and_boxes_are_served_and_a_broken_detector_is_refused(
    start_server: StartServer, tmp_path: Path
) -> None:
    """A picture that is none fails alone; a version whose boxes are elsewhere does not become the default."""
    live = start_server(timeout=120)
    live.serve(built("selfie", live.store).name)
    astronaut = (MODELS / "selfie" / "golden" / "astronaut.jpg").read_bytes()
    answer = live.inference.predict("selfie", astronaut)
    assert answer.content_type == "image/png"
    mask = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert mask.shape == (512, 512)
    assert 0.5 < mask.mean() < 0.6

    fleet = fleet_of(live, tmp_path / "releases")
    options = replace(QUICK, max_slowdown=10.0)
    sound = mar.verify(built("nanodet", tmp_path))
    assert release(fleet, sound, options).outcome == "promoted"
    with ThreadPoolExecutor(8) as threads:
        bodies = [HOPPER.read_bytes(), b"no picture"] * 4
        answers = list(threads.map(lambda body: _post(live, "nanodet", body), bodies))
    assert [answer.status_code for answer in answers] == [200, 400] * 4
    assert all([row["label"] for row in one.json()] == ["person", "tie"] for one in answers[::2])

    broken = built("nanodet", tmp_path, version="2.0", params=params_of("nanodet", box_form="xywh"))
    result = release(fleet, mar.verify(broken), options)
    assert result.outcome == "failed", result.reason
    assert observe(live.clients, "nanodet").default == "1.0"
    assert is_close(_post(live, "nanodet", HOPPER.read_bytes()).json(), answers[0].json(), 0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_of_two_videos_at_the_same_time(start_server: StartServer, workers: int) -> None:
    """Each is a sequence of its own; of several workers sequenceBatching keeps one for all of its frames."""
    live = start_server(timeout=120)
    config = (
        {"sequenceBatching": True, "sequenceMaxIdleMSec": 60_000, "maxNumSequence": 4} if workers > 1 else {}
    )
    serving = {"minWorkers": workers, "maxWorkers": workers, "batchSize": 4, "maxBatchDelay": 1}
    live.serve(built("pedestrians", live.store, serving=serving, config=config).name)
    frames = _frames()
    forth, back = frames, frames[::-1]
    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(lambda one: _follow(live, *one), [("forth", forth), ("back", back)]))
    [golden] = [_post(live, "pedestrians", _golden(), "application/json").json()["predictions"]]
    assert is_close(told[0], golden, 0.01)
    ids = [{row["id"] for row in rows} for rows in told[1]]
    assert set.intersection(*ids) >= {1, 2, 3}
    # Both have ended: the same names begin anew.
    assert is_close(_follow(live, "forth", forth), golden, 0.01)


def _golden() -> bytes:
    return (MODELS / "pedestrians" / "golden" / "three_frames.json").read_bytes()


def _frames() -> list[bytes]:
    return [base64.b64decode(one["b64"]) for one in json.loads(_golden())["instances"]]


def _follow(live: Live, name: str, frames: Sequence[bytes]) -> list[Any]:
    """What is told of each frame of a sequence."""
    found = []
    for index, frame in enumerate(frames):
        headers = {"ts_request_sequence_id": name}
        headers |= {"ts_request_sequence_start": "true"} if index == 0 else {}
        headers |= {"ts_request_sequence_end": "true"} if index == len(frames) - 1 else {}
        answer = _post(live, "pedestrians", frame, **headers)
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
    return found


def _post(
    live: Live, name: str, body: bytes, content_type: str = "application/octet-stream", **headers: str
) -> requests.Response:
    assert live.running.key_file is not None
    key = {"Authorization": f"Bearer {KeyFile(live.running.key_file).token('inference')}"}
    return requests.post(
        f"{live.inference.address}/predictions/{name}",
        data=body,
        headers={"Content-Type": content_type, **key, **headers},
        timeout=30,
    )
