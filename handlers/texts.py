"""Read texts: a request's texts, their token ids, and a batch of those.

A tokenizer.json of the library `tokenizers`, or a vocabulary with one token per line, turns a text into ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .params import File, Positive
from .requests import Request, content_of, rows_of, some, text_of, value_of
from .worker.answers import Refused

FORMS = (
    "send the text as the body with the content type text/plain, "
    'or as JSON {"text": "…"} or {"instances": ["…", {"text": "…"}]}'
)
_NAMES = ("text", "data")
_Sent = bytes | bytearray | str

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class TextLimits:
    """The limits of one request."""

    max_characters: Positive = 20_000
    """The most characters of one text."""
    max_instances: Positive = 32
    """The most texts in one JSON request."""

    def about(self) -> dict[str, Any]:
        """Return what callers may send, for a handler's `about`."""
        return {"accepts": ["text/plain", "application/json"], "limits": asdict(self)}


# -- from a request to its texts ----------------------------------------------------------------


def asked(
    request: Request, limits: TextLimits, options: Sequence[str] = (), *, empty: bool = False
) -> tuple[list[dict[str, Any]], bool]:
    """Return for each text of a request an object with `text` and its `options`, and whether they are listed.

    Options beside `instances` apply to each text; `empty` allows an empty text. Raises Refused.
    """
    content = _content(request)
    rows, listed = rows_of(content, limits.max_instances)
    common = {}
    if listed:
        common = {name: value for name, value in content.items() if name != "instances"}
        _require_known(common, options, "")
    return [
        {**common, **_one(row, limits, options, f"instances[{i}]: " if listed else "", empty)}
        for i, row in enumerate(rows)
    ], listed


def _content(request: Request) -> Any:
    """Return `content_of`'s result, but keep what was sent as text, even if it begins like JSON."""
    if request.headers.get("content-type", "").startswith("text/"):
        value = value_of(request, "text", FORMS)
        if isinstance(value, _Sent):
            text = text_of(value)
            if text is None:
                raise Refused(f"no text: found bytes that are no UTF-8; {FORMS}")
            return text
    content = content_of(request, "text", FORMS)
    if isinstance(content, Mapping) and not {"data", "body"} & request.keys():
        # A form's other fields are parsed if they are JSON, but a text may look like a number.
        sent = {name: text_of(request[name]) for name in _NAMES if isinstance(request.get(name), _Sent)}
        return {**content, **{name: text for name, text in sent.items() if text is not None}}
    return content


def _one(row: Any, limits: TextLimits, options: Sequence[str], where: str, empty: bool) -> dict[str, Any]:
    if isinstance(row, Mapping):
        names = [name for name in _NAMES if name in row]
        if len(names) != 1:
            found = f"found {names}, which of them is the text?" if names else f"no text: found {some(row)}"
            raise Refused(f"{where}{found}; {FORMS}")
        own = {name: value for name, value in row.items() if name != names[0]}
        _require_known(own, options, where)
        return {"text": _text(row[names[0]], limits, where, empty), **own}
    return {"text": _text(row, limits, where, empty)}


def _require_known(found: Mapping[str, Any], options: Sequence[str], where: str) -> None:
    unknown = [name for name in found if name not in options]
    if unknown:
        known = ", ".join(["text", *options])
        raise Refused(f"{where}found {some(unknown)}, which are not known here; known are {known}")


