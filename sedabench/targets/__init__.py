"""What can be measured: servers of ours, of one's own, and third-party ones."""
