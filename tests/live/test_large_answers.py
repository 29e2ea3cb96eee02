"""Answers that are longer than the frontend takes: it ends the worker, so the handler must not send them."""

from __future__ import annotations

import base64
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from .servers import ROOT, StartServer

B64 = base64.b64encode((ROOT / "tests/models/tiny/golden/noise.png").read_bytes()).decode()
LIMIT = 100_000


def test_an_answer_above_max_response_size_fails_alone(start_server: StartServer, tiny_folders: Path) -> None:
    """The handler knows what this server is configured with: one instance is answered, four are too much, and
    the worker and its neighbours live on.
    """
    live = start_server(settings={"max_response_size": str(LIMIT)})
    folder = live.store / "tiny-2.0"
    shutil.copytree(tiny_folders / "tiny-2.0", folder)
    labels = "".join(f"{index}{'x' * 10_000}\n" for index in range(10))
    (folder / "model_source" / "labels.txt").write_text(labels)
    live.management.register(folder.name, initial_workers=1)
    live.management.wait_until_ready("tiny", "2.0")
    [worker] = live.management.describe("tiny").workers
    key = json.loads((live.running.folder / "key_file.json").read_text())["inference"]["key"]

    def ask(instances: int) -> requests.Response:
        return requests.post(
            f"{live.inference.address}/predictions/tiny",
            json={"instances": [B64] * instances},
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [1, 4, 1, 3]))
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    assert LIMIT // 4 < len(answers[0].content) < len(answers[3].content) <= LIMIT
    assert f"raise max_response_size ({LIMIT:,})" in answers[1].json()["error"]
    assert [one.pid for one in live.management.describe("tiny").workers] == [worker.pid]
