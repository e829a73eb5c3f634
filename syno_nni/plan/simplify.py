"""Tidying a program: permutations with nothing but regrouping between them become one, so data is copied once; and what
a stride leaves out is not computed.
"""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from .program import Program, Step


def simplify(program: Program) -> Program:
    """The same program with fewer copies."""
    while True:
        steps = list(program.steps)
        readers = Counter([program.result, *(register for step in steps for register in step.inputs)])
        at = {step.output: n for n, step in enumerate(steps)}
        if not any(rule(steps, n, at, readers) for n in range(len(steps)) for rule in (_join, _swap, _stride, _earlier)):
            return program
        program = _renumbered(program, _live(steps, program.result))


def _before(steps: list[Step], step: Step, kind: str, at: dict[int, int], readers: Counter[int]) -> int | None:
    """Where the step that makes the input of ``step`` is, if it is of a kind and nothing else reads it."""
    n = at.get(step.inputs[0])
    return n if n is not None and steps[n].kind == kind and readers[steps[n].output] == 1 else None


def _join(steps: list[Step], n: int, at: dict[int, int], readers: Counter[int]) -> bool:
    """Two reshapes, or two permutations, in a row are one."""
    last = steps[n]
    if last.kind not in ('reshape', 'permute') or (m := _before(steps, last, last.kind, at, readers)) is None:
        return False
    arguments = last.arguments
    if last.kind == 'permute':
        arguments = (tuple(steps[m].arguments[0][d] for d in last.arguments[0]),)
    steps[n] = replace(last, inputs=steps[m].inputs, arguments=arguments)
    return True


def _swap(steps: list[Step], n: int, at: dict[int, int], readers: Counter[int]) -> bool:
    """Permute, group neighbouring dimensions, permute: the same as permute, permute, group."""
    last = steps[n]
    if last.kind != 'permute' or (m := _before(steps, last, 'reshape', at, readers)) is None:
        return False
    middle = steps[m]
    if (f := _before(steps, middle, 'permute', at, readers)) is None:
        return False
    first = steps[f]
    groups = _groups(first.shape, middle.shape, middle.arguments[0])
    if groups is None:
        return False
    order = tuple(d for g in last.arguments[0] for d in groups[g])
    inner = tuple(first.arguments[0][d] for d in order)
    target = tuple(middle.arguments[0][g] for g in last.arguments[0])
    steps[m] = Step('permute', first.inputs, middle.output, (inner,), tuple(first.shape[d] for d in order))
    steps[n] = Step('reshape', (middle.output,), last.output, (target,), last.shape)
    return True


def _stride(steps: list[Step], n: int, at: dict[int, int], readers: Counter[int]) -> bool:
    """Every s-th result of a convolution is a convolution of stride s."""
    last = steps[n]
    if last.kind != 'every' or (m := _before(steps, last, 'conv', at, readers)) is None:
        return False
    dim, step = last.arguments
    if dim < 2:
        return False
    conv = steps[m]
    padding, groups, *known = conv.arguments
    stride = list(known[0]) if known else [1] * len(padding)
    stride[dim - 2] *= step
    steps[n] = Step('conv', conv.inputs, last.output, (padding, groups, tuple(stride)), last.shape)
    return True


def _earlier(steps: list[Step], n: int, at: dict[int, int], readers: Counter[int]) -> bool:
    """Every s-th position after a product over channels (a matrix product between two reshapes) is taken before it."""
    last = steps[n]
    if last.kind != 'every' or (r := _before(steps, last, 'reshape', at, readers)) is None:
        return False
    m = at.get(steps[r].inputs[0])
    if m is None or steps[m].kind != 'matmul' or readers[steps[m].output] != 1:
        return False
    flat = at.get(steps[m].inputs[1])
    if flat is None or steps[flat].kind != 'reshape' or readers[steps[flat].output] != 1:
        return False
    before = at.get(steps[flat].inputs[0])
    dim, _ = last.arguments
    shape = steps[before].shape if before is not None else ()
    positions = math.prod(shape[2:])
    if (dim < 2 or shape[2:] != steps[r].shape[2:] or steps[flat].shape[1:] != (shape[1], positions)
            or len(steps[flat].shape) != 3 or len(steps[m].shape) != 3):
        return False
    rest = last.shape[2:]
    few = math.prod(rest)
    taken, flattened, product = (steps[i].output for i in (flat, m, r))
    batch, channels = steps[flat].shape[0], shape[1]
    steps[flat] = Step('every', steps[flat].inputs, taken, last.arguments, (*shape[:2], *rest))
    steps[n] = replace(steps[r], inputs=(product,), output=last.output, shape=last.shape,
                       arguments=((*steps[r].arguments[0][:2], *rest),))
    steps[r] = Step('matmul', (steps[m].inputs[0], flattened), product, (), (*steps[m].shape[:2], few))
    steps[m] = Step('reshape', (taken,), flattened, ((-1, channels, few),), (batch, channels, few))
    return True


def _groups(fine: tuple[int, ...], coarse: tuple[int, ...], free: tuple[int, ...]) -> list[list[int]] | None:
    """Which neighbouring dimensions of ``fine`` make up each dimension of ``coarse``; None if they do not.

    Dimensions of one element could belong to either neighbour: none may be there, but for a batch in front.
    """
    if 1 in fine[1:] or 1 in coarse[1:] or (fine[:1] == (1,) and free[:1] != (-1,)):
        return None
    result: list[list[int]] = []
    at = 0
    for extent in coarse:
        group = [at] if at < len(fine) else []
        at += 1
        while at < len(fine) and math.prod(fine[d] for d in group) < extent:
            group.append(at)
            at += 1
        if not group or math.prod(fine[d] for d in group) != extent:
            return None
        result.append(group)
    return result if at == len(fine) else None


def _live(steps: list[Step], result: int) -> list[Step]:
    """The steps that the result depends on."""
    needed = {result}
    kept = []
    for step in reversed(steps):
        if step.output in needed:
            needed |= set(step.inputs)
            kept.append(step)
    return kept[::-1]


def _renumbered(program: Program, steps: list[Step]) -> Program:
    number = {n: n for n in range(len(program.shapes))}
    for step in steps:
        number[step.output] = len(number)
    renamed = tuple(replace(s, inputs=tuple(number[r] for r in s.inputs), output=number[s.output]) for s in steps)
    return Program(program.shapes, renamed, number[program.result])
