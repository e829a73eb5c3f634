"""Semantic duplicates: whether two operators describe the same family of functions up to relabelling of weights.

Over all values of its weights, an operator at a binding is a set of linear maps from input to output: a point (output
element, input element) of such a map is a sum of products of one element of each weight. Everything is computed at tiny
sizes, exactly where possible (integers modulo a large prime).

*One weight.* The set is the linear span of one matrix for each weight element. Two operators are the same if and only if
the spans are equal, which their reduced echelon forms decide.

*Several weights.* The set is the image of a multilinear map: an irreducible variety. Two such sets have the same closure
if and only if a generic member of one lies in the other and their dimensions are equal. So the check compares

1. the span of the set (the one-weight case, with one element for each tuple of weight elements that occurs together),
2. its dimension, the rank of the derivative at a random point, and the ranks of a random member as a matrix, for every way
   to make its dimensions rows and columns,
3. whether random members of each set can be fitted by the other (Gauss-Newton from several random starts).

1 and 2 are invariants: where they differ, the operators do. 3 proves equality (up to rounding) when a fit succeeds; that
no start succeeds is strong evidence, not proof, that the operators differ. A duplicate must be one at every binding.
"""
from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from syno_nni.operator import Operator
from syno_nni.operator.expr import Coordinate, Iterator
from syno_nni.operator.reference import evaluate
from syno_nni.operator.size import Binding

from .space import OperatorSpace

PRIME = 2 ** 31 - 1
SMALL_PRIME = 16_777_213  # sums of 30,000 products of two stay below 2^63
SMALL_TENSOR = 2      # dimensions
MAX_POINTS = 4_000_000
MAX_DENSE = 1_000_000
MAX_RANK = 24         # greater ranks are not told apart
FITS = 8            # random starts of a fit
FIT_STEPS = 60
FIT_TOLERANCE = 1e-9
PATIENCE = 6        # steps without progress after which a start is given up


@dataclass(frozen=True)
class Terms:
    """All products that an operator sums at a binding: one row each, those outside of a window left out.

    Attributes:
        points: (output element, input element), as one number.
        elements: for every weight, which element; [weights, products].
        sizes: the number of elements of every weight.
        shape: the number of output elements and of input elements.
        extents: of every output and input dimension.
    """

    points: np.ndarray
    elements: np.ndarray
    sizes: tuple[int, ...]
    shape: tuple[int, int]
    extents: tuple[int, ...]


def terms(op: Operator, sizes: Binding) -> Terms:
    """The products of an operator at a binding.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    sizes = op.check_sizes(sizes)
    extents = [it.size.value(sizes) for it in op.iterators()]
    count = int(np.prod(extents, dtype=np.int64))
    if count > MAX_POINTS:
        raise ValueError(f'{count} products are too many to compare; take smaller sizes than {dict(sizes)}')
    index = np.unravel_index(np.arange(count), extents)
    env: dict[Iterator, np.ndarray] = dict(zip(op.iterators(), index))
    inside = np.ones(count, dtype=bool)

    def flat(coordinates: Sequence[Coordinate], shape: Sequence[int]) -> np.ndarray:
        nonlocal inside
        position = np.zeros(count, dtype=np.int64)
        for coordinate, extent in zip(coordinates, shape):
            value, ok = evaluate(coordinate, env, sizes)
            inside = inside & ok
            position = position * extent + value
        return position

    out = flat(op.outs(), op.output_shape(sizes))
    read = flat(op.inputs, op.input_shape(sizes))
    elements = [flat(w, shape) for w, shape in zip(op.weights, op.weight_shapes(sizes))]
    inputs = int(np.prod(op.input_shape(sizes)))
    points = (out * inputs + read)[inside]
    return Terms(points, np.array([e[inside] for e in elements], dtype=np.int64).reshape(len(elements), len(points)),
                 tuple(int(np.prod(s)) for s in op.weight_shapes(sizes)), (int(np.prod(op.output_shape(sizes))), inputs),
                 (*op.output_shape(sizes), *op.input_shape(sizes)))


# ---- linear spans ----

def span_digest(found: Terms) -> str:
    """A digest of the linear span of the family: equal for equal spans."""
    tuples = np.zeros(len(found.points), dtype=np.int64)
    for element, size in zip(found.elements, found.sizes):
        tuples = tuples * size + element
    digest = hashlib.blake2b(repr(found.shape).encode(), digest_size=12)
    if not found.sizes:
        digest.update(b'fixed')
    rows, columns, values = _counted(tuples, found.points)
    for points, echelon in _echelon_blocks(rows, columns, values):
        digest.update(points.tobytes())
        digest.update(echelon.tobytes())
    return digest.hexdigest()


def _counted(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sparse matrix from its positions, repeated ones added up; rows numbered from 0."""
    _, rows = np.unique(rows, return_inverse=True)
    pairs, counts = np.unique(np.stack([rows, columns]), axis=1, return_counts=True)
    return pairs[0], pairs[1], counts.astype(np.int64)


