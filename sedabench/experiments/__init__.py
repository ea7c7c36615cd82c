"""Experiments: sweeps of trials with a question, one file each.

base.py         what an experiment is
settings.py     what it is asked: fields that become options, keys and keywords
configure.py    keys and values to settings
bench.py        where it is measured: interpreters, cores, checks, the manifest
plan.py         the order of trials, and measuring one after the other
carry_out.py    a run from its begin to its end, and taken up again
registry.py     which experiments there are, and which one made a run folder
site.py         the service `web` and its workloads, for those that serve it
figure1.py, overload.py, peers.py
"""
