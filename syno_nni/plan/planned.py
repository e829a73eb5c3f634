"""What layers that run plans have in common: the plan for every shape of input, and a good guest's manners.

A layer is planned when it is built, for the sizes it is bound to. An input of another shape that the operator allows
gets a plan of its own, once (`syno_nni.plan.resize`); the weights stay as they are. `torch.fx` sees one node,
`torch.jit.trace` keeps the size that it saw and refuses others, `torch.compile` compiles once per size.
"""
from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from syno_nni.errors import GraphError
from syno_nni.measure.work import Work
from syno_nni.operator import Operator
from syno_nni.operator.size import Binding

from .optimize import Plan, plans
from .resize import resized

OTHER_SHAPES = 64
"""How many plans for other shapes a layer keeps; those not used for longest are planned anew."""


class PlannedLayer(nn.Module):
    """An operator at a binding, with the plans for it and other shapes.

    Attributes:
        op: the operator.
        sizes: the binding.
        weights: one parameter for each weight of the operator, in its order, with ``op.weight_shapes(sizes)``.
        plan: the library calls at these sizes, on `tensors`.
        other_plans: those for other shapes, on the weights.
    """
    plan: Plan

    def __init__(self, op: Operator, sizes: Binding, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.op = op
        self.sizes = op.check_sizes(sizes)
        self.weights = nn.ParameterList(weights)
        self.other_plans: OrderedDict[tuple[int, ...], Plan] = OrderedDict()

    def tensors(self) -> list[Tensor]:
        """What the plan for the layer's own sizes takes beside the input."""
        return list(self.weights)

    def forward(self, x: Tensor) -> Tensor:
        """``op.input_shape(sizes)`` to ``op.output_shape(sizes)``, with any batch and any sizes that no weight depends on.

        Raises:
            GraphError: the input has another number of dimensions, or another size where the weights fix it.
            SizeError: the formula does not allow the size; names those nearest to it that it does.
        """
        if isinstance(x, fx.Proxy):
            return as_leaf(self, x)
        if torch.jit.is_tracing():
            return self._traced(x)
        plan = self.plan
        shape = x.shape[1:] if plan.batch else x.shape
        if shape == plan.input_shape:
            return plan.program(x, self.tensors())
        return self._other_plan(x.shape).program(x, list(self.weights))

    def plan_at(self, shape: Sequence[int]) -> Plan:
        """The plan for an input of this shape, batch included. Raises as `forward`."""
        shape = tuple(shape)
        own = shape[int(self.plan.batch):]
        if own == self.plan.input_shape:
            return self.plan
        plan = self.other_plans.get(own)
        if plan is None:
            plan = plans(*resized(self.op, self.sizes, shape))[0]
            self.other_plans[own] = plan
            if len(self.other_plans) > OTHER_SHAPES:
                self.other_plans.popitem(last=False)
        return plan

    def work(self, shape: Sequence[int] | None = None) -> tuple[Work, ...]:
        """What the layer does, for a cost model (`syno_nni.measure.cost_model`).

        Args:
            shape: of the input, batch included; None for that of the binding. Raises as `forward`.
        """
        if shape is None:
            return self.plan.work()
        return self.plan_at(shape).work(shape)

    def _other_plan(self, shape: Sequence[int]) -> Plan:
        if torch.compiler.is_compiling():
            from .compiled import plan_in_graph
            plan = plan_in_graph(self, shape)
            if plan is not None:
                return plan
        return self.plan_at(shape)

    def _traced(self, x: Tensor) -> Tensor:
        """For `torch.jit.trace`, whose graph holds for this size alone: it checks that the size is the same."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', torch.jit.TracerWarning)  # sizes that become constants, as they must
            shape = tuple(int(n) for n in x.shape)
            plan = self.plan_at(shape)
            for dim in range(int(plan.batch), len(shape)):
                x = x.unflatten(dim, (shape[dim],))
            return plan.program(x, self.tensors() if plan is self.plan else list(self.weights))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PlannedLayer:
        """Moves and converts the tensors without their axes being taken for those of images (``memory_format``)."""
        def on_flat(tensor: Tensor) -> Tensor:
            return fn(tensor.reshape(-1)).reshape(tensor.shape) if tensor.dim() in (4, 5) else fn(tensor)
        return super()._apply(on_flat, recurse)

    def __prepare_scriptable__(self) -> NoReturn:
        """What `torch.jit.script` calls first.

        Raises:
            GraphError: always; plans are data that TorchScript cannot read.
        """
        raise unscriptable(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault('other_plans', OrderedDict())  # a module pickled before layers had it


def unscriptable(module: nn.Module) -> GraphError:
    """The error for `torch.jit.script`."""
    return GraphError(f'torch.jit.script cannot read {type(module).__name__}, whose calls are planned for the sizes of its '
                      'input; use torch.jit.trace(model, example), torch.export.export or ONNX instead')


def as_leaf(module: nn.Module, *args: Any) -> Any:
    """One node of the graph that `torch.fx` traces: plans depend on the shapes of real tensors."""
    proxy = next(x for x in args if isinstance(x, fx.Proxy))
    tracer: Any = proxy.tracer
    return tracer.create_proxy('call_module', tracer.path_of_module(module), args, {})
