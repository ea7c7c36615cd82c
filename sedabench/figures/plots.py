"""`sedabench.plots`: a run in, a matplotlib `Figure` out, or None where there is nothing to show.

Each is drawn in the file of its figure, and says of a run that it does not fit
what that run lacks.  With them come the marks of a server and the look of the
axes, for figures of one's own.
"""

from __future__ import annotations

from sedabench.figures.figure1 import PAPER_THREADS_STOP, figure1
from sedabench.figures.overload import fairness, goodput, latency, tail
from sedabench.figures.peers import throughput
from sedabench.figures.spike import spike
from sedabench.figures.style import marks, plain, slots
from sedabench.figures.swarm import timeline

__all__ = [
    "PAPER_THREADS_STOP", "fairness", "figure1", "goodput", "latency", "marks", "plain", "slots",
    "spike", "tail", "throughput", "timeline",
]  # fmt: skip
