"""Checkpoints: our own format, everyone else's dialects read safely, published files, and class transfer.

Importing this package, and reading a file's metadata (``store.read_metadata``), needs no torch.
"""
