"""Robust rankers for text retrieval, from a collection to the Hugging Face Hub (R2ANKER)."""

__version__ = "0.1.0"
