"""What measures: load generators that share no process, thread or interpreter lock with a server.

From the top; a line may import what is below it:

- `locustfile.py`: what `locust -f` is given; here, where the README's line finds it
- `__main__.py`: `python -m loadgen`
- `cli/`: the command `load`
- `swarm/`: load from many machines, within Locust
- `engine/`: the open loop as a process without an end
- `http/`, `burst/`: the two workloads, each with its hot loop and its result
- `demand/`: what is requested, and when
- `net/`: where the load goes, and opening connections
- `recorder.py`, `collector.py`, `names.py`, `bounds.py`: percentiles, the garbage collector,
  "did you mean", checks of settings
- `output.py`, `interruption.py`, `lifeline.py`, `errors.py`: how a process writes, stops and
  dies, and its one exception.  At the top because `sedabench` uses them too, and
  `interruption.py` is imported before everything else

Nothing here imports `servers` or `sedabench`: a load generator that shared the
server's idea of the protocol would share its mistakes.  Time within the package
is integer nanoseconds of `time.monotonic_ns`, which on Linux is one clock for
all processes of a machine.
"""
