"""worker.py: the stock loader's and the stock service's rules, on handlers of a few lines."""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import tempfile
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torchmar.errors import ArchiveError, WorkerLoadError
from torchmar.worker import Check, Parameter, Request, Response, Worker, check_archive

from .strangers import ECHO, FUNCTION, Folder, golden, pack

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"

CLASS = """
class Service:
    def initialize(self, context):
        self.name = context.model_name
    def handle(self, data, context):
        return [f"class of {self.name}"] * len(data)
"""
# Does what the first request says: its body is Python that sets `answers`.
OBEDIENT = """
def handle(data, context):
    if data is None:
        return
    scope = {"data": data, "context": context}
    exec(data[0]["body"], scope)
    return scope["answers"]
"""


@pytest.fixture
def obedient(folder: Folder) -> Iterator[Worker]:
    """A worker that does what a request's text says."""
    with Worker.load(folder(OBEDIENT)) as worker:
        yield worker


def ask(worker: Worker, count: int = 1) -> list[str]:
    """The bodies that `count` equal requests are answered with."""
    return [response.body.decode() for response in worker.predict([Request.body(b"x")] * count)]


def order(worker: Worker, code: str, count: int = 1) -> list[Response]:
    """The responses of the obedient worker to a batch."""
    return worker.predict([Request.body(textwrap.dedent(code).encode(), "text/plain")] * count)


def refused(path: Path, **options: Any) -> WorkerLoadError:
    """The error of an archive that must not load; it names the archive."""
    with pytest.raises(WorkerLoadError) as caught:
        Worker.load(path, **options)
    assert str(caught.value).startswith(str(path))
    return caught.value


# -- the loader: what is called -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "handler", "answer"),
    [
        (FUNCTION, "handler", "function"),
        (FUNCTION, "handler.py", "function"),
        (FUNCTION, "some/where/handler.py", "function"),
        (CLASS, "handler", "class of m"),
        (CLASS + FUNCTION, "handler", "function"),
        (CLASS + "class Another: pass\n" + FUNCTION, "handler.py", "function"),
        (FUNCTION.replace("handle(", "other("), "handler:other", "function"),
        (FUNCTION.replace("handle(", "other("), "handler.py:other", "function"),
        (FUNCTION.replace("handle(", "other(") + CLASS, "handler.py:other", "function"),
        ("from json import JSONDecoder, JSONEncoder\n" + CLASS, "handler", "class of m"),
        ("from handler_parts import *\n", "handler", "function"),
        # A function of that name is not there: the one class is taken, as the stock loader does.
        (CLASS, "handler:nonesuch", "class of m"),
    ],
)
def test_what_the_loader_calls(folder: Folder, code: str, handler: str, answer: str) -> None:
    """`handle` before classes, the function that is named before both, and one class of its own."""
    path = folder(code, handler, files={"handler_parts.py": FUNCTION})
    with Worker.load(path) as worker:
        assert ask(worker, 2) == [answer, answer]


def test_a_handler_in_a_package(folder: Folder) -> None:
    """A dotted name, with relative imports: what torchmar's own archives do."""
    files = {
        "parts/__init__.py": "",
        "parts/service.py": "from .text import handle\n",
        "parts/text.py": FUNCTION,
    }
    with Worker.load(folder(None, "parts.service", files)) as worker:
        assert ask(worker) == ["function"]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("", "defines neither a function `handle` nor exactly one class (found: none)"),
        ("from json import JSONDecoder\n", "(found: none)"),
        (
            CLASS + "class Another: pass\n",
            "(found: Another, Service); move the others to a module of their own",
        ),
        ("class Service:\n    def initialize(self, context): ...\n", "class Service has no method `handle`"),
        (
            "class Service:\n    def handle(self, data, context): ...\n",
            "class Service has no method `initialize`",
        ),
        ("class Service:\n    def __init__(self, x): ...\n", "would not load: TypeError: "),
        ("def handle(data): ...\n", "would not load: TypeError: "),
        ("1 / 0\n", "would not load: ZeroDivisionError: "),
        ("def handle(\n", "would not load: SyntaxError: "),
        ("raise SystemExit(2)\n", "would not load: SystemExit: 2"),
        ("def handle(data, context): raise KeyError('at load')\n", "would not load: KeyError: 'at load'"),
    ],
)
def test_handlers_that_do_not_load(folder: Folder, code: str, what: str) -> None:
    """The reason that a worker would have died of, with the archive's path."""
    assert what in str(refused(folder(code)))


