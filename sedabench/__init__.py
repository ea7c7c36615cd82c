"""What decides, keeps and shows."""
