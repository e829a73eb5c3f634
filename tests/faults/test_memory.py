"""A trial that needs more memory than there is: an outcome, and the search goes on."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from syno_nni.errors import EngineError
from syno_nni.nas.evaluator import OperatorEvaluator
from syno_nni.nas.manager import free_port
from syno_nni.plan.layer import SynthesizedLayer
from syno_nni.run.directory import load_run
from syno_nni.run.records import OutcomeKind
from syno_nni.search.run import run_search

from ..testing import toy
from ..testing.command import Commands, write_file
from ..testing.searching import make_config

# Every trial takes a number; but for the original model's and the first operator's, memory is short.
SITE = """
import os, resource, sys
if 'syno_nni.trial' in sys.orig_argv:
    number = 0
    while True:
        try:
            os.close(os.open(f'{os.path.dirname(__file__)}/trial{number}', os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            number += 1
    if number > 1:
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
"""


def _greedy(monkeypatch: pytest.MonkeyPatch, synthesized: bool) -> None:
    metrics = OperatorEvaluator.metrics

    def greedy(self: OperatorEvaluator, model: Any) -> dict[str, Any]:
        if synthesized == any(isinstance(m, SynthesizedLayer) for m in model.modules()):
            torch.empty(1 << 50)  # bytes that no machine has: the allocator says so
        return metrics(self, model)

    monkeypatch.setattr(OperatorEvaluator, 'metrics', greedy)
    monkeypatch.setattr('syno_nni.nas.mutable._space', lambda key: toy.ToySpace())


def test_in_the_process_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _greedy(monkeypatch, synthesized=True)
    state = run_search(make_config(engine='sequential', maxTrialNumber=2), tmp_path / 'run', tell=lambda line: None)
    assert [c.error and c.error.kind for c in state.operators] == [OutcomeKind.EXCEPTION] * 2
    assert all('memory' in c.error.message for c in state.operators if c.error)
    assert state.ended is not None and state.ended.reason == 'budget'


def test_the_original_model_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _greedy(monkeypatch, synthesized=False)
    with pytest.raises(EngineError, match='the baseline, .* cannot be evaluated: exception: .* memory'):
        run_search(make_config(engine='sequential', maxTrialNumber=2), tmp_path / 'run', tell=lambda line: None)


@pytest.mark.nni
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_a_trial_of_nni(tmp_path: Path, command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """700 MB of addresses: enough for Python, but not for torch."""
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'sitecustomize.py').write_text(SITE.replace('ROOM', str(700_000_000)))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    run = tmp_path / 'run'
    file = write_file(tmp_path / 'search.yml', engine='local', port=free_port(), maxTrialNumber=3)
    search = command('search', file, '--run-dir', run)
    assert search.wait(400) == 0, search.said
    state = load_run(run)
    assert state.ended is not None and state.ended.reason == 'budget'
    assert [c.status for c in state.operators] == ['succeeded', 'failed', 'failed'], search.said
    assert {c.error.kind for c in state.failed if c.error} <= {OutcomeKind.DIED, OutcomeKind.EXCEPTION}
