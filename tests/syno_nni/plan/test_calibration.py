from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest

from syno_nni.plan import calibration
from syno_nni.plan.calibration import calibrate, calibrated
from syno_nni.plan.machine import Machine


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))


def test_the_constants_are_of_this_world() -> None:
    machine = calibrate(seconds=0.01)
    assert all(math.isfinite(v) and v > 0 for v in asdict(machine).values())
    assert 1e8 < machine.dense < 1e13 and 1e-8 < machine.call < 1e-2


def test_a_host_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Machine] = []

    def measure() -> Machine:
        measured.append(Machine(dense=1e9 * (1 + len(measured))))
        return measured[-1]
    monkeypatch.setattr(calibration, 'calibrate', measure)
    cache = tmp_path / 'deep' / 'machine.json'
    first = calibrated(cache, 'a')
    assert calibrated(cache, 'a') == first == measured[0]
    assert calibrated(cache, 'b') == measured[1]
    assert set(json.loads(cache.read_text())) == {'a', 'b'}


@pytest.mark.parametrize('content', ['', '[]', '{"a": 3}', '{"a": {"dense": "x"}}', '{"a": {"dense": NaN}}'])
def test_a_broken_cache_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(calibration, 'calibrate', Machine)
    cache = tmp_path / 'machine.json'
    cache.write_text(content)
    assert calibrated(cache, 'a') == Machine()
    assert json.loads(cache.read_text())['a'] == asdict(Machine())
