"""The NNI strategy of a search by retrofit: the solver proposes models.

A trial is a model assembled from the library for some speedup, healed shortly and measured. Bisection looks for the greatest
speedup at which the loss after the short healing leaves hope for the long one; after that come one operator for all slots, the
rival that a solver must beat, and models between those that were tried.
"""
from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from syno_nni.errors import ConfigError
from syno_nni.run.candidate import KEEP, Candidate, Outcome, Proposal
from syno_nni.search_spaces.retrofit.knapsack import Assignment
from syno_nni.search_spaces.retrofit.library import Library

from .arguments import Above0
from .base import SynoStrategy

CLOSE = 1.03
"""Speedups that differ by less are one."""
_TRIED, _AT_LEAST = 20, 2


class SynoAssembly(SynoStrategy):
    """Proposes the models of a library's front.

    Args:
        max_loss: accuracy that the final model may lose (0.01 is a point).
        hope: how many times that may be lost after the short healing.
        fastest: no model is proposed that should be faster than this.
        proposing_s: seconds after which nothing more is proposed; what is in flight is awaited, and two are in any case.
        arguments: of :class:`~.base.SynoStrategy`.
    """

    def __init__(self, *, max_loss: Annotated[float, Field(gt=0, le=1)] = 0.01, hope: Above0 = 4.0, fastest: Above0 = 16.0,
                 proposing_s: Above0 | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        if not 0 < max_loss <= 1:
            raise ConfigError(f'max_loss must lie between 0 and 1, got {max_loss!r}')
        self.max_loss, self.hope, self.fastest = max_loss, hope, fastest
        self.proposing_s = proposing_s
        self._began, self._proposed = time.monotonic(), 0
        self.library: Library | None = None
        """What the models are made of; whoever runs the strategy sets it."""
        self.labels: Mapping[str, str] = {}
        """The label of the choice by slot name."""
        self._expected: dict[str, float] = {}
        # The speedup on the library's front that a candidate in flight was made for, by its id.
        self._good, self._bad = 1.0, math.inf
        self._rivals = 0

    def propose(self, rng: np.random.Generator) -> Proposal | None:
        library = self._library()
        if self.proposing_s is not None and self._proposed >= _AT_LEAST and time.monotonic() - self._began > self.proposing_s:
            return None
        front = library.front()
        top = min(max(library.speedup(a) for a in front), self.fastest)
        for low, target, high in self._gaps(top):
            inside = [a for a in front if low * CLOSE < library.speedup(a) < high / CLOSE]
            for assignment in sorted(inside, key=lambda a: abs(math.log(library.speedup(a) / target)))[:_TRIED]:
                proposal = self._proposal(assignment, 'front', library)
                if not self.is_known(proposal.sample):
                    return proposal
        if not self._rivals and (rival := self._rival(library)) is not None:
            self._rivals += 1
            return self._proposal(rival, 'one for all', library)
        return None

    def _rival(self, library: Library) -> Assignment | None:
        """One operator for all slots: of those as fast as what is good the one that loses least, or the fastest."""
        rivals = [a for a in library.one_for_all() if not self.is_known(self._proposal(a, '', library).sample)]
        fast = [a for a in rivals if library.speedup(a) >= self._good / CLOSE]
        if fast:
            return min(fast, key=lambda a: a.loss)
        return max(rivals, key=library.speedup, default=None)

    def expect(self, candidate: Candidate) -> None:
        self._proposed += 1
        self._expected[candidate.id] = float(candidate.note.get('speedup', 1.0))
        self._rivals += candidate.note.get('kind') == 'one for all' and not self._rivals

    def observe(self, outcome: Outcome) -> None:
        speedup = self._expected.pop(outcome.candidate.id, None)
        accuracy = outcome.metrics.get('accuracy')
        if speedup is None or outcome.candidate.note.get('kind') != 'front' or accuracy is None:
            return
        baseline = next((o for o in self.history if o.candidate.is_baseline), None)
        if baseline is None:
            return
        if baseline.metrics['accuracy'] - accuracy <= self.hope * self.max_loss:
            self._good = max(self._good, speedup)
        else:
            self._bad = min(self._bad, speedup)

    def _gaps(self, top: float) -> list[tuple[float, float, float]]:
        """Speedups between what is good and what is not or in flight, the widest gaps first: each with the one to try."""
        high = min(self._bad, top * CLOSE ** 2)
        flying = sorted(s for s in self._expected.values() if self._good < s < high)
        edges = [self._good, *flying, high]
        gaps = sorted(zip(edges, edges[1:], strict=False), key=lambda gap: gap[0] / gap[1])
        # The first one nearer to the original: most models lose much before they are as fast as they could be.
        part = 0.4 if self._good == 1.0 and math.isinf(self._bad) and not flying else 0.5
        return [(low, low * (upper / low) ** part, upper) for low, upper in gaps if upper / low > CLOSE ** 2]

    def _proposal(self, assignment: Assignment, kind: str, library: Library) -> Proposal:
        sample = library.sample(assignment)
        note = {'kind': kind, 'speedup': round(library.speedup(assignment), 4), 'change': round(assignment.loss, 6)}
        return Proposal({self.labels[name]: value for name, value in sample.items()}
                        | {label: KEEP for label in self.choices if label not in self.labels.values()}, note)

    def _library(self) -> Library:
        if self.library is None:
            raise ConfigError('a search by retrofit needs a library of operators: run it with syno-nni search')
        return self.library
