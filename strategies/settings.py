"""What a model space chooses beside operators: NNI's own mutables, in a space that mixes both.

Our strategies reason about operators. The values of everything else (``LayerChoice``, ``Repeat``, ``InputChoice``, whatever a
``MutableExpression`` is made of) join each of their proposals here, by regularized evolution: those of a good candidate, one
of them drawn anew, or all of them at random.

In samples that are kept (candidates, journals) such a value is its JSON text, beside formulas and ``keep``.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nni.mutable import LabeledMutable
from nni.mutable.annotation import Constraint, MutableAnnotation

from syno_nni.errors import SpaceError
from syno_nni.nas.mutable import OperatorChoice, is_pool
from syno_nni.run.candidate import Outcome

_WARM_UP, _POPULATION, _RIVALS, _RANDOM_SHARE = 6, 24, 5, 0.1
_TRIES = 100


class Settings:
    """The mutables of a model space that choose no operator.

    Args:
        mutables: of the whole space, by label.
        strategy: who asks, for errors.

    Raises:
        SpaceError: the space has no operators, chooses them from a pool, or a value that a journal cannot hold.
    """

    def __init__(self, mutables: Mapping[str, LabeledMutable], strategy: str = 'the strategy') -> None:
        if pools := [label for label, m in mutables.items() if is_pool(m)]:
            raise SpaceError(f'{strategy} searches the whole space of operators, and {pools[0]!r} is a pool of some of them: '
                             'leave pool= out (pools are for TPE and PolicyBasedRL)')
        if not any(isinstance(m, OperatorChoice) for m in mutables.values()):
            raise SpaceError(f'{strategy} chooses operators, and the model space has no slot for one (it has '
                             f'{", ".join(map(repr, list(mutables)[:5])) or "no choice at all"}); use a strategy of NNI, or a '
                             'space with an OperatorChoice, such as BackboneSpace')
        self.mutables = {label: m for label, m in mutables.items() if not isinstance(m, OperatorChoice | MutableAnnotation)}
        self.constraints = [m for m in mutables.values() if isinstance(m, Constraint)]

    def default(self) -> dict[str, str]:
        """The values of the original model: those that NNI makes it with."""
        return {label: _text(label, m.default()) for label, m in self.mutables.items()}

    def propose(self, rng: np.random.Generator, history: Sequence[Outcome]) -> dict[str, str]:
        """Values to try, which satisfy the constraints unless none are found that do."""
        values: dict[str, str] = {}
        for _ in range(_TRIES if self.mutables else 0):
            values = self._draw(rng, history)
            if all(c.check_contains(self.decoded(values)) is None for c in self.constraints):
                break
        return values

    def decoded(self, sample: Mapping[str, str]) -> dict[str, Any]:
        """A sample as NNI takes it: the values themselves, formulas as they are."""
        return {label: json.loads(value) if label in self.mutables else value for label, value in sample.items()}

    def without(self, sample: Mapping[str, str]) -> dict[str, str]:
        """The part of a sample that is about operators."""
        return {label: value for label, value in sample.items() if label not in self.mutables}

    def _draw(self, rng: np.random.Generator, history: Sequence[Outcome]) -> dict[str, str]:
        members = [outcome for outcome in history if outcome.worth.tier][-_POPULATION:]
        if len(members) < _WARM_UP or rng.random() < _RANDOM_SHARE:
            return {label: self._drawn(label, rng) for label in self.mutables}
        rivals = rng.choice(len(members), min(_RIVALS, len(members)), replace=False)
        parent = max((members[i] for i in rivals), key=lambda outcome: outcome.worth).candidate.sample
        values = {label: parent[label] for label in self.mutables}
        changed = list(self.mutables)[int(rng.integers(len(self.mutables)))]
        return values | {changed: self._drawn(changed, rng)}

    def _drawn(self, label: str, rng: np.random.Generator) -> str:
        return _text(label, self.mutables[label].random(random_state=np.random.RandomState(int(rng.integers(2 ** 32)))))


def _text(label: str, value: Any) -> str:
    """Raises SpaceError for what JSON cannot say and read back as the same."""
    try:
        text = json.dumps(value.item() if isinstance(value, np.generic) else value, allow_nan=False)
        same = json.loads(text) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise SpaceError(f'{label}: a journal cannot hold the value {value!r:.80}: choose among numbers and texts')
    return text
