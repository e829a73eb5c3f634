"""Training, counting, measuring, reporting."""
from __future__ import annotations

import signal
import warnings
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.nas.flat_space import FlatModelSpace
from syno_nni.nas.mutable import KEEP
from syno_nni.nas.profiler import LatencyProfiler, MacsProfiler, ParamsProfiler, count_macs, count_params
from syno_nni.nas.stages import Reference, StageLog
from syno_nni.nas.training import accuracy, fit, make_schedule
from syno_nni.operator import Operator
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.run.config import EvaluationConfig, SearchConfig
from syno_nni.search_spaces.backbone import BackboneSpace
from syno_nni.trial import read_payload

from ...testing import toy

POINTWISE = str(Operator.parse('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h, w] * w1[o, c]'))
CONFIG = {
    'model': {'name': 'resnet10t', 'channels': [8, 8, 8, 8], 'stem_width': 8},
    'data': {'imageSize': 32, 'trainSamples': 64, 'valSamples': 64, 'batchSize': 32},
    'evaluation': {'epochs': 2}, 'latency': {'warmup': 1, 'minRounds': 2, 'seconds': 0.01},
}


@pytest.fixture(autouse=True)
def _toy_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))  # a measurement lock of its own


@pytest.fixture(scope='module')
def evaluator() -> OperatorEvaluator:
    return OperatorEvaluator(SearchConfig.from_dict(CONFIG).to_dict())


@pytest.fixture(scope='module')
def space() -> BackboneSpace:
    return BackboneSpace('resnet10t', [1, 3, 32, 32], {'preset': 'toy'}, slots={'kinds': ['conv3x3']}, num_classes=10,
                         in_chans=3, channels=[8, 8, 8, 8], stem_width=8)


# --- training --------------------------------------------------------------------------------------------------------

def _data(n: int = 128) -> TensorDataset:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long())


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.mark.parametrize('optimizer', ['sgd', 'adam', 'adamw'])
@pytest.mark.parametrize('schedule', ['constant', 'cosine', 'onecycle'])
def test_fit_learns_and_repeats(optimizer: str, schedule: str) -> None:
    rate = 0.1 if optimizer == 'sgd' else 0.02
    recipe = EvaluationConfig(epochs=3, optimizer=optimizer, schedule=schedule, learning_rate=rate)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        results = []
        for _ in range(2):
            net = _net()
            results.append(fit(net, recipe, _data(), _data(), num_classes=2, batch_size=16))
    assert results[0] == results[1], 'one seed, one result'
    assert results[0]['accuracy'] > 0.8
    assert accuracy(net, _data()) == pytest.approx(results[1]['accuracy'], abs=1e-5)


def test_the_peak_of_the_schedule_is_the_learning_rate() -> None:
    recipe = EvaluationConfig(schedule='onecycle', learning_rate=0.5, optimizer='sgd')
    optimizer = torch.optim.SGD(_net().parameters(), lr=recipe.learning_rate, momentum=0.9)
    schedule, rates = make_schedule(optimizer, recipe, 20), []
    for _ in range(19):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) == pytest.approx(0.5, rel=0.05)


