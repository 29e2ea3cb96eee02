"""Silero's voice activity detector (MIT): an ONNX file out of PyPI's silero-vad, served as it is."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

FILE = "silero_vad.onnx"
SHA256 = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
INSTALL = "pip install --no-deps silero-vad==6.2.3: the model is in it"


def fetch_files(folder: str | Path = Path(__file__).parent) -> None:
    """Copy the file out of the package, which is not imported: it would want torch."""
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise ImportError(INSTALL)
    raw = (Path(package.origin).parent / "data" / FILE).read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise ValueError(f"{FILE} is not the one that this folder was written for; {INSTALL}")
    (Path(folder) / FILE).write_bytes(raw)
