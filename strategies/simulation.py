"""An NNI engine with a clock of its own: trials take simulated seconds and no real ones.

It runs any NNI strategy, ours and NNI's, against a function that knows what each sample comes to, such as a
:class:`~.landscape.SyntheticLandscape`.
"""
from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus, SimplifiedModelSpace

from syno_nni.errors import EngineError
from syno_nni.nas.mutable import OperatorChoice

from .landscape import SimulatedResult


@dataclass(frozen=True)
class SimulatedTrial:
    """A simulated trial that ended ``at_s`` seconds after the search began."""
    sample: Mapping[str, str]
    result: SimulatedResult
    at_s: float


class SimulatedEngine(ExecutionEngine):
    """Evaluates by a function, ``workers`` trials at a time, ``trials`` in all.

    A strategy proposes while ``workers - 1`` trials are in flight, as it does on real workers that are never idle.
    :attr:`finished` holds what ended, in that order.
    """

    def __init__(self, evaluate: Callable[[Mapping[str, str]], SimulatedResult], trials: int, workers: int = 1) -> None:
        super().__init__()
        self.evaluate, self.trials, self.workers = evaluate, trials, workers
        self.now_s = 0.0
        self.finished: list[SimulatedTrial] = []
        self._models: list[ExecutableModelSpace] = []
        self._running: list[tuple[float, int, ExecutableModelSpace, SimulatedResult]] = []

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        for model in models:
            if not self.budget_available():
                raise EngineError(f'the simulation has a budget of {self.trials} trials, and got one more')
            self._models.append(model)
            result = self.evaluate(model.sample)
            heapq.heappush(self._running, (self.now_s + result.seconds, len(self._models), model, result))
            # At once, not when the strategy waits: NNI's strategies wait by the wall clock.
            while self._running and (len(self._running) >= self.workers or not self.budget_available()):
                self._end_one()

    def _end_one(self) -> None:
        self.now_s, _, model, result = heapq.heappop(self._running)
        self.finished.append(SimulatedTrial(dict(model.sample), result, self.now_s))
        if result.error is None:
            self.dispatch_model_event(FinalMetricEvent(model, dict(result.metrics)))
        self.dispatch_model_event(
            TrainingEndEvent(model, ModelStatus.Failed if result.error else ModelStatus.Trained))

    def idle_worker_available(self) -> bool:
        return True

    def budget_available(self) -> bool:
        return len(self._models) < self.trials

    def list_models(self, status: ModelStatus | None = None) -> Iterable[ExecutableModelSpace]:
        return [model for model in self._models if status in (None, model.status)]

    def wait_models(self, *models: ExecutableModelSpace) -> None:
        while self._running:
            self._end_one()

    def shutdown(self) -> None:
        """Nothing runs."""


class _NoModel:
    """In the place of a network: a simulation makes none."""


def simulated_space(spec: Mapping[str, Any], label: str = 'operator') -> SimplifiedModelSpace:
    """A model space with one choice out of the operator space that ``spec`` describes, and no network."""
    import nni
    return SimplifiedModelSpace(nni.trace(_NoModel)(), {label: OperatorChoice(spec, label=label)}, None)
