"""This machine: its facts, its faults, and processes pinned to its cores."""
