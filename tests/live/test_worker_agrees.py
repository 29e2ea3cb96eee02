"""worker.py against the real worker: the same archives, the same requests, the same answers."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from torchmar.errors import BadAnswer, WorkerFailedToLoad, WorkerLoadError
from torchmar.worker import MAX_RESPONSE_SIZE, Parameter, Request, Response, Worker, check_archive

from ..unit.strangers import DOES_AS_TOLD
from .servers import ROOT, STAND_IN, Live, make_stranger, until_ready

PICTURES = sorted((ROOT / "tests/models/tiny/golden").iterdir())

# How the loader chooses what to call.
ENTRY_POINTS = {
    "function": "def handle(data, context):\n    return None if data is None else ['f'] * len(data)\n",
    "class_only": """
class Service:
    def initialize(self, context):
        self.name = context.model_name
    def handle(self, data, context):
        return [{"name": self.name}] * len(data)
""",
    "function_before_class": """
class Service:
    def initialize(self, context): pass
    def handle(self, data, context): return ["class"] * len(data)
def handle(data, context):
    return None if data is None else ["function"] * len(data)
""",
    "imported_class": """
from collections import OrderedDict
class Service:
    def initialize(self, context): pass
    def handle(self, data, context): return [OrderedDict(a=1)] * len(data)
""",
}

# What a handler is given, and what becomes of what it does: the request says which.
OBEDIENT = """
import os, sys
import torch
from ts.utils.util import PredictionException

def what_arrives(row):
    text = lambda v: v.decode("latin-1") if isinstance(v, bytearray) else v
    return [[k, type(v).__name__, text(v)] for k, v in sorted(row.items())]

def surroundings(context):
    home = context.system_properties["model_dir"]
    properties = {k: v for k, v in context.system_properties.items() if k not in ("model_dir", "gpu_id")}
    on_path = any(os.path.exists(p) and os.path.samefile(p, home) for p in sys.path if p)
    return [properties, sorted(context.manifest["model"]), context.model_yaml_config,
            type(context.get_request_id(0)).__name__, context.get_request_header(0, "X-Mine"),
            os.path.samefile(os.getcwd(), home), on_path]

def handle(data, context):
    if data is None:
        return None
    order = context.get_request_header(0, "X-Order")
    if order == "raise": raise KeyError("x")
    if order == "memory": raise MemoryError
    if order == "cuda": raise RuntimeError("CUDA error")
    if order == "refuse": raise PredictionException("not today", 513)
    if order == "too large": raise PredictionException("too large", 413)
    if order == "exit": sys.exit(3)
    if order == "text": return "not a list"
    if order == "two": return ["a", "b"]
    if order == "object": return [object()]
    if order == "tensor": return [torch.arange(3)]
    if order == "bytes": return [b"\\x00\\xff"]
    if order == "surroundings": return [surroundings(context)]
    if order == "teapot":
        context.set_response_content_type(0, "text/csv")
        context.set_response_header(0, "X-Mine", "yes")
        context.set_response_status(418, "I am a teapot", 0)
        return ["a,b"]
    if order == "bad header":
        context.set_response_header(0, "X-Mine", 3)
        return ["x"]
    if order == "refuse 200": raise PredictionException("fine", 200)
    if order == "refuse without a number": raise PredictionException("not today", "513")
    if order == "refuse at length": raise PredictionException("x" * 6553501, 500)
    if order == "headers": return [dict(sorted(context.get_all_request_header(0).items()))]
    if order == "no name":
        context.set_response_header(0, "X Mine", "yes")
        return ["x"]
    if order == "two lines":
        context.set_response_header(0, "X-Mine", "yes\\r\\nX-Other: no")
        return ["x"]
    if order == "latin":
        context.set_response_header(0, "X-Mine", "\\xe9")
        return ["x"]
    if order == "phrase of two lines":
        context.set_response_status(418, "I am\\na teapot", 0)
        return ["x"]
    if order == "nothing":
        context.set_response_status(204, "", 0)
        return ["x"]
    if order == "negative":
        context.set_response_status(-1, "", 0)
        return ["x"]
    if order == "large": return [b"x" * 6553500]
    if order == "too large an answer": return [b"x" * 6553501]
    return [what_arrives(row) for row in data]
