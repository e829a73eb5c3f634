"""NNI's own exploration strategies in a search of ours, for ``strategy.name`` in an experiment file.

NNI's strategies know no journal, no time limit and no resume. Here one runs in a thread, against an engine that takes what it
submits for a proposal and tells it the outcomes; everything else is :class:`~.base.SynoStrategy`'s. It is started anew when
a search resumes, and answered from the journal as long as it proposes what is known: as every strategy here, it goes on where
it was, if its seed decides what it does and one trial runs at a time.
"""
from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import nni
import numpy as np
from nni.mutable import LabeledMutable
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus, SimplifiedModelSpace
from nni.nas.strategy import GridSearch, PolicyBasedRL, Random, RegularizedEvolution, Strategy
from torch import nn

from syno_nni.errors import ConfigError, EngineError
from syno_nni.nas.mutable import operator_pool
from syno_nni.run.candidate import Candidate, Outcome, Proposal, sample_id

from .arguments import AtLeastOne, Share
from .base import SynoStrategy

_PATIENCE_S = 300.0
_END_S = 5.0


class _Desk(ExecutionEngine):
    """The engine that the strategy sees. It has a worker when a proposal is wanted, and asking for one waits until then."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._wanted = self._closed = False
        self._offered: list[ExecutableModelSpace] = []
        self._models: list[ExecutableModelSpace] = []

    # what the strategy calls, in its thread

    def submit_models(self, *models: ExecutableModelSpace) -> None:
        with self._changed:
            for model in models:
                model.status = ModelStatus.Training
            self._models += models
            self._offered += models
            self._wanted = False
            self._changed.notify_all()

    def idle_worker_available(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed)
            return not self._closed

    def budget_available(self) -> bool:
        return not self._closed

    def list_models(self, status: ModelStatus | None = None) -> Iterable[ExecutableModelSpace]:
        return [m for m in self._models if status in (None, m.status)]

    def shutdown(self) -> None:
        self.close()

    # what the other side calls

    def next(self, alive: threading.Thread) -> ExecutableModelSpace | None:
        """The next model that is submitted; None when the strategy has ended.

        Raises:
            EngineError: it neither submits nor ends.
        """
        with self._changed:
            self._wanted = not self._offered
            self._changed.notify_all()
            # Woken now and then: a thread that dies notifies nobody.
            for _ in range(int(_PATIENCE_S / 0.5)):
                if self._changed.wait_for(lambda: self._offered or not alive.is_alive(), 0.5):
                    return self._offered.pop(0) if self._offered else None
        raise EngineError(f"NNI's strategy has proposed nothing for {_PATIENCE_S:.0f} s")

    def end(self, model: ExecutableModelSpace, outcome: Outcome | None) -> None:
        """Tell the strategy how the evaluation of a model ended; None if it was not evaluated."""
        reward = outcome.reward if outcome is not None else None
        if reward is not None:
            self.dispatch_model_event(FinalMetricEvent(model, float(reward)))
        status = ModelStatus.Interrupted if outcome is None else ModelStatus.Failed if outcome.error else ModelStatus.Trained
        self.dispatch_model_event(TrainingEndEvent(model, status))

    def close(self) -> None:
        """No more proposals are wanted, and nothing will be evaluated any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for model in self._models:
            if not model.status.completed():
                self.end(model, None)


