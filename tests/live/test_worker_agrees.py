"""worker.py against the real worker: the same archives, the same requests, the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from torchmar.errors import WorkerFailedToLoad, WorkerLoadError
from torchmar.worker import Parameter, Request, Response, Worker

from .servers import ROOT, Live, make_stranger

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
    return [what_arrives(row) for row in data]
"""
ORDERS = ["raise", "memory", "cuda", "refuse", "too large", "text", "two", "object", "tensor", "bytes"]
ORDERS += ["surroundings", "teapot", "bad header", "exit"]

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
    server.management.wait_until_ready("obedient", workers=1)
    assert seen(here) == seen(send(server, "obedient", request))


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
