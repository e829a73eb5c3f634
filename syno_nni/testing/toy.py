"""A small finite operator space, an engine in threads and a journal in memory: whole searches in milliseconds."""
from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import nni
import numpy as np
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus, SimplifiedModelSpace

from syno_nni.nas.mutable import OperatorChoice
from syno_nni.operator import Operator
from syno_nni.run.candidate import KEEP
from syno_nni.run.records import Header, Record
from syno_nni.run.state import RunState

_BASE = 3


def _formula(h: str, w: str, weights: int) -> str:
    windows = [index for index, part in (('i', h), ('j', w)) if part.startswith('unfold')]
    sums = ', '.join(['c:C_in', *(f'{index}:k_1' for index in windows)])
    taps = ''.join(f', {index}' for index in windows)
    product = (f'w1[o, c{taps}]', f'w1[o, c] * w2[c{taps}]', f'w1[o, c] * w2[o{taps}]')[weights]
    return f'out[n:N, o:C_out, h:H, w:H] = sum[{sums}] in[n, c, {h}, {w}] * {product}'


OPERATORS = {op.id: op for op in (Operator.parse(_formula(*digits)) for digits in itertools.product(
    ('h', 'unfold(h, i)', 'shift(h, 1)'), ('w', 'unfold(w, j)', 'shift(w, 1)'), range(_BASE)))}
"""27 operators by id: what happens to the height, to the width, and how the weights are split."""


@dataclass(frozen=True)
class ToyState:
    """The first few digits of an operator's index to base 3, then a last step; ``depth`` counts all of them."""
    key: tuple[int, ...] = ()
    depth: int = 4

    @property
    def is_final(self) -> bool:
        return len(self.key) == self.depth


@dataclass(frozen=True)
class ToyAction:
    """To choose a digit."""
    digit: int
    place: int

    @property
    def label(self) -> str:
        return f'{self.place}:{self.digit}'


class ToySpace:
    """Looks like an :class:`~syno_nni.synthesis.space.OperatorSpace` of a power of 3 operators; neighbours are the next
    ones in their order."""

    def __init__(self, operators: Iterable[Operator] = OPERATORS.values()) -> None:
        self.operators = list(operators)
        self.digits = next(n for n in itertools.count() if _BASE ** n >= len(self.operators))
        self.root = ToyState((), self.digits + 1)

    def sample(self, rng: np.random.Generator | np.random.RandomState) -> Operator:
        return self.operators[int(rng.choice(len(self.operators)))]

    def mutate(self, op: Operator, rng: np.random.Generator) -> Operator:
        return self.neighbour(op, rng)[0]

    def neighbour(self, op: Operator, rng: np.random.Generator) -> tuple[Operator, int]:
        step = 1 if rng.random() < 0.5 else -1
        other = self.operators[(self.operators.index(op) + step) % len(self.operators)]
        shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self.path(op), self.path(other)))
        return other, len(list(shared))

    def contains(self, op: Operator) -> bool:
        return op in self.operators

    def actions(self, state: ToyState) -> list[ToyAction]:
        place = len(state.key)
        return [ToyAction(digit, place) for digit in range(0 if state.is_final else _BASE if place < self.digits else 1)]

    def step(self, state: ToyState, action: ToyAction) -> ToyState:
        return ToyState((*state.key, action.digit), state.depth)

    def finish(self, state: ToyState) -> Operator:
        index = 0
        for digit in state.key[:self.digits]:
            index = index * _BASE + digit
        return self.operators[index]

    def complete(self, state: ToyState, rng: np.random.Generator, thorough: bool = True) -> Operator:
        while not state.is_final:
            actions = self.actions(state)
            state = self.step(state, actions[int(rng.integers(len(actions)))])
        return self.finish(state)

    def path(self, op: Operator) -> list[ToyAction]:
        index = self.operators.index(op)
        digits = [index // _BASE ** place % _BASE for place in reversed(range(self.digits))]
        return [ToyAction(digit, place) for place, digit in enumerate((*digits, 0))]


class ToyChoice(OperatorChoice):
    """A choice out of a :class:`ToySpace`."""

    def __init__(self, label: str) -> None:
        super().__init__({'preset': 'toy'}, label=label)
        self._toy = ToySpace()

    @property
    def space(self) -> Any:
        return self._toy


@nni.trace
class Nothing:
    """In the place of a network: none is made."""


def toy_choices(*labels: str) -> dict[str, ToyChoice]:
    """One choice per label; one without any."""
    return {label: ToyChoice(label) for label in labels or ('operator',)}


def toy_model_space(*labels: str) -> SimplifiedModelSpace:
    """A model space of :func:`toy_choices`, and no network."""
    return SimplifiedModelSpace(Nothing(), toy_choices(*labels), None)


def toy_landscape(sample: Mapping[str, str]) -> dict[str, float]:
    """Metrics of a sample: every step of an operator is worth something of its own, and the last steps are the best."""
    places = list(OPERATORS)
    values = [1 + sum(divmod(places.index(Operator.parse(v).id), _BASE)) if v != KEEP else 0 for v in sample.values()]
    return {'default': float(sum(values)), 'accuracy': 0.5, 'latency_ms': 20.0 - sum(values) / len(values)}


Evaluate = Callable[[dict[str, str]], Any]
"""From a sample to its final metric. It may raise; NO_REPORT reports nothing, HANG never ends."""
NO_REPORT, HANG = object(), object()


class ToyEngine(ExecutionEngine):
    """Evaluates in ``workers`` threads, as NNI's training service would; ``order`` logs the samples it got."""

    def __init__(self, evaluate: Evaluate, workers: int = 1, budget: int | None = None) -> None:
        super().__init__()
        self.evaluate, self.budget = evaluate, budget
        self.order: list[dict[str, str]] = []
        self.running = self.most_running = 0
        self._workers = workers
        self._queue: queue.Queue[ExecutableModelSpace | None] = queue.Queue()
        self._lock = threading.Lock()
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        for model in models:
            self.order.append(dict(model.sample or {}))
            with self._lock:
                self.running += 1
                self.most_running = max(self.running, self.most_running)
            self._queue.put(model)

    def _work(self) -> None:
        while (model := self._queue.get()) is not None:
            status = ModelStatus.Trained
            try:
                metric = self.evaluate(dict(model.sample or {}))
                if metric is HANG:
                    continue
                if metric is not NO_REPORT:
                    self.dispatch_model_event(FinalMetricEvent(model, metric))
            except Exception:
                status = ModelStatus.Failed
            with self._lock:
                self.running -= 1
            self.dispatch_model_event(TrainingEndEvent(model, status))

    def idle_worker_available(self) -> bool:
        return self.running < self._workers

    def budget_available(self) -> bool:
        return self.budget is None or len(self.order) < self.budget

    def list_models(self, status: ModelStatus | None = None) -> list[ExecutableModelSpace]:
        return []

    def shutdown(self) -> None:
        """End the threads once they have nothing to do."""
        for _ in range(self._workers):
            self._queue.put(None)


class ToyJournal:
    """Keeps records and their state in memory; raises ``error`` once there are ``limit`` records."""

    def __init__(self, records: Iterable[Record] = (), limit: int | None = None,
                 error: BaseException | None = None) -> None:
        self.records = list(records) or [Header(config={}, digest='')]
        self.state = RunState()
        for record in self.records:
            self.state.apply(record)
        self.limit, self.error = limit, error

    def append(self, record: Record) -> None:
        if self.limit is not None and len(self.records) >= self.limit:
            raise self.error or KeyboardInterrupt
        self.state.apply(record)
        self.records.append(record)
