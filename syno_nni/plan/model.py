"""A cost model for programs on a CPU: seconds by kernel class, bytes moved and calls made."""
from __future__ import annotations

import math
from dataclasses import dataclass

from .program import Program, Step, multiply_adds

VIEWS = {'reshape', 'permute', 'expand', 'unsqueeze', 'narrow', 'every'}


@dataclass(frozen=True)
class Machine:
    """What a host does, per second, and what a call costs there.

    Attributes:
        dense: multiply-adds of a wide convolution or matrix product.
        bytes: of a copy, read and written.
        call: seconds of an operation beside its work.
    """
    dense: float = 1.0e11
    bytes: float = 1.2e10
    call: float = 4e-6


def seconds(program: Program, machine: Machine) -> float:
    """The estimated time of a program once its weights are folded."""
    constant = program.constant_registers()
    return sum(step_seconds(program, step, machine) for step in program.steps if step.output not in constant)


def step_seconds(program: Program, step: Step, machine: Machine) -> float:
    shapes = [program.shape(r) for r in step.inputs]
    read, written = sum(4 * math.prod(s) for s in shapes), 4 * math.prod(step.shape)
    if step.kind == 'permute':  # what follows makes it contiguous
        return machine.call + 1.5 * (read + written) / machine.bytes
    if step.kind in VIEWS:
        return 0.25 * machine.call
    work = multiply_adds(program, step)
    moved = (read + written) / machine.bytes
    if step.kind == 'conv':
        groups = step.arguments[1]
        inner, outer = shapes[1][1] * math.prod(shapes[1][2:]), shapes[1][0] // groups
        rate = machine.dense * _filled(outer, 16) * _filled(inner, 8) * (0.5 if len(shapes[1]) == 5 else 1)
        return 4 * machine.call + moved + work / rate
    if step.kind in ('matmul', 'einsum'):
        rate = machine.dense * _filled(step.shape[-1], 16) * _filled(step.shape[-2] if len(step.shape) > 1 else 1, 4)
        return 2 * machine.call + moved + work / rate
    if step.kind in ('roll', 'shear', 'digits', 'pad', 'windows'):
        return 2 * machine.call + 1.5 * moved
    return machine.call + moved


def _filled(extent: int, lanes: int) -> float:
    """How much of the vector lanes an extent fills."""
    return max(extent / (math.ceil(extent / lanes) * lanes), 1 / lanes)
