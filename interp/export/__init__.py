"""Export: an edit written for other software, and the proof that it does there what it does here."""

from interp.export.formats import FORMATS, format_for
from interp.export.parity import prove
from interp.export.request import Export
from interp.export.writing import export_direction

__all__ = ["FORMATS", "Export", "export_direction", "format_for", "prove"]
