"""Regularized evolution (Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019)
with the space's local edits as mutation."""
from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from syno_nni.errors import ConfigError
from syno_nni.nas.mutable import KEEP, OperatorChoice
from syno_nni.operator import Operator

from .base import SynoStrategy
from .outcome import Outcome, Proposal


class SynoEvolution(SynoStrategy):
    """Mutates the best of a few members of an ageing population.

    Args:
        population_size: how many results are remembered; a new one drives out the oldest.
        sample_size: how many members compete to become the parent.
        warm_up: how many results to wait for before the first mutation; random samples until then.
        random_share: probability of a random sample instead of a mutation, against getting stuck.
        arguments: of :class:`~.base.SynoStrategy`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, *, population_size: int = 24, sample_size: int = 6, warm_up: int = 6,
                 random_share: float = 0.1, **arguments: Any) -> None:
        super().__init__(**arguments)
        for name, value in (('population_size', population_size), ('sample_size', sample_size), ('warm_up', warm_up)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'{name} must be a whole number of at least 1, got {value!r}')
        if not 0 <= random_share <= 1:
            raise ConfigError(f'random_share must be a probability, got {random_share!r}')
        self.sample_size = sample_size
        self.warm_up = min(warm_up, population_size)
        self.random_share = random_share
        self.population: deque[Outcome] = deque(maxlen=population_size)

    def propose(self, rng: np.random.Generator) -> Proposal:
        if len(self.population) < self.warm_up or rng.random() < self.random_share:
            return Proposal({label: choice.draw(rng) for label, choice in self.choices.items()})
        rivals = rng.choice(len(self.population), min(self.sample_size, len(self.population)), replace=False)
        parent = max((self.population[i] for i in rivals), key=_reward)
        sample = dict(parent.candidate.sample)
        label = list(self.choices)[rng.integers(len(self.choices))]
        sample[label] = mutate(self.choices[label], sample[label], rng)
        return Proposal(sample)

    def observe(self, outcome: Outcome) -> None:
        if outcome.error is None:
            self.population.append(outcome)


def mutate(choice: OperatorChoice, value: str, rng: np.random.Generator) -> str:
    """A neighbour of a value: an edit of its operator, or any operator in place of a kept layer."""
    if value == KEEP:
        return str(choice.space.sample(rng))
    if rng.random() < choice.keep:
        return KEEP
    return str(choice.space.mutate(Operator.parse(value), rng))


def _reward(outcome: Outcome) -> float:
    reward = outcome.reward
    return float('-inf') if reward is None else reward
