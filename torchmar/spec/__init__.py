"""Read and check model.yaml, the one file that describes a model."""

from ._augment import is_function, picture_augmentations
from ._edit import UnsafeEdit, edited, in_flow
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
    "UnsafeEdit",
    "check_again",
    "edited",
    "in_file",
    "in_flow",
    "is_function",
    "json_schema",
    "load_model",
    "located",
    "parse_spec",
    "picture_augmentations",
]