def test_a_function_is_called_once_with_none_when_it_is_loaded(folder: Folder) -> None:
    """That is its `initialize`; an instance of a class stays the same between batches."""
    function = "calls = []\ndef handle(data, context):\n    calls.append(data is None)\n    return [calls]\n"
    with Worker.load(folder(function)) as worker:
        assert [json.loads(answer) for answer in (*ask(worker), *ask(worker))] == [
            [True, False],
            [True, False, False],
        ]
    counting = """
        class Service:
            def initialize(self, context): self.count = 0
            def handle(self, data, context):
                self.count += 1
                return [self.count]
        """
    with Worker.load(folder(counting)) as worker:
        assert ask(worker) + ask(worker) == ["1", "2"]


def test_the_register_call_can_name_another_handler(folder: Folder) -> None:
    """`handler=` wins over the manifest, and does without one."""
    path = folder(CLASS, "nonesuch", files={"other.py": FUNCTION})
    with Worker.load(path, handler="other.py:handle") as worker:
        assert ask(worker) == ["function"]
    shutil.rmtree(path / "MAR-INF")
    with Worker.load(path, handler="handler") as worker:
        assert ask(worker) == [f"class of {path.name}"]


def test_a_manifest_without_a_handler(folder: Folder) -> None:
    """Told; also where there is nothing in it."""
    path = folder(handler=None)
    for content in (None, '{"model": {}}', "{}"):
        if content is not None:
            (path / "MAR-INF" / "MANIFEST.json").write_text(content)
        assert "its manifest names no handler" in str(refused(path))


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import nonesuch_package\n" + FUNCTION, "No module named 'nonesuch_package'"),
        ("from json import nonesuch_name\n" + FUNCTION, "cannot import name 'nonesuch_name'"),
        ("import parts\n" + FUNCTION, "No module named 'nonesuch_package'"),
        ("raise ImportError('needs a GPU')\n", "needs a GPU"),
    ],
)
def test_an_import_error_inside_the_handler_is_told_plainly(folder: Folder, code: str, what: str) -> None:
    """The stock loader masks it by a failed search for ts.torch_handler.handler."""
    error = refused(folder(code, files={"parts.py": "import nonesuch_package\n"}))
    assert f"its handler handler could not be imported: {what}" in str(error)
    assert "TorchServe would report \"No module named 'ts.torch_handler.handler'\" instead" in str(error)
    assert "handler.py" in error.details or re.search(r"(handler|parts).py line 1 asks for", str(error))


def test_a_handler_that_is_nowhere(folder: Folder) -> None:
    """Neither in the archive nor one of TorchServe's own: that is what the message says."""
    error = refused(folder(None, "nonesuch_handler"))
    assert "handler nonesuch_handler was neither found in the archive nor among TorchServe's own" in str(
        error
    )


def test_a_stock_handler_that_lacks_a_package(folder: Folder) -> None:
    """image_classifier of TorchServe needs captum, which its package does not bring."""
    error = refused(folder(None, "image_classifier"))
    assert "TorchServe's own handler image_classifier could not be imported" in str(error)
    assert "captum" in str(error)


# -- the loader: what it is given ---------------------------------------------------------------


def test_the_context_at_load(folder: Folder) -> None:
    """Name, manifest, config and properties; the folder is the cwd and first on sys.path."""
    code = """
        import os, sys
        class Service:
            def initialize(self, context):
                self.seen = [context.model_name, context.manifest["model"]["handler"],
                             context.model_yaml_config, context.system_properties, os.getcwd(), sys.path[0]]
            def handle(self, data, context):
                return [[*self.seen, os.getcwd(), sys.path[0], type(context.get_request_id(0)).__name__]]
        """
    path = folder(code, files={"c.yaml": "minWorkers: 2\nhandler: {a: [1]}\n"}, configFile="c.yaml")
    with Worker.load(path, batch_size=4, gpu_id=1) as worker:
        name, handler, config, properties, *places, id_type = json.loads(ask(worker)[0])
    assert (name, handler, config) == ("m", "handler", {"minWorkers": 2, "handler": {"a": [1]}})
    assert (properties["batch_size"], properties["gpu_id"]) == (4, 1)
    assert {properties["model_dir"], *places} == {str(path)}
    assert properties["server_version"] == "0.12.0"
    assert id_type == "str"


