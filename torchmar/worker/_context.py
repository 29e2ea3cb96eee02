"""Provide TorchServe's context, which a handler gets besides the data, with TorchServe's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TS_VERSION = "0.12.0"


class RequestState:
    """Holds a request's headers and the status and headers of its response (ts.context.RequestProcessor)."""

    def __init__(self, headers: Mapping[str, Any]) -> None:
        self.request_headers = dict(headers)
        self.response_headers: dict[str, str] = {}
        self.status: int | None = 200
        self.phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        return self.request_headers.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self.request_headers

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self.status, self.phrase = code, reason_phrase

    def get_response_status_code(self) -> int | None:
        return self.status

    def get_response_status_phrase(self) -> str | None:
        return self.phrase

    def add_response_property(self, key: str, value: str) -> None:
        self.response_headers[key] = value

    def get_response_headers(self) -> dict[str, str]:
        return self.response_headers

    def get_response_header(self, key: str) -> str | None:
        return self.response_headers.get(key)


class RecordedMetrics:
    """Replaces ts.metrics: accepts every `add_…` call and keeps it in `calls`."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] | None = None
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith(("add_", "get_", "set_")):
            raise AttributeError(name)

        def record(*args: Any, **kwargs: Any) -> RecordedMetrics:
            self.calls.append((name, args, kwargs))
            return self  # so that get_metric(…).add_or_update(…) works

        return record


class WorkerContext:
    """The context that a handler gets besides the data (ts.context.Context)."""

    def __init__(
        self,
        model_name: str,
        model_dir: Path,
        manifest: Mapping[str, Any] | None,
        batch_size: int,
        gpu_id: int | None,
        config: Any,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.model_yaml_config = config
        self.system_properties: dict[str, Any] = {
            "model_dir": str(model_dir),
            "gpu_id": gpu_id,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": TS_VERSION,
            "limit_max_image_pixels": True,
        }
        self.metrics = RecordedMetrics(model_name)
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestState] | None = None
        self.stopping_criteria: Any = None
        self.header_key_sequence_id = os.getenv("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.getenv("TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start")
        self.header_key_sequence_end = os.getenv("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")
        self.cl_socket: Any = None  # the batch, through which its handler sends parts of responses

    def _state(self, idx: int) -> RequestState:
        assert self.request_processor is not None
        return self.request_processor[idx]

    def get_request_id(self, idx: int = 0) -> str | None:
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        return self._state(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self._state(idx).get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        return self._state(idx).get_request_property(self.header_key_sequence_id)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        if self.request_processor is not None:
            self._state(idx).report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        assert self.request_processor is not None
        for state in self.request_processor:
            state.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int | None, str | None]:
        return self._state(idx).status, self._state(idx).phrase

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self._state(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self._state(idx).response_headers

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self._state(idx).response_headers.get("content-type")