"""
ORDERS = ["raise", "memory", "cuda", "refuse", "too large", "text", "two", "object", "tensor", "bytes"]
ORDERS += [
    "surroundings",
    "teapot",
    "bad header",
    "refuse 200",
    "refuse without a number",
    "refuse at length",
]
ORDERS += ["no name", "two lines", "latin", "phrase of two lines", "nothing", "negative"]
ORDERS += ["large", "too large an answer", "exit"]

# Handlers that neither may load, and the worker's own reason.
UNLOADABLE = {
    "import_missing": ("import not_installed_anywhere\n", "No module named 'not_installed_anywhere'"),
    "two_classes": ("class A: pass\nclass B: pass\n", "Expected only one class"),
    "no_handle": ("class A:\n    def initialize(self, c): pass\n", "Expect handle method in class"),
    "raises": ("def handle(data, context):\n    raise ValueError('no weights')\n", "ValueError: no weights"),
    "runtime": ("def handle(data, context):\n    raise RuntimeError('bad')\n", "RuntimeError: bad"),
    "syntax": ("def handle(:\n", "SyntaxError"),
}

REQUESTS = {
    "bytes": Request.body(b"\x89PNG\x00"),
    "empty": Request.body(b""),
    "json": Request.json({"a": [1, 2.5, None], "ü": "é"}),
    "bad-json": Request.body(b"{nope", "application/json"),
    "text": Request.body("grüß".encode(), "text/plain"),
    "not-utf8-text": Request.body(b"\xff\xfe", "text/plain"),
    "form": Request.form(data=b"one", other=b"two"),
}


def send(live: Live, name: str, request: Request) -> requests.Response:
    """The same request over HTTP."""
    key = json.loads((live.running.folder / "key_file.json").read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {key}", **request.headers}
    url = f"{live.inference.address}/predictions/{name}"
    [first, *rest] = request.parameters
    if first.name == "body" and not rest:
        if first.content_type:
            headers["Content-Type"] = first.content_type
        return requests.post(url, data=first.value, headers=headers, timeout=30)
    parts = {p.name: ("file", p.value, p.content_type) for p in request.parameters}
    return requests.post(url, files=parts, headers=headers, timeout=30)


def seen(response: requests.Response | Response) -> dict[str, Any]:
    """What a caller sees, from either side, as far as it is the worker's."""
    if isinstance(response, Response):
        headers = {key.lower(): value for key, value in response.headers.items()}
        status, body, content_type = response.status, response.body, response.content_type
    else:
        headers = {key.lower(): value for key, value in response.headers.items()}
        status, body = response.status_code, response.content
        content_type = headers.get("content-type", "")
    content: Any = body
    if content_type.startswith("application/json"):
        content = json.loads(body)
    return {
        "status": status,
        "content": content,
        "content_type": content_type.partition(";")[0],
        "own_header": headers.get("x-mine"),
    }


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_same_entry_point_is_chosen(server: Live, name: str) -> None:
    """A function, a class, a function beside a class, a class beside an imported one."""
    path = make_stranger(server.store, name, ENTRY_POINTS[name])
    server.serve(path.name)
    request = Request.body(b"x")
    with Worker.load(path) as worker:
        assert seen(worker.predict([request])[0]) == seen(send(server, name, request))
    server.management.unregister(name, "1.0")


@pytest.fixture(scope="module")
def obedient(server: Live) -> Path:
    """The archive that does what the request says, READY."""
    path = make_stranger(
        server.store, "obedient", OBEDIENT, config={"mine": {"a": 1}, "maxRetryTimeoutInSec": 60}
    )
    server.serve(path.name)
    return path


@pytest.mark.parametrize("form", REQUESTS)
def test_the_handler_is_given_the_same(server: Live, obedient: Path, form: str) -> None:
    """Bodies, JSON, text and forms arrive as the same types with the same contents."""
    with Worker.load(obedient) as worker:
        [here] = worker.predict([REQUESTS[form]])
    assert seen(here) == seen(send(server, "obedient", REQUESTS[form]))


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_becomes_of_what_it_does(server: Live, obedient: Path, order: str) -> None:
    """Answers and exceptions of every kind, statuses and headers; the last kills the worker."""
    request = Request.body(b"x", headers={"X-Order": order, "X-Mine": "sent"})
    with Worker.load(obedient) as worker:
        [here] = worker.predict([request])
    until_ready(server, "obedient")
    assert seen(here) == seen(send(server, "obedient", request))


@pytest.mark.parametrize("header", ["describe", "explain", "url_path", "X-Mine"])
def test_what_a_client_can_say_in_headers(server: Live, obedient: Path, header: str) -> None:
    """Also `describe: True`, which has stock handlers describe themselves; not what the frontend says."""
    request = Request.body(b"x", headers={"X-Order": "headers", header: "True"})
    with Worker.load(obedient) as worker:
        here = worker.predict([request])[0].json()
    there = send(server, "obedient", request).json()
    assert here == {name: value for name, value in there.items() if name in here}


