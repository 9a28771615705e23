"""Predictions on many machines."""
