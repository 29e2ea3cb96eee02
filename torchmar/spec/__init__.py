"""Read and check model.yaml, the one file that describes a model."""

from ._meaning import located
from ._model import Accept, ModelSpec, Record, Runtime, Serving
from ._read import check_again, json_schema, load_model, parse_spec
from ._source import SPEC_FILE, ModelSource

__all__ = [
    "SPEC_FILE",
    "Accept",
    "ModelSource",
    "ModelSpec",
    "Record",
    "Runtime",
    "Serving",
    "check_again",
    "json_schema",
    "load_model",
    "located",
    "parse_spec",
]
