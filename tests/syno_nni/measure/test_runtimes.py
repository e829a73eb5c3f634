"""Every runtime: right outputs, honest refusals; times only have to be there."""
from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from syno_nni.errors import MeasureError
from syno_nni.measure import RUNTIMES
from syno_nni.measure.latency import measure_pair
from syno_nni.measure.runtime import Rounds, Runtime
from syno_nni.measure.runtimes import missing, runtime_of, time_in
from syno_nni.measure.turns import take_turns
from syno_nni.testing.runtimes import RUNTIME_CHECKS

from ...testing.canary import lay_modules

ROUNDS = Rounds(warmup=1, min_rounds=3, max_rounds=3, seconds=0.01)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('syno_nni.measure.lock.lock_path', lambda: tmp_path / 'lock')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporters deprecate parts of themselves
        yield


def models() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval(), nn.Conv2d(3, 4, 1).eval()]


@pytest.mark.slow
@pytest.mark.parametrize('check', RUNTIME_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize('runtime', RUNTIMES)
def test_what_every_runtime_keeps_to(runtime: str, check: Callable[[Runtime], None]) -> None:
    if missing(runtime):
        pytest.skip(missing(runtime))
    check(runtime_of(runtime))


@pytest.mark.slow
def test_every_model_is_compiled_once_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dynamo compiles it looks up by code: models of one class must not throw each other out, or run eagerly."""
    frozen: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        frozen.append(torch._inductor.config.freezing)
        return graph.forward
    compile_ = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda f, **options: compile_(f, backend=backend, **options))
    many = [nn.Conv2d(3, 4, 3, padding=n).eval() for n in range(12)]
    time_in('inductor', many, torch.randn(1, 3, 8, 8), threads=1, rounds=ROUNDS)
    assert frozen == [True] * 12


@pytest.mark.slow
@pytest.mark.parametrize('runtime', ['onnx', 'openvino'])
def test_modules_that_lie_about_are_not_imported(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m` takes modules from the folder where somebody happens to be: that of a download, say."""
    if missing(runtime):
        pytest.skip(missing(runtime))
    lay_modules(tmp_path / 'here', tmp_path / 'ran')
    monkeypatch.chdir(tmp_path / 'here')
    time_in(runtime, models()[:1], torch.randn(1, 3, 8, 8), threads=1, rounds=ROUNDS)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.slow
def test_a_pair_in_another_runtime() -> None:
    if missing('openvino'):
        pytest.skip(missing('openvino'))
    pair = measure_pair(*models(), torch.randn(1, 3, 8, 8), runtime='openvino', warmup=1, min_rounds=3, seconds=0.01)
    assert pair.runtime == 'openvino'
    assert pair.speedup > 0


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(MeasureError, match="unknown runtime 'tensorrt': choose from eager"):
        measure_pair(*models(), torch.randn(1, 3, 8, 8), runtime='tensorrt')


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(MeasureError, match=r"pip install 'syno-nni\[openvino\]'"):
        measure_pair(*models(), torch.randn(1, 3, 8, 8), runtime='openvino')


def test_a_worker_that_fails_explains_itself() -> None:
    job = {'runtime': 'onnx', 'models': ['/nowhere.onnx'], 'threads': 1, 'folder': '/nowhere', 'rounds': {}}
    done = subprocess.run([sys.executable, '-m', 'syno_nni.measure.worker'], input=json.dumps(job), text=True,
                          capture_output=True, check=False)
    assert done.returncode
    assert 'nowhere' in done.stderr


def test_everyone_goes_first_in_turn_and_nobody_always_follows_the_same() -> None:
    log: list[str] = []

    def call(name: str) -> None:
        log.append(name)
        time.sleep(0.002)  # long enough not to be repeated within a timing

    calls = [lambda name=name: call(name) for name in 'abc']
    timings = take_turns(calls, warmup=0, min_rounds=12, max_rounds=12, seconds=0)
    assert [len(t) for t in timings] == [12, 12, 12]
    rounds = [''.join(log[-36:][n:n + 3]) for n in range(0, 36, 3)]
    assert all(sorted(r) == ['a', 'b', 'c'] for r in rounds)
    assert [r[0] for r in rounds] == list('abc' * 4)
    assert len(set(rounds)) > 3
