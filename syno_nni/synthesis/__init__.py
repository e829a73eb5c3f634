"""Synthesis: operator spaces, the construction tree, shape distance, canonicalization. Needs neither torch nor nni."""
from __future__ import annotations

from .construction import Action, State
from .limits import Heuristics, Limits, Variable
from .rules import RULES, Context, normalize
from .space import Containment, OperatorSpace

__all__ = ['RULES', 'Action', 'Containment', 'Context', 'Heuristics', 'Limits', 'OperatorSpace', 'State', 'Variable',
           'normalize']