def _echelon_blocks(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The reduced echelon form of a sparse matrix, block by block: rows that share no column are independent."""
    points, column = np.unique(columns, return_inverse=True)
    owner = _components(rows, column, int(rows.max()) + 1 if len(rows) else 0, len(points))
    blocks: dict[int, list[int]] = defaultdict(list)
    for at, row in enumerate(rows.tolist()):
        blocks[owner[row]].append(at)
    result = []
    for members in blocks.values():
        own, own_rows = np.unique(rows[members], return_inverse=True)
        own_points, own_columns = np.unique(column[members], return_inverse=True)
        dense = np.zeros((len(own), len(own_points)), dtype=np.int64)
        dense[own_rows, own_columns] = values[members]
        result.append((points[own_points], _echelon(dense)))
    return sorted(result, key=lambda block: int(block[0][0]))


def _components(rows: np.ndarray, columns: np.ndarray, row_count: int, column_count: int) -> list[int]:
    """For every row, the number of its connected component (two rows that share a column are connected)."""
    parent = list(range(row_count + column_count))

    def find(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for row, column in zip(rows.tolist(), columns.tolist()):
        a, b = find(row), find(row_count + column)
        if a != b:
            parent[b] = a
    return [find(row) for row in range(row_count)]


def _echelon(matrix: np.ndarray, prime: int = PRIME) -> np.ndarray:
    """Reduced row echelon form modulo a prime, without zero rows."""
    matrix = matrix % prime
    at = 0
    for column in range(matrix.shape[1]):
        below = np.nonzero(matrix[at:, column])[0]
        if not len(below):
            continue
        pivot = at + int(below[0])
        if pivot != at:
            matrix[[at, pivot]] = matrix[[pivot, at]]
        matrix[at] = matrix[at] * pow(int(matrix[at, column]), -1, prime) % prime
        others = np.nonzero(matrix[:, column])[0]
        others = others[others != at]
        matrix[others] = (matrix[others] - matrix[others, column][:, None] * matrix[at] % prime) % prime
        at += 1
        if at == len(matrix):
            break
    return matrix[:at]


# ---- ranks ----

def ranks(found: Terms, seed: int = 0) -> tuple[int, ...]:
    """Ranks of a random member as a matrix, for every way to make its dimensions rows and columns, also after up to two
    dimensions (where there are few) are cut in two: what the members of equal families have in common. Modulo a prime; none
    where the tensor is large."""
    extents = [e for e in found.extents if e > 1]
    if math.prod(extents) > MAX_DENSE:
        return ()
    rng = np.random.default_rng(seed)
    member = np.ones(len(found.points), dtype=np.int64)
    for element, size in zip(found.elements, found.sizes):
        member = member * rng.integers(1, SMALL_PRIME, size)[element] % SMALL_PRIME
    tensor = np.zeros(math.prod(found.extents), dtype=np.int64)
    np.add.at(tensor, found.points, member)
    tensor %= SMALL_PRIME
    got = []
    for shape in _cuts(extents, 2 if len(extents) <= SMALL_TENSOR else 0):
        for mask in range(1, 1 << (len(shape) - 1)):
            rows = [n for n in range(len(shape)) if mask >> n & 1]
            columns = [n for n in range(len(shape)) if not mask >> n & 1]
            matrix = tensor.reshape(shape).transpose(*rows, *columns).reshape(math.prod(shape[n] for n in rows), -1)
            got.append(_rank(matrix if len(matrix) <= matrix.shape[1] else matrix.T, rng))
    return tuple(got)


def _cuts(extents: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """The extents, with up to ``most`` of them cut in two at any of their divisors."""
    choices = [[(e,), *((e // d, d) for d in range(2, e) if e % d == 0)] for e in extents]
    return [tuple(itertools.chain(*parts)) for parts in itertools.product(*choices) if sum(len(p) - 1 for p in parts) <= most]


def _rank(matrix: np.ndarray, rng: np.random.Generator) -> int:
    """The rank of a wide matrix modulo a small prime, up to `MAX_RANK`."""
    for axis in (1, 0):
        size, most = matrix.shape[axis], min(len(matrix), MAX_RANK) + 4
        if size > most:
            mixed = rng.integers(0, SMALL_PRIME, (size, most))
            matrix = (matrix @ mixed if axis else mixed.T @ matrix) % SMALL_PRIME
    return len(_echelon(matrix, SMALL_PRIME))


# ---- dimension ----

def dimension(found: Terms, seed: int = 0) -> int:
    """The dimension of the family: the rank, modulo a prime, of the derivative by all weights at a random point."""
    rng = np.random.default_rng(seed)
    total = sum(found.sizes)
    if not total:
        return 0
    weights = [rng.integers(1, PRIME, size) for size in found.sizes]
    factors = [w[e] for w, e in zip(weights, found.elements)]
    # A random projection of the columns keeps the rank.
    width = total + 8
    projection = _projection(found.points, width, rng)
    derivative = np.zeros((total, width), dtype=np.int64)
    start = 0
    for number, size in enumerate(found.sizes):
        others = np.ones(len(found.points), dtype=np.int64)
        for other, factor in enumerate(factors):
            if other != number:
                others = others * factor % PRIME
        order = np.argsort(found.elements[number], kind='stable')
        for chunk in np.array_split(order, max(1, len(order) // 4096)):
            contribution = others[chunk][:, None] * projection[found.points[chunk]] % PRIME
            np.add.at(derivative, start + found.elements[number][chunk], contribution)
        derivative %= PRIME
        start += size
    return len(_echelon(derivative))


def _projection(points: np.ndarray, width: int, rng: np.random.Generator) -> _Rows:
    return _Rows(np.unique(points), width, rng)


class _Rows:
    """Random rows by point."""

    def __init__(self, points: np.ndarray, width: int, rng: np.random.Generator) -> None:
        self.points = points
        self.rows = rng.integers(0, PRIME, (len(points), width))

    def __getitem__(self, points: np.ndarray) -> np.ndarray:
        return self.rows[np.searchsorted(self.points, points)]


# ---- fits ----

def fits(member: Terms, family: Terms, seed: int = 0) -> bool:
    """Whether a random member of one family lies in (the closure of) another, by Gauss-Newton from random starts."""
    if not len(member.points) or not len(family.points):
        return not len(member.points)  # all windows read outside: the function is 0, a member of every family
    rng = np.random.default_rng(seed)
    points = np.unique(np.concatenate([member.points, family.points]))
    target = _value(member, [rng.standard_normal(s) for s in member.sizes], points)
    target /= np.linalg.norm(target)
    where = np.searchsorted(points, family.points)
    for _ in range(FITS):
        if _fit(family, target, where, rng) < FIT_TOLERANCE:
            return True
    return False


def _value(found: Terms, weights: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    products = np.ones(len(found.points))
    for weight, element in zip(weights, found.elements):
        products = products * weight[element]
    return np.bincount(np.searchsorted(points, found.points), products, len(points))


def _fit(family: Terms, target: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> float:
    """The residual that damped Gauss-Newton reaches from a random start."""
    weights = [rng.standard_normal(s) / np.sqrt(max(1, s)) ** 0.5 for s in family.sizes]
    damping, residual = 1e-2, np.inf
    starts = np.cumsum([0, *family.sizes])
    history: list[float] = []
    for _ in range(FIT_STEPS):
        factors = [w[e] for w, e in zip(weights, family.elements)]
        error = target - np.bincount(where, np.prod(factors, axis=0), len(target))
        residual = float(error @ error)
        history.append(residual)
        stuck = len(history) > PATIENCE and residual > 0.97 * history[-PATIENCE - 1]
        if residual < FIT_TOLERANCE or stuck:
            return residual
        derivative = np.zeros((starts[-1], len(target)))
        for number, element in enumerate(family.elements):
            others = np.prod([f for n, f in enumerate(factors) if n != number], axis=0) * np.ones(len(where))
            np.add.at(derivative, (starts[number] + element, where), others)
        gram, slope = derivative @ derivative.T, derivative @ error
        for _ in range(8):
            # Never quite zero: directions that change nothing (a scale moved between weights) make the matrix singular.
            move = np.linalg.solve(gram + max(damping, 1e-12 * np.trace(gram)) * np.eye(len(gram)), slope)
            tried = [w + move[a:b] for w, a, b in zip(weights, starts, starts[1:])]
            products = np.prod([w[e] for w, e in zip(tried, family.elements)], axis=0)
            if float(np.sum((target - np.bincount(where, products, len(target))) ** 2)) < residual:
                weights, damping = tried, damping / 5
                break
            damping *= 5
        else:
            return residual
    return residual


# ---- comparing operators ----

def same_family(first: Operator, second: Operator, bindings: Sequence[Binding], *, alike: bool = False) -> bool:
    """Whether two operators describe the same family of functions at every binding (see the module's text); ``alike`` says
    that their spans, dimensions and ranks are known to be equal."""
    for sizes in bindings:
        a, b = terms(first, sizes), terms(second, sizes)
        if a.shape != b.shape or not alike and span_digest(a) != span_digest(b):
            return False
        if len(a.sizes) <= 1 and len(b.sizes) <= 1:
            continue
        if not alike and (dimension(a) != dimension(b) or ranks(a) != ranks(b)) or not (fits(a, b) and fits(b, a)):
            return False
    return True


@dataclass
class Redundancy:
    """The duplicates found among operators."""

    operators: int = 0
    seconds: float = 0.0
    groups: list[list[Operator]] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """Operators that could be left out."""
        return sum(len(g) - 1 for g in self.groups)


def redundancy(ops: Iterable[Operator], bindings: Sequence[Binding]) -> Redundancy:
    """Groups of operators that describe the same family."""
    start = time.process_time()
    found = Redundancy()
    listed = list(ops)
    found.operators = len(listed)
    # What operators of one family have in common, the quick first: the span, the dimension, the ranks of members.
    alike = [listed]
    for invariant in (span_digest, dimension, ranks):
        alike = [group for members in alike for group in _grouped(members, bindings, invariant)]
    for members in alike:
        groups: list[list[Operator]] = []
        for op in members:
            for group in groups:
                if same_family(group[0], op, bindings, alike=True):
                    group.append(op)
                    break
            else:
                groups.append([op])
        found.groups += [g for g in groups if len(g) > 1]
    found.seconds = time.process_time() - start
    return found


def _grouped(ops: Sequence[Operator], bindings: Sequence[Binding],
             invariant: Callable[[Terms], object]) -> list[list[Operator]]:
    """The operators of which there are several with one invariant."""
    groups: dict[tuple[object, ...], list[Operator]] = defaultdict(list)
    for op in ops:
        groups[tuple(invariant(terms(op, b)) for b in bindings)].append(op)
    return [group for group in groups.values() if len(group) > 1]


# ---- measuring what is left ----

TINY: dict[str, tuple[Binding, ...]] = {
    'conv1d': ({'N': 1, 'C_in': 6, 'C_out': 12, 'L': 10, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3},
               {'N': 1, 'C_in': 12, 'C_out': 6, 'L': 15, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3}),
    'linear': ({'N': 1, 'T': 1, 'C_in': 12, 'C_out': 18, 'k_1': 5, 's': 2, 'g': 3},
               {'N': 1, 'T': 1, 'C_in': 30, 'C_out': 12, 'k_1': 5, 's': 2, 'g': 3}),
    'depthwise': ({'N': 1, 'C': 12, 'H': 6, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3},),
    'conv2d': ({'N': 1, 'C_in': 6, 'C_out': 12, 'H': 6, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3},
               {'N': 1, 'C_in': 12, 'C_out': 6, 'H': 6, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 3}),
}


def tiny_space(preset: str, **limits: object) -> OperatorSpace:
    """A preset at sizes that are small enough to compare functions element by element."""
    small: dict[str, Any] = {'min_weight': 2, 'min_rank': 2, 'window_ratio': 2.0, **limits}
    return OperatorSpace.preset(preset, bindings=TINY[preset], **small)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the redundancy left among everything that a tiny space holds up to a number of steps."""
    parser = argparse.ArgumentParser(prog='python -m syno_nni.synthesis.semantics', description=main.__doc__)
    parser.add_argument('--preset', choices=TINY, default='conv1d')
    parser.add_argument('--max-steps', type=int, default=4)
    options = parser.parse_args(arguments)
    space = tiny_space(options.preset)
    ops = list(space.enumerate(options.max_steps))
    found = redundancy(ops, space.bindings)
    for group in found.groups:
        print('the same family:')
        for op in group:
            print(f'  {op.id}  {op}')
    print(f'{found.operators} operators of at most {options.max_steps} steps in tiny {options.preset}: '
          f'{found.duplicates} duplicates in {len(found.groups)} groups ({found.seconds:.1f} s)')
    return 0 if not found.groups else 1


if __name__ == '__main__':
    sys.exit(main())
