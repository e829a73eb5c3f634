"""What every runtime must keep to, as checks that need no test runner: for runtimes of third parties too.

With pytest, one test per check::

    import pytest
    from syno_nni.testing.runtimes import RUNTIME_CHECKS

    @pytest.mark.parametrize('check', RUNTIME_CHECKS, ids=lambda check: check.__name__)
    def test_my_runtime(check):
        check(MyRuntime())

A check that fails raises an AssertionError that says what was wanted and what came instead.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from syno_nni.errors import MeasureError
from syno_nni.measure.runtime import Rounds, Runtime, Timed
from syno_nni.measure.threads import torch_threads
from syno_nni.nested import tensors
from syno_nni.operator import classics
from syno_nni.plan.layer import SynthesizedLayer

_ROUNDS = Rounds(warmup=1, min_rounds=3, max_rounds=3, seconds=0.01)
_SIZES = {'N': 1, 'C_in': 8, 'C_out': 8, 'H': 8, 'k_1': 3, 'g': 4, 's': 2}


def _models() -> list[nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    synthesized = nn.Sequential(SynthesizedLayer(classics.operator_2(), _SIZES), nn.ReLU())
    return [plain.eval(), synthesized.eval()]


def _timed(runtime: Runtime, models: list[nn.Module], x: torch.Tensor) -> Timed:
    with torch_threads(1):
        return runtime.time(models, x, threads=1, rounds=_ROUNDS)


def says_what_it_is(runtime: Runtime) -> None:
    """It has a name, and says what is missing in words or not at all."""
    assert runtime.name and runtime.name.isidentifier(), f'wanted a name that a module can have, got {runtime.name!r}'
    assert isinstance(runtime.missing(), str), f'missing() wants a text, got {runtime.missing()!r}'


def outputs_are_those_of_torch(runtime: Runtime) -> None:
    """Ordinary and synthesized layers compute what they do in eager torch, in the order given."""
    models, x = _models(), torch.randn(1, 8, 8, 8)
    timed = _timed(runtime, models, x)
    assert len(timed.outputs) == len(models), f'wanted the outputs of {len(models)} models, got {len(timed.outputs)}'
    for model, got in zip(models, timed.outputs):
        assert len(got) == 1, f'wanted a list of one array, got {len(got)}'
        want = model(x).detach().numpy()
        assert got[0].shape == want.shape, f'wanted an output of shape {want.shape}, got {got[0].shape}'
        error = float(np.abs(got[0] - want).max())
        assert error < 1e-4, f'outputs differ from torch by {error:.1e}'


class _Several(nn.Module):
    """A map and its channels' means, as detectors and segmentation models return things."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        x = self.layer(x)
        return {'out': x, 'pooled': [x.mean((2, 3)), x.amax((2, 3))]}


def all_outputs_come_back(runtime: Runtime) -> None:
    """Every tensor that a model returns, in any order: what is left out nobody compares."""
    models, x = [_Several(m).eval() for m in _models()], torch.randn(1, 8, 8, 8)
    for model, got in zip(models, _timed(runtime, [*models], x).outputs):
        for want in (t.detach().numpy() for t in tensors(model(x))):
            errors = [float(np.abs(g - want).max()) for g in got if g.shape == want.shape]
            assert errors and min(errors) < 1e-4, f'an output of shape {want.shape} did not come back, got {len(errors)} alike'


def every_round_times_every_model(runtime: Runtime) -> None:
    """As many timings for every model as there are rounds, in milliseconds, none of them 0."""
    timed = _timed(runtime, _models(), torch.randn(1, 8, 8, 8))
    lengths = [len(timings) for timings in timed.timings_ms]
    assert lengths == [3, 3], f'wanted 3 timings for each of 2 models, got {lengths}'
    assert min(map(min, timed.timings_ms)) > 0, 'a timing is 0 ms'


def models_stay_as_they_are(runtime: Runtime) -> None:
    """Weights, modes and the gradients' flags of a model are untouched."""
    models = _models()
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    _timed(runtime, models, torch.randn(1, 8, 8, 8))
    for model, state in zip(models, before):
        assert all(torch.equal(state[k], v) for k, v in model.state_dict().items()), 'weights changed'
        assert not model.training and all(p.requires_grad for p in model.parameters()), 'modes or flags changed'


def a_model_that_cannot_run_is_refused(runtime: Runtime) -> None:
    """An input of another shape than the model takes ends in an error; in a MeasureError where the runtime exports."""
    try:
        _timed(runtime, _models(), torch.randn(1, 5, 8, 8))
    except (MeasureError, RuntimeError, ValueError):
        return
    raise AssertionError('a model ran on 5 channels that takes 8')


RUNTIME_CHECKS: tuple[Callable[[Runtime], None], ...] = (
    says_what_it_is, outputs_are_those_of_torch, all_outputs_come_back, every_round_times_every_model, models_stay_as_they_are,
    a_model_that_cannot_run_is_refused)
"""All checks; each takes a runtime."""
