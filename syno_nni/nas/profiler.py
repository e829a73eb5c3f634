"""Cost of a sample before any training, in NNI's profiler interface: measured latency, MACs, parameters."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from nni.mutable import Sample
from nni.nas.profiler import Profiler
from nni.nas.space import model_context
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from syno_nni.measure.latency import PairLatency, measure_pair
from syno_nni.modes import evaluating
from syno_nni.plan.layer import SynthesizedLayer

from .slot import ModelSpace


class BackboneProfiler(Profiler):
    """Base of profilers that build the model of a sample, as a trial would. Results are remembered by sample.

    Args:
        model_space: the space; only its class and arguments are kept.
        example_shape: shape of the model's input, such as (1, 3, 224, 224).
    """

    def __init__(self, model_space: ModelSpace, example_shape: Sequence[int]) -> None:
        super().__init__(model_space)
        self.factory = model_space.trace_copy()
        self.example_shape = tuple(example_shape)
        self._known: dict[str, float] = {}

    def build(self, sample: Sample) -> nn.Module:
        """The model of a sample, in evaluation mode, with fresh weights."""
        with model_context(sample):
            return self.factory.trace_copy().get(traceable=False).eval()

    def profile(self, sample: Sample) -> float:
        key = json.dumps(sample, sort_keys=True)
        if key not in self._known:
            self._known[key] = self.profile_model(self.build(sample))
        return self._known[key]

    def profile_model(self, model: nn.Module) -> float:
        """The value for a built model."""
        raise NotImplementedError


class LatencyProfiler(BackboneProfiler):
    """Milliseconds per call, really measured, in turns with a baseline.

    Args:
        model_space, example_shape: see :class:`BackboneProfiler`.
        baseline: sample to measure against, usually the one that keeps every layer.
        options: of :func:`~syno_nni.measure.latency.measure_pair`.
    """

    def __init__(self, model_space: ModelSpace, example_shape: Sequence[int], baseline: Sample, **options: Any) -> None:
        super().__init__(model_space, example_shape)
        self.baseline = self.build(baseline)
        self.options = options

    def profile_model(self, model: nn.Module) -> float:
        return self.measure(model).candidate.median_ms

    def measure(self, model: nn.Module) -> PairLatency:
        """The whole measurement, baseline and speedup included."""
        return measure_pair(model, self.baseline, torch.randn(self.example_shape), **self.options)


class MacsProfiler(BackboneProfiler):
    """Multiply-accumulates of one call."""

    def profile_model(self, model: nn.Module) -> float:
        return float(count_macs(model, torch.randn(self.example_shape)))


class ParamsProfiler(BackboneProfiler):
    """Number of parameters."""

    def profile_model(self, model: nn.Module) -> float:
        return float(count_params(model))


def count_params(model: nn.Module) -> int:
    """The number of parameter elements, shared ones once."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one call: convolutions and matrix products as torch counts them, and synthesized layers
    by their operator's own count, whatever calls they are lowered to."""
    counter = FlopCounterMode(display=False)
    spent: list[int] = []
    synthesized = 0

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        spent.append(counter.get_total_flops())

    def after(module: SynthesizedLayer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal synthesized
        # Replace what torch saw inside the layer.
        batches = len(inputs[0]) // module.sizes.get('N', 1)
        synthesized += module.op.macs(module.sizes) * batches - (counter.get_total_flops() - spent.pop()) // 2

    hooks = []
    for module in model.modules():
        if isinstance(module, SynthesizedLayer):
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with counter, evaluating(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() // 2 + synthesized
