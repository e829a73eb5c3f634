"""What one output element sees: the receptive field as a grid, and sizes small enough to look at an operator whole."""
from __future__ import annotations

import math
from collections.abc import Iterator as Iter
from dataclasses import dataclass
from itertools import product

import numpy as np

from syno_nni.errors import SizeError

from .graph import Graph
from .reference import read_mask
from .size import Binding

MAX_SUMMED = 1 << 22
"""Products of one output element that are looked at; a second's work."""
MAX_ELEMENTS = 1 << 26
"""Elements of the input that are looked at."""
LARGEST = 17
"""A grid that is drawn has at most so many rows and columns, where cropping to what is read allows it."""
MAP_VARIABLES = frozenset('HWLT')
_MARKS = '.░▒▓█'


@dataclass(frozen=True)
class ReceptiveField:
    """What the output element in the middle reads of the input.

    Attributes:
        sizes: the binding.
        output: the position of the output element, one number for each output dimension.
        axes: the input dimensions that make the grid: two (rows, columns), one, or none for an input without dimensions.
        grid: for each position along them, the share (0 to 1) of what lies behind it that is read; always 2-D.
        center: where ``output`` itself would be in the grid, if the output has the same dimensions.
        read, total: elements of the input that are read, and all.
        behind: elements behind one position (channels).
    """
    sizes: dict[str, int]
    output: tuple[int, ...]
    axes: tuple[int, ...]
    grid: np.ndarray
    center: tuple[int, int] | None
    read: int
    total: int
    behind: int

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the smallest rectangle that holds all that is read; (0, 0) when nothing is."""
        rows, columns = np.nonzero(self.grid)
        return (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) if rows.size else (0, 0)

    def cropped(self, largest: int = LARGEST) -> tuple[np.ndarray, tuple[int, int], tuple[int, int] | None]:
        """The grid around what is read, where its first row and column lie in the whole, and the centre in the part."""
        spans = [self._span(axis, largest) for axis in (0, 1)]
        (top, bottom), (left, right) = spans
        center = None
        if self.center is not None:
            row, column = self.center[0] - top, self.center[1] - left
            center = (row, column) if 0 <= row < bottom - top and 0 <= column < right - left else None
        return self.grid[top:bottom, left:right], (top, left), center

    def _span(self, axis: int, largest: int) -> tuple[int, int]:
        length = self.grid.shape[axis]
        used = np.nonzero(self.grid.any(axis=1 - axis))[0].tolist()
        if self.center is not None:
            used.append(self.center[axis])
        if not used:
            return 0, min(length, largest)
        first, last = min(used), max(used)
        margin = 2
        return (max(first - margin, 0), min(last + margin + 1, length)) if last - first < largest else (0, length)

    def words(self) -> str:
        """One sentence: ``one output reads 3 x 3 of 56 x 56 positions, and 64 of 64 elements behind each``."""
        positions = int((self.grid > 0).sum())
        shape = [n for n, _ in zip(self.grid.shape[2 - len(self.axes):], self.axes)]
        rows, columns = self.extent
        if not positions:
            return 'one output reads nothing'
        if len(self.axes) == 2 and positions == rows * columns:
            read = f'{rows} x {columns}'
        elif len(self.axes) == 2:
            read = f'{positions} (scattered over {rows} x {columns})'
        else:
            read = str(positions) if positions == columns else f'{positions} (scattered over {columns})'
        text = f'one output reads {read} of {" x ".join(map(str, shape)) or 1} positions'
        if self.behind > 1:
            # What is behind a position may differ from one to the next (channels that depend on the tap).
            most = round(float(self.grid.max()) * self.behind)
            text += f', {most} of {self.behind} channels at each' if self._even else f', up to {most} of {self.behind} channels'
        return text

    @property
    def _even(self) -> bool:
        used = self.grid[self.grid > 0]
        return bool(np.allclose(used, used[0]))

    def to_text(self) -> str:
        """The cropped grid for terminals: a mark for each position, darker where more is read.

        The output's own position is a ``◆`` where it is read, a ``◇`` where not.
        """
        part, _, center = self.cropped()
        lines = []
        for r, row in enumerate(part):
            marks = [_MARKS[0 if v <= 0 else max(1, math.ceil(v * (len(_MARKS) - 1)))] for v in row]
            if center is not None and center[0] == r:
                marks[center[1]] = '◇' if marks[center[1]] == _MARKS[0] else '◆'
            lines.append(' '.join(marks))
        return '\n'.join(lines)


def receptive_field(op: Graph, sizes: Binding) -> ReceptiveField | None:
    """What the output element in the middle reads at a binding; None where looking would take long.

    The grid's axes are the input dimensions of spatial size (H, W, L, T), the last two if there are more; without any,
    the last dimension.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    bound = op.check_sizes(sizes)
    shape = op.input_shape(bound)
    if math.prod(s.value(bound) for s in op.reductions) > MAX_SUMMED or math.prod(shape) > MAX_ELEMENTS:
        return None
    axes = _map_axes(op)
    output = tuple(0 if s.variables == {'N'} else s.value(bound) // 2 for s in op.outputs)
    mask = read_mask(op, output, bound)
    read = int(mask.sum())
    others = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    behind = math.prod(shape[axis] for axis in others)
    grid = mask.mean(axis=others) if others else mask.astype(float)
    grid = np.asarray(grid, dtype=float).reshape((1,) * (2 - len(axes)) + grid.shape)
    return ReceptiveField(dict(bound), output, axes, grid, _center(op, axes, output, bound), read, math.prod(shape), behind)


def _map_axes(op: Graph) -> tuple[int, ...]:
    found = [n for n, c in enumerate(op.inputs) if any(c.size.exponent(v) > 0 for v in MAP_VARIABLES & c.size.variables)
             and not any(v.startswith('C') for v in c.size.variables)]
    return tuple(found[-2:]) if found else tuple(range(len(op.inputs)))[-1:]


def _center(op: Graph, axes: tuple[int, ...], output: tuple[int, ...], sizes: Binding) -> tuple[int, int] | None:
    """The output's own position among the grid's axes: outputs of the same sizes, taken from the last."""
    at, free = [], list(range(len(op.outputs)))
    for axis in reversed(axes):
        match = [n for n in free if op.outputs[n] == op.inputs[axis].size]
        if not match:
            return None
        at.append(output[match[-1]])
        free = [n for n in free if n < match[-1]]
    return ((0, 0, *reversed(at))[-2:]) if at else None  # type: ignore[return-value]


def small_sizes(op: Graph, largest: int = 1 << 23) -> dict[str, int] | None:
    """A small binding at which the operator can be computed by its definition; None when none of those tried will do.

    Args:
        op: the operator.
        largest: how many products the whole output may take.
    """
    for sizes in _tries(op):
        try:
            bound = op.check_sizes(sizes)
        except SizeError:
            continue
        work = math.prod(op.output_shape(bound)) * math.prod(s.value(bound) for s in op.reductions)
        if work <= largest:
            return bound
    return None


def _tries(op: Graph) -> Iter[dict[str, int]]:
    fixed = {'N': 1, 'k_1': 3, 'k_2': 7, 's': 2}
    maps = MAP_VARIABLES & op.variables
    channels = [v for v in op.variables if v.startswith('C')]
    others = [v for v in op.variables if v not in fixed and v not in maps and v not in channels and v != 'g']
    for width, share, side, other in product((8, 16, 32, 64), (2, 4, 1, 8), (20, 16, 28, 24, 32, 48, 64), (4, 2, 8)):
        sizes = {v: n for v, n in fixed.items() if v in op.variables}
        sizes |= dict.fromkeys(maps, side) | dict.fromkeys(channels, width) | dict.fromkeys(others, other)
        if 'g' in op.variables:
            sizes['g'] = max(width // share, 1)
        yield sizes
