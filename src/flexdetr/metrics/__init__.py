"""Scores of a detector: the COCO numbers, the confusion matrix and curves over thresholds."""
