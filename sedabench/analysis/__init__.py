"""Numbers out of rows: statistics, comparisons, and what a run says."""
