"""Programs: straight-line lists of library calls on numbered registers.

Register 0 is the input, 1 to n the weights; every step writes the next register. A program is plain data, so it can be
printed, costed, compared, folded and run; running it is a loop that `torch.compile` and the exporters unroll.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from .kinds import KINDS, Call


@dataclass(frozen=True)
class Step:
    """One library call.

    Attributes:
        kind: a key of `KINDS`.
        inputs: the registers that it reads.
        output: the register that it writes.
        arguments: what else the call takes.
        shape: of its result, at the binding's batch size.
    """
    kind: str
    inputs: tuple[int, ...]
    output: int
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        inside = ', '.join([*(f'%{r}' for r in self.inputs), *map(str, self.arguments)])
        return f'%{self.output} = {self.kind}({inside})  # {list(self.shape)}'


@dataclass(frozen=True)
class Program:
    """Steps from the input and the weights to the output.

    Attributes:
        shapes: of the input and the weights, at the binding's batch size.
        steps: in order; step i writes register ``len(shapes) + i``.
        result: the register that holds the output.
    """
    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    result: int
    last_uses: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # For every step the registers that nothing reads after it: memory to give back.
        seen = {self.result}
        uses = []
        for step in reversed(self.steps):
            done = tuple(dict.fromkeys(r for r in (*step.inputs, step.output) if r not in seen))
            seen |= set(done)
            uses.append(done)
        object.__setattr__(self, 'last_uses', tuple(reversed(uses)))

    def __call__(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Runs the program."""
        registers: dict[int, Tensor] = dict(enumerate((x, *weights)))
        for step, done in zip(self.steps, self.last_uses):
            registers[step.output] = KINDS[step.kind].run(*(registers[r] for r in step.inputs), *step.arguments)
            for register in done:
                del registers[register]
        return registers[self.result]

    def shape(self, register: int) -> tuple[int, ...]:
        """The shape of a register at the binding's batch size."""
        return self.shapes[register] if register < len(self.shapes) else self.steps[register - len(self.shapes)].shape

    def constant_registers(self) -> set[int]:
        """The registers that depend on weights alone."""
        constant = set(range(1, len(self.shapes)))
        for step in self.steps:
            if all(r in constant for r in step.inputs):
                constant.add(step.output)
        return constant

    def split(self) -> tuple[Program, Program, tuple[int, ...]]:
        """The part on weights alone, the rest, and the registers of the former that are the weights of the latter."""
        constant = self.constant_registers()
        live = [s for s in self.steps if s.output not in constant]
        kept = tuple(dict.fromkeys(r for s in live for r in s.inputs if r in constant))
        number = {0: 0, **{r: n for n, r in enumerate(kept, 1)}}
        for step in live:
            number[step.output] = len(number)
        steps = tuple(replace(s, inputs=tuple(number[r] for r in s.inputs), output=number[s.output]) for s in live)
        rest = Program((self.shapes[0], *(self.shape(r) for r in kept)), steps, number.get(self.result, 0))
        return replace(self, steps=tuple(s for s in self.steps if s.output in constant)), rest, kept

    def constants(self, weights: Sequence[Tensor], wanted: Sequence[int]) -> list[Tensor]:
        """The values of registers that depend on weights alone."""
        registers: dict[int, Tensor] = dict(enumerate(weights, 1))
        for step in self.steps:
            if all(r in registers for r in step.inputs):
                registers[step.output] = KINDS[step.kind].run(*(registers[r] for r in step.inputs), *step.arguments)
        return [registers[r] for r in wanted]

    def __str__(self) -> str:
        return '\n'.join(map(str, self.steps))


def multiply_adds(program: Program, step: Step) -> int:
    """The multiply-adds of one step; 0 for those that only move data."""
    return KINDS[step.kind].multiply_adds(call_of(program, step))


def call_of(program: Program, step: Step) -> Call:
    """A step with the shapes of what it reads."""
    return Call(tuple(program.shape(r) for r in step.inputs), step.shape, step.arguments, step.inputs[0] == 0)