def test_an_interrupt_stays_one() -> None:
    class Interrupted(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(_net(), EvaluationConfig(), Interrupted(*_data().tensors), _data(), num_classes=2, batch_size=16)
    assert signal.getsignal(signal.SIGINT) is before


# --- counting --------------------------------------------------------------------------------------------------------

def test_macs_and_params_of_torch_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_macs(net, torch.zeros(1, 3, 4, 4)) == 3 * 8 * 9 * 16 + 8 * 16 * 5
    assert count_params(net) == 3 * 8 * 9 + 8 * 16 * 5 + 5
    assert net.training


@pytest.mark.parametrize('op', toy.OPERATORS.values(), ids=str)
def test_macs_of_operators_are_their_own_count(op: Operator) -> None:
    sizes = {'N': 1, 'C_in': 8, 'C_out': 4, 'H': 8, 'k_1': 3, 'k_2': 5, 's': 2, 'g': 4}
    net = nn.Sequential(SynthesizedLayer(op, sizes), nn.Conv2d(4, 4, 1, bias=False))
    assert count_macs(net, torch.zeros(2, 8, 8, 8)) == 2 * (op.macs(sizes) + 4 * 4 * 64)


def test_profilers_have_nnis_interface(space: BackboneSpace) -> None:
    shape = (1, 3, 32, 32)
    keep, pointwise = {'operator': KEEP}, {'operator': POINTWISE}
    for profiler in (MacsProfiler(space, shape), ParamsProfiler(space, shape)):
        assert profiler.profile(pointwise) < profiler.profile(keep)
    latency = LatencyProfiler(space, shape, keep, warmup=1, min_rounds=2, seconds=0.01)
    assert latency.profile(pointwise) == latency.profile(pointwise) > 0, 'measured once'
    assert not any(isinstance(m, SynthesizedLayer) for m in latency.baseline.modules())


# --- the evaluator ---------------------------------------------------------------------------------------------------

def _report(evaluator: OperatorEvaluator, model: FlatModelSpace, monkeypatch: pytest.MonkeyPatch,
            ) -> tuple[list[Any], list[Any]]:
    intermediate, final = [], []
    monkeypatch.setattr(nni, 'report_intermediate_result', intermediate.append)
    monkeypatch.setattr(nni, 'report_final_result', final.append)
    monkeypatch.setattr(nni, 'get_current_parameter', lambda: model)
    evaluator._execute(model)
    return intermediate, final


@pytest.mark.parametrize('value', [KEEP, POINTWISE])
def test_what_is_reported(evaluator: OperatorEvaluator, space: BackboneSpace, monkeypatch: pytest.MonkeyPatch,
                          value: str) -> None:
    model = FlatModelSpace.from_model(space, evaluator).freeze({'operator': value})
    intermediate, (final,) = _report(evaluator, model, monkeypatch)
    assert [sorted(m) for m in intermediate] == [['accuracy', 'default', 'loss']] * 2
    assert {'default', 'accuracy', 'latency_ms', 'baseline_latency_ms', 'speedup', 'macs', 'params'} <= final.keys()
    assert final['accuracy'] == intermediate[-1]['accuracy']
    if value == KEEP:
        assert final['speedup'] == 1
        assert final['latency_ms'] == final['baseline_latency_ms']
        assert final['default'] == final['accuracy']
    tested = evaluator.test(model)
    assert tested['val_accuracy'] == final['accuracy'], 'the same recipe gives the same model'
    assert 0 <= tested['accuracy'] <= 1


LIMITS = {'maxMacs': 1000, 'maxParams': 1000, 'maxLatencyMs': 1e-6, 'minSpeedup': 1e6}


@pytest.mark.parametrize('limit', LIMITS)
def test_the_limits_reject_before_any_training(space: BackboneSpace, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(OperatorEvaluator, '_fit', lambda *arguments, **options: pytest.fail('trained'))
    evaluator = OperatorEvaluator({**CONFIG, 'objective': {limit: LIMITS[limit]}})
    model = FlatModelSpace.from_model(space, evaluator).freeze({'operator': POINTWISE})
    _, (final,) = _report(evaluator, model, monkeypatch)
    assert final['failure'] == 'rejected' and f'objective.{limit}' in final['message']
    assert final['stage'] == ('size' if limit in ('maxMacs', 'maxParams') else 'latency')
    assert final['macs'] > 1000 and final['size_seconds'] >= 0
    assert ('latency_ms' in final) == (final['stage'] == 'latency')
    assert 0 < final['missed_by'] < 100, 'in doublings'


def test_stages_stop_what_falls_behind(space: BackboneSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**CONFIG, 'evaluation': {'epochs': 2, 'proxyEpochs': 1, 'proxySamples': 32, 'stopBelow': 0.1}}
    evaluator = OperatorEvaluator(config)
    model = FlatModelSpace.from_model(space, evaluator).freeze({'operator': POINTWISE})
    curves, (final,) = _report(evaluator, model, monkeypatch)
    assert len(curves) == 2 and {'proxy_accuracy', 'gradient_norm', 'proxy_seconds', 'train_seconds'} <= final.keys()
    plain = OperatorEvaluator(CONFIG)
    assert _report(plain, model, monkeypatch)[1][0]['accuracy'] == final['accuracy'], 'the proxy leaves no trace'
    evaluator.reference = Reference(curve=(1.5, 0.0))
    curves, (final,) = _report(evaluator, model, monkeypatch)
    assert len(curves) == 1 and 'after epoch 1' in final['message'] and final['stage'] == 'train'
    evaluator.reference = Reference(proxy_accuracy=1.5)
    curves, (final,) = _report(evaluator, model, monkeypatch)
    assert not curves and 'after the short training' in final['message'] and final['stage'] == 'proxy'
    kept = FlatModelSpace.from_model(space, evaluator).freeze({'operator': KEEP})
    assert 'failure' not in _report(evaluator, kept, monkeypatch)[1][0], 'the original model is never stopped'


def test_the_reference_travels_to_the_trial(space: BackboneSpace, evaluator: OperatorEvaluator,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, 'reference', Reference(0.5, (0.25, 0.75)))
    model = FlatModelSpace.from_model(space, evaluator).freeze({'operator': POINTWISE})
    assert read_payload(model.parameters())[1]() == Reference(0.5, (0.25, 0.75))


def test_noise_does_not_win() -> None:
    from syno_nni.measure.latency import _lower_bound
    quiet, few, noisy = [1.5] * 20, [1.4, 1.5, 1.6] * 3, [0.8, 1.5, 2.5] * 6
    assert _lower_bound(quiet) == 1.5 and _lower_bound(few) == 1.4 and _lower_bound(noisy) == 0.8
    assert _lower_bound([1.4, 1.5, 1.6] * 200) == 1.5


@pytest.mark.parametrize(('limits', 'speedup', 'sure', 'again', 'rejected'), [
    ({}, 1.25, 1.15, False, False),
    ({'minSpeedup': 1.2}, 1.25, 1.15, True, True),
    ({'minSpeedup': 1.2}, 1.15, 1.10, True, True),
    ({'minSpeedup': 1.2}, 1.22, 1.21, True, False),
    ({'minSpeedup': 1.2}, 1.40, 1.35, False, False),
    ({'minSpeedup': 1.2}, 1.05, 1.04, False, True),
    ({'maxLatencyMs': 8.0}, 1.30, 1.20, True, True),
    ({'maxLatencyMs': 8.0}, 1.60, 1.55, False, False),
    ({'maxLatencyMs': 8.0}, 1.05, 1.04, False, True),
])
def test_the_sure_bound_decides_and_near_a_limit_it_is_measured_again(
        space: BackboneSpace, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], speedup: float, sure: float,
        again: bool, rejected: bool) -> None:
    lengths: list[int] = []

    def latencies(self: Any, model: nn.Module, example: torch.Tensor, kept: bool, longer: int = 1) -> dict[str, float]:
        lengths.append(longer)
        return {'latency_ms': 10 / speedup, 'baseline_latency_ms': 10.0, 'speedup': speedup, 'speedup_sure': sure}

    monkeypatch.setattr(OperatorEvaluator, '_latencies', latencies)
    monkeypatch.setattr(OperatorEvaluator, '_fit', lambda *arguments, **options: {'accuracy': 0.5, 'loss': 1.0})
    evaluator = OperatorEvaluator({**CONFIG, 'objective': limits})
    _, (final,) = _report(evaluator, FlatModelSpace.from_model(space, evaluator).freeze({'operator': POINTWISE}), monkeypatch)
    assert lengths == ([1, 4] if again else [1]) and ('measured_again' in final) == again
    assert ('failure' in final) == rejected
    assert not rejected or 0 < final['missed_by'] < 0.5
    _, (kept,) = _report(evaluator, FlatModelSpace.from_model(space, evaluator).freeze({'operator': KEEP}), monkeypatch)
    assert 'failure' not in kept and 'measured_again' not in kept, 'the original model is never in question'


def test_a_failure_is_reported_with_its_reason(evaluator: OperatorEvaluator, monkeypatch: pytest.MonkeyPatch,
                                               ) -> None:
    final: list[Any] = []
    monkeypatch.setattr(nni, 'report_final_result', final.append)
    monkeypatch.setattr(nni, 'get_current_parameter', lambda: 'a trial')
    with pytest.raises(RuntimeError):
        evaluator.evaluate(nn.Linear(3, 3))
    assert final[0]['failure'] == 'exception'
    assert 'RuntimeError' in final[0]['message']
    assert final[0]['default'] == 0.0, 'without it, NNI chokes on the report'


def test_a_timeout_is_reported_as_such(space: BackboneSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    import time
    evaluator = OperatorEvaluator({**CONFIG, 'maxTrialDuration': 1})
    monkeypatch.setattr(OperatorEvaluator, 'metrics', lambda self, model: time.sleep(20))
    with pytest.raises(Exception, match='maxTrialDuration') as raised:
        evaluator._execute(FlatModelSpace.from_model(space, evaluator).freeze({'operator': KEEP}))
    assert StageLog().failure(raised.value).report()['failure'] == 'timeout'
    assert len(StageLog().failure(ValueError('x' * 9999)).report()['message']) < 600


def test_what_travels_is_small(evaluator: OperatorEvaluator, space: BackboneSpace) -> None:
    model = FlatModelSpace.from_model(space, evaluator).freeze({'operator': POINTWISE})
    payload = nni.dump(model)
    assert len(payload) < 8000
    back = nni.load(payload)
    assert back.evaluator == evaluator
    assert isinstance(back.executable_model(), BackboneSpace)
