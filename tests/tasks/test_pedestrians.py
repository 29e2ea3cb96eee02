"""People who walk through a video keep their ids: NanoDet and the tracker on OpenCV's vtest.avi."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.asking import ask
from tests.pictures import encoded
from tests.tasks.built import golden, module_behind_handler
from torchmar.compare import box_iou
from torchmar.golden import request_of

cv2 = pytest.importorskip("cv2", reason="pip install opencv-python-headless")
pytestmark = [pytest.mark.tasks, pytest.mark.network]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchmar" / "vtest.avi"
INSTALLED = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
SHA256 = "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"

# Where two people who walk side by side, and one who follows, are in some frames: told by eye.
PEOPLE = {
    "red jacket": {20: [685, 271, 724, 377], 50: [503, 216, 540, 305], 80: [443, 176, 476, 250]},
    "beside": {20: [724, 272, 763, 371], 50: [549, 216, 589, 303], 80: [472, 176, 502, 249]},
    "follower": {50: [668, 257, 714, 369], 80: [566, 188, 599, 282]},
}


@pytest.fixture(scope="module")
def tracker() -> Any:
    return module_behind_handler("pedestrians")


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    """The first 81 of 795, as JPEG."""
    file = next((path for path in (INSTALLED, CACHE) if path.is_file()), None)
    if file is None:
        pytest.skip(
            "no vtest.avi: apt install opencv-doc; or apt-get download opencv-doc && dpkg-deb --fsys-tarfile "
            f"opencv-doc_*.deb | tar -xO .{INSTALLED} > {CACHE}"
        )
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256
    video = cv2.VideoCapture(str(file))
    return [encoded(Image.fromarray(video.read()[1][:, :, ::-1]), "JPEG") for _ in range(81)]


def test_people_keep_their_ids(tracker: Any, frames: list[bytes]) -> None:
    """In every second frame, which is 5 a second; each person has one id, and each id is one person."""
    found: dict[int, list[dict[str, Any]]] = {}
    for number in range(20, 81, 2):
        [answer] = ask(tracker, frames[number], headers=[{"ts_request_sequence_id": "vtest"}])
        found[number] = answer.content
    ids = {}
    for person, places in PEOPLE.items():
        seen = {
            row["id"]
            for number, box in places.items()
            for row in found[number]
            if box_iou(row["box"], box) > 0.7
        }
        assert len(seen) == 1, (person, seen)
        ids[person] = seen.pop()
    assert len(set(ids.values())) == len(ids)
    lives = Counter(row["id"] for rows in found.values() for row in rows)
    assert lives[ids["red jacket"]] >= 29
    assert all(row["label"] == "person" for rows in found.values() for row in rows)


def test_frames_of_one_request_are_a_sequence(tracker: Any) -> None:
    """The golden request: three frames, 0.2 s apart, in which four people keep their ids; asked twice."""
    request = request_of("three_frames.json", golden("pedestrians", "three_frames.json"))
    first, second = ask(tracker, request.parsed()["body"], request.parsed()["body"])
    assert first.content == second.content
    rows = first.content["predictions"]
    assert set.intersection(*({row["id"] for row in frame} for frame in rows)) >= {1, 2, 3, 4}
