"""model.yaml's `prepare`: a function of the model's folder that fetches or makes what the folder lacks."""

from __future__ import annotations

from ..errors import ExportError, SpecError
from ..failures import explained
from ..guests import FAILURES, Guest
from ..spec import ModelSource, check_again
from ._source import function_of


def prepared(source: ModelSource) -> ModelSource:
    """Call it, and hold model.yaml against what the folder holds now. Raises ExportError, SpecError."""
    named = source.spec.prepare
    if named is None:
        return source
    guest = Guest(source.directory)
    try:
        with guest.running():
            function_of(source, named, "prepare")(source.directory)
    except (ExportError, SpecError):
        raise
    except FAILURES as error:
        why = explained(source.directory, error, source.spec.requirements)
        raise ExportError(f"{source.spec.name}: {named}: {why}") from error
    check_again(source)
    return source