def test_without_a_config_file_the_config_is_empty(folder: Folder) -> None:
    """As the stock service has it."""
    with Worker.load(folder()) as worker:
        assert worker.context is not None
        assert worker.context.model_yaml_config == {}


@pytest.mark.parametrize("content", [None, "a: [1", "\udcff"])
def test_a_config_that_cannot_be_read(folder: Folder, content: str | None) -> None:
    """Named in the manifest and missing, not YAML, not UTF-8."""
    path = folder(configFile="c.yaml")
    if content is not None:
        (path / "c.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "its config c.yaml cannot be read" in str(refused(path))


def test_metrics_are_recorded(obedient: Worker) -> None:
    """Handlers may count what they like: it is kept for whoever asks."""
    order(
        obedient,
        """
        context.metrics.add_time("decode", 3)
        context.metrics.get_metric("seconds").add_or_update(0.5, ["a"])
        try:
            context.metrics.nonesuch
        except AttributeError:
            answers = [1]
        """,
    )
    assert obedient.context is not None
    assert [(name, args) for name, args, _ in obedient.context.metrics.calls] == [
        ("add_time", ("decode", 3)),
        ("get_metric", ("seconds",)),
        ("add_or_update", (0.5, ["a"])),
    ]


# -- the service: what a handler is given -------------------------------------------------------

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("content_type", "raw", "value"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/json", b"", bytearray()),
        ("application/json", b"{", bytearray(b"{")),
        ("application/json", b"\xff", bytearray(b"\xff")),
        ("application/json", DEEP, bytearray(DEEP)),
        ("application/json; charset=utf-8", b"{}", bytearray(b"{}")),
        ("text/plain", "Käse".encode(), "Käse"),
        ("text/csv; charset=utf-8", b"1,2", "1,2"),
        ("text/plain", b"\xff", bytearray(b"\xff")),
        ("image/jpeg", b"\xff\xd8", bytearray(b"\xff\xd8")),
        ("", b"{}", bytearray(b"{}")),
    ],
)
def test_what_becomes_of_a_body(folder: Folder, content_type: str, raw: bytes, value: Any) -> None:
    """JSON and text are decoded by their exact content type; what fails to is passed on as bytes."""
    code = "def handle(data, context):\n    return data and [repr(row) for row in data]\n"
    with Worker.load(folder(code)) as worker:
        [response] = worker.predict([Request.body(raw, content_type)])
    assert response.body.decode() == repr({"body": value})


def test_forms_and_headers(folder: Folder) -> None:
    """Fields by their names, with their content types; and the request's own headers."""
    code = """
        def handle(data, context):
            return data and [
                [sorted((name, type(value).__name__) for name, value in row.items()),
                 context.get_all_request_header(index), context.get_request_header(index, "none")]
                for index, row in enumerate(data)]
        """
    mixed = Request((Parameter("a", b"1", "application/json"), Parameter("b", b"x")), {"X-Mine": "yes"})
    with Worker.load(folder(code)) as worker:
        first, second, third = worker.predict(
            [Request.form(data=b"x", more=b"y"), mixed, Request.json({"instances": []})]
        )
    octets = {"content-type": "application/octet-stream"}
    assert first.json() == [
        [["data", "bytearray"], ["more", "bytearray"]],
        {"data": octets, "more": octets, "explain": "False", "url_path": ""},
        None,
    ]
    assert second.json() == [
        [["a", "int"], ["b", "bytearray"]],
        {
            "a": {"content-type": "application/json"},
            "b": {"content-type": ""},
            "explain": "False",
            "url_path": "",
            "X-Mine": "yes",
        },
        None,
    ]
    assert third.json()[0] == [["body", "dict"]]


def test_an_envelope_takes_the_body_out(folder: Folder) -> None:
    """`service_envelope=body` of config.properties; one that there is not is told."""
    code = "def handle(data, context):\n    return data and [value.decode() for value in data]\n"
    with Worker.load(folder(code), envelope="body") as worker:
        assert ask(worker, 2) == ["x", "x"]
    assert "nonesuch" in str(refused(folder(code), envelope="nonesuch"))


