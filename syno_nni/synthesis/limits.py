"""What an operator space allows: step and primitive counts, size budgets, and the heuristic restrictions."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from syno_nni.errors import SpaceError, shown
from syno_nni.text import did_you_mean

UNBOUNDED = 99  # what counts as no bound: far more than any operator has


@dataclass(frozen=True)
class Variable:
    """A size variable. ``budget`` bounds its occurrences in reductions and weights (0 bans it from both).

    Primary variables (channel counts, image sides) come from the slot and never stand below a fraction line alone;
    coefficients (window sizes, groups) are small and have a default ``value``.
    """

    name: str
    budget: int = 3
    primary: bool = True
    value: int | None = None

    def __post_init__(self) -> None:
        if self.budget < 0 or (self.value is not None and self.value < 1):
            raise SpaceError(f'variable {self.name}: wanted a budget >= 0 and a value >= 1, got budget {self.budget}, '
                             f'value {self.value}')


@dataclass(frozen=True)
class Heuristics:
    """Restrictions that drop distinct operators because they rarely pay; the defaults are those of the published searches.

    Attributes:
        window_ratio: an unfolded dimension is at least this many times its window.
        max_window: greatest window.
        odd_windows: windows are odd at every binding, so that they have a centre.
        max_pooling: greatest product of reductions that no weight indexes (unweighted sums).
        unweighted_windows: allow a window that is one bare unweighted reduction (a box sum).
        unfold_of_sum: allow Unfold along a dimension made of reductions only.
        unfold_of_split, unfold_of_shift: allow Unfold along a Split or a Shift (they commute up to the border).
        merge_of_split: allow Merge of a Split whose block sizes do not nest (it scrambles two dimensions).
        merge_of_wide_unfold: allow Merge of an unfolded dimension into blocks no smaller than the window.
        ascending_windows: of two nested Unfolds, the inner window is the smaller (they commute up to the border).
        max_shifted_block: greatest block of a Split or Merge next to a Shift; across larger ones a shift hardly matters.
        min_rank, max_rank: bounds of a reduction that only weights use (a low-rank factor).
        min_weight: least number of elements of a weight.
        max_outer: greatest product of the output parts that only weights provide.
        small_reduction: reductions above this size must divide an input dimension.
        reducing_weights: every weight indexes a reduction.
    """

    window_ratio: float = 2.3
    max_window: int = 30
    odd_windows: bool = True
    max_pooling: int = 8
    unweighted_windows: bool = False
    unfold_of_sum: bool = False
    unfold_of_split: bool = False
    unfold_of_shift: bool = False
    merge_of_split: bool = False
    merge_of_wide_unfold: bool = False
    ascending_windows: bool = True
    max_shifted_block: int = 2
    min_rank: int = 3
    max_rank: int = 24
    min_weight: int = 100
    max_outer: int = 6144
    small_reduction: int = 32
    reducing_weights: bool = True


@dataclass(frozen=True)
class Limits:
    """Counts that bound an operator; -1 for no bound.

    ``steps`` counts reductions, view primitives (Split, Merge, Unfold, Shift, Stride), weights, and repeats (an output
    part that nothing indexes). ``chain`` bounds how many primitives stand above one another.
    """

    steps: int = 12
    reductions: int = 5
    weights: int = 2
    splits: int = 3
    merges: int = 2
    unfolds: int = -1
    shifts: int = 2
    strides: int = 0
    repeats: int = 0
    chain: int = 6
    size_variables: int = 3
    size_powers: int = 16
    max_exponent: int = 4
    coefficient_exponent: int = 2
    heuristics: Heuristics = field(default_factory=Heuristics)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name != 'heuristics' and (isinstance(value, bool) or not isinstance(value, int) or value < -1):
                raise SpaceError(f'limit {f.name} must be an integer >= 0, or -1 for no bound; got {value!r}')
        if self.steps < 2:
            raise SpaceError(f'limit steps must be at least 2 (a weight and one more step), got {self.steps}')
        if self.weights == 0:
            raise SpaceError('limit weights must be at least 1: an operator without weights learns nothing')

    def updated(self, changes: Mapping[str, Any]) -> Limits:
        """These limits with some changed by name; heuristics by their own names.

        Raises:
            SpaceError: an unknown name (with the nearest known one) or a value of the wrong type.
        """
        mine = {f.name for f in dataclasses.fields(Limits)} - {'heuristics'}
        theirs = {f.name: f for f in dataclasses.fields(Heuristics)}
        own: dict[str, Any] = {}
        heuristic: dict[str, Any] = {}
        for name, value in changes.items():
            if name in mine:
                own[name] = value
            elif name in theirs:
                wanted = type(theirs[name].default)
                if (wanted is bool) != isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise SpaceError(f'limit {name} must be a {wanted.__name__}, got {shown(value)}')
                heuristic[name] = value
            else:
                hint = did_you_mean(name, [*mine, *theirs], otherwise='')
                raise SpaceError(f'unknown limit {shown(name)}' + (f'; {hint}' if hint else '')
                                 + f' Known: {", ".join(sorted([*mine, *theirs]))}')
        return dataclasses.replace(self, **own, heuristics=dataclasses.replace(self.heuristics, **heuristic))


def bounded(limit: int) -> int:
    """A limit as a number to compare with: -1 is a large one."""
    return UNBOUNDED if limit < 0 else limit
