"""Pages that are one file: what the reports of the demo and of a slide have in common."""

from ._file import check_file, write_file
from ._page import page
from ._parts import embed, facts, figure, table

__all__ = ["check_file", "embed", "facts", "figure", "page", "table", "write_file"]
