"""`LoadError`: the one exception for everything that a user can cause and put right."""

from __future__ import annotations


class LoadError(Exception):
    """One line that says what is wrong and what to do about it."""
