"""Read the files of an archive, and make sure that TorchServe's reader sees the same ones.

A .mar is a zip. TorchServe unpacks it from its first byte on and ignores the directory at its end; other
programs read only the directory. This package refuses an archive in which the two differ, and anything that
no archive needs: see _zip.py for bytes, _names.py for names. The same rules apply to an archive's folder.
Nothing is executed, and only `extract` writes.

    with opened(path) as contents:
        for block in contents.blocks("MAR-INF/MANIFEST.json"): ...
"""

from ._headers import STORED
from ._names import PYCACHE, require_sound
from ._opened import Contents, opened
from ._zip import Zip

__all__ = ["PYCACHE", "STORED", "Contents", "Zip", "opened", "require_sound"]
