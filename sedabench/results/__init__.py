"""The run folder: written trial by trial, read by everyone else."""
