"""The report of a detector: one page that holds everything, opens anywhere and asks no network."""
