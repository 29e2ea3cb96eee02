"""Compresses real models in several ways, and measures what each way costs and gains; `./scripts/frontier`.

    python -m benchmarks.frontier [--quick] [--only NAME[,NAME]] [--json FILE] [--markdown FILE]

Models and data come out of packages. Each way is built by torchmar into a temporary store, by a model.yaml
with a section `compress`; all ways of a model are then measured in turn, in one run. Where a package is
missing, the report says what to install. Exit code 1 if a model could not be measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torchmar.errors import TorchmarError
from torchmar.export import Weights

from . import frontier_points as points
from . import machine, recipes
from .frontier_metrics import accuracy, boxes_kept, similarities
from .frontier_points import Bench, Recipe, Tell, Variant
from .frontier_report import markdown, report
from .tables import into_page
from .writable import require_writable

ROOT = Path(__file__).resolve().parent.parent
SECONDS, QUICK_SECONDS = 2.0, 0.5  # of timing each point at each batch size
ROUNDS = 3  # of answering one request after the other
ANYTHING = {"agreement": 0.0, "max_abs_error": 9.0}
"""What `accept` says where a point is to be shown, whatever it costs."""


@dataclass(frozen=True)
class Model:
    """What is measured of a model of models/.

    `request` is the file that is answered again and again, `data` a sentence on what the points are compared
    on. `photographs` says that its folder lacks them. `slow` recipes and variants are left out by --quick.
    """

    request: str
    data: str
    variants: tuple[Variant, ...]
    metric: Callable[[Bench, Tell], None] | None = None
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    slow: tuple[str, ...] = ()
    weights: Weights = Weights()  # noqa: RUF009 (frozen)
    is_quick: bool = False


FP32 = Variant("fp32")
INT8 = Variant("int8", "int8.yaml")
PHOTOGRAPHS = (
    "9 photographs of scikit-image, scikit-learn and matplotlib, each whole and in {} crops with its subject"
)


def _digits(name: str, version: str, **compress: Any) -> Variant:
    found = {"data": "data/test", **compress}
    return Variant(name, "int8.yaml", {"version": version, "compress": found, "accept": ANYTHING})


def _weights(bits: int, data: str, file: str = "int8.yaml", **changes: Any) -> Variant:
    compress = {"quantize": "weights", "bits": bits, "data": data}
    changed = {"version": f"9.{bits}", "compress": compress, "accept": ANYTHING, **changes}
    return Variant(f"weights, {bits} bits", file, changed)


_NANODET_INT8 = Variant(
    "int8",
    changes={
        "version": "9.0",
        "prepare": "photographs:fetch_photographs",
        "compress": {"quantize": "int8", "data": "data"},
        "accept": ANYTHING,
    },
)
_VGG16 = {"prepare": "photographs:fetch_whole"}
MODELS = {
    "digits": Model(
        "digits/golden/3.png",
        "pictures that it was not trained with, of which there are 360",
        (
            FP32,
            INT8,
            _digits("pruned to half", "9.0", prune=0.5, train="data/train"),
            Variant("pruned to half, int8", "pruned.yaml"),
        ),
        accuracy,
        is_quick=True,
    ),
    "efficientnet_lite0": Model(
        "efficientnet_lite0/golden/grace_hopper.jpg",
        PHOTOGRAPHS.format(15),
        (
            FP32,
            INT8,
            Variant(
                "int8, stricter",
                "int8.yaml",
                {"version": "9.0", "accept": {"agreement": 0.97, "max_abs_error": 0.5, "cost": 0.12}},
            ),
        ),
        recipes={
            "ONNX Runtime's defaults": recipes.onnx_runtime,
            "ONNX Runtime, per channel": partial(recipes.onnx_runtime, per_channel=True),
            "Olive": recipes.olive,
        },
        slow=("int8, stricter", "Olive"),
        is_quick=True,
    ),
    "minilm": Model(
        "minilm/golden/sentence.txt",
        "the first sentences of 200 news stories, and 1,225 pairs of 50 stories with people's marks (gensim)",
        (FP32, Variant("int8, dynamic", "int8.yaml"), _weights(8, "data.jsonl"), _weights(4, "data.jsonl")),
        similarities,
    ),
    "nanodet": Model(
        "nanodet/golden/grace_hopper.jpg", PHOTOGRAPHS.format(5), (FP32, _NANODET_INT8), boxes_kept
    ),
    "vgg16": Model(
        "efficientnet_lite0/golden/grace_hopper.jpg",
        "random weights, so that only sizes and times mean anything; 9 photographs",
        (
            FP32,
            Variant(
                "int8",
                changes={
                    "version": "9.1",
                    "compress": {"quantize": "int8", "data": "data"},
                    "accept": ANYTHING,
                    **_VGG16,
                },
            ),
            _weights(4, "data", "model.yaml", **_VGG16),
        ),
        weights=Weights("random"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the models, and print the tables."""
    options = _parser().parse_args(arguments)
    try:
        require_writable("--json", options.json)
        require_writable("--markdown", options.markdown)
    except TorchmarError as error:
        raise SystemExit(f"frontier: {error}") from None
    found = []
    for name in _chosen(options.only, options.quick):
        found.append(measure(name, MODELS[name], quick=options.quick))
        print(f"{name}: {found[-1]['note'] or 'measured'}", file=sys.stderr, flush=True)
    # The folders are this machine's.
    words = [Path(word).name for word in (sys.argv[1:] if arguments is None else arguments)]
    result = report(found, f"./scripts/frontier {' '.join(words)}".strip())
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    parts = {model["name"]: markdown(result, model["name"]) for model in found}
    if options.markdown is not None:
        page = options.markdown.read_text(encoding="utf-8")
        for name, part in parts.items():
            page = into_page(page, part, f"scripts/frontier {name}")
        options.markdown.write_text(page, encoding="utf-8")
    print(f"{machine.one_line(result['machine'])}\n", *parts.values(), sep="\n", end="")
    return int(any(model["note"] for model in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./scripts/frontier", description=__doc__.splitlines()[0])
    quick = ", ".join(name for name, model in MODELS.items() if model.is_quick)
    parser.add_argument("--quick", action="store_true", help=f"{quick} alone, measured for less time")
    parser.add_argument("--only", default="", help=f"some of: {', '.join(MODELS)}")
    parser.add_argument("--json", type=Path, help="write all that was found there")
    parser.add_argument(
        "--markdown", type=Path, help="page to write the tables into, each in place of its last one"
    )
    return parser


def _chosen(only: str, quick: bool) -> list[str]:
    names = (
        only.split(",") if only else [name for name, model in MODELS.items() if model.is_quick or not quick]
    )
    unknown = sorted({*names} - MODELS.keys())
    if unknown:
        raise SystemExit(f"frontier: --only {', '.join(unknown)}: expected {', '.join(MODELS)}")
    return names


# -- one model ----------------------------------------------------------------------------------


def measure(name: str, model: Model, *, quick: bool) -> dict[str, Any]:
    """Build all ways of a model, and measure them; the note says what failed."""
    found: dict[str, Any] = {"name": name, "data": model.data, "points": [], "notes": [], "note": ""}
    with tempfile.TemporaryDirectory(prefix="torchmar-frontier-", ignore_cleanup_errors=True) as folder:
        try:
            _measure(found, model, Path(folder), quick)
        except (TorchmarError, RuntimeError) as error:
            found["note"] = points.first_line(error)
    return found


def _measure(found: dict[str, Any], model: Model, folder: Path, quick: bool) -> None:
    def tell(text: str) -> None:
        print(f"{found['name']}: {text} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)

    begun = time.monotonic()
    left_out = model.slow if quick else ()
    seconds, rounds = (QUICK_SECONDS, 1) if quick else (SECONDS, ROUNDS)
    # prepare functions write beside model.yaml, and what lies there counts as an archive's input
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__", "data"))
    place = folder / "models" / found["name"]
    if not (place / "photographs.py").exists():
        shutil.copy(folder / "models" / "efficientnet_lite0" / "photographs.py", place)
    variants = [one for one in model.variants if one.name not in left_out]
    bench = points.bench_of(place, variants, folder / "store", model.weights, seconds / 10, tell)
    chosen = {name: recipe for name, recipe in model.recipes.items() if name not in left_out}
    if chosen:
        points.add_recipes(bench, chosen, tell)
    found |= {
        "examples": len(bench.examples),
        "calibrated_on": len(bench.calibration),
        "apart": bench.apart,
        "threads": bench.threads,
    }
    points.compare(bench, tell)
    if model.metric is not None:
        model.metric(bench, tell)
    points.time_batches(bench, seconds, tell)
    [request] = (ROOT / "models").glob(model.request)
    points.answer_alone(bench, request, rounds, seconds / 2, tell)
    found["points"] = [points.as_json(point) for point in bench.points]
    found["notes"] = [*bench.notes, *_slower(found["points"])]


def _slower(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on each point that is slower here than the first one."""
    first, *others = found
    return [
        f"slower here: {point['name']}, {point[key]:g} ms for {what}, {first[key]:g} ms in {first['name']}"
        for point in others
        for key, what in (("p50_ms", "a batch of 1"), ("p50_ms_batch_8", "a batch of 8"))
        if point[key] > first[key]
    ]


if __name__ == "__main__":
    sys.exit(main())