# -- the service: what becomes of its answer ----------------------------------------------------


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("answers = [b'\\x00\\xff']", b"\x00\xff"),
        ("answers = [bytearray(b'ab')]", b"ab"),
        ("answers = ['Käse']", "Käse".encode()),
        ("answers = [{'a': [1, None]}]", b'{\n  "a": [\n    1,\n    null\n  ]\n}'),
        ("answers = [(1, 2)]", b"[\n  1,\n  2\n]"),
        ("answers = [None]", b"null"),
        ("answers = [True]", b"true"),
        ("answers = [float('nan')]", b"NaN"),
    ],
)
def test_answers_are_sent_as_the_stock_service_sends_them(obedient: Worker, code: str, body: bytes) -> None:
    """Bytes as they are, text in UTF-8, everything else as indented JSON."""
    [response] = order(obedient, code)
    assert response == Response(200, body)


def test_a_tensor_is_sent_as_torch_saves_it(obedient: Worker) -> None:
    """The caller reads it by torch.load."""
    import io

    import torch

    [response] = order(obedient, "import torch; answers = [torch.arange(3)]")
    assert torch.load(io.BytesIO(response.body), weights_only=True).tolist() == [0, 1, 2]


def test_each_request_has_its_own_status_and_headers(obedient: Worker) -> None:
    """What the handler says of one request of a batch does not touch the others."""
    code = """
        context.set_response_status(418, "I'm a teapot", 1)
        context.set_response_content_type(1, "text/csv")
        context.set_response_header(1, "X-Mine", "yes")
        context.set_response_status(None, None, 2)
        answers = ["a", "b", "c"]
        """
    assert order(obedient, code, 3) == [
        Response(200, b"a"),
        Response(418, b"b", "text/csv", "I'm a teapot", {"content-type": "text/csv", "X-Mine": "yes"}),
        Response(200, b"c"),
    ]
    everyone = "context.set_all_response_status(429, 'slow down'); answers = ['a', 'b']"
    assert [(r.status, r.phrase) for r in order(obedient, everyone, 2)] == [(429, "slow down")] * 2
    assert order(obedient, "answers = ['a']") == [Response(200, b"a")]  # nothing stays for the next batch


REFUSE = "from ts.utils.util import PredictionException\nraise PredictionException('not today', {})"


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("raise KeyError('x')", 503, "Prediction failed"),
        ("raise MemoryError", 507, "Out of resources"),
        ("raise RuntimeError('CUDA error: out of memory')", 507, "Out of resources"),
        ("raise ValueError('no CUDA here')", 507, "Out of resources"),
        (REFUSE.format(422), 422, "not today"),
        (REFUSE.format(500), 500, "not today"),
        (REFUSE.format(413), 507, "not today"),  # the frontend takes 413 for a worker out of memory
        ("raise SystemExit", 500, "Worker died."),
        ("answers = 'abc'", 503, "Invalid model predict output"),
        ("answers = None", 503, "Invalid model predict output"),
        ("answers = (1, 2, 3)", 503, "Invalid model predict output"),
        ("answers = [1, 2]", 503, "number of batch response mismatched"),
        ("answers = [1, 2, 3, 4]", 503, "number of batch response mismatched"),
        ("answers = []", 503, "number of batch response mismatched"),
        ("answers = [1, object(), 3]", 503, "Unsupported model output data type."),
        ("answers = [1, {1, 2}, 3]", 503, "Unsupported model output data type."),
        ("answers = [1, 2, {(1, 2): 3}]", 503, "Unsupported model output data type."),
        ("a = []; a.append(a); answers = [a, 2, 3]", 500, "Worker died."),
        ("answers = ['\\udcff', 2, 3]", 500, "Worker died."),
        ("context.set_response_status('400', 'x', 0); answers = [1, 2, 3]", 500, "Worker died."),
        ("context.set_response_header(1, 'X', 1); answers = [1, 2, 3]", 500, "Worker died."),
    ],
)
def test_a_fault_of_the_handler_fails_its_whole_batch(
    obedient: Worker, code: str, status: int, message: str
) -> None:
    """Every request gets the frontend's own error, and the next batch is answered again."""
    responses = order(obedient, code, 3)
    content = {"code": status, "type": "InternalServerException", "message": message}
    assert [(r.status, r.content_type, r.json()) for r in responses] == [
        (status, "application/json", content)
    ] * 3
    assert order(obedient, "answers = ['a']") == [Response(200, b"a")]


