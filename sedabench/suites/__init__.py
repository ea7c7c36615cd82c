"""Suites: several runs from one TOML file, read and checked (`file`), and carried out."""
