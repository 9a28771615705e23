"""Exports that prove themselves: a detector as a file for another runtime, compared with the model it was made from."""