class NniStrategy(SynoStrategy):
    """A strategy of NNI behind the protocol of ours.

    Args:
        arguments: of :class:`~.base.SynoStrategy`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._desk = _Desk()
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None
        self._outcomes: dict[str, Outcome] = {}
        self._models: dict[str, list[ExecutableModelSpace]] = {}
        # By the id of their sample, those whose outcome the strategy waits for.

    def make(self) -> Strategy:
        """A new strategy of NNI."""
        raise NotImplementedError

    def mutables(self) -> dict[str, LabeledMutable]:
        """What the strategy of NNI chooses from, by label."""
        return dict(self.choices)

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._explore, name='nni-strategy', daemon=True)
            self._thread.start()
        # When a search resumes, all that is known already comes again first.
        for _ in range(len(self.history) + len(self._models) + self.patience):
            model = self._desk.next(self._thread)
            if model is None:
                break
            sample: Mapping[str, str] = dict(model.sample or {})
            key = sample_id(sample)
            known = self._outcomes.get(key) or next((o for o in self.history if o.candidate.id == key), None)
            if known is not None:
                self._desk.end(model, known)
                continue
            self._models.setdefault(key, []).append(model)
            if not self.is_known(sample):
                return Proposal(sample)
        if self._fault is not None:
            raise EngineError(f"NNI's {type(self).__name__.removeprefix('Nni')} failed: {type(self._fault).__name__}: "
                              f'{self._fault}') from self._fault
        return None

    def expect(self, candidate: Candidate) -> None:
        self._models.setdefault(sample_id(candidate.sample), [])

    def observe(self, outcome: Outcome) -> None:
        key = sample_id(outcome.candidate.sample)
        self._outcomes[key] = outcome
        for model in self._models.pop(key, []):
            self._desk.end(model, outcome)

    def _cleanup(self) -> None:
        super()._cleanup()
        self._desk.close()
        if self._thread is not None:
            self._thread.join(_END_S)

    def _explore(self) -> None:
        try:
            self.make()(SimplifiedModelSpace(nni.trace(nn.Identity)(), self.mutables(), None), self._desk)
        except BaseException as error:  # told to whoever asks for the next proposal, in another thread
            self._fault = error


class NniRandom(NniStrategy):
    """``nni.nas.strategy.Random``; see NNI for its arguments."""

    def __init__(self, *, dedup: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.dedup = dedup

    def make(self) -> Strategy:
        return Random(dedup=self.dedup, seed=self.seed)


class NniGridSearch(NniStrategy):
    """``nni.nas.strategy.GridSearch``; of a space of operators, it sees some dozens (``OperatorChoice.grid``)."""

    def __init__(self, *, shuffle: bool = True, dedup: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.shuffle, self.dedup = shuffle, dedup

    def make(self) -> Strategy:
        return GridSearch(shuffle=self.shuffle, seed=self.seed, dedup=self.dedup)


class NniRegularizedEvolution(NniStrategy):
    """``nni.nas.strategy.RegularizedEvolution``, which draws operators anew where ours changes them a little.

    Raises:
        ConfigError: ``sample_size`` is greater than ``population_size``.
    """

    def __init__(self, *, population_size: AtLeastOne = 20, sample_size: AtLeastOne = 5, mutation_prob: Share = 0.05,
                 crossover: bool = False, dedup: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        if sample_size > population_size:
            raise ConfigError(f'sample_size must be at most population_size, {population_size}, got {sample_size}')
        self.options = {'population_size': population_size, 'sample_size': sample_size, 'mutation_prob': mutation_prob,
                        'crossover': crossover, 'dedup': dedup}

    def make(self) -> Strategy:
        return RegularizedEvolution(**self.options, seed=self.seed)


class _OfPool(NniStrategy):
    """One that chooses from a list: so many samples of the space.

    Args:
        pool: how many operators each choice has.
    """

    def __init__(self, *, pool: AtLeastOne = 100, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pool = pool

    def mutables(self) -> dict[str, LabeledMutable]:
        return {label: operator_pool(choice.spec, self.pool, seed=self.seed, label=label)
                for label, choice in self.choices.items()}


class NniTPE(_OfPool):
    """``nni.nas.strategy.TPE``; see NNI's ``TpeTuner`` for ``tpe_args``."""

    def __init__(self, *, tpe_args: dict[str, float | str] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.tpe_args = tpe_args

    def make(self) -> Strategy:
        from nni.nas.strategy import TPE
        return TPE(optimize_mode='maximize', seed=self.seed, tpe_args=self.tpe_args)


class NniPolicyBasedRL(_OfPool):
    """``nni.nas.strategy.PolicyBasedRL``.

    Raises:
        ConfigError: tianshou, which it needs, is not installed.
    """

    def __init__(self, *, samples_per_update: AtLeastOne = 20, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.samples_per_update = samples_per_update
        try:
            self.make()
        except ImportError:
            raise ConfigError("strategy.name: PolicyBasedRL needs tianshou, which is not installed: "
                              "pip install 'syno-nni[rl]'") from None

    def make(self) -> Strategy:
        return PolicyBasedRL(samples_per_update=self.samples_per_update)
