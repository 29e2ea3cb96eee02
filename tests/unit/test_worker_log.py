"""Why a worker died is read from TorchServe's two logs, past what it says instead of the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from torchmar.server import WorkerLog

START = datetime(2026, 11, 23, 19, 53, 44).astimezone()  # the logs have the local time

# What a worker prints while it dies, as the real ones do.
NO_MODULE = """\
Backend worker process died.
Traceback (most recent call last):
  File "/lib/ts/model_loader.py", line 108, in load
    module, function_name = self._load_handler_file(handler)
                            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/tmp/models/251e1f59/broken.py", line 1, in <module>
    import not_there
ModuleNotFoundError: No module named 'not_there'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/lib/ts/model_service_worker.py", line 301, in <module>
    worker.run_server()
  File "/lib/ts/model_loader.py", line 110, in load
    module = self._load_default_handler(handler)
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
ModuleNotFoundError: No module named 'ts.torch_handler.broken'
"""
RUNTIME_ERROR = """\
Failed to load model tiny, exception weights do not fit
Traceback (most recent call last):
  File "/lib/ts/model_service_worker.py", line 133, in load_model
    service = model_loader.load(
  File "/tmp/models/251e1f59/handler.py", line 7, in initialize
    raise RuntimeError("weights do not fit")
RuntimeError: weights do not fit
Backend worker process died.
Traceback (most recent call last):
  File "/lib/ts/model_service_worker.py", line 301, in <module>
    worker.run_server()
  File "/lib/ts/model_service_worker.py", line 203, in handle_connection
    raise RuntimeError("{} - {}".format(code, result))
RuntimeError: 500 - Unknown exception
"""
OUT_OF_CUDA = """\
Load model tiny cuda OOM, exception CUDA out of memory. Tried to allocate 2.00 GiB
Traceback (most recent call last):
  File "/tmp/models/251e1f59/handler.py", line 7, in initialize
    self.model.cuda()
RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB
Backend worker process died.
Traceback (most recent call last):
  File "/lib/ts/model_service_worker.py", line 203, in handle_connection
    raise RuntimeError("{} - {}".format(code, result))
RuntimeError: 507 - System out of memory
"""
OUT_OF_MEMORY = """\
Load model tiny cpu OOM, exception
Traceback (most recent call last):
  File "/tmp/models/251e1f59/handler.py", line 7, in initialize
    self.weights = bytes(10**15)
MemoryError
Backend worker process died.
Traceback (most recent call last):
  File "/lib/ts/model_service_worker.py", line 203, in handle_connection
    raise RuntimeError("{} - {}".format(code, result))
RuntimeError: 507 - System out of memory
"""
CHAINED = """\
Backend worker process died.
Traceback (most recent call last):
  File "/tmp/models/251e1f59/handler.py", line 4, in initialize
    open("labels.json")
FileNotFoundError: [Errno 2] No such file or directory: 'labels.json'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/tmp/models/251e1f59/handler.py", line 6, in initialize
    raise ValueError("no labels") from error
ValueError: no labels
"""
FAILED_PREDICTION = """\
Invoking custom service failed.
Traceback (most recent call last):
  File "/lib/ts/service.py", line 134, in predict
    ret = self._entry_point(input_batch, self.context)
  File "/tmp/models/251e1f59/handler.py", line 9, in handle
    return 1 / 0
           ~~^~~
ZeroDivisionError: division by zero
"""
NOT_EVEN_STARTED = """\
Traceback (most recent call last):
  File "/lib/ts/model_service_worker.py", line 16, in <module>
    import yaml
ModuleNotFoundError: No module named 'yaml'
"""


@dataclass
class Logs:
    """A folder of logs, written line by line as log4j does."""

    folder: Path
    now: datetime = START

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def append(self, file_name: str, lines: Sequence[str]) -> None:
        with (self.folder / file_name).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def _stamp(self, level: str) -> str:
        return f"{self.now:%Y-%m-%dT%H:%M:%S},{self.now.microsecond // 1000:03} [{level:<5}]"

    def printed(self, text: str, model: str = "tiny_1.0", worker: int = 9000, stream: str = "stdout") -> None:
        """What a worker says."""
        head = f"{self._stamp('INFO')} W-{worker}-{model}-{stream} MODEL_LOG - "
        self.append("model_log.log", [head + line for line in text.splitlines()])

    def frontend(
        self, text: str, model: str = "tiny_1.0", worker: int = 9000, logger: str = "WorkerThread"
    ) -> None:
        """What TorchServe says of a worker."""
        head = f"{self._stamp('DEBUG')} W-{worker}-{model} org.pytorch.serve.wlm.{logger} - "
        self.append("ts_log.log", [head + text])

    def change(self, before: str, after: str, model: str = "tiny_1.0", worker: int = 9000) -> None:
        self.frontend(f"W-{worker}-{model} State change {before} -> {after}", model, worker)

    def loaded(self, model: str = "tiny_1.0", worker: int = 9000) -> None:
        """A worker starts and loads its model."""
        self.change("null", "WORKER_STARTED", model, worker)
        self.printed("Torch worker started.\nmodel_name: tiny, batchSize: 8", model, worker)
        self.change("WORKER_STARTED", "WORKER_MODEL_LOADED", model, worker)

    def died(self, said: str, model: str = "tiny_1.0", worker: int = 9000) -> None:
        """A worker starts and dies while it loads its model."""
        self.change("null", "WORKER_STARTED", model, worker)
        self.printed("Torch worker started.\nmodel_name: tiny, batchSize: 8", model, worker)
        self.printed(said, model, worker)
        self.ended(model, worker)

    def ended(self, model: str = "tiny_1.0", worker: int = 9000) -> None:
        """What TorchServe says of that."""
        name = model.rpartition("_")[0]
        self.frontend("System state is : WORKER_STARTED", model, worker)
        self.frontend(f"Load model failed: {name}, error: Worker died.", model, worker, "BatchAggregator")
        self.change("WORKER_STARTED", "WORKER_STOPPED", model, worker)

    def why(self, name: str = "tiny", version: str = "1.0", since: datetime | None = None) -> str | None:
        return WorkerLog(self.folder).why_died(name, version, since)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


# -- the reason ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(NO_MODULE, "ModuleNotFoundError: No module named 'not_there'", id="import"),
        pytest.param(RUNTIME_ERROR, "RuntimeError: weights do not fit", id="RuntimeError"),
        pytest.param(OUT_OF_CUDA, "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB", id="CUDA"),
        pytest.param(OUT_OF_MEMORY, "MemoryError", id="memory"),
        pytest.param(
            CHAINED, "FileNotFoundError: [Errno 2] No such file or directory: 'labels.json'", id="chained"
        ),
        pytest.param(NOT_EVEN_STARTED, "ModuleNotFoundError: No module named 'yaml'", id="before it started"),
        pytest.param("Killed", "", id="no last words"),
    ],
)
def test_the_first_exception_is_the_reason(logs: Logs, said: str, reason: str) -> None:
    """Not the one that TorchServe raises in its place; '' where the worker said none."""
    logs.died(said)
    assert logs.why() == reason


def test_a_mask_is_better_than_nothing(logs: Logs) -> None:
    """Where the start of what it said was lost."""
    logs.died("Backend worker process died.\n" + NO_MODULE[NO_MODULE.rindex("Traceback") :])
    assert logs.why() == "ModuleNotFoundError: No module named 'ts.torch_handler.broken'"


def test_a_traceback_on_stderr_counts(logs: Logs) -> None:
    logs.printed(NOT_EVEN_STARTED, stream="stderr")
    logs.ended()
    assert logs.why() == "ModuleNotFoundError: No module named 'yaml'"


def test_an_unusual_line_break_in_a_message_does_not_cut_it(logs: Logs) -> None:
    """Only a line end ends a line of a log."""
    logs.died("Backend worker process died.\nTraceback (most recent call last):")
    logs.append(
        "model_log.log",
        ["2026-11-23T19:53:44,000 [INFO ] W-9000-tiny_1.0-stdout MODEL_LOG - ValueError: a\u2028b\x85c"],
    )
    assert logs.why() == "ValueError: a\u2028b\x85c"


# -- who did not die ----------------------------------------------------------------------------


def test_a_worker_that_loaded_has_no_reason(logs: Logs) -> None:
    logs.loaded()
    assert logs.why() is None


def test_a_failed_prediction_is_no_death(logs: Logs) -> None:
    """Its traceback looks alike; the worker lives."""
    logs.loaded()
    logs.printed(FAILED_PREDICTION)
    assert logs.why() is None


def test_a_crash_in_a_prediction_is_no_death_while_loading(logs: Logs) -> None:
    """The server starts that worker anew, and it loads again."""
    logs.loaded()
    logs.change("WORKER_MODEL_LOADED", "WORKER_STOPPED")
    logs.change("WORKER_STOPPED", "WORKER_STARTED")
    assert logs.why() is None


def test_a_worker_that_loaded_at_its_second_try_has_no_reason(logs: Logs) -> None:
    """It died once, for something that has passed."""
    logs.died(NO_MODULE)
    logs.loaded()
    assert logs.why() is None


def test_scaling_down_a_worker_that_had_loaded_is_no_death(logs: Logs) -> None:
    logs.loaded(worker=9000)
    logs.loaded(worker=9001)
    logs.frontend("System state is : WORKER_SCALED_DOWN", worker=9001)
    logs.change("WORKER_SCALED_DOWN", "WORKER_STOPPED", worker=9001)
    assert logs.why() is None


# -- whose words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (("a", "1.0"), "ValueError: of a 1.0"),
        (("a", "1.0.1"), "ValueError: of a 1.0.1"),
        (("a_1.0", "1.0"), "ValueError: of a_1.0 1.0"),
        (("ba", "1.0"), "ValueError: of ba 1.0"),
        (("a", "1"), None),
        (("a", "2.0"), None),
        (("A", "1.0"), None),
    ],
)
def test_names_that_begin_or_end_alike_are_told_apart(
    logs: Logs, model: tuple[str, str], reason: str | None
) -> None:
    for number, (name, version) in enumerate([("ba", "1.0"), ("a_1.0", "1.0"), ("a", "1.0.1"), ("a", "1.0")]):
        said = f"Traceback (most recent call last):\nValueError: of {name} {version}"
        logs.died(f"Backend worker process died.\n{said}", f"{name}_{version}", 9000 + number)
    assert logs.why(*model) == reason


def test_lines_of_other_models_in_between_do_not_count(logs: Logs) -> None:
    """Two die at the same time, line by line."""
    logs.ended()
    logs.ended("other_1.0", 9001)
    other = NO_MODULE.replace("not_there", "elsewhere").splitlines()
    for ours, theirs in zip(NO_MODULE.splitlines(), other, strict=True):
        logs.printed(theirs, "other_1.0", 9001)
        logs.printed(ours)
    assert logs.why() == "ModuleNotFoundError: No module named 'not_there'"
    assert logs.why("other") == "ModuleNotFoundError: No module named 'elsewhere'"


def test_workers_of_one_version_do_not_confuse_each_other(logs: Logs) -> None:
    """One dies while another, which lives, prints and fails in a prediction."""
    logs.loaded(worker=9000)
    logs.ended(worker=9001)
    logs.printed("Backend worker process died.\nTraceback (most recent call last):", worker=9001)
    logs.printed("warming up", worker=9000)
    logs.printed(FAILED_PREDICTION, worker=9000)
    logs.printed('  File "handler.py", line 1, in <module>\nValueError: no labels', worker=9001)
    assert logs.why() == "ValueError: no labels"


# -- since when ---------------------------------------------------------------------------------


def test_deaths_before_are_left_out(logs: Logs) -> None:
    """An earlier registration under the same name failed; this one is about to load."""
    logs.died(NO_MODULE)
    logs.later(60)
    registered = logs.now
    logs.later(0.25)
    logs.change("null", "WORKER_STARTED")
    assert logs.why(since=registered) is None
    assert logs.why() == "ModuleNotFoundError: No module named 'not_there'"
    logs.died(RUNTIME_ERROR)
    assert logs.why(since=registered) == "RuntimeError: weights do not fit"


def test_since_is_exact_and_may_be_of_any_time_zone(logs: Logs) -> None:
    """The API tells times in UTC, the log in this machine's; to the millisecond."""
    logs.later(0.123)
    logs.died(NO_MODULE)
    moment = logs.now.astimezone(timezone.utc)
    assert logs.why(since=moment) is not None
    assert logs.why(since=moment.astimezone(timezone(timedelta(hours=9)))) is not None
    assert logs.why(since=moment + timedelta(milliseconds=1)) is None


# -- the files ----------------------------------------------------------------------------------


def test_no_logs_no_reason(tmp_path: Path) -> None:
    """The server is elsewhere, or has not written yet."""
    assert WorkerLog(tmp_path).why_died("tiny", "1.0") is None
    assert WorkerLog(tmp_path / "nowhere").why_died("tiny", "1.0") is None


def test_without_the_workers_log_the_death_is_known_all_the_same(logs: Logs) -> None:
    logs.died(NO_MODULE)
    (logs.folder / "model_log.log").unlink()
    assert logs.why() == ""


def test_what_was_logged_before_a_rotation_is_forgotten(logs: Logs) -> None:
    """log4j renames the full file and begins another."""
    logs.died(NO_MODULE)
    for name in ("ts_log.log", "model_log.log"):
        (logs.folder / name).rename(logs.folder / f"{name}.1")
    assert logs.why() is None
    logs.died(RUNTIME_ERROR)
    assert logs.why() == "RuntimeError: weights do not fit"


def test_truncated_logs_are_read_from_their_beginning(logs: Logs) -> None:
    log = WorkerLog(logs.folder)
    logs.died(NO_MODULE)
    assert log.why_died("tiny", "1.0") is not None
    for name in ("ts_log.log", "model_log.log"):
        (logs.folder / name).write_text("", encoding="utf-8")
    assert log.why_died("tiny", "1.0") is None
    logs.died(RUNTIME_ERROR)
    assert log.why_died("tiny", "1.0") == "RuntimeError: weights do not fit"


@pytest.mark.parametrize("cut", ["No module named 'not_th", "ModuleNotFoundError: No mo", "ModuleNot"])
def test_a_line_that_is_being_written_is_not_read_yet(logs: Logs, cut: str) -> None:
    """Half a reason would be told as the whole."""
    logs.died(NO_MODULE)
    file = logs.folder / "model_log.log"
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: text.index(cut) + len(cut)], encoding="utf-8")
    assert logs.why() == ""
    file.write_text(text, encoding="utf-8")
    assert logs.why() == "ModuleNotFoundError: No module named 'not_there'"


def test_what_is_no_line_of_a_log_is_passed_over(logs: Logs) -> None:
    """Bytes that are no text, the output of a library that writes to the file itself, an odd time."""
    for name in ("ts_log.log", "model_log.log"):
        with (logs.folder / name).open("wb") as file:
            file.write(
                b"\xff\xfe\x00\n\nINFO something\nyesterday,222 [INFO ] W-9000-tiny_1.0-stdout X - y\n"
            )
    logs.died(NO_MODULE)
    assert logs.why(since=START) == "ModuleNotFoundError: No module named 'not_there'"


def test_of_a_long_log_the_end_is_read(logs: Logs) -> None:
    """A server that has run for months has large logs, and the client asks every second."""
    logs.printed(f"{'x' * 100}\n" * 60_000, "other_1.0", 9001)
    logs.died(NO_MODULE)
    assert (logs.folder / "model_log.log").stat().st_size > 8 * 2**20
    assert logs.why() == "ModuleNotFoundError: No module named 'not_there'"
