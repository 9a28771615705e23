"""Matching predictions with objects, and the loss terms of what was matched."""
