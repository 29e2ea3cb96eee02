"""Read recorded requests: a handler's JSON lines (worker/record.py), or a browser's HAR 1.2.

HAR: www.softwareishard.com/blog/har-12-spec. It defines no encoding for a request's body. Tools that keep
bytes write base64 and say so in a field `encoding`, `_encoding` or `_content`; these are supported.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import ReleaseError
from ..files import read_text


@dataclass(frozen=True)
class RecordedRequest:
    """One prediction to repeat. `name` says where it was found, as `mine-1.0-37.jsonl:12`."""

    name: str
    body: bytes
    content_type: str


@dataclass(frozen=True)
class Limits:
    """Limits a replay to some requests, body sizes and fields.

    `requests` is the number of requests to replay, `bytes_each` the largest body, and `fields` the only
    fields to send of JSON objects; other JSON is then left out. None means no limit.
    """

    requests: int | None = None
    bytes_each: int | None = None
    fields: tuple[str, ...] | None = None

    def __str__(self) -> str:
        of_json = "" if self.fields is None else f", of JSON objects only {', '.join(self.fields)}"
        return f"bodies of at most {self.bytes_each} bytes{of_json}"


NO_LIMITS = Limits()


class _Malformed(Exception):
    """What is wrong with one line or entry."""


def read_recorded(
    sources: Sequence[str | Path], model: str, limits: Limits = NO_LIMITS
) -> tuple[RecordedRequest, ...]:
    """Return the requests for a model in these files, in order; a source may be a pattern, as `rec/*.jsonl`.

    A file that ends in .har is HAR, any other has JSON lines. Raises ReleaseError with file and line for
    unreadable content, and if there is no request for the model at all.
    """
    found: list[RecordedRequest] = []
    left_out = 0
    for request in _all(sources, model):
        within = _within(limits, request)
        if within is None:
            left_out += 1
            continue
        found.append(within)
        if len(found) == limits.requests:
            break
    if not found:
        names = ", ".join(map(str, sources)) or "no file"
        why = f" that may be sent, and {left_out} that may not ({limits})" if left_out else ""
        raise ReleaseError(f"{names}: holds no request for {model}{why}, so there is nothing to replay")
    return tuple(found)


def _all(sources: Sequence[str | Path], model: str) -> Iterator[RecordedRequest]:
    for source in sources:
        file: Path | str = source
        try:
            for file in _files(source):
                yield from (_from_har if file.suffix == ".har" else _from_lines)(file, model)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is neither UTF-8 nor UTF-16 with a mark"
            raise ReleaseError(f"{file}: recorded requests cannot be read: {reason}") from None


def _within(limits: Limits, request: RecordedRequest) -> RecordedRequest | None:
    """Return the part of a request that may be sent; None if there is none.

    As handlers/worker/record.py does.
    """
    body, fields = request.body, limits.fields
    is_json = request.content_type.startswith("application/json") or body.lstrip()[:1] in {b"{", b"["}
    if fields is not None and is_json:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return None  # unreadable, so its fields are unknown
        if not isinstance(content, dict):
            return None
        body = _compact({name: content[name] for name in fields if name in content})
    if limits.bytes_each is not None and len(body) > limits.bytes_each:
        return None
    return replace(request, body=body)


def _compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _files(source: str | Path) -> Sequence[Path]:
    if Path(source).exists():  # a file name may contain brackets
        return [Path(source)]
    matching = sorted(glob.glob(str(source)))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not matching:
        raise ReleaseError(f"{source}: no such file, and no file matches it")
    return [Path(name) for name in matching]


# -- JSON lines ---------------------------------------------------------------------------------


def _from_lines(file: Path, model: str) -> Iterator[RecordedRequest]:
    with file.open("rb") as opened:
        encoding = "utf-16" if opened.read(2) in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE} else "utf-8"
    with file.open(encoding=encoding, newline="\n") as lines:
        # Each part of a concatenated file begins with a byte order mark.
        yield from _of_lines(file, (line.lstrip("\ufeff") for line in lines), model)


def _of_lines(file: Path, lines: Iterable[str], model: str) -> Iterator[RecordedRequest]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = _object(line)
            name = f"{file.name}:{number}"
            if _string(content, "model") == model:
                yield RecordedRequest(name, _recorded_body(content), _string(content, "content_type"))
        except _Malformed as error:
            if not line.endswith("\n"):
                return  # the last line is still being written, or its writer was killed
            remedy = "remove the line, or record again"
            raise ReleaseError(f"{file}: line {number}: not a recorded request: {error}; {remedy}") from None


def _recorded_body(content: Mapping[str, Any]) -> bytes:
    # As handlers/worker/record.py does.
    body = _compact(content["json"]) if "json" in content else _unbase64(_string(content, "body"))
    if hashlib.sha256(body).hexdigest() != _string(content, "sha256"):
        raise _Malformed("its body does not fit its sha256")
    return body


# -- HAR ----------------------------------------------------------------------------------------


def _from_har(file: Path, model: str) -> Iterator[RecordedRequest]:
    text = read_text(file)
    try:
        entries = _object(text)["log"]["entries"]
        requests = [entry["request"] for entry in entries]
    except (_Malformed, KeyError, TypeError) as error:
        raise ReleaseError(f"{file}: not HAR 1.2, which has log.entries[].request ({error})") from None
    for number, request in enumerate(requests):
        where = f"log.entries[{number}]"
        try:
            if _asks(request, model):
                body, content_type = _har_body(request)
                yield RecordedRequest(f"{file.name}:{where}", body, content_type)
        except (_Malformed, AttributeError, TypeError) as error:
            remedy = "remove it, or have the handler record (`record` in model.yaml)"
            raise ReleaseError(f"{file}: {where}: cannot be replayed: {error}; {remedy}") from None


def _asks(request: Mapping[str, Any], model: str) -> bool:
    """Return whether it is a prediction of the model, with or without a version, and has a body."""
    try:
        path = urlsplit(_string(request, "url")).path
    except ValueError as error:
        raise _Malformed(f"its url is none: {error}") from None
    parts = [unquote(part) for part in path.split("/")]
    carries = request.get("postData") is not None or request.get("_content") is not None
    return carries and len(parts) in {3, 4} and parts[1:3] == ["predictions", model]


def _har_body(request: Mapping[str, Any]) -> tuple[bytes, str]:
    post = request.get("postData") or {}
    content = request.get("_content") or post.get("_content") or post
    text = content.get("text", post.get("text"))
    if not isinstance(text, str):
        raise _Malformed("its postData has no text")
    content_type = str(post.get("mimeType") or content.get("mimeType") or "application/octet-stream")
    encoding = content.get("encoding", content.get("_encoding", ""))
    if encoding == "base64":
        return _unbase64(text), content_type
    if encoding:
        raise _Malformed(f"its encoding {encoding!r} is not known")
    if "\ufffd" in text:
        raise _Malformed("its body is not text, and what recorded it has lost bytes")
    return text.encode("utf-8", "surrogatepass"), content_type


# -- both ---------------------------------------------------------------------------------------


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _Malformed(f"expected an object, found {type(content).__name__}")
    return content


def _string(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise _Malformed(f"`{key}` is missing" if value is None else f"`{key}` is not text")
    return value


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Malformed(f"not base64: {error}") from None
