"""What the assignment solver needs to know: latency and accuracy loss of every operator in every slot group.

Latencies add up over slots, losses are assumed to: each is the loss of the model in which only that group is filled,
warm-started and not yet fine-tuned, so it ranks the choices rather than predicts the final accuracy.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from syno_nni.errors import SlotError
from syno_nni.measure.latency import measure_pair
from syno_nni.modes import evaluating
from syno_nni.operator import Operator
from syno_nni.search_spaces.coefficients import fitting, unfit
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.layout import Layout
from syno_nni.search_spaces.slots import Slot
from syno_nni.search_spaces.trace import LAYERS, Example, example_of

from .knapsack import KEEP
from .retrofit import retrofit
from .warm_start import warm_start

Timer = Callable[[nn.Module, nn.Module, Tensor], tuple[float, float]]
"""Times candidate and baseline on one input: (baseline in ms, baseline / candidate)."""


def slot_latencies(model: nn.Module, groups: Mapping[str, Sequence[Slot]], operators: Iterable[Operator], *,
                   timer: Timer | None = None) -> dict[str, dict[str, float]]:
    """Latency in ms of every group with its layers kept and with each operator that fits all its slots.

    Each distinct layer shape is measured once, operator and layer in turns, at batch 1, and counts as often as the
    group calls it. Returns ``{group: {'keep' or operator id: ms}}``, what
    :func:`~syno_nni.search_spaces.retrofit.knapsack.options_from` takes.
    """
    timer = timer or _interleaved
    operators = list(operators)
    known: dict[tuple[Any, ...], tuple[float, dict[str, float]]] = {}
    result: dict[str, dict[str, float]] = {}
    for name, slots in groups.items():
        total = {KEEP: 0.0, **{op.id: 0.0 for op in operators if not any(unfit(op, s) for s in slots)}}
        for slot in slots:
            shape = _shape_key(slot)
            if shape not in known:
                known[shape] = _measure_slot(model.get_submodule(slot.name), slot, operators, timer)
            keep_ms, by_operator = known[shape]
            total[KEEP] += slot.calls * keep_ms
            for op_id in total.keys() - {KEEP}:
                total[op_id] += slot.calls * by_operator[op_id]
        result[name] = total
    return result


def slot_losses(model: nn.Module, groups: Mapping[str, Sequence[Slot]], operators: Iterable[Operator],
                score: Callable[[nn.Module], float], *, batches: Sequence[Any] | None = None,
                ) -> dict[str, dict[str, float]]:
    """How much ``score`` (accuracy in points, say; more is better) falls when one group is filled with one operator.

    The operators are warm-started on ``batches`` (see :func:`~syno_nni.search_spaces.retrofit.warm_start.warm_start`).
    ``score`` sees models in evaluation mode. Returns ``{group: {operator id: loss}}``.
    """
    with evaluating(model):
        baseline = score(model)
    losses: dict[str, dict[str, float]] = {}
    for name, slots in groups.items():
        losses[name] = {}
        for op in operators:
            if any(unfit(op, s) for s in slots):
                continue
            candidate = retrofit(model, op, slots=slots)
            warm_start(model, candidate, batches)
            losses[name][op.id] = baseline - score(candidate.eval())
    return losses


def slot_errors(model: nn.Module, groups: Mapping[str, Sequence[Slot]], operators: Iterable[Operator], *,
                batches: Sequence[Any] | None = None, sweeps: int = 4) -> dict[str, dict[str, float]]:
    """What :func:`slot_losses` returns where there is no score: the relative squared error of the slots' outputs that a
    warm start leaves, weighted by their shares of the MACs. It needs no labels, and without ``batches`` no data.
    """
    errors: dict[str, dict[str, float]] = {}
    for name, slots in groups.items():
        errors[name] = {}
        for op in operators:
            if not any(unfit(op, s) for s in slots):
                left = warm_start(model, retrofit(model, op, slots=slots), batches, sweeps=sweeps)
                errors[name][op.id] = sum(s.share * left[s.name] for s in slots)
    return errors


def layer_latencies(model: nn.Module, example_input: Example = None, *, rounds: int = 15) -> dict[str, float]:
    """Latency in ms that every convolution and linear layer has within the running model: the median of ``rounds``.

    Measured in torch's eager runtime, in evaluation mode, summed over the calls of a layer. A guide to where the time
    goes, for the slot table; compare operators with :func:`slot_latencies`.

    Raises:
        SlotError: the model does not run on the example input.
    """
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if name and isinstance(m, LAYERS)}
    timings: list[dict[str, float]] = []
    started: dict[nn.Module, float] = {}

    def enter(module: nn.Module, *_: Any) -> None:
        started[module] = time.perf_counter()

    def leave(module: nn.Module, *_: Any) -> None:
        spent = (time.perf_counter() - started[module]) * 1e3
        timings[-1][names[module]] = timings[-1].get(names[module], 0.0) + spent

    args, kwargs = example_of(model, example_input)
    handles = [h for m in names for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with torch.inference_mode(), evaluating(model):
            for _ in range(rounds + 2):
                timings.append({})
                model(*args, **kwargs)
    except Exception as error:
        raise SlotError(f'{type(model).__name__} does not run on the example input: {type(error).__name__}: {error}'
                        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return {name: statistics.median(t[name] for t in timings[2:]) for name in timings[-1]}


def layer_input(slot: Slot) -> Tensor:
    """A standard normal input of the slot's layer, for one sample."""
    layout = Layout.named(slot.layout)
    axes = slot.input_size if layout.channels_first else layout.axes(slot.sizes)
    return torch.randn(layout.shape(slot.sizes['N'], slot.sizes['C_in'], axes))


def _measure_slot(layer: nn.Module, slot: Slot, operators: Sequence[Operator], timer: Timer,
                  ) -> tuple[float, dict[str, float]]:
    x = layer_input(slot).to(next(layer.parameters()))
    keep_ms, by_operator = timer(layer, layer, x)[0], {}
    for op in operators:
        if not unfit(op, slot):
            _, speedup = timer(FilledSlot.of(op, fitting(op, slot)).to(x), layer, x)
            # The ratio of turns is steadier than a time of its own.
            by_operator[op.id] = keep_ms / speedup
    return keep_ms, by_operator


def _shape_key(slot: Slot) -> tuple[Any, ...]:
    return (slot.module_type, slot.kernel, slot.groups, slot.stride, slot.offset, slot.striding, slot.bias, slot.layout,
            slot.input_size, tuple(sorted(slot.sizes.items())))


def _interleaved(candidate: nn.Module, baseline: nn.Module, example: Tensor) -> tuple[float, float]:
    pair = measure_pair(candidate, baseline, example, seconds=0.5)
    return pair.baseline.median_ms, pair.speedup
