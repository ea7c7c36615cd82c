"""What every runner is: something that decides which thread calls a stage's handler, and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from servers.seda.stage import Stage

AnyStage = Stage[Any]


class Runner(ABC):
    """Runs the stages of one application, given in the order in which events meet them."""

    name: ClassVar[str]

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        self.stages = list(stages)
        self.by_name: Mapping[str, AnyStage] = {stage.name: stage for stage in stages}
        for stage in stages:
            stage.dispatch = self.dispatch

    @abstractmethod
    def dispatch(self, stage: str, events: Sequence[Any]) -> Sequence[Any]:
        """Send events to a stage; return those that were lost."""

    @abstractmethod
    def start(self) -> None:
        """Raises RuntimeError if a thread cannot be started."""

    @abstractmethod
    def drain(self, deadline_s: float) -> bool:
        """Close and finish the stages, in order; False if that took longer than the deadline."""

    def join(self, stage: str, deadline_s: float) -> bool:
        """Wait until threads that serve this stage alone have ended; False if too late."""
        return True

    @abstractmethod
    def threads(self, stage: AnyStage) -> int:
        """Threads that serve this stage, alone or among others."""
