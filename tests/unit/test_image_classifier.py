"""Pictures in, labels out, in this process as in a TorchServe worker: alone, together, on each runtime."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from handlers.image_classifier import Handler
from handlers.runtimes import open_models
from tests.models.tiny.load import tiny
from torchmar import mar
from torchmar.errors import WorkerLoadError
from torchmar.worker import Request, Response, Worker

LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Load = Callable[..., Worker]


def picture(seed: int, kind: str = "PNG") -> bytes:
    """Smooth noise of its own size: each seed's answer is another one."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((40 + seed, 50 - seed), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def black(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [picture(seed, kind) for seed in range(3) for kind in ("JPEG", "PNG", "WEBP")]
CORRUPT = PICTURES[0][: len(PICTURES[0]) // 2]


def ask(worker: Worker, *raws: bytes) -> list[Response]:
    """One batch of plain bodies."""
    return worker.predict([Request.body(raw) for raw in raws])


def ranking(response: Response) -> list[tuple[str, int]]:
    assert response.status == 200, response.body
    return [(item["label"], item["index"]) for item in response.json()]


def probabilities(response: Response) -> list[float]:
    return [item["probability"] for item in response.json()]


@pytest.fixture(params=["onnx", "eager"])
def archive(request: pytest.FixtureRequest, tiny_onnx: Path, tiny_eager: Path) -> Path:
    """Each runtime's archive in turn."""
    return {"onnx": tiny_onnx, "eager": tiny_eager}[request.param]


@pytest.fixture
def changed(archive: Path, tmp_path: Path) -> Callable[..., Path]:
    """The archive, unpacked, with other `params`: None takes a key out."""

    def change(**params: Any) -> Path:
        mar.extract(archive, tmp_path / "model")
        file = tmp_path / "model" / "model-config.yaml"
        config = yaml.safe_load(file.read_text())
        changed = {**config["handler"]["params"], **params}
        config["handler"]["params"] = {key: value for key, value in changed.items() if value is not None}
        file.write_text(yaml.safe_dump(config))
        return tmp_path / "model"

    return change


@pytest.fixture
def with_weights(tiny_eager: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """The eager archive, unpacked, with its weights changed by a function."""

    def change(edit: Callable[[dict[str, Any]], None]) -> Path:
        mar.extract(tiny_eager, tmp_path / "model")
        [file] = (tmp_path / "model").glob("*.pth")
        weights = torch.load(file, weights_only=True)
        edit(weights)
        torch.save(weights, file)
        return tmp_path / "model"

    return change


# -- a batch ------------------------------------------------------------------------------------


def test_one_corrupt_picture_among_eight_is_refused_alone(model_worker: Load, archive: Path) -> None:
    """Its own 400 and reason; the seven others get what they get alone."""
    worker = model_worker(archive, batch_size=8)
    batch = [*PICTURES[1:4], CORRUPT, *PICTURES[4:8]]
    responses = ask(worker, *batch)
    assert [response.status for response in responses] == [200] * 3 + [400] + [200] * 4
    assert all(response.content_type == "application/json" for response in responses)

    refused = responses[3]
    assert refused.phrase == "Bad Request"
    assert list(refused.json()) == ["error"]
    assert refused.json()["error"].startswith("the picture is damaged: ")

    for raw, together in zip(batch, responses, strict=True):
        if raw is not CORRUPT:
            [alone] = ask(worker, raw)
            assert ranking(together) == ranking(alone)
            assert probabilities(together) == pytest.approx(probabilities(alone), abs=1e-6)


def test_the_pictures_of_these_tests_have_different_answers(model_worker: Load, tiny_onnx: Path) -> None:
    """Otherwise a batch answered in a wrong order would pass here."""
    responses = ask(model_worker(tiny_onnx), *PICTURES)
    assert len({tuple(probabilities(response)) for response in responses}) == len(PICTURES)


def test_a_batch_of_nothing_but_nonsense_is_answered(model_worker: Load, archive: Path) -> None:
    """No model is asked, and each gets its own reason."""
    empty, text, broken = ask(model_worker(archive), b"", b"a cat", CORRUPT)
    assert [empty.status, text.status, broken.status] == [400] * 3
    assert "the body is empty" in empty.json()["error"]
    assert "not a JPEG, PNG or WebP" in text.json()["error"]
    assert "damaged" in broken.json()["error"]


def test_every_form_of_request_gets_the_same_answer(model_worker: Load, tiny_onnx: Path) -> None:
    """Raw, multipart, JSON with one picture, JSON with a list of them."""
    b64 = {"b64": base64.b64encode(PICTURES[0]).decode()}
    raw, form, one, many = model_worker(tiny_onnx).predict(
        [
            Request.body(PICTURES[0]),
            Request.form(data=PICTURES[0]),
            Request.json({"data": b64}),
            Request.json({"instances": [b64, b64]}),
        ]
    )
    expected = raw.json()
    assert len(expected) == 3
    assert form.json() == one.json() == expected
    assert many.json() == {"predictions": [expected, expected]}


# -- the answer ---------------------------------------------------------------------------------


def modules_own(raw: bytes) -> np.ndarray:
    """What the module answers, by torch and torchvision alone."""
    from torchvision import transforms

    steps = [transforms.Resize([32, 32]), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    with Image.open(io.BytesIO(raw)) as image, torch.inference_mode():
        logits = tiny().eval()(transforms.Compose(steps)(image.convert("RGB"))[None])
        array: np.ndarray = logits.double().softmax(-1)[0].numpy()
    return array


@pytest.mark.parametrize("raw", PICTURES[:3], ids=["JPEG", "PNG", "WebP"])
def test_the_answer_is_the_modules_own(model_worker: Load, archive: Path, raw: bytes) -> None:
    """Both runtimes agree with the module that was trained, and so with each other."""
    expected = modules_own(raw)
    best = np.argsort(-expected)[:3]
    [response] = ask(model_worker(archive), raw)
    assert ranking(response) == [(LABELS[index], index) for index in best]
    assert probabilities(response) == pytest.approx(expected[best], abs=1e-6)


def test_all_probabilities_sum_to_one_the_likeliest_first(
    model_worker: Load, changed: Callable[..., Path]
) -> None:
    """With topk above the number of classes every class is told, once."""
    [response] = ask(model_worker(changed(topk=99)), PICTURES[0])
    found = probabilities(response)
    assert sorted(ranking(response)) == sorted(zip(LABELS, range(10), strict=True))
    assert found == sorted(found, reverse=True)
    assert sum(found) == pytest.approx(1)


def test_topk_says_how_many(model_worker: Load, changed: Callable[..., Path], tiny_onnx: Path) -> None:
    """The first of the three that the archive itself gives."""
    [one] = ask(model_worker(changed(topk=1)), PICTURES[0])
    [three] = ask(model_worker(tiny_onnx), PICTURES[0])
    assert ranking(one) == ranking(three)[:1]


def test_ties_are_in_the_order_of_their_index(model_worker: Load, with_weights: Callable[..., Path]) -> None:
    """A model that knows nothing answers the same on every machine."""
    folder = with_weights(lambda weights: [tensor.zero_() for tensor in weights.values()])
    [response] = ask(model_worker(folder), PICTURES[0])
    assert ranking(response) == [("zero", 0), ("one", 1), ("two", 2)]
    assert probabilities(response) == [0.1] * 3


def test_enormous_logits_do_not_overflow(model_worker: Load, with_weights: Callable[..., Path]) -> None:
    """exp(10,000) is infinite; the probability is 1."""
    folder = with_weights(lambda weights: weights["4.bias"].add_(torch.eye(10)[3] * 10_000))
    [response] = ask(model_worker(folder), PICTURES[0])
    assert ranking(response)[0] == ("three", 3)
    assert probabilities(response) == [1, 0, 0]


def test_a_model_gone_wrong_is_not_served(model_worker: Load, with_weights: Callable[..., Path]) -> None:
    """NaN from the model is an error of the server, and not JSON that nobody can parse."""
    folder = with_weights(lambda weights: weights["4.bias"].fill_(float("nan")))
    [response] = ask(model_worker(folder), PICTURES[0])
    assert response.status == 500
    assert response.json()["error"].startswith("the output could not be encoded: for this picture the model")


def test_without_labels_the_index_is_the_label(model_worker: Load, changed: Callable[..., Path]) -> None:
    """Labels are a convenience that an archive need not have."""
    [response] = ask(model_worker(changed(labels=None)), PICTURES[0])
    assert all(label == str(index) for label, index in ranking(response))


def test_the_archives_own_limits_hold(model_worker: Load, changed: Callable[..., Path]) -> None:
    """Those it does not name stay as they are by default."""
    worker = model_worker(changed(limits={"max_pixels": 1_000}))
    few, many = ask(worker, black(20, 20), black(40, 40))
    assert few.status == 200
    assert many.status == 413
    assert "40 × 40 pixels, at most 1,000" in many.json()["error"]


def test_the_module_is_in_eval_mode(model_worker: Load, tiny_eager: Path, tmp_path: Path) -> None:
    """A dropout that the module was trained with does not drop."""
    mar.extract(tiny_eager, tmp_path / "model")
    source = tmp_path / "model" / "model_source" / "load.py"
    last = "torch.nn.Linear(64, 10),"
    source.write_text(source.read_text().replace(last, f"{last} torch.nn.Dropout(0.9),"))
    assert "Dropout" in source.read_text()
    [dropping] = ask(model_worker(tmp_path / "model"), PICTURES[0])
    [expected] = ask(model_worker(tiny_eager), PICTURES[0])
    assert dropping.json() == expected.json()


def test_it_tells_what_may_be_sent_and_nothing_of_the_server(
    model_worker: Load, changed: Callable[..., Path]
) -> None:
    """To whoever sends the header that TorchServe sends for `GET /models/NAME?customized=true`."""
    folder = changed(limits={"max_pixels": 1_000})
    file = folder / "model-config.yaml"
    config = yaml.safe_load(file.read_text())
    config["handler"]["record"] = {"folder": "/srv/private"}
    file.write_text(yaml.safe_dump(config))
    [answer] = model_worker(folder).predict([Request.body(b"", headers={"describe": "True"})])
    assert answer.json() == {
        "model": {"modelName": "tiny", "modelVersion": answer.json()["model"]["modelVersion"]},
        "handler": {
            "task": "image_classifier",
            "accepts": ["image/jpeg", "image/png", "image/webp"],
            "limits": {
                "max_bytes": 6_000_000,
                "max_pixels": 1_000,
                "max_total_pixels": 100_000_000,
                "max_instances": 16,
            },
            "classes": 10,
            "topk": 3,
        },
    }


# -- what must not become ready -----------------------------------------------------------------


def test_labels_of_another_model_are_found_before_the_first_request(
    model_worker: Load, changed: Callable[..., Path]
) -> None:
    """The warm-up compares their number with the model's classes."""
    folder = changed()
    (folder / "model_source" / "labels.txt").write_text("cat\ndog")
    with pytest.raises(WorkerLoadError, match="the model has 10 classes, its labels are 2"):
        model_worker(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"1": ["n01440764", "tench"]}', "expected the indices 0 to 0, each once"),
        (json.dumps([1] * 10), "expected a list of labels"),
        (json.dumps([f"{i}" if i else "ä" for i in range(10)]), None),
        ("\ufeff" + json.dumps(LABELS), None),
    ],
    ids=["a mapping", "numbers", "marks inside", "a mark before"],
)  # fmt: skip
def test_labels_are_a_list_of_texts(
    model_worker: Load, changed: Callable[..., Path], text: str, problem: str | None
) -> None:
    """A byte order mark before the list is no part of it; anything else is found before the first request."""
    folder = changed(labels="labels.json")
    (folder / "model_source" / "labels.json").write_text(text, encoding="utf-8")
    if problem is None:
        [response] = ask(model_worker(folder), PICTURES[0])
        assert {row["label"] for row in response.json()} <= set(json.loads(text.lstrip("\ufeff")))
    else:
        with pytest.raises(WorkerLoadError, match=problem):
            model_worker(folder)


def test_a_model_that_expects_another_shape_is_found_before_the_first_request(
    model_worker: Load, changed: Callable[..., Path]
) -> None:
    """A picture of 1 × 1 is too small for its convolution: so says the warm-up, and no caller hears of it."""
    with pytest.raises(WorkerLoadError, match="would not load"):
        model_worker(changed(size=[1, 1]))


def test_pickled_code_in_place_of_weights_is_not_run(
    model_worker: Load, tiny_eager: Path, tmp_path: Path
) -> None:
    """Weights are data: a file that would execute something when it is read is refused."""
    mar.extract(tiny_eager, tmp_path / "model")
    [file] = (tmp_path / "model").glob("*.pth")
    torch.save(Trap(tmp_path / "sprung"), file)
    with pytest.raises(WorkerLoadError, match=r"[Ww]eights.only"):
        model_worker(tmp_path / "model")
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_an_artifact_that_is_missing_is_named(tmp_path: Path) -> None:
    """The file, and where it was looked for."""
    config = {"models": {"model": {"file": "tiny.onnx", "format": "onnx"}}}
    with pytest.raises(
        FileNotFoundError, match=r"^tiny\.onnx: named in model-config.yaml, not in the archive"
    ):
        open_models(config, tmp_path, None, Handler())


def test_an_artifact_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    """With the format that it is said to have."""
    (tmp_path / "tiny.safetensors").touch()
    config = {"models": {"model": {"file": "tiny.safetensors", "format": "safetensors"}}}
    with pytest.raises(ValueError, match=r"^tiny.safetensors: format 'safetensors' in model-config.yaml"):
        open_models(config, tmp_path, None, Handler())


def test_a_worker_with_a_gpu_that_its_library_cannot_use_computes_on_the_cpu(
    model_worker: Load, archive: Path
) -> None:
    """Slower, but it answers; and where the library can use it, the answer is the same."""
    [response] = ask(model_worker(archive, gpu_id=0), PICTURES[0])
    assert ranking(response) == ranking(ask(model_worker(archive), PICTURES[0])[0])
