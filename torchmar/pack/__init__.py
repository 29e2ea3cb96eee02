"""Write model archives at the speed of the disk: a .mar in normal form, or a folder served in place.

`Contents` holds an archive's files: bytes, or a `Source`, which is a file on disk. The kernel moves
each byte of a source once if it can, and the digests are computed meanwhile. Nothing is deflated, because
weights do not shrink. An archive appears under its name completely, on disk, or not at all:

    with beside(target) as temporary:
        files = write(contents, temporary, target=target)
        archive = verify_written(temporary, files, contents)
        publish(temporary, target, force=False)

`variant` makes an archive from another one and replaces some of its files; `copy` makes the same archive
elsewhere.
"""

from ._copy import copy
from ._place import beside, name_taken_error, publish, verify_written, write
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
    "name_taken_error",
    "publish",
    "require_unchanged",
    "reversioned",
    "variant",
    "verify_written",
    "write",
]
