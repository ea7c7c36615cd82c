"""Speed, as ratios of medians within one run; never part of the tests.

`make bench` runs all; `python -m benchmarks NAME` one.  What is compared takes
turns in a random order, round after round, so that a machine that grows slower
or noisier does so for everybody.
"""
