"""The slot as an NNI module: a layer of a model space that a choice of operator fills."""
from __future__ import annotations

from collections.abc import Callable

from nni.mutable import Sample, ensure_frozen
from nni.nas.nn.pytorch import ModelSpace, MutableModule
from torch import Tensor, nn

from . import patches
from .fitting_strategies import why_not
from .mutable import KEEP, OperatorChoice, SpaceSpec, operator_pool

__all__ = ['Fill', 'ModelSpace', 'OperatorSlot']
# ModelSpace is NNI's own: whoever imports it from here gets it without the warnings of NNI's import.

Fill = Callable[[str], nn.Module]
"""Makes the layer for a formula; never called with :data:`~.mutable.KEEP`."""


class OperatorSlot(MutableModule):
    """A layer of a backbone that may be replaced by an operator. Must be made inside a ``ModelSpace.__init__``.

    All slots of one label share one choice. In a trial NNI calls :meth:`create_fixed_module` in place of ``__init__``,
    so that the model holds plain layers and nothing of NNI.

    Args:
        layer: the original layer, used for the value ``keep``.
        fill: makes the replacement for a formula.
        space: description of the operator space (see :func:`~.mutable.operator_space`).
        keep: probability with which a random sample keeps the layer.
        label: name of the choice.
        pool: number of operators to choose from (see :func:`~.mutable.operator_pool`); 0 for the whole space.
        any_operator: whether the choice is any operator, of the space or not.
    """

    @classmethod
    def create_fixed_module(cls, sample: Sample, layer: nn.Module, fill: Fill, space: SpaceSpec, *,
                            keep: float = 0.0, label: str = 'operator', pool: int = 0,
                            any_operator: bool = False) -> nn.Module:
        # Not validated against the space: the sampling side has done it, and a winner must load in a changed space.
        return _filled(layer, fill, sample[label])

    def __init__(self, layer: nn.Module, fill: Fill, space: SpaceSpec, *, keep: float = 0.0, label: str = 'operator',
                 pool: int = 0, any_operator: bool = False) -> None:
        super().__init__()
        patches.refusing_strategies(why_not)
        self.layer = layer
        self.fill = fill
        self.choice = self.add_mutable(operator_pool(space, pool, label=label) if pool else
                                       OperatorChoice(space, keep=keep, label=label, any_operator=any_operator))
        self.dry_run = _filled(layer, fill, ensure_frozen(self.choice))

    def freeze(self, sample: Sample) -> nn.Module:
        """The layer for the sampled operator; weights of a kept layer stay."""
        self.validate(sample)
        return _filled(self.layer, self.fill, self.choice.freeze(sample))

    def forward(self, x: Tensor) -> Tensor:
        return self.dry_run(x)


def _filled(layer: nn.Module, fill: Fill, value: str) -> nn.Module:
    return layer if value == KEEP else fill(value)
