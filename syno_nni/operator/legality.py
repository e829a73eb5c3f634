"""What makes an operator graph legal: a list of named rules, each a function that yields complaints."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Iterator as Iter
from itertools import chain

from syno_nni.errors import GraphError, shown

from .expr import Coordinate, MergeLeft, MergeRight, Out, Sum
from .graph import Graph, tensors

MAX_RANK = 16
MAX_REDUCTIONS = 16
MAX_WEIGHTS = 8
MAX_DEPTH = 32
MAX_NODES = 200
MAX_TOTAL_NODES = 1000
MAX_OFFSET = 2 ** 31

Rule = Callable[[Graph], Iter[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__.replace('_', '-')] = function
    return function


def check(op: Graph) -> None:
    """Runs every rule.

    Raises:
        GraphError: names the first broken rule, where, and what to change.
    """
    for name, complaints in RULES.items():
        for complaint in complaints(op):
            raise GraphError(f'illegal operator ({name}): {complaint}')


def is_legal(op: Graph) -> bool:
    """Whether no rule is broken."""
    return not any(True for complaints in RULES.values() for _ in complaints(op))


@rule
def bounded(op: Graph) -> Iter[str]:
    """Ranks, depth and numbers of nodes stay within limits that no real operator comes near."""
    if not op.inputs:
        yield 'the input has no coordinate; index it with at least one'
    for name, coordinates in tensors(op):
        if len(coordinates) > MAX_RANK:
            yield f'{name} has {len(coordinates)} coordinates, at most {MAX_RANK} are allowed'
        for number, coordinate in enumerate(coordinates, 1):
            if not isinstance(coordinate, Coordinate):
                yield f'coordinate {number} of {name} is a {type(coordinate).__name__}, wanted a Coordinate'
            elif coordinate.depth > MAX_DEPTH:
                yield f'coordinate {number} of {name} nests {coordinate.depth} primitives, at most {MAX_DEPTH} may'
            elif sum(1 for _ in zip(coordinate.walk(), range(MAX_NODES + 1))) > MAX_NODES:
                yield f'coordinate {number} of {name} has more than {MAX_NODES} nodes'
    nodes = chain.from_iterable(c.walk() for _, coordinates in tensors(op) for c in coordinates)
    if sum(1 for _ in zip(nodes, range(MAX_TOTAL_NODES + 1))) > MAX_TOTAL_NODES:
        yield f'the operator has more than {MAX_TOTAL_NODES} nodes in all'
    counts = (('output coordinates', len(op.outputs), MAX_RANK), ('weights', len(op.weights), MAX_WEIGHTS),
              ('reductions', len(op.reductions), MAX_REDUCTIONS))
    for what, got, most in counts:
        if got > most:
            yield f'{got} {what}, at most {most} are allowed'


@rule
def known_iterators(op: Graph) -> Iter[str]:
    """Every leaf is an output or a reduction of this operator, with the same size."""
    for name, coordinates in tensors(op):
        for coordinate in coordinates:
            for leaf in coordinate.iterators():
                sizes = op.outputs if isinstance(leaf, Out) else op.reductions
                known = isinstance(leaf.index, int) and 0 <= leaf.index < len(sizes)
                if not known or sizes[leaf.index] != leaf.size:
                    yield f'{name} uses {leaf!r} of size {leaf.size}, which the operator does not have'


@rule
def offsets_are_integers(op: Graph) -> Iter[str]:
    """A Shift moves by a fixed number of elements."""
    for node in op.nodes():
        if node.kind == 'shift' and (isinstance(node.argument, bool) or not isinstance(node.argument, int)
                                     or abs(node.argument) > MAX_OFFSET):
            yield f'a Shift offset must be an integer within +-{MAX_OFFSET}, got {shown(node.argument)}'


@rule
def data_linear(op: Graph) -> Iter[str]:
    """The input uses every coordinate at most once: no primitive duplicates data.

    A coordinate reaches the input through one primitive, or through the two halves of one Merge. Using it twice would
    be a diagonal, which no primitive makes.
    """
    yield from _used_once('in', op.inputs)


@rule
def weight_linear(op: Graph) -> Iter[str]:
    """So does every weight: ``w[i, i]`` wastes all but its diagonal."""
    for name, coordinates in tensors(op):
        if name != 'in':
            yield from _used_once(name, coordinates)


def _used_once(name: str, coordinates: tuple[Coordinate, ...]) -> Iter[str]:
    for node, count in used_twice(coordinates):
        label = f'reduction {node.index}' if isinstance(node, Sum) else (
            f'output {node.index}' if isinstance(node, Out) else repr(node))
        yield (f'{name} uses {label} {count} times; use it once, or through both halves '
               f'(// and % with one block size) of one Merge')


def used_twice(coordinates: Sequence[Coordinate]) -> Iter[tuple[Coordinate, int]]:
    """The nodes that a tensor uses more than once, other than through the two halves of one Merge, and how often."""
    uses: Counter[Coordinate] = Counter(coordinates)
    for node in {n for c in coordinates for n in c.walk()}:
        for child in node.bottom:
            uses[child] += 1
    blocks: dict[Coordinate, list[Coordinate]] = {}
    for node in {n for c in coordinates for n in c.walk()}:
        if isinstance(node, (MergeLeft, MergeRight)):
            blocks.setdefault(node.of, []).append(node)
    for node, count in uses.items():
        halves = blocks.get(node, ())
        if len(halves) == 2 and {h.kind for h in halves} == {'div', 'mod'} and halves[0].argument == halves[1].argument:
            count -= 1
        if count > 1:
            yield node, count
