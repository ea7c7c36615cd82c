"""What measures: load generators that share no process, thread or GIL with a server.

- `target.py`: what the user typed as HOST:PORT, and whether it may be loaded
- `limits.py`: descriptors and ports, checked before the first connection
- `connect.py`: N connections at a bounded rate, failures counted by kind
- `recorder.py`: from samples to figures: percentiles, fairness, the timeline
- `burst.py`: the closed loop of bursts, each answered by one ACK
- `arrivals.py`: when each request of an open loop is due
- `mix.py`, `docroot.py`: what is asked for, and what the reply must be
- `http.py`: HTTP, closed and open loop; `http_connections.py`, `http_reply.py`: its parts;
  `http_run.py`, `http_result.py`: what it is told and what it tells; `http_many.py`: several
  processes; `http_probe.py`: one request before the load; `samples.py`: every request, kept
- `judge.py`: `--fail-if`
- `cli.py`, `cli_http.py`: the command `load`; also `python -m loadgen`

Nothing here imports `servers` or `sedabench`: a load generator that shared the
server's idea of the protocol would share its mistakes.  Time inside the package
is integer nanoseconds of `time.monotonic_ns`, which on Linux is one clock for
all processes of a machine.
"""
