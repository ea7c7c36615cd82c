"""One trial: the two processes, what is read of them, and the columns that come of it."""
