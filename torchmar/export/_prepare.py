"""Run model.yaml's `prepare`: a function that fetches or makes what the model's folder lacks."""

from __future__ import annotations

from ..errors import ExportError, SpecError
from ..failures import explained
from ..handler_code import FAILURES, ModelCode
from ..spec import ModelSource, check_again
from ._source import function_of


def prepared(source: ModelSource) -> ModelSource:
    """Call it, and check model.yaml against the folder again. Raises ExportError, SpecError."""
    named = source.spec.prepare
    if named is None:
        return source
    model_code = ModelCode(source.directory)
    try:
        with model_code.running():
            function_of(source, named, "prepare")(source.directory)
    except (ExportError, SpecError):
        raise
    except FAILURES as error:
        why = explained(source.directory, error, source.spec.requirements)
        raise ExportError(f"{source.spec.name}: {named}: {why}") from error
    check_again(source)
    return source
