"""Sizes to show an operator at when nothing says which: those of a 3x3 layer of ResNet-18's first stage."""
from __future__ import annotations

from syno_nni.errors import SizeError

from .graph import Graph

EXAMPLE_SIZES = {'N': 1, 'C_in': 64, 'C_out': 64, 'C': 64, 'H': 56, 'W': 56, 'L': 56, 'T': 196, 'k_1': 3, 'k_2': 7,
                 's': 2, 'g': 32}


def example_sizes(op: Graph) -> dict[str, int] | None:
    """:data:`EXAMPLE_SIZES` for the operator's variables; None where it has others, or no shape at these."""
    if not op.variables <= EXAMPLE_SIZES.keys():
        return None
    try:
        return op.check_sizes({v: EXAMPLE_SIZES[v] for v in sorted(op.variables)})
    except SizeError:
        return None
