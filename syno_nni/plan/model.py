"""A cost model for programs on a CPU: seconds by kind of step (`kinds`), bytes moved and calls made.

It orders plans; it does not predict latencies.
"""
from __future__ import annotations

from .kinds import KINDS
from .machine import Machine
from .program import Program, Step, call_of


def seconds(program: Program, machine: Machine) -> float:
    """The estimated time of a program once its weights are folded."""
    constant = program.constant_registers()
    return sum(step_seconds(program, step, machine) for step in program.steps if step.output not in constant)


def step_seconds(program: Program, step: Step, machine: Machine) -> float:
    """The estimated time of one step."""
    call, kind = call_of(program, step), KINDS[step.kind]
    return kind.seconds(call, kind.multiply_adds(call), machine)
