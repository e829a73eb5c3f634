"""What a space is declared by: the shapes, the size variables, the slots to fill, the limits and the budgets."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from syno_nni.errors import SpaceError
from syno_nni.operator import Operator
from syno_nni.operator.size import Size

from .budgets import Budgets, Ratio
from .construction import State
from .domain import SizeDomain, SizeFault
from .limits import UNBOUNDED, Limits, Variable
from .rewriting import Context


@dataclass(frozen=True, eq=False)
class Signature:
    """Everything that decides which operators a space holds. All parts of the synthesis take it, none changes it.

    Attributes:
        inputs, outputs: symbolic shapes.
        variables: the size variables with their budgets.
        bindings: one complete binding per slot that the operator shall fill.
        declared: whether the caller named the slots; else ``bindings`` serve sampling and ratios only.
        limits: counts and heuristics.
        tied: output position -> input position of dimensions that pass through untouched (the batch).
        unordered_inputs, unordered_outputs: positions of dimensions whose order does not matter (channels).
        layer: the operator replaced; ratios are relative to it.
        macs_ratio, params_ratio: allowed range (least, greatest), summed over all bindings, relative to ``layer``.

    Raises:
        SpaceError: the parts contradict each other, or no operator can meet the budgets; says why.
    """

    inputs: tuple[Size, ...]
    outputs: tuple[Size, ...]
    variables: tuple[Variable, ...]
    bindings: tuple[dict[str, int], ...] = ()
    declared: bool = False
    limits: Limits = field(default_factory=Limits)
    tied: Mapping[int, int] = field(default_factory=dict)
    unordered_inputs: frozenset[int] = frozenset()
    unordered_outputs: frozenset[int] = frozenset()
    layer: Operator | None = None
    macs_ratio: Ratio | None = None
    params_ratio: Ratio | None = None

    def __post_init__(self) -> None:
        for out, into in self.tied.items():
            if self.outputs[out] != self.inputs[into]:
                raise SpaceError(f'output {out} of size {self.outputs[out]} is tied to input {into} of size '
                                 f'{self.inputs[into]}; tied dimensions must have one size')
        if self.declared and not self.bindings:
            raise SpaceError('the list of bindings is empty: no slot to fill; give one binding per slot')
        for size in (*self.inputs, *self.outputs):
            complaint = self.domain.complaint(size)
            if complaint is not None and complaint.fault is not SizeFault.ONE:
                raise SpaceError(f'impossible signature: {complaint}')
        for ratio in (self.macs_ratio, self.params_ratio):
            if ratio and self.layer is None:
                raise SpaceError('a ratio needs the layer that it is relative to')
        rules = self.limits.heuristics
        if rules.min_rank > rules.max_rank:
            raise SpaceError(f'contradictory limits: min_rank {rules.min_rank} exceeds max_rank {rules.max_rank}')
        self.budgets.check_possible(self.inputs, self.limits)

    # ---- what follows from the declaration ----

    @cached_property
    def wanted(self) -> tuple[Size, ...]:
        """The input dimensions that the construction must make: those that are not tied."""
        return tuple(s for i, s in enumerate(self.inputs) if i not in self.tied.values())

    @cached_property
    def domain(self) -> SizeDomain:
        """The sizes that operators may have."""
        return SizeDomain(self.variables, self.bindings, self.limits, self.wanted)

    @cached_property
    def budgets(self) -> Budgets:
        """What operators may cost."""
        return Budgets(self.layer, self.outputs, self.domain, self.macs_ratio, self.params_ratio)

    @cached_property
    def context(self) -> Context:
        """What canonicalization rules may know."""
        return Context(self.bindings, self.unordered_inputs, self.unordered_outputs,
                       frozenset(v.name for v in self.variables if not v.primary),
                       frozenset(v.name for v in self.variables if v.budget == 0))

    def banned(self, size: Size) -> bool:
        """Whether a size has a variable that neither reductions nor weights may use."""
        return self.domain.has_banned(size)

    def steps_left(self, state: State) -> int:
        """How many steps the limit leaves after a state."""
        return self.limits.steps - state.steps if self.limits.steps >= 0 else UNBOUNDED

    # ---- others like it ----

    @cached_property
    def symbolic(self) -> Signature:
        """The same without bindings and ratios: only what holds for any numbers."""
        return replace(self, bindings=(), declared=False, macs_ratio=None, params_ratio=None)

    def with_steps(self, limit: int) -> Signature:
        """The same with another limit of steps.

        Raises:
            SpaceError: so few steps make no operator.
        """
        return replace(self, limits=self.limits.updated({'steps': limit}))


def shape_text(sizes: Iterable[Size]) -> str:
    """A shape as messages print it."""
    return f'[{", ".join(map(str, sizes))}]'


__all__ = ['Signature', 'shape_text']
