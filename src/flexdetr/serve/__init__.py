"""A detector behind HTTP, in one process: uploads with limits, batches, metrics, and a page to try it."""
