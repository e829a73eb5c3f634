"""Plans for other shapes inside of graphs that `torch.compile` and `torch.export` make.

Imported only there: what it needs of torch takes long to import.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch.fx.experimental.symbolic_shapes import guard_scalar

from syno_nni.errors import SynoError

from .optimize import Plan

ONE_GRAPH = tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 14)
"""Whether `torch.compile` takes a module for a constant, so that other sizes stay within one graph: 2.14 does, 2.10 fails."""


class Planned(Protocol):
    """What is needed of a `PlannedLayer`."""
    plan: Plan

    @property
    def other_plans(self) -> Mapping[tuple[int, ...], Plan]: ...

    def plan_at(self, shape: Sequence[int]) -> Plan: ...


def plan_in_graph(layer: Planned, shape: Sequence[int]) -> Plan | None:
    """The plan for a shape, whose sizes may be symbols: the graph is for their values, and for others there is another.

    None, outside of the graph, where the shape does not fit. Before :data:`ONE_GRAPH`, the graph breaks here.
    """
    own = tuple([int(guard_scalar(n)) for n in shape[int(layer.plan.batch):]])
    if not ONE_GRAPH:
        return torch._dynamo.disable(layer.plan_at)((1, *own) if layer.plan.batch else own)
    problem = _prepare(layer, *own)
    if not problem:
        return layer.other_plans[own]
    torch._dynamo.graph_break(msg=problem)
    return None


@torch.compiler.assume_constant_result
def _prepare(layer: Planned, *own: int) -> str:
    """Plans for a shape before the compiler looks for the plan. Returns what is wrong with the shape, or ''."""
    try:
        layer.plan_at((1, *own) if layer.plan.batch else own)
    except SynoError as error:
        return str(error)
    return ''