LARGEST = f"answer = b'x' * {MAX_RESPONSE_SIZE}"
BATCHES = {
    "each as large as may be": [LARGEST, LARGEST],
    "together larger": ["answer = b'x' * 4000000"] * 2,
    "one too large": ["answer = b'a'", f"answer = b'x' * {MAX_RESPONSE_SIZE + 1}"],
    "too large a phrase": [
        "answer = b'a'",
        f"context.set_response_status(418, 'x' * {MAX_RESPONSE_SIZE + 1}, index)",
    ],
    "too large a header": ["answer = b'a'", "context.set_response_header(index, 'X', 'b' * 6500001)"],
    "not ASCII": ["answer = b'a'", "context.set_response_status(418, '\\xe9', index)"],
}


@pytest.fixture(scope="module")
def batches(server: Live) -> Path:
    """An archive whose worker waits for two requests, READY."""
    config = {"batchSize": 2, "maxBatchDelay": 10_000, "responseTimeout": 5, "maxRetryTimeoutInSec": 60}
    path = make_stranger(server.store, "batches", DOES_AS_TOLD, config=config)
    server.serve(path.name)
    return path


@pytest.mark.parametrize("which", BATCHES)
def test_what_becomes_of_a_batch(server: Live, batches: Path, which: str) -> None:
    """Each part of an answer may be as large as max_response_size, whatever they are together; one that is
    larger, or cannot be read, takes its neighbours along.
    """
    requests_ = [Request.body(body.encode()) for body in BATCHES[which]]
    with Worker.load(batches) as worker:
        here = [seen(response) for response in worker.predict(requests_)]
    server.management.wait_until_ready("batches", workers=1)
    with ThreadPoolExecutor(len(requests_)) as pool:
        there = list(pool.map(lambda request: seen(send(server, "batches", request)), requests_))
    assert here == there


def make_odd(store: Path, name: str, *, manifest: bytes | None = None, **files: bytes) -> Path:
    """An archive of one handler file with another manifest, or other files besides."""
    path = store / f"{name}-1.0.mar"
    contents = {
        "MAR-INF/MANIFEST.json": json.dumps({"runtime": "python", "model": model(name)}).encode(),
        "model-config.yaml": yaml.safe_dump({"maxRetryTimeoutInSec": 0}).encode(),
        f"{name}_handler.py": ENTRY_POINTS["function"].encode(),
        **STAND_IN,
        **files,
    }
    if manifest is not None:
        contents["MAR-INF/MANIFEST.json"] = manifest
    with zipfile.ZipFile(path, "w") as mar:
        for file, content in contents.items():
            mar.writestr(file, content)
    return path


def model(name: str, **more: Any) -> dict[str, Any]:
    """The part of a manifest that is about the model."""
    own = {"modelName": name, "modelVersion": "1.0", "handler": f"{name}_handler.py"}
    return {**own, "configFile": "model-config.yaml", **more}


