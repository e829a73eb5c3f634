"""What a host can do: the constants of the cost model."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What a host does, per second, and what a call costs there.

    The defaults are one thread of the host they were measured on; only their proportions matter, and those are alike on
    CPUs with wide vector units.

    Attributes:
        dense: multiply-adds of a wide convolution or matrix product.
        lanes: numbers in a vector register; narrower channel counts waste the rest.
        copy: bytes read and written by a copy of rows.
        scatter: bytes read and written by a copy that changes the innermost dimension, or adds along it.
        load: bytes of a kernel, which is read once and used for few positions.
        call: seconds of an operation beside its work.
    """
    dense: float = 5.0e10
    lanes: int = 16
    copy: float = 6.0e10
    scatter: float = 2.0e10
    load: float = 2.0e10
    call: float = 3e-6
