"""Load from many machines: what runs inside Locust's master and workers."""