MANIFESTS: dict[str, Callable[[str], Any]] = {
    "runtime_of_old": lambda name: {"runtime": "python2", "model": model(name)},
    "runtime_null": lambda name: {"runtime": None, "model": model(name)},
    "runtime_in_capitals": lambda name: {"runtime": "Python", "model": model(name)},
    "created_on_a_list": lambda name: {"createdOn": [], "model": model(name)},
    "handler_a_list": lambda name: {"model": model(name, handler=["x"])},
    "version_an_object": lambda name: {"model": model(name, modelVersion={})},
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_neither_takes(server: Live, name: str) -> None:
    """Refused when it is registered, and here before anything of it is run."""
    path = make_odd(server.store, name, manifest=json.dumps(MANIFESTS[name](name)).encode())
    with pytest.raises(WorkerLoadError):
        Worker.load(path)
    with pytest.raises(BadAnswer):
        server.management.register(path.name, initial_workers=1)


CONFIGS = {
    "empty_config": b"",
    "list_config": b"- minWorkers: 1\n",
    "text_config": b"minWorkers 1\n",
    "number_named": b"minWorkers: 1\n5: x\n",
    "truth_named": b"on: x\n",
    "null_named": b"null: x\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_neither_takes(server: Live, name: str) -> None:
    """YAML, and no mapping of names: Java casts it, and answers 500."""
    path = make_odd(server.store, name, **{"model-config.yaml": CONFIGS[name]})
    with pytest.raises(WorkerLoadError):
        Worker.load(path)
    with pytest.raises(BadAnswer):
        server.management.register(path.name, initial_workers=1)


def manifest_of(name: str, **more: Any) -> bytes:
    """A manifest, and what it says besides or instead."""
    return json.dumps({"runtime": "python", "model": model(name), **more}).encode()


# Registered, and no worker ever starts: the archive, and what torchmar says.
NEVER_STARTS = {
    "lsp": ({"manifest": manifest_of("lsp", runtime="LSP")}, "set `runtime` to python"),
    "marked": ({"manifest": b"\xef\xbb\xbf" + manifest_of("marked")}, "is not JSON that its worker can read"),
    "config_null": (
        {"manifest": manifest_of("config_null", model=model("config_null", configFile=None))},
        "model.configFile",
    ),
    "no_config": (
        {"manifest": manifest_of("no_config", model=model("no_config", configFile="gone.yaml"))},
        "gone.yaml",
    ),
    "unsafe_config": ({"model-config.yaml": b"a: !!python/name:os.path {}\n"}, "cannot be read"),
    "shadows_ts": ({"ts.py": b""}, "rename ts in the archive"),
    "shadows_yaml": ({"yaml.py": b""}, "rename yaml in the archive"),
    "shadows_psutil": ({"psutil/__init__.py": b"1 / 0"}, "rename psutil in the archive"),
    "shadows_json": ({"json.py": b""}, "rename json in the archive"),
    "shadows_socket": ({"socket.py": b""}, "rename socket in the archive"),
    "shadows_torch": ({"torch.py": b"1 / 0", "sitecustomize.py": b""}, "rename torch in the archive"),
}


@pytest.mark.parametrize("name", NEVER_STARTS)
def test_archives_whose_workers_never_start(server: Live, name: str) -> None:
    """TorchServe registers them all; the check in a process of its own says no, and why."""
    files, why = NEVER_STARTS[name]
    path = make_odd(server.store, name, **files)
    check = check_archive(path)
    assert not check.ok
    assert why in check.reason
    server.management.register(path.name, initial_workers=1)
    with pytest.raises(WorkerFailedToLoad):
        server.management.wait_until_ready(name, workers=1, timeout=60)
    server.management.unregister(name, "1.0")


# Named like something of Python's, which a worker does not need.
HARMLESS = {
    "brings_code": {"code.py": b"1 / 0"},
    "brings_zipfile": {"zipfile.py": b"1 / 0"},
    "brings_tests": {"test/__init__.py": b"1 / 0"},
    "brings_numpy": {"numpy.py": b"1 / 0"},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_names_of_modules_that_no_worker_needs(server: Live, name: str) -> None:
    """Served by TorchServe, and good for the check, which needs some of them itself."""
    path = make_odd(server.store, name, **HARMLESS[name])
    assert check_archive(path).ok
    server.serve(path.name)
    server.management.unregister(name, "1.0")


@pytest.mark.parametrize("name", UNLOADABLE)
def test_what_will_not_load_here_will_not_load_there(server: Live, name: str) -> None:
    """Here it is told at once, there from the log: TorchServe itself lists it, and hangs."""
    handler, reason = UNLOADABLE[name]
    path = make_stranger(server.store, name, handler, config={"maxRetryTimeoutInSec": 60})
    with pytest.raises(WorkerLoadError):
        Worker.load(path)
    server.management.register(path.name, initial_workers=1)
    with pytest.raises(WorkerFailedToLoad, match="died while loading") as caught:
        server.management.wait_until_ready(name, workers=1, timeout=60)
    # TorchServe stops reading from a process that has ended, so now and then the last words are lost.
    assert reason in caught.value.reason or not caught.value.reason
    server.management.unregister(name, "1.0")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_our_archives_answer_the_same(tiny: Live, tiny_eager: Path, tiny_onnx: Path, version: str) -> None:
    """Good pictures and bad ones, byte for byte."""
    bodies = [*(path.read_bytes() for path in PICTURES), b"", b"text", PICTURES[0].read_bytes()[:50]]
    requests_ = [Request.body(body) for body in bodies]
    requests_ += [Request.json({"data": {"b64": "???"}}), Request.json({}), Request.json([1])]
    requests_ += [Request.form(other=b"x"), Request((Parameter("data", bodies[0], "image/png"),))]
    with Worker.load(tiny_eager if version == "1.0" else tiny_onnx) as worker:
        here = [seen(worker.predict([request])[0]) for request in requests_]
    there = [seen(send(tiny, f"tiny/{version}", request)) for request in requests_]
    assert here == there
