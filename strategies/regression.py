"""What an operator may be worth, from the primitives that it uses: ridge regression on all results so far.

RAVE asks of every construction step how operators that contain it have done, one step at a time. A good step that often
comes with a bad one looks bad, and what is common to all steps of a kind is learned for each anew. Here the effects of all
steps are estimated together, and those of their kinds (how many Shifts, how many reductions) beside them, so that a few
dozen results say something about operators with other steps.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from syno_nni.errors import SpaceError

if TYPE_CHECKING:
    from syno_nni.operator import Operator
    from syno_nni.synthesis.construction import Action
    from syno_nni.synthesis.space import OperatorSpace


class Step(NamedTuple):
    """A construction step: its kind, such as ``Shift``, and its label, which says the sizes too."""

    kind: str
    label: str


Steps = Sequence[Step]


def construction(space: OperatorSpace, op: Operator) -> list[Action]:
    """The steps that construct an operator; none for a form that the construction does not make."""
    try:
        return space.path(op)
    except SpaceError:
        return []


def steps(space: OperatorSpace, op: Operator) -> list[Step]:
    """An operator's construction steps. Where an action has no kind, its label is one."""
    return [Step(getattr(action, 'kind', action.label), action.label) for action in construction(space, op)]


def ranks(worths: Sequence[Any]) -> list[float]:
    """The rank of each of several ordered things (rewards, or :class:`~syno_nni.run.candidate.Worth`) among all, from 0
    to 1: neither their scale nor a few terrible ones matter."""
    order = {worth: number for number, worth in enumerate(sorted(set(worths)))}
    return ((rankdata([order[worth] for worth in worths]) - 0.5) / len(worths)).tolist()


class PrimitiveRegression:
    """A linear model of rewards.

    Args:
        prior: how many results the assumption that no step matters is worth.
    """

    def __init__(self, prior: float = 5.0) -> None:
        self.prior = prior
        self._names: dict[str, int] = {}
        self._mean: np.ndarray = np.zeros(0)
        self._scale: np.ndarray = np.zeros(0)
        self._dual: np.ndarray = np.zeros(0)
        self._rows: np.ndarray = np.zeros((0, 0))
        self._inverse: np.ndarray = np.zeros((0, 0))
        self._offset = 0.5

    def fit(self, operators: Sequence[Steps], rewards: Sequence[float]) -> None:
        """Learn from all results; what was learned before is forgotten."""
        self._names = {}
        for done in operators:
            for name in _features(done):
                self._names.setdefault(name, len(self._names))
        raw = self._matrix(operators)
        self._mean = raw.mean(0)
        counts = np.array([name.startswith('#') for name in self._names])
        spread = raw.std(0)
        # Steps are there or not; of kinds there are many or few.
        self._scale = np.where(counts & (spread > 0), 1 / np.where(spread > 0, spread, 1), 1.0)
        self._rows = (raw - self._mean) * self._scale
        self._offset = float(np.mean(rewards))
        self._inverse = np.linalg.inv(self._rows @ self._rows.T + self.prior * np.eye(len(raw)))
        self._dual = self._inverse @ (np.asarray(rewards) - self._offset)

    def predict(self, operators: Sequence[Steps]) -> tuple[np.ndarray, np.ndarray]:
        """The expected reward of every operator, and how uncertain it is: 0 where all is known, 1 for a step never seen."""
        x = (self._matrix(operators) - self._mean) * self._scale
        near = x @ self._rows.T
        unknown = np.array([len(_features(done).keys() - self._names.keys()) for done in operators])
        # The posterior variance of a linear model with unit prior variance for every effect.
        variance = (x * x).sum(1) + unknown - ((near @ self._inverse) * near).sum(1)
        return self._offset + near @ self._dual, np.sqrt(np.maximum(variance, 0) / self.prior)

    def _matrix(self, operators: Iterable[Steps]) -> np.ndarray:
        rows = []
        for done in operators:
            row = np.zeros(len(self._names))
            for name, value in _features(done).items():
                if name in self._names:
                    row[self._names[name]] = value
            rows.append(row)
        return np.array(rows)


def _features(done: Steps) -> Counter[str]:
    """Each step once, and how many there are of each kind."""
    return Counter({step.label for step in done}) + Counter(f'#{step.kind}' for step in done) + Counter({'#': len(done)})
