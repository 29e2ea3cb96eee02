"""What the clients do with a server that works: models, versions, workers, predictions, metrics."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from torchmar.errors import ClientError, HandlerRefused
from torchmar.worker import Request, Worker

from .servers import ROOT, Live

PICTURE = (ROOT / "tests/models/tiny/golden/noise.png").read_bytes()
B64 = base64.b64encode(PICTURE).decode()


def labels(answer: Any) -> list[str]:
    return [row["label"] for row in answer]


def post(live: Live, path: str = "/predictions/tiny", **body: Any) -> requests.Response:
    """What a user sends with any HTTP library, without our client."""
    key = json.loads((live.running.folder / "key_file.json").read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {key}", **body.pop("headers", {})}
    url = live.inference.address + path
    return requests.post(url, headers=headers, timeout=30, **body)


def test_describe_tells_what_the_archive_asked_for(tiny: Live) -> None:
    """The archive's model-config.yaml arrives in the server, and its worker is READY."""
    model = tiny.management.describe("tiny", "2.0")
    assert (model.name, model.version, model.archive) == ("tiny", "2.0", "tiny-2.0.mar")
    assert (model.min_workers, model.max_workers, model.batch_size, model.max_batch_delay) == (1, 1, 8, 200)
    assert (model.response_timeout, model.max_retry_timeout) == (10, 20)
    assert model.ready_workers == 1
    assert model.workers[0].pid > 0
    assert model.queue.pending_requests == 0
    assert model.queue.remaining_capacity == 300


def test_customized_describe_comes_from_the_handler(tiny: Live) -> None:
    """`customized=true` asks the handler, and so does a header that any caller may send: both are told the
    same, and nothing of files.
    """
    found = tiny.management.describe("tiny", "2.0", customized=True).customized
    assert found is not None
    assert found["handler"]["classes"] == 10
    assert "model.onnx" not in str(found)
    told = post(tiny, "/predictions/tiny/2.0", data=PICTURE, headers={"describe": "True"})
    assert told.json() == found


def test_versions_and_default(tiny: Live) -> None:
    """The first registered version is the default until another is set; switching back is one call."""
    assert sorted(v.version for v in tiny.management.versions("tiny")) == ["1.0", "2.0"]
    assert tiny.management.default_version("tiny") == "1.0"
    tiny.management.set_default("tiny", "2.0")
    assert tiny.management.default_version("tiny") == "2.0"
    tiny.management.set_default("tiny", "1.0")
    assert tiny.management.default_version("tiny") == "1.0"


def test_pinned_and_default_predictions_agree(tiny: Live) -> None:
    """Eager, ONNX and the default version give the same labels; the answer is JSON with an id and a time."""
    answers = [tiny.inference.predict("tiny", PICTURE, version=v) for v in ("1.0", "2.0", None)]
    assert len({tuple(labels(answer.json())) for answer in answers}) == 1
    assert answers[0].content_type == "application/json"
    assert answers[0].request_id
    assert answers[0].seconds > 0


@pytest.mark.parametrize(
    "body",
    [
        {"data": PICTURE},
        {"files": {"data": ("noise.png", PICTURE)}},
        {"files": {"body": ("noise.png", PICTURE, "image/png")}},
        {"json": {"data": {"b64": B64}}},
        {"data": json.dumps({"data": {"b64": B64}}).encode()},
    ],
    ids=["raw", "multipart-data", "multipart-body", "json", "json-without-content-type"],
)
def test_every_form_of_input_gives_the_same_answer(tiny: Live, body: dict[str, Any]) -> None:
    """Raw, multipart and JSON with base64, sent by an ordinary HTTP library."""
    answer = post(tiny, **body)
    assert answer.status_code == 200
    assert labels(answer.json()) == labels(tiny.inference.predict("tiny", PICTURE).json())


def test_instances_are_answered_as_a_list(tiny: Live) -> None:
    """{"instances": […]} gives {"predictions": […]} in the same order."""
    answer = post(tiny, json={"instances": [{"b64": B64}, {"b64": B64}]}).json()
    alone = tiny.inference.predict("tiny", PICTURE).json()
    assert [labels(row) for row in answer["predictions"]] == [labels(alone)] * 2


def test_curl_d_is_told_what_to_do_instead(tiny: Live) -> None:
    """`curl -d` sends a form that carries no body: TorchServe alone answers 503 without a reason."""
    answer = post(tiny, data={"hello": ""})
    assert answer.status_code == 400
    assert "curl -T FILE" in answer.json()["error"]


