"""A loaded handler, in this process."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from .. import mar
from ..errors import WorkerLoadError
from ._context import RequestState, WorkerContext
from ._exchange import Request, Response
from ._loader import find_entry_point, find_envelope, read_config, read_manifest
from ._service import (
    Unserialisable,
    encode_response,
    handler_error,
    parameter_value,
    request_headers,
    server_error,
)

logger = logging.getLogger(__name__)


class Worker:
    """A loaded handler. Close it, or use it as a context manager: it unpacks into a temporary folder.

    While it loads and predicts, the archive's folder is the working directory and first on sys.path, as in a
    TorchServe worker; both belong to the whole process, so use workers from one thread at a time. Modules
    that the archive brings are its own: several workers, and this process, may each have their `handler`.
    """

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
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
    ) -> Worker:
        """Load a .mar, or a folder that holds what a .mar would, and initialise its handler.

        `handler`, `batch_size` and `envelope` are what the register call and config.properties can set; the
        batch size is otherwise the archive's, or 1. `configured` changes the config that its
        handler finds.
        Raises WorkerLoadError with the reason a TorchServe worker would have died of; ArchiveError where it
        is no archive.
        """
        path = Path(path)
        with contextlib.ExitStack() as stack:
            model_dir = path.resolve()
            if not path.is_dir():
                temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="torchmar-worker-"))
                model_dir = Path(temporary).resolve()
                mar.extract(path, model_dir)
            worker = cls(model_dir)
            worker._load(path, handler, batch_size, gpu_id, envelope, configured)
            worker._cleanup = stack.pop_all()
        return worker

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the handler and remove the temporary folder."""
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
        model = manifest.get("model")
        if not isinstance(model, dict):
            model = {}
        handler = handler or model.get("handler")
        if not handler:
            raise WorkerLoadError(f"{path}: its manifest names no handler; TorchServe's default is its own")
        config: Any = {}
        if "configFile" in model:
            config = read_config(path, self.model_dir / model["configFile"])
        if batch_size is None:
            batch_size = config.get("batchSize", 1) if isinstance(config, dict) else 1
        if ":" in handler and "/" in handler:  # TorchServe then looks beside the handler's file, too
            beside = self.model_dir / handler.partition(":")[0]
            self._search.insert(0, str(beside.parent))
        name = str(model.get("modelName", path.stem))
        self.context = WorkerContext(name, self.model_dir, manifest, batch_size, gpu_id, configured(config))
        with self._at_home():
            try:
                entry_point, initialize = find_entry_point(handler)
                if envelope is not None:
                    entry_point = find_envelope(envelope)(entry_point).handle
                initialize(self.context)
            except WorkerLoadError as error:
                raise WorkerLoadError(f"{path}: {error}", error.details) from error.__cause__
            except (Exception, SystemExit) as error:
                what = f"{type(error).__name__}: {error}"
                raise WorkerLoadError(
                    f"{path}: its handler {handler} would not load: {what}", traceback.format_exc()
                ) from error
        self._entry_point = entry_point

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        """The archive's folder as working directory, first on sys.path, with its own modules."""
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
            # What the handler has added itself is there again the next time, and gone until then.
            added = [entry for entry in sys.path if entry not in outside]
            self._search = list(dict.fromkeys([str(self.model_dir), *added]))
            sys.path[:] = outside
            self._modules = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in own}
            for name in self._modules:
                del sys.modules[name]
            sys.modules.update(hidden)

    # -- predicting -----------------------------------------------------------------------------

    def predict(self, requests: Sequence[Request]) -> list[Response]:  # noqa: PLR0911 (one for each rule)
        """The responses to one batch, as the frontend sends them: never raises for a handler's fault."""
        if self._entry_point is None or self.context is None:
            raise RuntimeError("this worker is closed")
        data = [
            {parameter.name: parameter_value(parameter) for parameter in request.parameters}
            for request in requests
        ]
        self.context.request_processor = [RequestState(request_headers(request)) for request in requests]
        self.context.request_ids = {index: str(uuid.uuid4()) for index in range(len(requests))}
        self.context.metrics.request_ids = self.context.request_ids
        count = len(requests)
        with self._at_home():
            try:
                answers = self._entry_point(data, self.context)
            except MemoryError:
                return [server_error(507, "Out of resources")] * count
            except Exception as error:
                logger.warning("the handler raised", exc_info=True)
                return [handler_error(error)] * count
            except SystemExit:
                return [server_error(500, "Worker died.")] * count
            if not isinstance(answers, list):
                return [server_error(503, "Invalid model predict output")] * count
            if len(answers) != count:
                return [server_error(503, "number of batch response mismatched")] * count
            try:
                return [encode_response(self.context, index, answer) for index, answer in enumerate(answers)]
            except Unserialisable:
                logger.warning("an answer cannot be serialised", exc_info=True)
                return [server_error(503, "Unsupported model output data type.")] * count
            except Exception:  # outside of what the stock service catches: its worker dies
                logger.warning("an answer cannot be sent", exc_info=True)
                return [server_error(500, "Worker died.")] * count
