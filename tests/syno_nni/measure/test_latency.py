"""The latency measurement: what it promises, on models whose relative cost is known for sure."""
from __future__ import annotations

import fcntl
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError
from syno_nni.measure.latency import Latency, measure, measure_pair
from syno_nni.measure.lock import lock_path, measurement_lock

EXAMPLE = torch.zeros(1, 4)
QUICK = {'warmup': 1, 'min_rounds': 4, 'max_rounds': 4, 'seconds': 0.01}


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))


class Sleeper(nn.Module):
    """Takes a fixed time, and notes when it is called."""

    def __init__(self, seconds: float, log: list[str] | None = None, name: str = '') -> None:
        super().__init__()
        self.seconds, self.log, self.name = seconds, log if log is not None else [], name

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(self.name)
        assert not self.training and not torch.is_grad_enabled()
        time.sleep(self.seconds)
        return x


def test_speedup_and_order() -> None:
    pair = measure_pair(Sleeper(0.002), Sleeper(0.02), EXAMPLE, **QUICK)
    assert pair.speedup > 1 > measure_pair(Sleeper(0.02), Sleeper(0.002), EXAMPLE, **QUICK).speedup
    assert 2 <= pair.candidate.median_ms < pair.baseline.median_ms
    assert pair.speedup_low <= pair.speedup <= pair.speedup_high
    assert pair.speedup_sure <= pair.speedup
    assert pair.candidate.rounds == 4
    assert pair.to_dict()['candidate']['median_ms'] == pair.candidate.median_ms


def test_candidate_and_baseline_take_turns() -> None:
    log: list[str] = []
    measure_pair(Sleeper(0.002, log, 'c'), Sleeper(0.002, log, 'b'), EXAMPLE, **QUICK)
    assert ''.join(log[-8:]) == 'cbbccbbc', 'in turns, each first in every other round'


def test_rounds_are_bounded() -> None:
    model = Sleeper(0.002)
    assert measure(model, EXAMPLE, warmup=1, min_rounds=2, max_rounds=3, seconds=10).rounds == 3
    assert measure(model, EXAMPLE, warmup=1, min_rounds=2, max_rounds=3, seconds=0.001).rounds == 2
    with pytest.raises(MeasureError, match='min_rounds'):
        measure(model, EXAMPLE, min_rounds=3, max_rounds=2)


def test_short_calls_are_timed_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that says 10 microseconds for every timing: the machine's own speed does not matter.
    ticks = itertools.count()
    monkeypatch.setattr('syno_nni.measure.turns.time', SimpleNamespace(perf_counter=lambda: next(ticks) * 1e-5))
    log: list[str] = []
    measure(Sleeper(0, log), EXAMPLE, **QUICK)
    assert len(log) > 100


def test_everything_is_left_as_it_was() -> None:
    model, threads = nn.Sequential(nn.Dropout(), nn.Linear(4, 4)), torch.get_num_threads()
    model[0].eval()
    pair = measure_pair(model, model, EXAMPLE, threads=1, **QUICK)
    assert pair.threads == 1
    assert torch.get_num_threads() == threads
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def test_models_that_do_not_work_are_named() -> None:
    with pytest.raises(MeasureError, match=r'the candidate does not run on an input of shape \(1, 4\)'):
        measure_pair(nn.Linear(3, 3), nn.Linear(4, 4), EXAMPLE, **QUICK)
    broken = nn.Linear(4, 4)
    nn.init.constant_(broken.weight, float('nan'))
    with pytest.raises(MeasureError, match='the baseline returns values that are not finite'):
        measure_pair(nn.Linear(4, 4), broken, EXAMPLE, **QUICK)


def test_noise_is_admitted() -> None:
    class Jumpy(Sleeper):
        def forward(self, x: Tensor) -> Tensor:
            self.seconds = 0.001 if self.seconds > 0.01 else 0.02
            return super().forward(x)
    assert measure_pair(Jumpy(0.0), Sleeper(0.005), EXAMPLE, warmup=1, min_rounds=12, seconds=0.01).noisy


def test_summary() -> None:
    latency = Latency.of([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (latency.low_ms, latency.median_ms, latency.high_ms, latency.rounds) == (2.0, 3.0, 4.0, 5)
    assert latency.spread == pytest.approx(2 / 3)


def test_one_measurement_at_a_time() -> None:
    entered = threading.Event()

    def other() -> None:
        with measurement_lock():
            entered.set()

    with measurement_lock():
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.1)
    thread.join()
    assert entered.is_set()
    with lock_path().open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_waiting_ends(caplog: pytest.LogCaptureFixture) -> None:
    with lock_path().open('a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with measurement_lock(patience_s=0.1):
            pass
    assert 'measuring beside it' in caplog.text


def test_a_thread_may_take_the_lock_again_and_others_still_wait() -> None:
    order: list[str] = []

    def other() -> None:
        with measurement_lock():
            order.append('other')

    with measurement_lock():
        waiting = threading.Thread(target=other)
        waiting.start()
        with measurement_lock(patience_s=0.0):
            pass
        time.sleep(0.2)
        order.append('first')
    waiting.join()
    assert order == ['first', 'other']
