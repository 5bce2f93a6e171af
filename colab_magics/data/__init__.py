"""Rows from anywhere to tokens with a mark on each that is trained."""

from colab_magics.data.documents import Documents
from colab_magics.data.prepared import Prepared, load_prepared, prepare
from colab_magics.data.sources import Source, identity, resolve
from colab_magics.data.templates import ensure_chat_template
from colab_magics.data.variables import write_rows

__all__ = [
    "Documents",
    "Prepared",
    "Source",
    "ensure_chat_template",
    "identity",
    "load_prepared",
    "prepare",
    "resolve",
    "write_rows",
]
