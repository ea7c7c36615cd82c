r"""A controller of your own: it observes a stage and changes one number of it.

This one gives a stage larger batches while its queue grows and smaller ones while it is
short, so that a batch is never more than a tenth of the queue.  `observe` is called every
`period_s` on a thread of its own; the code of the stage does not know about it.

    python examples/own_controller.py

prints the controller's decisions, each with its reason: larger batches while 3,000 events
come at once, smaller ones as the queue runs dry.
"""

import threading
import time

from servers.seda import Application, Control, Controller, QueueSpec, StageSpec


class TenthOfTheQueue(Controller):
    name = "a tenth of the queue"
    quantity = "batch"
    period_s = 0.05

    def __init__(self):
        super().__init__("work")
        self.watched = None  # no stage exists before its application does

    def observe(self, now_ns):
        stage, waiting = self.watched, len(self.watched.source)
        wanted = max(1, waiting // 10)
        if wanted != stage.batch:
            self.record(stage.batch, wanted, f"{waiting} events wait")
            stage.batch = wanted


def main():
    done = threading.Event()
    seen = []

    def work(events, dispatch):
        time.sleep(0.002 + 0.0001 * len(events))  # a turn costs 2 ms, an event 0.1 ms more
        seen.extend(events)
        if len(seen) == 3000:
            done.set()

    controller = TenthOfTheQueue()
    application = Application(
        [StageSpec("work", work, batch=1, queue=QueueSpec(capacity=4000))],
        control=Control(batching=False),  # in place of the one that comes with it
        controllers=[controller],
    )
    (controller.watched,) = application.stages
    with application:
        application.put("work", range(3000))
        done.wait(60)
        time.sleep(2 * controller.period_s)  # it sees the empty queue, too
    for decision in controller.decisions:
        print(f"batch {decision.before:3} -> {decision.after:3}: {decision.reason}")


if __name__ == "__main__":
    main()