def decode_frame(frame: bytes) -> tuple[int, int, bytes, dict[str, str]]:
    """Batch code, status, body and headers of the one answer in a frame of the stock service."""
    place = 0

    def integer() -> int:
        nonlocal place
        place += 4
        return int(struct.unpack_from("!i", frame, place - 4)[0])

    def block() -> bytes:
        nonlocal place
        size = integer()
        place += size
        return frame[place - size : place]

    code = integer()
    block()  # the message
    block()  # the request's id
    block()  # the content type
    status = integer()
    block()  # the phrase
    headers = {block().decode(): block().decode() for _ in range(integer())}
    body = block()
    assert integer() == -1
    return code, status, body, headers


@pytest.mark.parametrize(
    "code",
    [
        "answers = ['Käse']",
        "answers = [b'ab']",
        "answers = [bytearray(b'ab')]",
        "answers = [{'a': 1.5}]",
        "import torch; answers = [torch.arange(2)]",
        "answers = [object()]",
        "answers = [{(1, 2): 3}]",
        "a = []; a.append(a); answers = [a]",
        "answers = ['\\udcff']",
        "context.set_response_status(418, 'teapot'); answers = ['a']",
        "context.set_response_status(None, None); answers = ['a']",
        "context.set_response_status('400'); answers = ['a']",
        "context.set_response_status(400.0); answers = ['a']",
        "context.set_response_status(True); answers = ['a']",
        "context.set_response_content_type(0, 'text/csv'); answers = ['a']",
        "context.set_response_content_type(0, ''); answers = ['a']",
        "context.set_response_content_type(0, 5); answers = ['a']",
        "context.set_response_header(0, 'X', 'y'); answers = ['a']",
        "context.set_response_header(0, 'X', 1); answers = ['a']",
        "context.set_response_header(0, 1, 'X'); answers = ['a']",
        "context.set_response_header(0, 'X', 1); answers = [object()]",
    ],
)
def test_the_stock_encoder_agrees(obedient: Worker, code: str) -> None:
    """ts.protocol's own create_predict_response, given the same answers and the same context."""
    from ts.protocol.otf_message_handler import create_predict_response

    [response] = order(obedient, f"{code}\ncontext.answers = answers")
    context: Any = obedient.context
    try:
        frame = create_predict_response(
            context.answers, {0: "id"}, "Prediction success", 200, context=context
        )
    except Exception:
        assert (response.status, response.json()["message"]) == (500, "Worker died.")
        return
    batch_code, status, body, headers = decode_frame(bytes(frame))
    if batch_code == 200:
        assert (response.status, response.body, response.headers) == (status, body, headers)
    else:
        assert (response.status, response.json()["message"]) == (
            batch_code,
            "Unsupported model output data type.",
        )


def test_an_empty_batch_has_no_answers(obedient: Worker) -> None:
    """TorchServe sends none; asking must not break anything."""
    assert obedient.predict([]) == []


def test_a_closed_worker_says_so(folder: Folder) -> None:
    """And closing twice is closing."""
    worker = Worker.load(folder())
    worker.close()
    worker.close()
    with pytest.raises(RuntimeError, match="this worker is closed"):
        worker.predict([Request.body(b"")])


# -- the process around it ----------------------------------------------------------------------


def surroundings(names: set[str]) -> Any:
    """Where the process is, what it looks for where, and its own modules of these names."""
    own = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    return Path.cwd(), list(sys.path), own


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Checks that the process is as it was; it has a `handler` and a `parts` of its own."""
    names = {"handler", "parts"}
    for name in ("handler", "parts", "parts.inner"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    before = surroundings(names)

    def check() -> None:
        assert surroundings(names) == before

    yield check
    check()


PARTS = {
    "parts/__init__.py": "WHO = {!r}\n",
    "parts/inner.py": "WHO = {!r}\n",
    "parts/later.py": "WHO = {!r}\n",
}
IMPORTING = """
import os, sys
import parts
from parts import inner
sys.path.insert(0, os.getcwd())
sys.path.append("/nonesuch")
class Service:
    def initialize(self, context):
        inner.WHO += " at load"
        os.chdir("/")
    def handle(self, data, context):
        from parts import later
        from parts.inner import WHO
        return [[os.getcwd(), "/nonesuch" in sys.path, parts.WHO, later.WHO, WHO]] * len(data)
