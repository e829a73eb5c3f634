"""Regularized evolution (Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019)
with the space's local edits as mutation. Of several children the one whose primitives promise most is evaluated."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from syno_nni.errors import ConfigError
from syno_nni.operator import Operator
from syno_nni.run.candidate import KEEP, Outcome, Proposal, Worth

from .arguments import AtLeastOne, Share
from .base import SynoStrategy
from .regression import PrimitiveRegression, Step, ranks, steps


class SynoEvolution(SynoStrategy):
    """Mutates the best of a few members of an ageing population.

    Args:
        population_size: how many results are remembered; a new one drives out the oldest. Candidates that were rejected
            are members too, by how far they missed the limit, while there is room beside those with a result.
        sample_size: how many members compete to become the parent.
        warm_up: how many results to wait for before the first mutation; random samples until then.
        random_share: probability of a random sample instead of a mutation, against getting stuck.
        children: how many are made of a parent, to choose one from (see :mod:`.regression`).
        arguments: of :class:`~.base.SynoStrategy`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(self, *, population_size: AtLeastOne = 24, sample_size: AtLeastOne = 6, warm_up: AtLeastOne = 6,
                 random_share: Share = 0.1, children: AtLeastOne = 8, **arguments: Any) -> None:
        super().__init__(**arguments)
        for name, value in (('population_size', population_size), ('sample_size', sample_size), ('warm_up', warm_up),
                            ('children', children)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'{name} must be a whole number of at least 1, got {value!r}')
        if not 0 <= random_share <= 1:
            raise ConfigError(f'random_share must be a probability, got {random_share!r}')
        self.sample_size = sample_size
        self.warm_up = min(warm_up, population_size)
        self.random_share = random_share
        self.children = children
        self.population_size = population_size
        self.population: list[Outcome] = []
        self._results: dict[str, list[tuple[list[Step], Worth]]] = {}
        # For every choice the construction steps of what was evaluated, and what it is worth.
        self._models: dict[str, PrimitiveRegression] = {}

    def propose(self, rng: np.random.Generator) -> Proposal:
        if len(self.population) < self.warm_up or rng.random() < self.random_share:
            return Proposal({label: choice.draw(rng) for label, choice in self.choices.items()})
        rivals = rng.choice(len(self.population), min(self.sample_size, len(self.population)), replace=False)
        parent = max((self.population[i] for i in rivals), key=lambda outcome: outcome.worth)
        sample = dict(parent.candidate.sample)
        label = list(self.choices)[rng.integers(len(self.choices))]
        return Proposal({**sample, label: self._child(label, sample, rng)})

    def _child(self, label: str, sample: Mapping[str, str], rng: np.random.Generator) -> str:
        """A neighbour of a choice's value: the most promising of several edits of its operator, or to keep the layer."""
        choice = self.choices[label]
        parent = None if sample[label] == KEEP else Operator.parse(sample[label])
        if parent is None or not steps(choice.space, parent):
            return str(choice.space.sample(rng))
        if rng.random() < choice.keep:
            return KEEP
        made = (choice.space.mutate(parent, rng) for _ in range(self.children))
        children = {str(child): child for child in made}
        new = [formula for formula in children if not self.is_known({**sample, label: formula})] or list(children)
        model = self._model(label)
        if len(new) == 1 or model is None:
            return new[0]
        expected, _ = model.predict([steps(choice.space, children[formula]) for formula in new])
        return new[int(np.argmax(expected))]

    def observe(self, outcome: Outcome) -> None:
        if not outcome.worth.tier:
            return
        self._admit(outcome)
        for label, value in outcome.candidate.sample.items():
            if value != KEEP:
                done = steps(self.choices[label].space, Operator.parse(value))
                self._results.setdefault(label, []).append((done, outcome.worth))
                self._models.pop(label, None)

    def _admit(self, outcome: Outcome) -> None:
        """Take a member in, in the place of the oldest; one without a result never drives out one that has it."""
        if len(self.population) >= self.population_size:
            rejected = next((i for i, member in enumerate(self.population) if member.reward is None), None)
            if rejected is None and outcome.reward is None:
                return
            del self.population[rejected or 0]
        self.population.append(outcome)

    def _model(self, label: str) -> PrimitiveRegression | None:
        results = self._results.get(label)
        if results and label not in self._models:
            self._models[label] = PrimitiveRegression()
            self._models[label].fit([done for done, _ in results], ranks([worth for _, worth in results]))
        return self._models.get(label)
