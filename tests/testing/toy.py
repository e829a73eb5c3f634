"""A small finite operator space and an engine in threads, to test strategies in milliseconds."""
from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import nni
import numpy as np
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus, SimplifiedModelSpace

from syno_nni.nas import mutable
from syno_nni.nas.mutable import OperatorChoice
from syno_nni.operator import Operator
from syno_nni.run.records import Header, Record
from syno_nni.run.state import RunState

_WINDOWS = [('h', 'w'), *[(f'unfold(h, i:{k})', 'w') for k in ('k_1', 'k_2')],
            *[('h', f'unfold(w, i:{k})') for k in ('k_1', 'k_2')]]


def _formula(h: str, w: str, full: bool) -> str:
    kernel = next((part.split(':')[1].rstrip(')') for part in (h, w) if ':' in part), None)
    sums = ', '.join(['c:C_in', *([f'i:{kernel}'] if kernel else [])])
    weights = ['w1[o, c, i]' if kernel else 'w1[o, c]'] if full or not kernel else ['w1[o, c]', 'w2[c, i]']
    axes = [part.split(':')[0] + ')' if ':' in part else part for part in (h, w)]
    return f'out[n:N, o:C_out, h:H, w:H] = sum[{sums}] in[n, c, {", ".join(axes)}] * {" * ".join(weights)}'


# Written with //, which NNI takes for a comment.
_HALVES = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_2, r:s] in[n, c, h, unfold(w, i)] '
           '* w1[o//(C_out/s), c, r] * w2[r, i, o%(C_out/s)]')
_FORMULAS = [*(_formula(h, w, full) for h, w in _WINDOWS for full in (True, False))][:-1] + [_HALVES]
OPERATORS = {op.id: op for op in map(Operator.parse, _FORMULAS)}
"""Nine operators by id: windows of two sizes along two axes with one or two weights, and a pointwise one."""


@dataclass(frozen=True)
class ToyState:
    """The first few of three decisions: the digits of an operator's index to base 3, two of them, then a last step."""
    key: tuple[int, ...] = ()

    @property
    def is_final(self) -> bool:
        return len(self.key) == 3


@dataclass(frozen=True)
class ToyAction:
    digit: int
    place: int

    @property
    def label(self) -> str:
        return f'{self.place}:{self.digit}'


class ToySpace:
    """Looks like an OperatorSpace; neighbours are the next ones in a fixed order."""

    root = ToyState()

    def __init__(self, operators: Iterable[Operator] = OPERATORS.values()) -> None:
        self.operators = list(operators)

    def sample(self, rng: np.random.Generator | np.random.RandomState) -> Operator:
        return self.operators[int(rng.choice(len(self.operators)))]

    def mutate(self, op: Operator, rng: np.random.Generator) -> Operator:
        step = 1 if rng.random() < 0.5 else -1
        return self.operators[(self.operators.index(op) + step) % len(self.operators)]

    def contains(self, op: Operator) -> bool:
        return op in self.operators

    def actions(self, state: ToyState) -> list[ToyAction]:
        return [] if state.is_final else [ToyAction(d, len(state.key)) for d in range((3, 3, 1)[len(state.key)])]

    def step(self, state: ToyState, action: ToyAction) -> ToyState:
        return ToyState((*state.key, action.digit))

    def finish(self, state: ToyState) -> Operator:
        return self.operators[state.key[0] * 3 + state.key[1]]

    def complete(self, state: ToyState, rng: np.random.Generator, thorough: bool = True) -> Operator:
        while not state.is_final:
            actions = self.actions(state)
            state = self.step(state, actions[int(rng.integers(len(actions)))])
        return self.finish(state)

    def path(self, op: Operator) -> list[ToyAction]:
        index = self.operators.index(op)
        return [ToyAction(d, place) for place, d in enumerate((index // 3, index % 3, 0))]


def install() -> None:
    """Put the toy space in the place of every operator space, for this process."""
    mutable._space = lambda key: ToySpace()  # type: ignore[assignment]


@nni.trace
class Nothing:
    """A model that is never made."""


def model_space(*labels: str) -> SimplifiedModelSpace:
    """A model space with one choice per label."""
    choices = {label: OperatorChoice({'preset': 'toy'}, label=label) for label in labels or ('operator',)}
    return SimplifiedModelSpace(Nothing(), choices, None)


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
        self._queue: queue.Queue[ExecutableModelSpace] = queue.Queue()
        self._lock = threading.Lock()
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        for model in models:
            self.order.append(dict(model.sample))
            with self._lock:
                self.running += 1
                self.most_running = max(self.running, self.most_running)
            self._queue.put(model)

    def _work(self) -> None:
        while True:
            model = self._queue.get()
            status = ModelStatus.Trained
            try:
                metric = self.evaluate(dict(model.sample))
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
        pass


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


def landscape(sample: dict[str, str]) -> dict[str, float]:
    """A smooth landscape on the toy space: the last operator is the best, the baseline the worst."""
    values = [list(OPERATORS).index(Operator.parse(v).id) if v != 'keep' else -1 for v in sample.values()]
    return {'default': float(sum(values)), 'accuracy': 0.5, 'latency_ms': 10.0 - sum(values)}


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.01)
