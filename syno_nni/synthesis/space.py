"""The operator space: which operators may fill the slots, and how to construct, sample, vary and list them.

A facade: `signature` holds what was declared, `tree` the construction; the modules of this package take these two.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Iterator as Iter
from typing import Any

import numpy as np

from syno_nni.errors import SpaceError, shown
from syno_nni.operator import Operator
from syno_nni.operator.size import Binding, Size, SizeLike
from syno_nni.text import did_you_mean

from . import membership
from .budgets import Ratio, checked_ratio
from .completion import COMPLEXITY, Completer, Remembered
from .construction import Action, State
from .domain import check_bindings
from .limits import Limits, Variable
from .membership import Containment
from .paths import path
from .presets import PRESETS, Preset
from .rules import Context
from .signature import Signature
from .tree import StateTree

Rng = np.random.Generator | np.random.RandomState


class OperatorSpace:
    """All canonical operators with a given signature, within limits and budgets, legal at all bindings.

    Args:
        inputs, outputs: symbolic shapes.
        variables: the size variables with their budgets.
        bindings: one per slot that the operator shall fill; coefficients may be left out. A repeated binding counts
            twice in the budgets.
        default_bindings: for sampling and budgets where no slot is named; `contains` checks no numbers then.
        tied: output position -> input position of dimensions that pass through untouched (the batch).
        unordered_inputs, unordered_outputs: positions of dimensions whose order does not matter (channels).
        layer: the operator replaced; budgets are relative to it.
        macs_ratio, params_ratio: allowed range of MACs and params, summed over all bindings, relative to ``layer``.
        complexity: what sampling prefers, from 0 (every number of steps alike) to 1 (as many steps as the limits allow).

    Raises:
        SpaceError: the space is impossible; says why.
    """

    def __init__(self, inputs: Sequence[SizeLike], outputs: Sequence[SizeLike], variables: Sequence[Variable], *,
                 bindings: Sequence[Binding] | None = None, default_bindings: Sequence[Binding] = (),
                 tied: Mapping[int, int] | None = None, unordered_inputs: Iterable[int] = (),
                 unordered_outputs: Iterable[int] = (), layer: Operator | None = None, limits: Limits | None = None,
                 macs_ratio: tuple[float, float] | None = None, params_ratio: tuple[float, float] | None = None,
                 complexity: float = COMPLEXITY) -> None:
        if isinstance(complexity, bool) or not isinstance(complexity, (int, float)) or not 0 <= complexity <= 1:
            raise SpaceError(f'complexity must be a number from 0 (short ones too) to 1 (long ones only), got {complexity!r}')
        self.complexity = complexity
        self.signature = Signature(
            tuple(map(Size.of, inputs)), tuple(map(Size.of, outputs)), tuple(variables),
            check_bindings(default_bindings if bindings is None else bindings, variables), bindings is not None,
            limits or Limits(), dict(tied or {}), frozenset(unordered_inputs), frozenset(unordered_outputs), layer,
            checked_ratio('macs_ratio', macs_ratio), checked_ratio('params_ratio', params_ratio))
        self.tree = StateTree(self.signature)
        self._remembered = Remembered(self.tree)

    # ---- declaring ----

    @classmethod
    def preset(cls, name: str, *, bindings: Sequence[Binding] | None = None, macs_ratio: tuple[float, float] | None = None,
               params_ratio: tuple[float, float] | None = None, complexity: float = COMPLEXITY, **limits: Any) -> OperatorSpace:
        """A ready-made space (see `syno_nni.synthesis.presets`), with some limits changed by name.

        Without ``bindings``, sampling and budgets use the preset's own, and ``contains`` checks no other numbers.
        """
        if name not in PRESETS:
            hint = did_you_mean(name, PRESETS, otherwise='')
            raise SpaceError(f'unknown preset {shown(name)}' + (f'; {hint}' if hint else '')
                             + f' Known: {", ".join(PRESETS)}')
        preset: Preset = PRESETS[name]
        return cls(preset.inputs, preset.outputs, preset.variables, bindings=bindings, default_bindings=preset.bindings,
                   tied=preset.tied, unordered_inputs=preset.unordered_inputs, unordered_outputs=preset.unordered_outputs,
                   layer=Operator.parse(preset.layer), limits=Limits().updated({**preset.limits, **limits}),
                   macs_ratio=macs_ratio, params_ratio=params_ratio, complexity=complexity)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OperatorSpace:
        """A space from plain data, as in YAML: ``{preset: conv2d, bindings: [...], macs_ratio: [0.15, 0.9], steps: 10}``."""
        if not isinstance(data, Mapping) or 'preset' not in data:
            raise SpaceError(f'a space is declared by a mapping with the key "preset" ({", ".join(PRESETS)}), got {data!r:.80}')
        rest = dict(data)
        return cls.preset(rest.pop('preset'), **rest)

    @property
    def inputs(self) -> tuple[Size, ...]:
        """The shape that operators read."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[Size, ...]:
        """The shape that operators give."""
        return self.signature.outputs

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The size variables with their budgets."""
        return self.signature.variables

    @property
    def bindings(self) -> tuple[dict[str, int], ...]:
        """The numbers of the slots; the default ones where none were declared."""
        return self.signature.bindings

    @property
    def declared_bindings(self) -> tuple[dict[str, int], ...] | None:
        """The numbers of the slots that the caller named; None where none were."""
        return self.signature.bindings if self.signature.declared else None

    @property
    def limits(self) -> Limits:
        """Counts and heuristics."""
        return self.signature.limits

    @property
    def tied(self) -> Mapping[int, int]:
        """Output position -> input position of dimensions that pass through untouched."""
        return self.signature.tied

    @property
    def unordered_inputs(self) -> frozenset[int]:
        """Positions of input dimensions whose order does not matter."""
        return self.signature.unordered_inputs

    @property
    def unordered_outputs(self) -> frozenset[int]:
        """Positions of output dimensions whose order does not matter."""
        return self.signature.unordered_outputs

    @property
    def layer(self) -> Operator | None:
        """The operator replaced."""
        return self.signature.layer

    @property
    def macs_ratio(self) -> Ratio | None:
        """The range of MACs allowed, relative to the layers replaced."""
        return self.signature.macs_ratio

    @property
    def params_ratio(self) -> Ratio | None:
        """The range of params allowed, relative to the layers replaced."""
        return self.signature.params_ratio

    @property
    def context(self) -> Context:
        """What canonicalization rules may know."""
        return self.signature.context

    # ---- membership and costs ----

    def canonical(self, op: Operator) -> Operator:
        """The representative of ``op`` in this space: exact rules and channel relabelling applied."""
        return membership.canonical(self.signature, op)

    def contains(self, op: Operator) -> Containment:
        """Whether an operator, or its canonical equivalent, is in the space; if not, which limit or rule excludes it."""
        if not isinstance(op, Operator):
            raise SpaceError(f'contains: wanted an Operator, got {type(op).__name__}')
        return membership.contains(self.signature, op)

    def macs_over_layer(self, op: Operator) -> float:
        """MACs relative to the layers replaced, summed over all bindings."""
        return self.signature.budgets.macs_over_layer(op)

    def params_over_layer(self, op: Operator) -> float:
        """Params relative to the layers replaced, summed over all bindings."""
        return self.signature.budgets.params_over_layer(op)

    # ---- the construction tree ----

    @property
    def root(self) -> State:
        """The state before the first step: only the output is there."""
        return self.tree.root

    def actions(self, state: State) -> list[Action]:
        """The legal next steps that can still lead to an operator of the space, as far as the shape distance tells."""
        return self.tree.actions(state)

    def step(self, state: State, action: Action) -> State:
        """The state after a step."""
        return self.tree.step(state, action)

    def finish(self, state: State) -> Operator | None:
        """The canonical operator of a final state, or None if a limit or budget of the finished operator fails."""
        return self.tree.finish(state)

    def path(self, op: Operator) -> list[Action]:
        """Steps that construct an operator: reductions, views from the output up, the match, weights, finish.

        Raises:
            SpaceError: the operator has a form that the construction tree does not make.
        """
        return path(self.canonical(op), self.context)

    def steps_left(self, state: State) -> int:
        """How many steps the limit leaves after a state."""
        return self.tree.steps_left(state)

    def lower_bound(self, state: State) -> int:
        """At least so many steps remain until an operator is complete; a large number if there is no way."""
        return self.tree.lower_bound(state)

    # ---- operators ----

    def completer(self, rng: Rng) -> Completer:
        """What draws completions of states, for callers who want its statistics."""
        return Completer(self.tree, _generator(rng), complexity=self.complexity, remembered=self._remembered)

    def complete(self, state: State, rng: Rng, *, min_steps: int = 0, thorough: bool = True) -> Operator | None:
        """A random operator of the space that the state leads to, or None if there is none.

        Unless ``thorough``, None only says that some random walks found none; proving it can take minutes.
        """
        return self.completer(rng).complete(state, min_steps, thorough)

    def sample(self, rng: Rng, *, min_steps: int = 0) -> Operator:
        """A random operator of the space, in canonical form. ``min_steps`` asks for one of at least so many steps.

        Raises:
            SpaceError: the space is empty, or holds no operator of ``min_steps`` steps.
        """
        op = self.complete(self.root, rng, min_steps=min_steps)
        if op is None:
            raise SpaceError(f'the space holds no operator of at least {min_steps} steps: loosen its limits or budgets')
        return op

    def mutate(self, op: Operator, rng: Rng) -> Operator:
        """A neighbour: the first steps of ``op`` are kept (a random number of them), the rest is built anew."""
        return self.neighbour(op, rng)[0]

    def neighbour(self, op: Operator, rng: np.random.Generator | np.random.RandomState) -> tuple[Operator, int]:
        """As :meth:`mutate`, with the number of steps of ``path(op)`` that were kept."""
        rng = _generator(rng)
        steps = self.path(op)
        own = self.canonical(op)
        for _ in range(20):
            keep = len(steps) - 1 - int(min(rng.geometric(0.3), len(steps) - 1))
            state = self.root
            for action in steps[:keep]:
                state = self.step(state, action)
            other = self.complete(state, rng, thorough=False)
            if other is not None and other != own:
                return other, keep
        return self.sample(rng), 0

    def enumerate(self, max_steps: int | None = None) -> Iter[Operator]:
        """Every operator of at most ``max_steps`` steps (default: the limit), each canonical form once."""
        limit = self.limits.steps if max_steps is None else max_steps
        if limit < 1:
            raise SpaceError(f'enumerate: max_steps must be at least 1, got {limit}')
        tree = self.tree if limit == self.limits.steps else StateTree(self.signature.with_steps(limit))
        yield from tree.operators()


def _generator(rng: Rng) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, np.random.RandomState):
        return np.random.default_rng(rng.randint(0, 2 ** 31, size=4))
    raise SpaceError(f'rng must be a numpy Generator or RandomState, got {type(rng).__name__}')


__all__ = ['Containment', 'OperatorSpace']
