"""Read and check model.yaml, the one file that describes a model."""

from ._augment import is_function, picture_augmentations
from ._meaning import in_file, located
from ._model import Accept, Compress, ModelSpec, Record, Runtime, Serving
from ._read import check_again, json_schema, load_model, parse_spec
from ._source import SPEC_FILE, ModelSource

__all__ = [
    "SPEC_FILE",
    "Accept",
    "Compress",
    "ModelSource",
    "ModelSpec",
    "Record",
    "Runtime",
    "Serving",
    "check_again",
    "in_file",
    "is_function",
    "json_schema",
    "load_model",
    "located",
    "parse_spec",
    "picture_augmentations",
]
