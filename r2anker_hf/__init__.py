"""Robust rankers for text retrieval, from a collection to the Hugging Face Hub (R2ANKER)."""

__version__ = "0.1.0"

from . import processes as processes  # whatever of us a launch imports, it leaves its group at the end
