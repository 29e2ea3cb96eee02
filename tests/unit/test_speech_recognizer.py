"""Speech to text by an encoder and a decoder that are functions: what they are asked, what is made of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.mel import RATE
from handlers.speech_recognizer import Handler, windows
from tests.asking import ask, opened
from tests.waves import tone, wav
from torchmar.compare import Comparator

tokenizers: Any = pytest.importorskip("tokenizers", reason="pip install tokenizers")

SPECIAL = [
    "endoftext",
    "startoftranscript",
    "en",
    "de",
    "translate",
    "transcribe",
    "nospeech",
    "notimestamps",
]
WORDS = ["loud", "soft", "(music)", "laut"]
END, START, EN, DE, TRANSLATE, TRANSCRIBE, NOBODY, NO_TIMES = range(4, 12)
VOCABULARY = 14  # with two moments, which are no words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of four words."""
    path = tmp_path_factory.mktemp("speech")
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="soft"))
    tokenizer.add_special_tokens([f"<|{name}|>" for name in SPECIAL])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "never.json").write_text(json.dumps({"suppress_tokens": [2, 99], "begin_suppress_tokens": [END]}))
    return path


class Ears:
    """An encoder that tells how loud it is, and a decoder that writes a word for each time it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.heard: list[int] = []
        self.scores = {"loud": [0, END], "soft": [1, 1, END]}

    def encoder(self, inputs: Any) -> Any:
        assert inputs["mel"].dtype == np.float32
        assert inputs["mel"].shape[1:] == (80, 3_000)
        self.heard.append(len(inputs["mel"]))
        return {"memory": inputs["mel"].max(axis=(1, 2))[:, None]}

    def decoder(self, inputs: Any) -> Any:
        tokens, memory = inputs["tokens"], inputs["memory"]
        assert tokens.dtype == np.int64
        self.asked.append(tokens.tolist())
        logits = np.zeros((len(tokens), VOCABULARY), np.float32)
        for row, loudness in enumerate(memory[:, 0]):
            if tokens.shape[1] == 1:  # who speaks?
                logits[row, NOBODY] = 9 if loudness < -1.4 else -9
                logits[row, DE] = 1
                continue
            words = self.scores["loud" if loudness > 1.3 else "soft"]
            place = tokens.shape[1] - 4
            logits[row, words[place] if place < len(words) else END] = 5
            logits[row, [2, VOCABULARY - 1]] = 9  # music and a moment, which are not wanted
        return {"logits": logits}


def hearing(folder: Path, ears: Ears | None = None, **params: Any) -> Any:
    ears = ears or Ears()
    parts = {"encoder": ears.encoder, "decoder": ears.decoder}
    return opened(Handler, {"tokenizer": "tokenizer.json", "suppress": "never.json", **params}, folder, parts)


LOUD, SOFT, SILENT = tone(1), 0.01 * tone(1), np.zeros(16_000)


def test_sounds_are_heard_together_and_answered_apart(folder: Path) -> None:
    """In one pass of the encoder; a row that has ended waits for the others; silence is no text."""
    ears = Ears()
    found = ask(hearing(folder, ears), wav(LOUD), b"no sound", wav(SILENT), wav(SOFT))
    assert [answer.status for answer in found] == [200, 400, 200, 200]
    texts = [found[i].content["text"] for i in (0, 2, 3)]
    assert texts == ["loud", "", "soft soft"]
    assert found[0].content == {"text": "loud", "language": "en", "seconds": 1.0}
    assert ears.heard == [3]
    assert ears.asked[0] == [[START]] * 3
    assert ears.asked[1][0] == [START, EN, TRANSCRIBE, NO_TIMES]
    assert len(ears.asked) == 4


def test_the_model_says_which_language_it_is(folder: Path) -> None:
    """Where params do not; and translates where they say so."""
    ears = Ears()
    [answer] = ask(hearing(folder, ears, language=None, task="translate"), wav(LOUD))
    assert answer.content["language"] == "de"
    assert ears.asked[1] == [[START, DE, TRANSLATE, NO_TIMES]]


def test_what_is_never_chosen(folder: Path) -> None:
    """Neither what the file lists, nor moments, nor the end as the first word."""
    ears = Ears()
    ears.scores["loud"] = [END, END]
    [answer] = ask(hearing(folder, ears), wav(LOUD))
    assert answer.content["text"] == "loud"  # the first of all that are equal
    [answer] = ask(hearing(folder, ears, suppress=None), wav(LOUD))
    assert answer.content["text"].startswith("(music)")


def test_a_text_has_an_end(folder: Path) -> None:
    """Whatever the model thinks."""
    ears = Ears()
    ears.scores["loud"] = [0] * 100
    [answer] = ask(hearing(folder, ears, max_tokens=5), wav(LOUD))
    assert answer.content["text"] == "loud loud loud loud loud"


def test_a_long_sound_is_cut_where_it_is_quiet(folder: Path) -> None:
    """And its texts joined."""
    ears = Ears()
    sound = np.concatenate([tone(27), np.zeros(RATE), tone(20), 0.001 * tone(8), SILENT])
    [answer] = ask(hearing(folder, ears), wav(sound, bits=8))
    assert answer.content == {"text": "loud loud", "language": "en", "seconds": 57.0}
    cut, rest = windows(sound.astype(np.float32))
    assert 27 * RATE < len(cut) < 28 * RATE
    assert len(cut) + len(rest) == len(sound)
    assert [len(one) for one in windows(np.zeros(30 * RATE, np.float32))] == [30 * RATE]


def test_windows_are_heard_a_few_at_a_time(folder: Path) -> None:
    """What the encoder gives is large."""
    ears = Ears()
    text = base64.b64encode(wav(LOUD)).decode()
    [answer] = ask(hearing(folder, ears), {"instances": [text] * 6})
    assert [one["text"] for one in answer.content["predictions"]] == ["loud"] * 6
    assert ears.heard == [4, 2]


def test_limits(folder: Path) -> None:
    """Seconds, bytes, files: 413."""
    handler = hearing(folder, limits={"max_seconds": 2.0, "max_instances": 1, "max_bytes": 90_000})
    text = base64.b64encode(wav(LOUD)).decode()
    found = ask(handler, wav(tone(2.5)), wav(tone(1.5), bits=32), {"instances": [text] * 2}, wav(LOUD))
    assert [answer.status for answer in found] == [413, 413, 413, 200]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"language": "xx"}, "language: 'xx' is not known, but en de"),
        ({"suppress": "tokenizer.txt"}, "suppress: tokenizer.txt: no lists of tokens"),
        ({"tokenizer": "other.json"}, r"tokenizer: other.json has no <\|startoftranscript\|>"),
        ({"tokenizer": "tokenizer.txt"}, "tokenizer: tokenizer.txt is no tokenizer.json"),
        ({"tokenizer": "none.json"}, "tokenizer: none.json is no tokenizer.json"),
    ],
)  # fmt: skip
def test_files_that_say_something_else(folder: Path, params: Any, told: str) -> None:
    """With the key at fault."""
    (folder / "tokenizer.txt").write_text("hello")
    other = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    other.save(str(folder / "other.json"))
    with pytest.raises(ValueError, match=told):
        hearing(folder, **params)


def test_a_decoder_of_another_vocabulary(folder: Path) -> None:
    """Is found before a worker is ready."""
    hearing(folder).warm_up()
    handler = hearing(folder)
    handler.models = {**handler.models, "decoder": lambda _: {"logits": np.zeros((1, 5), np.float32)}}
    with pytest.raises(ValueError, match=r"the decoder gives \[1, 5\], expected"):
        handler.warm_up()


def test_texts_are_compared_by_their_letters(folder: Path) -> None:
    """A tenth of them may differ."""
    comparator = Comparator.of(hearing(folder).compare())
    one = {"text": "All circuits are busy now.", "language": "en", "seconds": 1.8}
    assert comparator.same(one, {**one, "text": "All circuits are busy now!"})
    assert not comparator.same(one, {**one, "text": "All circus are dizzy now."})
    assert not comparator.same(one, {**one, "language": "de"})
