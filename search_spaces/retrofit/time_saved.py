"""What an operator saves where it stands: the latency of the whole model, with all slots of one shape replaced, in turns with
the original.

Layers on their own tell little in a runtime that fuses them with their neighbours and keeps the layout from one to the next;
and on small models a call costs as much as its work. Within the model both are as they will be.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from syno_nni.errors import MeasureError
from syno_nni.measure.lock import measurement_lock
from syno_nni.measure.runtime import Rounds
from syno_nni.measure.runtimes import runtime_of
from syno_nni.measure.threads import torch_threads
from syno_nni.modes import evaluating
from syno_nni.operator import Operator
from syno_nni.search_spaces.slots import Slot

from .retrofit import retrofit

ROUNDS = Rounds(warmup=3, min_rounds=30, max_rounds=60, seconds=2.0)
AT_ONCE = 10
"""Models that take turns; more of them would make a round longer than the machine stays as it is."""


class TimeSaved:
    """Measures in one runtime.

    Args:
        model: the original.
        example: the input, [batch, channels, height, width].
        runtime, threads: as for :func:`~syno_nni.measure.latency.measure_pair`.
        rounds: of turns for each measurement.
    """

    def __init__(self, model: nn.Module, example: Tensor, *, runtime: str, threads: int = 1,
                 rounds: Rounds = ROUNDS) -> None:
        self.model, self.example = model.eval(), example
        self.threads, self.rounds = threads, rounds
        self._runtime = runtime_of(runtime).quick()
        self.original_ms = float(np.median(self._time([])[0]))
        """Latency of the original, when this was made; what is saved is told in parts of it."""

    def of(self, fillings: Sequence[tuple[Operator, Sequence[Slot]]]) -> list[float | None]:
        """Milliseconds that every slot saves, for each operator in its slots, on the mean over them; negative where the
        operator is slower. None where the model does not run with it in the runtime."""
        saved: list[float | None] = []
        for start in range(0, len(fillings), AT_ONCE):
            saved += self._saved(fillings[start:start + AT_ONCE])
        return saved

    def _saved(self, fillings: Sequence[tuple[Operator, Sequence[Slot]]]) -> list[float | None]:
        models = [deployed(retrofit(self.model, op, slots=slots, check=False)) for op, slots in fillings]
        try:
            original, *others = self._time(models)
        except MeasureError:
            if len(fillings) == 1:
                return [None]
            # One of them: the others are measured without it.
            return [saved for filling in fillings for saved in self._saved([filling])]
        return [self.original_ms * float(np.median(1 - other / original)) / sum(s.calls for s in slots)
                for other, (_, slots) in zip(others, fillings, strict=True)]

    def _time(self, models: Sequence[nn.Module]) -> list[np.ndarray]:
        everyone = [deployed(self.model), *models]
        with measurement_lock(), torch_threads(self.threads), evaluating(*everyone), torch.no_grad():
            timed = self._runtime.time(everyone, self.example, threads=self.threads, rounds=self.rounds)
        return [np.asarray(times) for times in timed.timings_ms]


def deployed(model: nn.Module) -> nn.Module:
    """A copy of the model in the form in which it would be deployed."""
    return reparameterize_model(model.eval())


def by_shape(slots: Sequence[Slot]) -> Mapping[str, list[Slot]]:
    """Slots whose layers take the same time, by a readable label."""
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        sizes = ' '.join(f'{k}={v}' for k, v in slot.sizes.items() if k in ('C_in', 'C_out', 'H', 'W', 'L', 'T'))
        window = 'x'.join(map(str, slot.kernel)) or slot.module_type
        stride = f' /{"x".join(map(str, slot.stride))}' if any(s > 1 for s in slot.stride) else ''
        groups.setdefault(f'{window} {sizes} groups={slot.groups}{stride}', []).append(slot)
    return groups
