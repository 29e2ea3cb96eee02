"""The files of an archive, read so that TorchServe's reader can see no others.

A .mar is a zip. TorchServe unpacks it from its first byte on and never looks at the directory at its end;
other programs read the directory and nothing else. What the two would see differently is refused here, and
so is what no archive needs: see _zip.py for its bytes, _names.py for names. A folder that holds what a
.mar would is read by the same rules. Nothing is executed, and nothing is written but by `extract`.

    with opened(path) as contents:
        for block in contents.blocks("MAR-INF/MANIFEST.json"): ...
"""

from ._headers import STORED
from ._names import PYCACHE, require_sound
from ._opened import Contents, opened
from ._zip import Zip

__all__ = ["PYCACHE", "STORED", "Contents", "Zip", "opened", "require_sound"]