def test_one_corrupt_picture_of_eight_fails_alone(tiny: Live) -> None:
    """Sent at once, they share a batch: the corrupt one gets its own 400, the other seven their answers."""
    pictures = [PICTURE] * 8
    pictures[3] = PICTURE[:60]

    def ask(picture: bytes) -> Any:
        try:
            return labels(tiny.inference.predict("tiny", picture, version="2.0").json())
        except HandlerRefused as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, pictures))
    refused = answers.pop(3)
    assert isinstance(refused, HandlerRefused)
    assert refused.status == 400
    assert "damaged" in refused.reason
    assert answers == [labels(tiny.inference.predict("tiny", PICTURE).json())] * 7


@pytest.mark.parametrize(
    "body", [{"ü" * 1_150_000: 1}, {f"ü{i}": 1 for i in range(200_000)}], ids=["one key", "many keys"]
)
def test_a_refusal_of_a_large_request_ends_no_worker(tiny: Live, body: Any) -> None:
    """The reason is short: one that repeated the request would be longer than TorchServe takes."""
    [worker] = tiny.management.describe("tiny", "2.0").workers
    answer = post(
        tiny,
        "/predictions/tiny/2.0",
        data=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400
    assert len(answer.content) < 1_000
    assert [one.pid for one in tiny.management.describe("tiny", "2.0").workers] == [worker.pid]


def test_the_batch_of_eight_was_one_batch_in_the_worker(tiny_onnx: Path) -> None:
    """The same in process, where it is certain that all eight are one batch."""
    with Worker.load(tiny_onnx) as worker:
        requests_ = [Request.body(PICTURE)] * 3 + [Request.body(PICTURE[:60])] + [Request.body(PICTURE)] * 4
        statuses = [response.status for response in worker.predict(requests_)]
    assert statuses == [200, 200, 200, 400, 200, 200, 200, 200]


def test_scale_up_and_down(tiny: Live) -> None:
    """Waits until exactly that many workers are READY."""
    tiny.management.scale("tiny", 2, "2.0")
    assert tiny.management.wait_until_ready("tiny", "2.0", workers=2).ready_workers == 2
    tiny.management.scale("tiny", 1, "2.0")
    assert len(tiny.management.wait_until_ready("tiny", "2.0", workers=1).workers) == 1


def test_list_walks_all_pages(tiny: Live) -> None:
    """Every model is listed once, however small the pages are."""
    names = ["page_a", "page_b", "page_c"]
    for name in names:
        archive = tiny.stranger(name, "def handle(data, context):\n    return None\n")
        tiny.management.register(archive, initial_workers=0)
    for page_size in (1, 2, 100):
        listed = [entry.name for entry in tiny.management.models(page_size=page_size)]
        assert sorted(listed) == sorted([*names, "tiny"])
    for name in names:
        tiny.management.unregister(name, "1.0")


def test_unregister_and_register_again(tiny: Live, tiny_onnx: Path) -> None:
    """A version that is gone is not described, keeps its archive, and can come back."""
    tiny.management.unregister("tiny", "2.0")
    tiny.management.wait_until_gone("tiny", "2.0")
    assert [v.version for v in tiny.management.versions("tiny")] == ["1.0"]
    assert (tiny.store / tiny_onnx.name).exists()
    tiny.serve(tiny_onnx.name, "2.0")


def test_initial_workers_do_not_win_over_the_archive(tiny: Live, tiny_onnx: Path) -> None:
    """Pinned: minWorkers of model-config.yaml wins over initial_workers; `register --workers` scales."""
    tiny.management.register(tiny_onnx.name, name="tiny_twice", initial_workers=2)
    assert tiny.management.wait_until_ready("tiny_twice", "2.0").min_workers == 1
    tiny.management.unregister("tiny_twice", "2.0")


def test_ping_and_metrics(tiny: Live) -> None:
    """The server is healthy, and counts what each version answered."""
    assert tiny.inference.ping()
    before = _requests(tiny, "2.0")
    tiny.inference.predict("tiny", PICTURE, version="2.0")
    assert _requests(tiny, "2.0") == before + 1


def _requests(live: Live, version: str) -> float:
    return sum(
        sample.value
        for sample in live.metrics.samples()
        if sample.name == "ts_inference_requests_total"
        and sample.labels["model_name"] == "tiny"
        and sample.labels["model_version"] == version
    )


def test_wait_until_gone_gives_up(tiny: Live) -> None:
    """A version that stays is an error after the timeout, not an endless wait."""
    with pytest.raises(ClientError, match="still registered"):
        tiny.management.wait_until_gone("tiny", "1.0", timeout=0.2)
