"""What is measured: one service, written once, run by interchangeable architectures.

A *service* is application logic as a short graph of *steps* (`servers.service`).
An *architecture* decides who runs the steps, when, and on which thread
(`servers.threaded`, `servers.eventloop`, `servers.seda`).  So a difference
between two curves is a difference between two architectures and nothing else.

This package imports the standard library and httptools alone, so that any
interpreter can run it.  It knows nothing of `loadgen` or `sedabench`.
"""