"""


def test_the_process_is_as_before_after_every_step(folder: Folder, untouched: Callable[[], None]) -> None:
    """Cwd, sys.path and modules, although the handler changes all three; and it finds its own again."""
    path = folder(IMPORTING, files={name: text.format("mine") for name, text in PARTS.items()})
    worker = Worker.load(path)
    untouched()
    for _ in range(2):
        assert json.loads(ask(worker)[0]) == [str(path), True, "mine", "mine", "mine at load"]
        untouched()
    worker.close()


@pytest.mark.parametrize(
    "code",
    ["import parts, nonesuch", "import parts.inner\n1 / 0", "import os\nos.chdir('/')\nraise SystemExit", ""],
)
def test_the_process_is_as_before_after_a_failed_load(
    folder: Folder, untouched: Callable[[], None], code: str
) -> None:
    """Nothing of the archive stays behind."""
    refused(folder(code, files={name: text.format("mine") for name, text in PARTS.items()}))
    untouched()


def test_the_process_is_as_before_after_a_failed_batch(
    obedient: Worker, untouched: Callable[[], None]
) -> None:
    """Also after one that is not caught."""
    order(obedient, "import os; os.chdir('/'); raise KeyError")
    untouched()
    with pytest.raises(KeyboardInterrupt):
        order(obedient, "raise KeyboardInterrupt")
    untouched()


def test_two_workers_have_their_own_modules_of_the_same_name(folder: Folder) -> None:
    """At once, in turn, and also for what they import only while they predict."""
    paths = {
        who: folder(IMPORTING, files={name: text.format(who) for name, text in PARTS.items()}) for who in "ab"
    }
    with Worker.load(paths["a"]) as a, Worker.load(paths["b"]) as b:
        for who, worker in (("a", a), ("b", b), ("a", a)):
            assert json.loads(ask(worker)[0])[2:] == [who, who, f"{who} at load"]


def test_an_archive_is_unpacked_for_as_long_as_it_is_open(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary folder, gone when it is closed, and when it does not load."""
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    with Worker.load(pack(folder())) as worker:
        assert list(temp.iterdir()) == [worker.model_dir]
        assert ask(worker) == ["function"]
    assert list(temp.iterdir()) == []
    refused(pack(folder("1 / 0")))
    assert list(temp.iterdir()) == []
    with pytest.raises(ArchiveError, match="no such file"):
        Worker.load(tmp_path / "nonesuch.mar")


def test_our_own_archives_answer_each_request_of_a_batch(tiny_onnx: Path) -> None:
    """A picture, something else, a picture: 200, 400, 200."""
    picture = Request.body((TINY / "golden" / "noise.png").read_bytes())
    with Worker.load(tiny_onnx, batch_size=3) as worker:
        first, second, third = worker.predict([picture, Request.body(b"no picture"), picture])
    assert [first.status, second.status, third.status] == [200, 400, 200]
    assert len(first.json()) == 3
    assert first.json() == third.json()
    assert "not a JPEG, PNG or WebP" in second.json()["error"]


# -- in a process of its own --------------------------------------------------------------------


def test_an_archive_that_is_right(folder: Folder) -> None:
    """Loaded as TorchServe loads it, each golden request answered, only what is expected compared."""
    path = pack(folder(ECHO, files=golden({"one": {"index": 1}, "two": {"index": 2}}, one="1", two="2")))
    check = check_archive(path)
    assert (check.ok, check.reason, check.path) == (True, "", str(path))
    assert [(result.name, result.ok, result.found) for result in check.golden] == [
        ("one", True, {"index": 1}),
        ("two", True, {"index": 2}),
    ]
    assert check.load_seconds >= 0
    check.raise_for_failure()


def test_golden_requests_that_are_answered_otherwise(folder: Folder) -> None:
    """Another class, another status, another form: each with what was expected and what was found."""
    answers = {name: {"index": 1} for name in ("other", "teapot", "empty", "object", "right")}
    requests = {"other": "2", "teapot": "teapot", "empty": "[]", "object": "{}", "right": "1"}
    path = pack(folder(ECHO, files=golden(answers, **requests)))
    check = check_archive(path)
    assert not check.ok
    assert [(result.name, result.ok, result.found) for result in check.golden] == [
        ("other", False, {"index": 2}),
        ("teapot", False, "answered with 418: teapot"),
        ("empty", False, "[]"),
        ("object", False, "{}"),
        ("right", True, {"index": 1}),
    ]
    lines = check.reason.splitlines()
    assert lines[0] == f"{path}: golden request other: expected {{'index': 1}}, found {{'index': 2}}"
    assert len(lines) == 4
    with pytest.raises(WorkerLoadError, match="golden request other: expected"):
        check.raise_for_failure()


