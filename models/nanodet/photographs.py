"""The photographs of models/efficientnet_lite0, which show things of COCO as well."""

import importlib.util
from pathlib import Path

CROPS = 5
_FILE = Path(__file__).resolve().parents[1] / "efficientnet_lite0" / "photographs.py"


def fetch_photographs(folder: Path) -> None:
    """Write data/NAME-NUMBER.jpg, each photograph whole and in 5 crops; see there."""
    spec = importlib.util.spec_from_file_location("_photographs", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.fetch_photographs(folder, CROPS)
