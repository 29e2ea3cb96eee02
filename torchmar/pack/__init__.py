"""Files → a model archive, at the speed of the disk: a .mar in normal form, or a folder served in place.

What an archive is to hold comes as `Contents`: bytes, or a `Source`, which is a file on disk. Each byte of a
source is moved once, by the kernel where it can, and digested meanwhile; nothing is deflated, since weights
do not shrink. An archive appears under its name whole, on disk, or not at all:

    with beside(target) as temporary:
        files = write(contents, temporary, target=target)
        archive = read_back(temporary, files, contents)
        publish(temporary, target, force=False)

`variant` makes an archive from another one, with some of its files exchanged; `copy` the same
one in another place.
"""

from ._copy import copy
from ._place import beside, publish, read_back, taken, write
from ._source import Contents, Source, contents_of, require_unchanged
from ._variant import manifest_of, reversioned, variant
from ._zip import entry_time

__all__ = [
    "Contents",
    "Source",
    "beside",
    "contents_of",
    "copy",
    "entry_time",
    "manifest_of",
    "publish",
    "read_back",
    "require_unchanged",
    "reversioned",
    "taken",
    "variant",
    "write",
]
