"""What search strategies ask of an operator space; `OperatorSpace` is one, a hand-written list of operators may be another.

States and actions are opaque to strategies beyond the attributes below. `syno_nni.testing.spaces` checks the behaviour.
"""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from syno_nni.operator import Operator

Rng = np.random.Generator | np.random.RandomState


class SpaceState(Protocol):
    """A partial operator. States with equal ``key`` are one node of the tree."""

    @property
    def key(self) -> Hashable: ...

    @property
    def is_final(self) -> bool: ...


class SpaceAction(Protocol):
    """A step. ``label`` is what statistics are kept by: alike for steps that do the same to different states. It may have a
    ``kind`` too, a string that steps with several labels share; without, every label is a kind of its own."""

    @property
    def label(self) -> str: ...


class Space(Protocol):
    """Operators, drawn at random or constructed step by step. No method changes what another one answers."""

    @property
    def root(self) -> Any:
        """The `SpaceState` before the first step."""

    def actions(self, state: Any) -> Sequence[Any]:
        """The `SpaceAction`s that may follow, always in the same order; none after a final state."""

    def step(self, state: Any, action: Any) -> Any:
        """The next state; ``state`` stays as it is."""

    def finish(self, state: Any) -> Operator | None:
        """The operator of a final state; None where it is outside after all."""

    def path(self, op: Operator) -> Sequence[Any]:
        """The actions that construct an operator of the space."""

    def complete(self, state: Any, rng: np.random.Generator, *, thorough: bool = True) -> Operator | None:
        """A random operator that a state leads to; None where there is none, or ``not thorough`` and none was found."""

    def sample(self, rng: Rng) -> Operator:
        """A random operator."""

    def mutate(self, op: Operator, rng: np.random.Generator) -> Operator:
        """A random neighbour of an operator."""

    def contains(self, op: Operator) -> object:
        """True for operators of the space; where false, ``str`` may say why."""


__all__ = ['Rng', 'Space', 'SpaceAction', 'SpaceState']
