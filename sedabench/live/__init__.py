"""A running server looked at from outside: its graph of stages, and the live view."""
