"""Choosing a plan: all contraction orders, all ways to lower each stage, the cheapest by the cost model."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from syno_nni.operator.concrete import ConcreteOperator, concretize
from syno_nni.operator.orders import Enumeration, Order
from syno_nni.operator.size import Binding

from .builder import Unreachable
from .contraction import Partial
from .lowering import Lowering
from .machine import Machine
from .model import seconds
from .program import Program, multiply_adds
from .simplify import simplify

if TYPE_CHECKING:
    from syno_nni.operator import Operator

T = TypeVar('T')
BEAM = 12
ORDERS = 8
LONGEST_FOLDING = 4e9
"""Multiply-adds on weights alone that a plan may have where another has fewer: every step of training makes them, too, and
these take seconds."""
_CACHE: OrderedDict[tuple, tuple[Plan, ...]] = OrderedDict()
_CACHE_SIZE = 512


@dataclass(frozen=True)
class Plan:
    """An operator at a binding as library calls.

    Attributes:
        program: the calls.
        cost: estimated seconds per call at the binding's batch size, weights folded.
        batch: whether any batch size will do.
        input_shape: of the input, without the dimension of the batch where any will do.
    """
    program: Program
    cost: float
    batch: bool
    input_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'input_shape', self.program.shapes[0][int(self.batch):])

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self  # nothing in it changes

    @property
    def macs(self) -> int:
        """The multiply-adds that the calls on data execute."""
        constant = self.program.constant_registers()
        return sum(multiply_adds(self.program, s) for s in self.program.steps if s.output not in constant)

    @property
    def folding_macs(self) -> int:
        """Those that the calls on weights alone execute, once in the deploy form and in every call of the other."""
        constant = self.program.constant_registers()
        return sum(multiply_adds(self.program, s) for s in self.program.steps if s.output in constant)

    def __str__(self) -> str:
        return str(self.program)


def plans(op: Operator, sizes: Binding, machine: Machine | None = None) -> tuple[Plan, ...]:
    """Distinct plans for an operator at a binding, cheapest first by the cost model.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
    """
    machine = machine or Machine()
    sizes = op.check_sizes(sizes)
    key = (op.structure, tuple(sorted(sizes.items())), machine)
    found = _CACHE.get(key)
    if found is None:
        found = _CACHE[key] = tuple(_enumerate(concretize(op, sizes), machine))
        if len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return found


def _enumerate(op: ConcreteOperator, machine: Machine) -> list[Plan]:
    enumeration = Enumeration(op)
    lowering = Lowering(op, enumeration)
    orders = sorted(enumeration.orders(), key=lambda order: order.macs({}, folded=True))
    found: dict[str, Plan] = {}
    for order in orders[:ORDERS]:
        for program in map(simplify, _programs(lowering, order, machine)):
            text = str(program)
            if text not in found:
                found[text] = Plan(program, seconds(program, machine), op.batch is not None)
    if not found:
        program = simplify(_scaled(lowering.plain))
        return [Plan(program, seconds(program, machine), op.batch is not None)]
    return sorted(found.values(), key=lambda plan: (plan.folding_macs > LONGEST_FOLDING, plan.cost))


def _programs(lowering: Lowering, order: Order, machine: Machine, factor: Fraction = Fraction(1)) -> list[Program]:
    beam: list[Partial] = [lowering.start(factor)]
    for number in range(len(order.stages)):
        following = [way for partial in beam for way in _reached(lowering.advance, partial, order, number)]
        beam = sorted(following, key=lambda p: _so_far(p, machine))[:BEAM]
    finished = [done for partial in beam for done in _reached(lambda p: [lowering.finish(p)], partial)]
    left = {rest for _, rest in finished if rest != 1}
    if not left or factor != 1:
        return [program for program, rest in finished if rest == factor or rest == 1]
    # The scale is known only now: lower again, with it in the first weight.
    return [program for rest in left for program in _programs(lowering, order, machine, rest)] + [
        program for program, rest in finished if rest == 1]


def _reached(continuation: Callable[..., list[T]], *arguments: Any) -> list[T]:
    """The continuations of a partial program; none where the order's labels cannot be reached from it."""
    try:
        return continuation(*arguments)
    except Unreachable:
        return []


def _scaled(lower: Callable[[Fraction], tuple[Program, Fraction]]) -> Program:
    """A whole program; lowered again where the scale of its result turns out to belong in the first weight."""
    program, rest = lower(Fraction(1))
    return program if rest == 1 else lower(rest)[0]


def _so_far(partial: Partial, machine: Machine) -> float:
    last = max(value.register for value in partial.values.values())
    return seconds(partial.builder.program(last), machine)

