"""Load a handler in this process and ask it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from ..errors import CannotTell, WorkerLoadError
from ._context import RequestState, WorkerContext
from ._exchange import Request, Response
from ._frontend import Batch
from ._loader import batch_size as size_of_batches
from ._loader import find_entry_point, find_envelope, its_handler, read_config, read_manifest
from ._service import (
    MAX_RESPONSE_SIZE,
    Unserialisable,
    encode_response,
    handler_error,
    parameter_value,
    request_headers,
    server_error,
)
from ._unpack import unpacked

logger = logging.getLogger(__name__)


class Worker:
    """A loaded handler. Close it, or use it as a context manager, because it unpacks into a temporary folder.

    While it loads and predicts, the archive's folder is the working directory and first on sys.path, as in a
    TorchServe worker. Both belong to the whole process, so use workers from one thread at a time. Each worker
    keeps the archive's modules to itself: several workers, and this process, may each have their `handler`.
    """

    def __init__(
        self, model_dir: Path, *, alone: bool = False, max_response_size: int = MAX_RESPONSE_SIZE
    ) -> None:
        self.model_dir = model_dir
        self.max_response_size = max_response_size
        self._alone = alone
        self._cleanup = contextlib.ExitStack()
        self._modules: dict[str, ModuleType] = {}
        self._search = [str(model_dir)]
        self._entry_point: Callable[[Any, Any], Any] | None = None
        self.context: WorkerContext | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        handler: str | None = None,
        batch_size: int | None = None,
        gpu_id: int | None = None,
        envelope: str | None = None,
        configured: Callable[[Any], Any] = lambda config: config,
        max_response_size: int = MAX_RESPONSE_SIZE,
        alone: bool = False,
    ) -> Worker:
        """Load a .mar, or a folder with the content of one, and initialise its handler.

        `handler`, `batch_size`, `envelope` and `max_response_size` (bytes) correspond to the register call
        and config.properties; the default batch size is the archive's, or 1. `configured` changes the config
        for its handler. `alone` is for a process that was started like a TorchServe worker: it leaves
        sys.path and the modules unchanged.

        Raises WorkerLoadError with the reason why a TorchServe worker would have died, or the server would
        have refused the archive; ArchiveError if it is no archive.
        """
        path = Path(path)
        with contextlib.ExitStack() as stack:
            folder = os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises without permission)
            model_dir = path.resolve() if folder else stack.enter_context(unpacked(path, "torchmar-worker-"))
            worker = cls(model_dir, alone=alone, max_response_size=max_response_size)
            try:
                worker._load(path, handler, batch_size, gpu_id, envelope, configured)
            except WorkerLoadError as error:
                raise WorkerLoadError(f"{path}: {error}", error.details) from error.__cause__
            worker._cleanup = stack.pop_all()
        return worker

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the handler and remove the temporary folder."""
        self._entry_point = None
        self._modules.clear()
        self._cleanup.close()

    # -- loading --------------------------------------------------------------------------------

    def _load(
        self,
        path: Path,
        handler: str | None,
        batch_size: int | None,
        gpu_id: int | None,
        envelope: str | None,
        configured: Callable[[Any], Any],
    ) -> None:
        manifest = read_manifest(self.model_dir)
        model = manifest.get("model", {})
        handler = str(handler or model.get("handler") or "")
        if not handler:
            raise WorkerLoadError("its manifest names no handler; TorchServe's default is its own")
        config = read_config(self.model_dir / model["configFile"]) if "configFile" in model else {}
        if batch_size is None:
            batch_size = size_of_batches(config)
        # TorchServe then also looks in the folder of the handler's file
        if ":" in handler and "/" in handler:
            beside = self.model_dir / handler.partition(":")[0]
            self._search.insert(0, str(beside.parent))
        name = str(model.get("modelName") or path.stem)
        self.context = WorkerContext(name, self.model_dir, manifest, batch_size, gpu_id, configured(config))
        with self._at_home():
            try:
                entry_point, initialize = find_entry_point(handler)
                if envelope is not None:
                    entry_point = find_envelope(envelope)(entry_point).handle
                initialize(self.context)
            except (WorkerLoadError, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise WorkerLoadError(
                    f"{its_handler(handler)} would not load: {type(error).__name__}: {_text(error)}",
                    traceback.format_exc(),
                ) from error
        self._entry_point = entry_point

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        """Make the archive's folder the working directory and first on sys.path, with its own modules."""
        if self._alone:
            yield
            return
        own = {entry.stem if entry.suffix == ".py" else entry.name for entry in self.model_dir.iterdir()}
        own -= {"sitecustomize", *sys.stdlib_module_names}
        hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self._modules)
        previous, outside = Path.cwd(), list(sys.path)
        sys.path[:0] = self._search
        importlib.invalidate_caches()
        os.chdir(self.model_dir)
        try:
            yield
        finally:
            os.chdir(previous)
            # Remember the handler's own additions for the next call, and remove them until then.
            added = [entry for entry in sys.path if entry not in outside]
            self._search = list(dict.fromkeys([str(self.model_dir), *added]))
            sys.path[:] = outside
            self._modules = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in own}
            for name in self._modules:
                del sys.modules[name]
            sys.modules.update(hidden)

    @property
    def handler(self) -> Any:
        """Return the object whose method answers; None for a plain function, and after `close`."""
        return getattr(self._entry_point, "__self__", None)

    # -- predicting -----------------------------------------------------------------------------

    def predict(self, requests: Sequence[Request]) -> list[Response]:
        """Return the responses to one batch, as the frontend sends them.

        A handler's error becomes a response. Raises CannotTell if the handler does what only a server can do.
        """
        if self._entry_point is None or self.context is None:
            raise RuntimeError("this worker is closed")
        data = [
            {parameter.name: parameter_value(parameter) for parameter in request.parameters}
            for request in requests
        ]
        self.context.request_processor = [RequestState(request_headers(request)) for request in requests]
        self.context.request_ids = {index: str(uuid.uuid4()) for index in range(len(requests))}
        self.context.metrics.request_ids = self.context.request_ids
        batch = Batch(self.context.request_ids, self.max_response_size)
        self.context.cl_socket = batch
        with self._at_home():
            self._ask(data, batch, self.context)
        return batch.responses()

    def _ask(self, data: list[dict[str, Any]], batch: Batch, context: WorkerContext) -> None:
        """Call the handler, and send what TorchServe's service would make of its answer or error."""
        assert self._entry_point is not None
        assert context.request_ids is not None
        ids = context.request_ids  # a handler may remove ids whose responses it has ended itself
        try:
            try:
                answers = self._entry_point(data, context)
            except MemoryError:
                batch.take({}, server_error(507, "Out of resources"))
            except Exception as error:
                logger.warning("the handler raised", exc_info=True)
                batch.take({}, handler_error(error, self.max_response_size))
            else:
                batch.take(*_sent(answers, len(data), ids, context))
        except (KeyboardInterrupt, CannotTell):
            raise
        except BaseException:  # TorchServe's service does not catch these: its worker dies
            logger.warning("an answer cannot be sent", exc_info=True)
            batch.die()


def _sent(
    answers: Any, count: int, ids: Mapping[int, str], context: WorkerContext
) -> tuple[dict[str, Response], Response | None]:
    """Return the message that TorchServe's service makes of a handler's answer, or the error instead."""
    if not isinstance(answers, list):
        return {}, server_error(503, "Invalid model predict output")
    if len(answers) != count:
        return {}, server_error(503, "number of batch response mismatched")
    if context.stopping_criteria:
        raise CannotTell(
            "ask a server: its handler sets context.stopping_criteria, and batches that go on while others "
            "begin (continuousBatching) are not made here"
        )
    try:
        return {
            number: encode_response(context, index, answers[index]) for index, number in ids.items()
        }, None
    except Unserialisable:
        logger.warning("an answer cannot be serialised", exc_info=True)
        return {}, server_error(503, "Unsupported model output data type.")


def _text(error: BaseException) -> str:
    """Return its text; computing the text of a foreign error may fail."""
    try:
        return str(error)
    except Exception as unsayable:
        return f"(its text raises {type(unsayable).__name__})"
