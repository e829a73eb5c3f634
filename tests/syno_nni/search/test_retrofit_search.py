"""A search by retrofit from its file to the winner's folder, on a model and data of the user's own."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import syno_nni as sn
from syno_nni.cli.main import main
from syno_nni.errors import ConfigError, ZooError
from syno_nni.run.candidate import BASELINE
from syno_nni.run.config import SearchConfig, load_config
from syno_nni.run.directory import load_run
from syno_nni.search.run import run_search
from syno_nni.search_spaces.coefficients import fitting
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.retrofit.time_saved import TimeSaved

from ...testing.own_code import build, corners

CODE = 'tests.testing.own_code'


@pytest.fixture(scope='module', autouse=True)
def _quiet_machine() -> Iterator[None]:
    """Every operator saves what it saves of multiply-adds: a busy machine must not decide whether there is a model to try."""
    def of(self: TimeSaved, fillings: Any) -> list[float | None]:
        return [self.original_ms * (1 - FilledSlot.of(op, fitting(op, slots[0])).macs / slots[0].macs) / 4
                for op, slots in fillings]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimeSaved, 'of', of)
        yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny model."""
    model, data = build(), corners(192, 0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    images, labels = data.tensors
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    save_file(model.state_dict(), path)
    return path


def _config(checkpoint: Path | None, **changes: Any) -> SearchConfig:
    model = {'factory': f'{CODE}:build', **({'checkpoint': str(checkpoint)} if checkpoint else {})}
    return SearchConfig.from_dict({
        'model': model, 'data': {'factory': f'{CODE}:datasets', 'batchSize': 32}, 'space': {'macsRatio': [0.03, 0.9]},
        'slots': {'kinds': ['conv3x3']}, 'strategy': {'name': 'evolution'}, 'engine': 'sequential', 'maxTrialNumber': 2,
        'evaluation': {'mode': 'retrofit', 'screenOperators': 60, 'healSteps': 3, 'finalSteps': 3},
        'latency': {'seconds': 0.02, 'minRounds': 3, 'warmup': 1}, 'objective': {'maxAccuracyLoss': 1.0}, **changes})


@pytest.fixture(scope='module')
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('search') / 'run'
    run_search(_config(trained), folder, tell=lambda line: None)
    return folder


def test_it_ends_with_trials_and_a_library(run: Path) -> None:
    state = load_run(run)
    assert state.ended is not None and state.ended.reason in ('budget', 'exhausted')
    assert state.library and len(state.succeeded) == 2
    assert state.baseline is not None and state.baseline.metrics['accuracy'] > 0.8
    best = state.best
    assert best is not None and {'accuracy', 'speedup', 'fit_error', 'steps', 'heal_seconds'} <= best.metrics.keys()
    assert 'accuracy' in best.test_metrics and 'accuracy' in state.candidates[BASELINE].test_metrics
    assert any(t.healed_metrics for t in state.operators)


def test_the_winner_is_a_folder_that_loads_to_what_was_tested(run: Path) -> None:
    model = sn.load(run / 'winner', model=build())
    images, labels = corners(64, 2).tensors
    with torch.no_grad():
        right = float((model(images).argmax(1) == labels).float().mean())
    best = load_run(run).best
    assert best is not None and right == pytest.approx(best.test_metrics['accuracy'], abs=1e-6)
    assert 'syno_nni.load' in (run / 'winner' / 'README.md').read_text()


def test_the_folder_wants_the_model_that_it_is_for(run: Path) -> None:
    with pytest.raises(ZooError, match='for a module of yours'):
        sn.load(run / 'winner')
    with pytest.raises(ZooError, match='another architecture'):
        sn.load(run / 'winner', model=torch.nn.Linear(3, 3))
    with pytest.raises(ZooError):
        sn.load(run / 'winner', model=build(width=16))


def test_the_report_tells_it_all(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['report', str(run), '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    assert data['winner']['folder'] == str(run / 'winner')
    for which in ('original', 'winner'):
        assert all(isinstance(data[which][key], (int, float)) for key in ('accuracy', 'test_accuracy', 'latency_ms', 'macs',
                                                                         'params'))
    assert data['winner']['speedup'] and data['winner']['speedup_low'] and len(data['winner']['mapping']) == 2
    assert {'fit', 'heal', 'latency'} <= data['seconds_by_stage'].keys()


def test_a_search_that_is_over_resumes_to_the_same(run: Path) -> None:
    before = load_run(run)
    state = run_search(_config(load_config(run / 'config.yml').model.checkpoint and Path(str(
        load_config(run / 'config.yml').model.checkpoint))), run, resume=True, tell=lambda line: None)
    assert [t.id for t in state.operators] == [t.id for t in before.operators]
    assert state.library == before.library


def test_a_model_without_weights_is_trained_first(tmp_path: Path) -> None:
    said: list[str] = []
    config = _config(None, maxTrialNumber=1, evaluation={'mode': 'retrofit', 'screenOperators': 30, 'healSteps': 1,
                                                         'finalSteps': 1, 'epochs': 1})
    run_search(config, tmp_path / 'run', tell=said.append)
    assert (tmp_path / 'run' / 'original.safetensors').is_file()
    assert any('has no trained weights: training it for 1 epochs' in line for line in said)


def test_a_model_in_memory(trained: Path, tmp_path: Path) -> None:
    from syno_nni.weights import load_weights
    model = build()
    load_weights(model, trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = sn.search(model, corners(192, 0), corners(64, 1), corners(64, 2), runtime='eager', max_loss=1.0,
                       slots=['conv3x3'], run_dir=tmp_path / 'run', tell=lambda line: None, batch_size=32, settings={
                           'evaluation': {'screenOperators': 30, 'healSteps': 2, 'finalSteps': 2}, 'maxTrialNumber': 1,
                           'latency': {'seconds': 0.02, 'minRounds': 3, 'warmup': 1}})
    assert result.model is not None and result.model(torch.zeros(2, 3, 16, 16)).shape == (2, 4)
    assert result.speedup is not None and result.folder == tmp_path / 'run' / 'winner'
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (tmp_path / 'run' / 'report.html').is_file()


def test_images_that_the_model_was_trained_on_are_no_validation(trained: Path) -> None:
    from syno_nni.data.splits import Splits
    from syno_nni.search.library_run import with_unseen_images
    train, unseen = corners(192, 0), corners(192, 9)
    # Labels that the model cannot know are what images that it never saw look like.
    hard = torch.utils.data.TensorDataset(unseen.tensors[0], (unseen.tensors[1] + (torch.arange(192) % 3 == 0)) % 4)
    config, said = _config(trained), []
    changed, splits = with_unseen_images(config, Splits(train, train, hard, 4, 3, 16, 'here'), said.append)
    assert changed.data.validation == 'test' and len(splits.val) == len(splits.test) == 96  # type: ignore[arg-type]
    assert 'it was trained on the former' in said[0]
    same, _ = with_unseen_images(config, Splits(train, corners(64, 1), corners(64, 2), 4, 3, 16, 'here'), said.append)
    assert same.data.validation == 'own' and len(said) == 1


@pytest.mark.parametrize(('changes', 'message'), [
    ({'model': {'factory': f'{CODE}:missing'}}, 'has no missing'),
    ({'model': {'factory': 'no_such_module:f'}}, 'there is no module no_such_module'),
    ({'model': {'factory': f'{CODE}:datasets'}}, r'should return a torch.nn.Module, got dict'),
    ({'model': {'factory': f'{CODE}:build', 'depth': 3}}, "unexpected keyword argument 'depth'"),
    ({'model': {'factory': f'{CODE}:build', 'checkpoint': '/no/such.safetensors'}}, r'model.checkpoint: .*no such'),
    ({'model': {'factory': f'{CODE}:build', 'name': 'resnet18'}}, 'name and factory say two things'),
    ({'model': {}}, "give the name of a timm model, or factory: 'module:function'"),
    ({'model': {'factory': 'os.system'}}, 'model.factory'),
    ({'strategy': {'name': 'TPE', 'classArgs': {'pool': 10}}}, 'TPE cannot propose operators'),
    ({'slots': {'groupBy': 'stage'}}, 'chooses for every slot'),
])
def test_what_is_wrong_with_a_model_ends_before_a_run_begins(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f'(?i){message}'):
        run_search(_config(None, **changes), tmp_path / 'run', tell=lambda line: None)


def test_code_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / 'search.yml').write_text('model: {factory: "mine:build", checkpoint: weights/a.safetensors}\n'
                                         'data: {factory: "mine:data"}\n')
    config = load_config(tmp_path / 'search.yml')
    assert config.trial_code_directory == str(tmp_path)
    assert config.model.checkpoint == str(tmp_path / 'weights' / 'a.safetensors')
    assert config.retrofits and SearchConfig.from_dict(config.to_dict()) == config
