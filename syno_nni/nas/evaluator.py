"""The evaluator: trains a model by the shared recipe, measures it against the baseline, reports one metric dict."""
from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import nni
import pytorch_lightning as pl
import torch
from nni.nas.evaluator import Evaluator
from nni.nas.space import ExecutableModelSpace
from timm.utils.model import reparameterize_model
from torch import nn
from torch.utils.data import DataLoader, Subset

from syno_nni.data.datasets import Splits, load_data
from syno_nni.measure.latency import measure_pair
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.plan.verification import check_layers
from syno_nni.run.candidate import Miss
from syno_nni.run.config import ObjectiveConfig, SearchConfig

from .original import original_model
from .profiler import count_macs, count_params
from .stages import Reference, Rejected, StageLog, gradient_norm
from .time_limit import time_limit
from .training import Stop, accuracy, fit

_log = logging.getLogger(__name__)
_LONGER, _NEAR, _MOST_ROUNDS = 4, 1.03, 200
# A measurement near a limit is taken again, that many times longer.
_FIRST = ('accuracy', 'latency_ms', 'speedup', 'macs', 'params')
# The web UI lists metrics in this order.


@nni.trace
class OperatorEvaluator(Evaluator):
    """Evaluates a backbone with operators in its slots, in the stages of :mod:`.stages`.

    It reports ``default`` (the objective, to be maximised), ``accuracy`` (0 to 1, on the validation split),
    ``latency_ms``, ``baseline_latency_ms``, ``speedup``, ``macs``, ``params``, and as evidence ``loss``,
    ``speedup_sure`` (which objective and limits go by: noise must not win), ``speedup_low`` and ``speedup_high``
    (quartiles), ``noisy`` (0 or 1), ``measured_again`` (1 if the first measurement was too near a limit),
    ``gradient_norm``, ``proxy_accuracy`` if there was a short training, and the seconds of every stage
    (``train_seconds``, ...). An evaluation that fails reports a :class:`~syno_nni.run.candidate.Failure`, so that the
    strategy learns why, and raises. A candidate that is rejected half-way reports one too, with the ``stage``, by how many
    doublings it ``missed_by`` the limit, and what is known by then.

    Args:
        config: a resolved experiment file, as ``SearchConfig.to_dict`` returns it. NNI sends it to every trial, so
            it is plain data.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = SearchConfig.from_dict(config)
        self.reference = Reference()
        """What the original model reached; the strategy sets it once it knows."""
        self._log = StageLog()

    def extra_repr(self) -> str:
        return f'model={self.config.model.title!r}, data={self.config.data.title!r}'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OperatorEvaluator) and self.config == other.config

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def data(self) -> Splits:
        """The dataset."""
        return load_data(self.config.data, self.config.trial_code_directory)

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
        """Take ``model`` through all stages; report each epoch of the training, but not the result.

        Raises:
            Rejected: a stage found that the rest is not worth while.
        """
        config, log = self.config, StageLog()
        self._log = log
        kept = not any(isinstance(m, SynthesizedLayer) for m in model.modules())
        self._cheap_stages(model, kept)
        with log.running('proxy') as known:
            self._proxy(model, known, kept)
        with log.running('train') as known:
            known |= self._fit(model, report=nni.get_current_parameter() is not None, stop=self._stop(kept))
        # The speedup of rounds in turns is steadier than the ratio of two medians, so the objective goes by it.
        latency_ms = known['latency_ms']
        score = config.objective.score(known['accuracy'], latency_ms, latency_ms * known['speedup_sure'])
        return {'default': round(score, 6), **{name: known[name] for name in _FIRST}, **known}

    def _cheap_stages(self, model: nn.Module, kept: bool) -> None:
        """Size and latency, against their limits where the model is not the original; they go into the log."""
        config, log = self.config, self._log
        example = torch.randn(config.latency.batch_size, config.data.channels, *[config.data.image_size] * 2)
        with log.running('size') as known:
            known |= {'macs': count_macs(model, example[:1]), 'params': count_params(model)}
            reject_if(config.objective.too_large(known['macs'], known['params']), kept)
        with log.running('latency') as known:
            known |= self._latencies(model, example, kept)
            if not kept and hangs_on_noise(config.objective, known):
                known |= self._latencies(model, example, kept, longer=_LONGER)
                known['measured_again'] = 1
            reject_if(config.objective.too_slow(sure_latency_ms(known), known['speedup_sure']), kept)

    def test(self, model: ExecutableModelSpace) -> dict[str, Any]:
        """Train a frozen sample once more by the recipe; return its ``accuracy`` on the test split (0 to 1) and its
        ``val_accuracy``. Reports nothing to NNI."""
        built = self.build(model)
        trained = self._fit(built)
        return {'accuracy': round(accuracy(built, self.data.test), 6), 'val_accuracy': trained['accuracy']}

    def _fit(self, model: nn.Module, report: bool = False, stop: Stop | None = None) -> dict[str, float]:
        data = self.data
        return fit(model, self.config.evaluation, data.train, data.val, num_classes=data.num_classes,
                   batch_size=self.config.data.batch_size, report=report, stop=stop)

    def _stop(self, kept: bool) -> Stop | None:
        if kept:
            return None
        return lambda epoch, accuracy: self.reference.behind(epoch, accuracy, self.config.evaluation.stop_below)

    def _proxy(self, model: nn.Module, known: dict[str, Any], kept: bool) -> None:
        """Score a copy of the model before its training, and after a short one."""
        recipe, data = self.config.evaluation, self.data
        model = copy.deepcopy(model)
        x, y = next(iter(DataLoader(data.val, batch_size=self.config.data.batch_size)))
        known['gradient_norm'] = round(gradient_norm(model.cpu(), x, y), 6)
        if not recipe.proxy_epochs:
            return
        few = torch.randperm(len(data.train),  # type: ignore[arg-type]
                              generator=torch.Generator().manual_seed(recipe.seed))
        train = Subset(data.train, few[:recipe.proxy_samples].tolist())
        short = recipe.model_copy(update={'epochs': recipe.proxy_epochs})
        known['proxy_accuracy'] = fit(model, short, train, data.val, num_classes=data.num_classes,
                                      batch_size=self.config.data.batch_size)['accuracy']
        if not kept:
            self.reference.check_proxy(known['proxy_accuracy'], recipe.stop_below)

    def _latencies(self, model: nn.Module, example: torch.Tensor, kept: bool, longer: int = 1) -> dict[str, Any]:
        latency = self.config.latency
        baseline = model if kept else original_model(self.config, self.data.num_classes, weights=False)
        if unchecked := check_layers(model):
            _log.warning('too large to be checked against the definition: %s', ', '.join(unchecked))
        # In the form in which they would be deployed: what depends on weights alone is computed ahead.
        pair = measure_pair(reparameterize_model(model.cpu()), reparameterize_model(baseline.cpu()), example,
                            threads=latency.threads, warmup=latency.warmup, min_rounds=latency.min_rounds,
                            max_rounds=max(_MOST_ROUNDS, latency.min_rounds) * longer,
                            seconds=latency.seconds * longer, runtime=latency.runtime)
        if kept:  # measured against itself: one number, not two with noise between them
            ms = round(pair.baseline.median_ms, 4)
            return {'latency_ms': ms, 'baseline_latency_ms': ms, 'speedup': 1.0, 'speedup_sure': 1.0,
                    'speedup_low': 1.0, 'speedup_high': 1.0, 'noisy': int(pair.noisy)}
        return {'latency_ms': round(pair.candidate.median_ms, 4),
                'baseline_latency_ms': round(pair.baseline.median_ms, 4), 'speedup': round(pair.speedup, 4),
                'speedup_sure': round(pair.speedup_sure, 4), 'speedup_low': round(pair.speedup_low, 4),
                'speedup_high': round(pair.speedup_high, 4), 'noisy': int(pair.noisy)}

    def _reporting(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run ``work`` within the time limit and report to NNI what comes of it."""
        in_trial, self._log = nni.get_current_parameter() is not None, StageLog()
        try:
            with time_limit(self.config.max_trial_duration):
                metrics = work()
        except Rejected as why:
            metrics = self._log.failure(why).report()
        except Exception as error:
            if in_trial:
                nni.report_final_result(self._log.failure(error).report())
            raise
        if in_trial:
            nni.report_final_result(metrics)
        return metrics


def sure_latency_ms(known: Mapping[str, Any]) -> float:
    """The latency that a measurement vouches for, as ``speedup_sure`` does for the speedup."""
    return max(known['latency_ms'], known['baseline_latency_ms'] / known['speedup_sure'])


def hangs_on_noise(objective: ObjectiveConfig, known: Mapping[str, Any]) -> bool:
    """Whether a limit of speed lies so near that a longer measurement might decide otherwise: within the confidence
    interval, or within 3 % of it."""
    sure, hopeful = known['speedup_sure'] / _NEAR, known['speedup'] ** 2 / known['speedup_sure'] * _NEAR
    return len({objective.too_slow(known['baseline_latency_ms'] / speedup, speedup) is None
                for speedup in (sure, hopeful)}) == 2


def reject_if(miss: Miss | None, kept: bool) -> None:
    """Raise Rejected where a limit is missed, but for the original model."""
    if miss is not None and not kept:
        raise Rejected(miss)