TELLS_ITS_CONFIG = """
def handle(data, context):
    return None if data is None else [{"index": context.model_yaml_config["handler"]}]
"""


def test_a_check_neither_records_nor_shares_weights(folder: Folder) -> None:
    """Its requests are no user's, and what it would share stays on the disk when it has ended. The handler
    finds everything else that is configured for it.
    """
    config = {"model-config.yaml": "handler: {labels: a, workers: 4, record: {folder: /tmp}}\n"}
    files = {**golden({"one": {"index": {"labels": "a", "workers": 1}}}, one="1"), **config}
    check = check_archive(pack(folder(TELLS_ITS_CONFIG, files=files, configFile="model-config.yaml")))
    assert check.ok, check.reason


DYING = """
import os, sys
sys.stdout.buffer.write(b"not UTF-8: \\xff\\n")
sys.stdout.flush()
sys.stderr.write("last words\\n")
sys.stderr.flush()
{}
"""


@pytest.mark.parametrize(
    ("end", "how"), [("os._exit(3)", "exit code 3"), ("os.kill(os.getpid(), 9)", "signal 9")]
)
def test_a_handler_that_ends_its_process(folder: Folder, end: str, how: str) -> None:
    """How it ended, and what it said last, whatever bytes that were."""
    path = pack(folder(DYING.format(end)))
    check = check_archive(path)
    assert (check.ok, check.reason) == (False, f"{path}: its worker process died ({how})")
    assert "last words" in check.details


def test_a_handler_that_hangs(folder: Folder) -> None:
    """Ended when the time is over, and told."""
    path = pack(folder("import threading\nthreading.Event().wait()\n"))
    check = check_archive(path, timeout=1.5)
    reason = f"{path}: its handler did not load within 1.5 s"
    assert check == Check(str(path), ok=False, reason=reason, stopped_at="loading")


def test_a_thread_that_runs_on_does_not_keep_the_check(folder: Folder) -> None:
    """A handler's background thread is its own affair: loaded is loaded."""
    waiting = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    assert check_archive(pack(folder(waiting + FUNCTION)), timeout=20).ok


def test_a_handler_that_does_not_load_is_told_with_the_archives_path(folder: Folder) -> None:
    """Not that of the temporary folder; what is missing is told with who asks for it, and no traceback."""
    path = pack(folder("import nonesuch_package\n" + FUNCTION))
    check = check_archive(path)
    assert not check.ok
    assert check.reason.startswith(f"{path}: install nonesuch_package for ")
    assert "No module named 'nonesuch_package', which handler.py line 1 asks for (TorchServe" in check.reason
    assert "torchmar-check-" not in check.reason
    assert check.details == ""


def test_a_sitecustomize_of_the_archive_runs_first(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe puts the archive on PYTHONPATH, after the server's own."""
    monkeypatch.setenv("PYTHONPATH", "/nonesuch")
    code = "import os, sys\nassert sys.customised\nassert os.environ['PYTHONPATH'].startswith('/nonesuch:')\n"
    files = {"sitecustomize.py": "import sys\nsys.customised = True\n"}
    check = check_archive(pack(folder(code + FUNCTION, files=files)))
    assert check.ok, check.reason


def test_what_is_no_archive_is_an_archive_error(tmp_path: Path) -> None:
    """Nothing was started, so there is nothing to tell in a Check."""
    (tmp_path / "x.mar").write_text("no archive")
    with pytest.raises(ArchiveError, match=r"x\.mar: not a model archive"):
        check_archive(tmp_path / "x.mar")


def test_a_check_leaves_nothing_in_the_tempdir(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither after a good archive nor after a bad one."""
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    assert check_archive(pack(folder())).ok
    assert not check_archive(pack(folder("import os\nos._exit(1)\n"))).ok
    assert list(temp.iterdir()) == []
