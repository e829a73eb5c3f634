"""The evaluator: trains a model by the shared recipe, measures it against the baseline, reports one metric dict."""
from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import nni
import pytorch_lightning as pl
import torch
from nni.nas.evaluator import Evaluator
from nni.nas.space import ExecutableModelSpace
from timm.utils.model import reparameterize_model
from torch import nn

from syno_nni.backbone import create_backbone
from syno_nni.config import SearchConfig
from syno_nni.data import Splits, load_data
from syno_nni.layer import SynthesizedLayer
from syno_nni.measure.latency import measure_pair

from .profiler import count_macs, count_params
from .time_limit import TrialTimeout, time_limit
from .training import accuracy, fit
from .verification import check_layers

_log = logging.getLogger(__name__)
_LONGEST_MESSAGE = 500


@nni.trace
class OperatorEvaluator(Evaluator):
    """Evaluates a backbone with operators in its slots.

    It reports ``default`` (the objective, to be maximised), ``accuracy`` (0 to 1, on the validation split),
    ``latency_ms``, ``baseline_latency_ms``, ``speedup``, ``macs``, ``params``, and as evidence ``loss``,
    ``speedup_low`` and ``speedup_high`` (quartiles), ``noisy`` (0 or 1), ``train_seconds``. An evaluation that fails
    reports ``failure`` (``timeout`` or ``exception``) and a ``message``, so that the strategy learns why, and raises.

    Args:
        config: a resolved experiment file, as ``SearchConfig.to_dict`` returns it. NNI sends it to every trial, so
            it is plain data.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = SearchConfig.from_dict(config)

    def extra_repr(self) -> str:
        return f'model={self.config.model.name!r}, data={self.config.data.name!r}'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OperatorEvaluator) and self.config == other.config

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def data(self) -> Splits:
        """The dataset."""
        return load_data(self.config.data)

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Train and measure ``model``; return what is reported."""
        return self._reporting(lambda: self.metrics(model))

    def _execute(self, model: ExecutableModelSpace) -> dict[str, Any]:
        # NNI makes the model before `evaluate`: the weights too must come from the recipe's seed.
        return self._reporting(lambda: self.metrics(self.build(model)))

    def build(self, model: ExecutableModelSpace) -> nn.Module:
        """The torch model of a frozen sample, with the weights of the recipe's seed."""
        pl.seed_everything(self.config.evaluation.seed, workers=True, verbose=False)
        return model.executable_model()

    def metrics(self, model: nn.Module) -> dict[str, Any]:
        """Train and measure ``model``; report each epoch, but not the result."""
        config, started = self.config, time.monotonic()
        trained = self._fit(model, report=nni.get_current_parameter() is not None)
        train_seconds = time.monotonic() - started
        example = torch.randn(config.latency.batch_size, config.data.channels, *[config.data.image_size] * 2)
        metrics = {'accuracy': trained['accuracy'], **self._latencies(model, example),
                   'macs': count_macs(model, example[:1]), 'params': count_params(model), 'loss': trained['loss'],
                   'train_seconds': round(train_seconds, 2)}
        # The speedup of rounds in turns is steadier than the ratio of two medians, so the objective goes by it.
        latency_ms = metrics['latency_ms']
        score = config.objective.score(metrics['accuracy'], latency_ms, latency_ms * metrics['speedup'])
        return {'default': round(score, 6), **metrics}

    def test(self, model: ExecutableModelSpace) -> dict[str, Any]:
        """Train a frozen sample once more by the recipe; return its ``accuracy`` on the test split (0 to 1) and its
        ``val_accuracy``. Reports nothing to NNI."""
        built = self.build(model)
        trained = self._fit(built)
        return {'accuracy': round(accuracy(built, self.data.test), 6), 'val_accuracy': trained['accuracy']}

    def _fit(self, model: nn.Module, report: bool = False) -> dict[str, float]:
        data = self.data
        return fit(model, self.config.evaluation, data.train, data.val, num_classes=data.num_classes,
                   batch_size=self.config.data.batch_size, report=report)

    def _latencies(self, model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
        latency = self.config.latency
        kept = not any(isinstance(m, SynthesizedLayer) for m in model.modules())
        baseline = model if kept else create_backbone(
            self.config.model.name, **{**self.config.model.kwargs, 'pretrained': False},
            in_chans=self.config.data.channels, num_classes=self.data.num_classes)
        if unchecked := check_layers(model):
            _log.warning('too large to be checked against the definition: %s', ', '.join(unchecked))
        # In the form in which they would be deployed: what depends on weights alone is computed ahead.
        pair = measure_pair(reparameterize_model(model.cpu()), reparameterize_model(baseline.cpu()), example,
                            threads=latency.threads, warmup=latency.warmup, min_rounds=latency.min_rounds,
                            seconds=latency.seconds, runtime=latency.runtime)
        if kept:  # measured against itself: one number, not two with noise between them
            ms = round(pair.baseline.median_ms, 4)
            return {'latency_ms': ms, 'baseline_latency_ms': ms, 'speedup': 1.0, 'speedup_low': 1.0,
                    'speedup_high': 1.0, 'noisy': int(pair.noisy)}
        return {'latency_ms': round(pair.candidate.median_ms, 4),
                'baseline_latency_ms': round(pair.baseline.median_ms, 4), 'speedup': round(pair.speedup, 4),
                'speedup_low': round(pair.speedup_low, 4), 'speedup_high': round(pair.speedup_high, 4),
                'noisy': int(pair.noisy)}

    def _reporting(self, work: Any) -> dict[str, Any]:
        """Run ``work`` within the time limit and report to NNI what comes of it."""
        in_trial = nni.get_current_parameter() is not None
        try:
            with time_limit(self.config.max_trial_duration):
                metrics = work()
        except Exception as error:
            if in_trial:
                # `default` too: NNI's listener dies of a metric without it.
                nni.report_final_result({'default': 0.0, **describe(error)})
            raise
        if in_trial:
            nni.report_final_result(metrics)
        return metrics


def describe(error: Exception) -> dict[str, str]:
    """The part of a report that says why an evaluation failed."""
    message = ' '.join(f'{type(error).__name__}: {error}'.split())
    return {'failure': 'timeout' if isinstance(error, TrialTimeout) else 'exception',
            'message': message if len(message) <= _LONGEST_MESSAGE else f'{message[:_LONGEST_MESSAGE]}...'}
