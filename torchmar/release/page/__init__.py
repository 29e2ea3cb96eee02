"""What became of a release, as one page that needs nothing besides itself."""

from ._page import Step, Story, page

__all__ = ["Step", "Story", "page"]
