"""What a search maximises, and its hard limits."""
from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from syno_nni.schema import Count, Fraction, Positive, Section, Weight

from .candidate import Miss


class ObjectiveConfig(Section):
    """What ``default``, the number that NNI maximises, is made of (see :meth:`score`), and hard limits.

    A candidate beyond ``maxMacs``, ``maxParams``, ``maxLatencyMs`` or ``minSpeedup`` is rejected before it is trained;
    the first two before a trial is started. They hold for the whole model: multiply-accumulates of one image,
    parameters, milliseconds, times the original model's speed. ``maxAccuracyLoss`` (0.01 is one point) is how much less
    accurate than the original the winner may be; a search by retrofit wants the fastest model within it.
    """
    accuracy_weight: Annotated[Weight, Field(le=1e6)] = 1.0
    speedup_weight: Annotated[Weight, Field(le=1e6)] = 0.05
    max_latency_ms: Annotated[Positive, Field(le=1e9)] | None = None
    min_speedup: Annotated[Positive, Field(le=1e6)] | None = None
    max_macs: Count | None = None
    max_params: Count | None = None
    min_accuracy: Fraction | None = None
    max_accuracy_loss: Fraction | None = None

    @model_validator(mode='after')
    def _says_something(self) -> ObjectiveConfig:
        if self.accuracy_weight == self.speedup_weight == 0:
            raise ValueError('accuracyWeight and speedupWeight are both 0: nothing to maximise')
        return self

    def score(self, accuracy: float, latency_ms: float, baseline_latency_ms: float,
              original_accuracy: float | None = None) -> float:
        """``accuracyWeight * accuracy + speedupWeight * log2(speedup)``, less 1 for each limit that is broken.

        The logarithm makes a step from 1x to 2x worth as much as one from 2x to 4x. With the defaults, being twice
        as fast makes up for five points of accuracy.
        """
        score = self.accuracy_weight * accuracy + self.speedup_weight * math.log2(baseline_latency_ms / latency_ms)
        score -= self.max_latency_ms is not None and latency_ms > self.max_latency_ms
        score -= self.min_accuracy is not None and accuracy < self.min_accuracy
        if self.max_accuracy_loss is not None and original_accuracy is not None:
            score -= accuracy < original_accuracy - self.max_accuracy_loss
        return score

    def too_large(self, macs: float, params: float) -> Miss | None:
        """Why a model of this size is out of bounds, and by how far, or None."""
        for name, value, limit in (('MACs', macs, self.max_macs), ('parameters', params, self.max_params)):
            if limit is not None and value > limit:
                return Miss(f'{value:.0f} {name}, allowed are {limit} '
                            f'(objective.max{"Macs" if name == "MACs" else "Params"})', math.log2(value / limit))
        return None

    def too_slow(self, latency_ms: float, speedup: float) -> Miss | None:
        """Why a model of this speed is out of bounds, and by how far, or None."""
        if self.max_latency_ms is not None and latency_ms > self.max_latency_ms:
            return Miss(f'{latency_ms:.3g} ms, allowed are {self.max_latency_ms:g} (objective.maxLatencyMs)',
                        math.log2(latency_ms / self.max_latency_ms))
        if self.min_speedup is not None and speedup < self.min_speedup:
            return Miss(f'speedup {speedup:.3g}, wanted are {self.min_speedup:g} (objective.minSpeedup)',
                        math.log2(self.min_speedup / speedup))
        return None
