"""Choosing a plan: all contraction orders, all ways to lower each stage, the cheapest by the cost model."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from syno_nni.errors import GraphError
from syno_nni.measure.work import Work
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
from .sketch import is_sketch

if TYPE_CHECKING:
    from syno_nni.operator import Operator

T = TypeVar('T')
BEAM = 12
ORDERS = 8
QUICK = 2
"""Orders, and partial programs at every stage, that an estimate looks at."""
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

    def work(self, shape: Sequence[int] | None = None) -> tuple[Work, ...]:
        """The calls on data, for a cost model (`syno_nni.measure.cost_model`).

        Args:
            shape: of the input, batch included, where the batch is another one than the binding's.

        Raises:
            GraphError: the plan is not for this shape.
        """
        program = self.program
        shape = program.shapes[0] if shape is None else tuple(shape)
        if shape[int(self.batch):] != self.input_shape or len(shape) != len(program.shapes[0]):
            raise GraphError(f'a plan for inputs of shape {list(program.shapes[0])} is not for {list(shape)}')
        times = shape[0] / program.shapes[0][0] if self.batch else 1.0
        constant = program.constant_registers()
        return tuple(Work(s.kind, tuple(program.shape(r) for r in s.inputs), tuple(r in constant for r in s.inputs), s.shape,
                          s.arguments, times) for s in program.steps if s.output not in constant)

    @property
    def folding_macs(self) -> int:
        """Those that the calls on weights alone execute, once in the deploy form and in every call of the other."""
        constant = self.program.constant_registers()
        return sum(multiply_adds(self.program, s) for s in self.program.steps if s.output in constant)

    def __str__(self) -> str:
        return str(self.program)


def estimated_cost(op: Operator, sizes: Binding, machine: Machine | None = None) -> float:
    """Estimated seconds per call of a good plan, found with a fraction of the work that :func:`plans` takes.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
    """
    machine = machine or Machine()
    return _enumerate(concretize(op, op.check_sizes(sizes)), machine, orders=QUICK, beam=QUICK)[0].cost


def plans(op: Operator, sizes: Binding, machine: Machine | None = None) -> tuple[Plan, ...]:
    """Distinct plans for an operator at a binding, cheapest first by the cost model.

    Raises:
        SizeError: a size of the operator is not an integer at the binding.
    """
    machine = machine or Machine()
    sizes = op.check_sizes(sizes)
    if is_sketch():
        return tuple(_enumerate(concretize(op, sizes), machine, orders=QUICK, beam=QUICK))
    key = (op.structure, tuple(sorted(sizes.items())), machine)
    found = _CACHE.get(key)
    if found is None:
        found = _CACHE[key] = tuple(_enumerate(concretize(op, sizes), machine))
        if len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return found


def _enumerate(op: ConcreteOperator, machine: Machine, orders: int = ORDERS, beam: int = BEAM) -> list[Plan]:
    enumeration = Enumeration(op)
    lowering = Lowering(op, enumeration)
    cheapest = sorted(enumeration.orders(), key=lambda order: order.macs({}, folded=True))
    found: dict[str, Plan] = {}
    for order in cheapest[:orders]:
        for program in map(simplify, _programs(lowering, order, machine, width=beam)):
            text = str(program)
            if text not in found:
                found[text] = Plan(program, seconds(program, machine), op.batch is not None)
    if not found:
        program = simplify(_scaled(lowering.plain))
        return [Plan(program, seconds(program, machine), op.batch is not None)]
    return sorted(found.values(), key=lambda plan: (plan.folding_macs > LONGEST_FOLDING, plan.cost))


def _programs(lowering: Lowering, order: Order, machine: Machine, factor: Fraction = Fraction(1), width: int = BEAM,
              ) -> list[Program]:
    beam: list[Partial] = [lowering.start(factor)]
    for number in range(len(order.stages)):
        following = [way for partial in beam for way in _reached(lowering.advance, partial, order, number)]
        beam = sorted(following, key=lambda p: _so_far(p, machine))[:width]
    finished = [done for partial in beam for done in _reached(lambda p: [lowering.finish(p)], partial)]
    left = {rest for _, rest in finished if rest != 1}
    if not left or factor != 1:
        return [program for program, rest in finished if rest == factor or rest == 1]
    # The scale is known only now: lower again, with it in the first weight.
    return [program for rest in left for program in _programs(lowering, order, machine, rest, width)] + [
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

