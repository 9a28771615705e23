"""Prediction without torch: sources of images, pre- and post-processing, and the results object."""