def _text(value: Any, limits: TextLimits, where: str, empty: bool) -> str:
    if not isinstance(value, str):
        found = "bytes that are no UTF-8" if isinstance(value, bytes) else f"a {type(value).__name__}"
        raise Refused(f"{where}expected a text, found {found}; {FORMS}")
    if not value.strip() and not empty:
        raise Refused(f"{where}the text is empty; {FORMS}")
    if len(value) > limits.max_characters:
        raise Refused(
            f"{where}{len(value):,} characters, at most {limits.max_characters:,} are allowed",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can express half a character
        raise Refused(f"{where}the text holds half of a surrogate pair; send it as UTF-8") from None
    return value


# -- from a text to its ids ---------------------------------------------------------------------


@dataclass(frozen=True)
class Tokenizer:
    """How a text becomes the model's ids."""

    file: File
    """A tokenizer.json of the library `tokenizers`; or a .txt with one token per line, the first of which has
    the id 0."""
    split: Literal["words", "characters"] = "words"
    """With a .txt: which parts of a text to look up. words: separated by whitespace."""
    ngrams: Positive = 1
    """With a .txt: also look up to this many neighbouring parts together; one space joins words."""
    lowercase: bool = False
    """With a .txt: whether to lowercase a text first."""
    unknown: str | None = None
    """With a .txt: the token for unknown text; by default it is left out."""
    begin: str | None = None
    """With a .txt: a token before every text."""
    end: str | None = None
    """With a .txt: a token after every text; it stays if a text is cut."""
    pad: int = 0
    """The id that pads the shorter texts of a batch."""
    max_tokens: Positive = 512
    """The most tokens of one text, with those that a tokenizer.json adds."""
    longer: Literal["refuse", "cut"] = "refuse"
    """What happens to a longer text: it gets 413, or its end is cut off."""


class Tokens:
    """An open tokenizer. Raises ValueError for an invalid file, which names the parameter."""

    def __init__(self, params: Tokenizer, folder: Path) -> None:
        self._params = params
        path = folder / params.file
        if not path.is_file():
            raise ValueError(f"tokenizer.file: {params.file}: no such file")
        self._encode, self.size = _of_json(path, params) if path.suffix == ".json" else _of_txt(path, params)

    def __call__(self, text: str, where: str = "") -> list[int]:
        """Return a text's ids, at least one. Raises Refused if it has none, or too many."""
        ids: list[int] = self._encode(text)
        if not ids:
            raise Refused(f"{where}no token of the text is known to this model")
        most = self._params.max_tokens
        if len(ids) > most and self._params.longer == "refuse":
            raise Refused(
                f"{where}the text has {len(ids):,} tokens, at most {most:,} are allowed: shorten it",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return ids

    def instances(self, request: Request, limits: TextLimits) -> tuple[list[Inputs], bool]:
        """Return the ids of each text of a request, and whether they are listed. Raises Refused."""
        rows, listed = asked(request, limits)
        where = [f"instances[{i}]: " if listed else "" for i in range(len(rows))]
        return [_ids(self(row["text"], at)) for row, at in zip(rows, where, strict=True)], listed

    def example(self) -> Inputs:
        """Return three tokens: with more than one, an exported graph can vary their number."""
        return _ids([index % self.size for index in range(3)])

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return 2 to 16 random tokens."""
        count = min(int(generator.integers(2, 17)), self._params.max_tokens)
        return _ids(generator.integers(0, self.size, count))


def _ids(ids: Any) -> Inputs:
    return {"input_ids": np.array(ids, dtype=np.int64)}


def _of_json(path: Path, params: Tokenizer) -> Any:
    tokenizer = open_tokenizer(path, "tokenizer.file")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if params.longer == "cut":  # the tokens that end every text stay
        tokenizer.enable_truncation(max_length=params.max_tokens)
    return lambda text: tokenizer.encode(text).ids, tokenizer.get_vocab_size()


TOKENIZERS = "tokenizers>=0.20"
"""The package that reads a tokenizer.json, as a pip requirement."""


def open_tokenizer(path: Path, key: str) -> Any:
    """Open a tokenizer.json by the library `tokenizers`; `key` is the parameter that names the file.

    Raises ValueError for another file, and ModuleNotFoundError without the library; both name the parameter.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{key}: {path.name} is read by a package that is missing: pip install '{TOKENIZERS}' ({error})",
            name=error.name,
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{key}: {path.name} is no tokenizer.json: {error}") from None


def _of_txt(path: Path, params: Tokenizer) -> Any:
    ids = {token: index for index, token in enumerate(vocabulary(path))}
    for name in ("unknown", "begin", "end"):
        token = getattr(params, name)
        if token is not None and token not in ids:
            raise ValueError(f"tokenizer.{name}: {token!r} is not a line of {params.file}")
    unknown = None if params.unknown is None else ids[params.unknown]
    begin, end = ([] if token is None else [ids[token]] for token in (params.begin, params.end))
    separator = " " if params.split == "words" else ""

    def encode(text: str) -> list[int]:
        text = text.lower() if params.lowercase else text
        parts = text.split() if params.split == "words" else [*text]
        found = [
            ids.get(separator.join(parts[start : start + length]), unknown)
            for length in range(1, params.ngrams + 1)
            for start in range(len(parts) - length + 1)
        ]
        known = [each for each in found if each is not None]
        if params.longer == "cut":
            known = known[: max(0, params.max_tokens - len(begin) - len(end))]
        return [*begin, *known, *end] if known else []

    return encode, len(ids)


def vocabulary(path: Path) -> list[str]:
    """Return the tokens of a .txt, one per line, or of a .json with a list; one may be a space.

    Raises ValueError.
    """
    if not path.is_file():
        raise ValueError(f"{path.name}: no such file")
    text = text_of(path.read_bytes())
    if text is None:
        raise ValueError(f"{path.name}: it is no text in UTF-8")
    if path.suffix == ".json":
        tokens: list[str] = json.loads(text)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise ValueError(f"{path.name}: expected a list of tokens")
    else:
        # Split only at a text file's line ends: splitlines() would also split at rarer characters.
        tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if token in seen:
            raise ValueError(f"{path.name} line {number}: {token!r} stands in line {seen[token]} already")
        seen[token] = number
    return tokens


# -- ids to a batch ----------------------------------------------------------------------------


RAGGED: Mapping[str, Mapping[int, str]] = {name: {1: "tokens"} for name in ("input_ids", "attention_mask")}
"""The axes of `padded`'s arrays that vary besides the first."""


def padded(rows: Sequence[Inputs], pad: int) -> dict[str, Any]:
    """Pad texts to `input_ids` and `attention_mask`, int64 (n, tokens); 1 marks a token, 0 padding."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for row, one in enumerate(rows):
        ids[row, : len(one["input_ids"])] = one["input_ids"]
        mask[row, : len(one["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask}


Takes = Literal["input_ids", "attention_mask", "token_type_ids", "offsets"]
TAKES: tuple[Takes, ...] = ("input_ids", "attention_mask")


def as_taken(batch: Mapping[str, Any], takes: Sequence[str], library: Any) -> dict[str, Any]:
    """Return a padded batch as a model takes it; `library` is numpy or torch, by the arrays' type.

    With `offsets`, `input_ids` joins all texts, and an offset is where a text begins: the two arguments of
    torch.nn.EmbeddingBag.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    lengths = mask.sum(1)
    found = {
        "attention_mask": mask,
        "token_type_ids": library.zeros_like(ids),
        "input_ids": ids[mask > 0] if "offsets" in takes else ids,
        "offsets": lengths.cumsum(0) - lengths,
    }
    return {name: found[name] for name in takes}
