"""matplotlib figures: style, and one file a figure."""
