"""A cost model for programs on a CPU: seconds by kernel class, bytes moved and calls made.

It orders plans; it does not predict latencies. The constants are one thread of the host they were measured on
(`Machine`); only their proportions matter, and those are alike on CPUs with wide vector units.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from .program import Program, Step, multiply_adds

VIEWS = {'reshape', 'unsqueeze', 'narrow', 'every'}

PASSES = {'roll': 1.0, 'wrap': 1.0, 'pad': 1.2, 'digits': 1.8, 'shear': 2.0, 'windows': 2.0, 'carry': 1.2,
          'carry_sum': 2.5, 'shear_sum': 2.5}
"""How many times calls that only move data go over it."""


@dataclass(frozen=True)
class Machine:
    """What a host does, per second, and what a call costs there.

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


def seconds(program: Program, machine: Machine) -> float:
    """The estimated time of a program once its weights are folded."""
    constant = program.constant_registers()
    return sum(step_seconds(program, step, machine) for step in program.steps if step.output not in constant)


def step_seconds(program: Program, step: Step, machine: Machine) -> float:
    """The estimated time of one step."""
    shapes = [program.shape(r) for r in step.inputs]
    read, written = 4 * math.prod(shapes[0]), 4 * math.prod(step.shape)
    moved = (read + written) / machine.copy
    if step.kind == 'permute':  # what follows makes it contiguous
        inner = step.arguments[0][-1] == len(step.shape) - 1
        return machine.call + (read + written) / (machine.copy if inner else machine.scatter)
    if step.kind == 'expand':  # as for a permutation
        return machine.call + written / machine.copy
    if step.kind in VIEWS:
        return 0.3 * machine.call
    work = multiply_adds(program, step)
    if step.kind == 'conv':
        return 4 * machine.call + moved + _convolution(shapes[1], step, work, machine)
    if step.kind in ('matmul', 'einsum'):
        kernel = 4 * math.prod(shapes[1 if len(shapes) > 1 and step.inputs[0] == 0 else 0]) / machine.load
        rows, columns = step.shape[-2:] if len(step.shape) > 1 else (1, step.shape[-1])
        rate = machine.dense * _filled(columns, machine.lanes) * _filled(rows, 4) * _filled(shapes[0][-1], 4)
        return machine.call + moved + kernel + work / rate
    if step.kind == 'box':
        return 4 * machine.call + moved + work / (0.1 * machine.dense)
    if step.kind in ('sum', 'digit_sum'):
        inner = max(step.arguments[0]) == len(shapes[0]) - 1 if step.kind == 'sum' else (
            step.arguments[0] == len(shapes[0]) - 1)
        return machine.call + (4 if inner else 1.5) * (read + written) / machine.scatter * (0.7 if inner else 1)
    if step.kind in PASSES:
        inner = step.kind == 'windows' or (step.kind == 'digits' and step.arguments[0] == len(step.shape) - 1)
        rows = math.prod(step.shape[:-1]) * 4e-9  # short rows cost more to start than to copy
        rate = machine.scatter if inner else machine.copy
        return 2 * machine.call + rows + PASSES[step.kind] * (read + written) / rate
    return machine.call + moved


def _convolution(kernel: tuple[int, ...], step: Step, work: int, machine: Machine) -> float:
    """Seconds of a convolution beside its call and its data."""
    groups = step.arguments[1]
    outer, inner = kernel[0] // groups, kernel[1]
    loaded = 4 * math.prod(kernel) / machine.load
    if groups > 1 and outer == inner == 1:
        return work / (0.1 * machine.dense)
    rate = machine.dense * _filled(outer, machine.lanes) * max(_filled(inner, machine.lanes), 0.5)
    if groups > 1:
        rate *= 0.5 if outer < machine.lanes else 0.9
    if len(kernel) == 5:
        rate *= 0.5
    return loaded + work / rate


def _filled(extent: int, lanes: int) -> float:
    """How much of the vector lanes an extent fills."""
    return extent / (math.ceil(extent / lanes) * lanes)
