from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syno_nni.errors import ConfigError
from syno_nni.run.config import LatencyConfig, SearchConfig, SlotsConfig, StrategyConfig, load_config, load_yaml, parse_yaml


def read(text: str) -> SearchConfig:
    return SearchConfig.from_dict(parse_yaml(text, 'f.yml'), 'f.yml')


def test_default_is_the_packaged_quickstart() -> None:
    config = load_config()
    assert config.data.name == 'digits' and config.retrofits and config.latency.runtime == 'onnx'
    assert load_config(Path(__file__).parents[3] / 'examples' / 'quickstart.yml') == config


def test_resolved_form_reads_back(tmp_path: Path) -> None:
    config = load_config().replace(max_trial_number=99, max_experiment_duration='2h')
    path = tmp_path / 'c.yml'
    path.write_text(config.to_yaml())
    assert load_config(path) == config
    assert json.loads(json.dumps(config.to_dict()))['maxExperimentDuration'] == 7200


def test_every_packaged_example_is_valid() -> None:
    for path in (Path(__file__).parents[3] / 'examples').glob('*.yml'):
        if not {'trialCommand', 'algoType'} & load_yaml(path).keys():  # those are for nnictl
            load_config(path)


def test_model_keys_go_to_timm_and_data_decides_classes() -> None:
    assert read('model: {name: vit, drop_rate: 0.1}').model.kwargs == {'drop_rate': 0.1}
    with pytest.raises(ConfigError, match='num_classes comes from the dataset; remove it'):
        read('model: {name: vit, num_classes: 3}')


@pytest.mark.parametrize(('text', 'message'), [
    ('', 'f.yml: wants a mapping of keys to values, got nothing'),
    ('[]', 'wants a mapping'),
    ('{}', "key 'model' is missing"),
    ('modle: {name: a}', "unknown key 'modle'; did you mean 'model'?"),
    ('model: {name: a}\nevaluation: {epoch: 3}', "unknown key 'evaluation.epoch'; did you mean 'epochs'?"),
    ('model: {name: a}\nevaluation: {zzz: 3}', 'choose from epochs, proxyEpochs'),
    ('model: {name: a}\nevaluation: {epochs: 0}', 'evaluation.epochs: should be greater than or equal to 1, got 0'),
    ('model: {name: a}\nevaluation: {epochs: true}', 'should be a valid integer, got True'),
    ('model: {name: a}\nevaluation: {learningRate: .nan}', 'should be a finite number, got nan'),
    ('model: {name: a}\nevaluation: {learningRate: fast}', 'should be a valid number'),
    ('model: {name: a}\ndata: {name: digit}', "got 'digit'; did you mean 'digits'?"),
    ('model: {name: a}\ndata: {name: imagefolder}', 'imagefolder needs data.path'),
    ('model: {name: a}\nspace: {macsRatio: [2, 1]}', r'wants \[low, high\] with low < high'),
    ('model: {name: a}\nspace: {limits: {a: 2020-01-01}}', 'not a valid JSON value'),
    ('model: {name: a}\nmaxTrialDuration: 5 minutes', "such as 90, '90s', '10m'"),
    ('model: {name: a}\nexperimentName: ../../x', 'should be letters'),
    ('model: {name: a}\nport: 70000', 'less than or equal to 65535'),
    ('model: a', 'model: should be a mapping of keys to values'),
    ('model: {name: a}\nobjective: {accuracyWeight: 0, speedupWeight: 0}', 'nothing to maximise'),
    ('a: 1\na: 2', "line 2, column 1: key 'a' stands twice"),
    ('a: &x [1]\nb: *x', r'aliases \(\*x\) are not supported'),
    ('a: !!python/object/apply:os.system [ls]', 'could not determine a constructor'),
    ('a: [', 'line 1'),
    ('? {a: 1}\n: 2', 'a key must be a single word'),
    ('x: \x07', 'not YAML'),
    ('x: 2020-13-45', "unknown key 'x'"),
])
def test_mistakes_are_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(text)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', [
    '[' * 100_000, '{a: ' * 50_000, 'a: ' + '9' * 50_000, 'model: {name: ' + 'x' * 500_000 + '}\nevil: 1',
    '\n'.join(['a0: &a0 [x, x]', *(f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 60))]),
])
def test_hostile_files_are_refused_soon_and_briefly(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert len(str(caught.value)) < 1000
    assert time.process_time() - started < 60  # not for speed: exponential growth would never end


@pytest.mark.parametrize(('content', 'message'), [
    (b'\xff\xfe\x00', 'not UTF-8'), (b'x' * (2 << 20), 'larger than'), (None, 'No such file'),
])
def test_unreadable_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'c.yml'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / 'c.yml'
    path.write_bytes(b'\xef\xbb\xbfmodel: {name: a}\n')
    assert load_config(path).model.name == 'a'


def test_identity_leaves_out_budget_and_engine() -> None:
    config = load_config()
    same = config.replace(max_trial_number=500, engine='sequential', port=1234, run_directory='x', trial_concurrency=2)
    assert same.digest() == config.digest() and not config.differences(same)
    other = config.replace(evaluation=config.evaluation.model_copy(update={'epochs': 77}))
    assert other.digest() != config.digest()
    assert config.differences(other) == [f'evaluation.epochs: {config.evaluation.epochs} -> 77']


def test_names_that_other_parts_define_are_the_same_here() -> None:
    from syno_nni.measure import RUNTIMES
    from syno_nni.search_spaces.slots import KINDS
    from syno_nni.strategies import nni_strategy_names, strategy_names
    assert get_args(LatencyConfig.model_fields['runtime'].annotation) == RUNTIMES
    assert get_args(StrategyConfig.model_fields['name'].annotation) == (*strategy_names(), *nni_strategy_names())
    assert set(SlotsConfig().kinds) <= set(KINDS)


def test_objective_weighs_accuracy_and_speedup_and_keeps_limits() -> None:
    objective = read('model: {name: a}\nobjective: {maxLatencyMs: 3, minAccuracy: 0.5}').objective
    assert objective.score(0.9, 2.0, 4.0) == pytest.approx(0.95)
    assert objective.score(0.9, 4.0, 4.0) == pytest.approx(-0.1)
    assert objective.score(0.4, 2.0, 2.0) == pytest.approx(-0.6)


def test_replace_checks() -> None:
    with pytest.raises(ConfigError, match='maxTrialNumber'):
        load_config().replace(max_trial_number=0)
    with pytest.raises(TypeError, match='no such field'):
        load_config().replace(max_trials=1)


@settings(max_examples=150, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner:
       st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
           ['model', 'name', 'data', 'imageSize', 'space', 'macsRatio', 'limits', 'strategy', 'classArgs', 'x']) |
           st.text(max_size=4), inner, max_size=4), max_leaves=12))
def test_any_data_is_accepted_or_refused_properly(data: object) -> None:
    try:
        config = SearchConfig.from_dict(data)
    except ConfigError as error:
        assert '\n' not in str(error)
    else:
        assert SearchConfig.from_dict(config.to_dict()) == config


def test_limits_of_the_space_are_camel_case_too() -> None:
    config = read('model: {name: a}\nspace: {limits: {window_ratio: 1.5, maxRank: 8}}')
    assert config.space.limits == {'windowRatio': 1.5, 'maxRank': 8}


@pytest.mark.parametrize(('service', 'engine'), [({'platform': 'local'}, 'local'), (
    {'platform': 'remote', 'machineList': [{'host': 'a', 'user': 'b'}]}, 'remote')])
def test_the_training_service_as_nnis_files_have_it(service: dict[str, Any], engine: str) -> None:
    config = SearchConfig.from_dict({'model': {'name': 'resnet10t'}, 'trainingService': service})
    assert config.engine == engine
    assert [m.host for m in config.machine_list] == [m['host'] for m in service.get('machineList', [])]
    assert SearchConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(('more', 'message'), [
    ({'trainingService': 3}, r'trainingService: wants \{platform: local\} or'),
    ({'trainingService': {}}, 'trainingService: wants'),
    ({'trainingService': {'platform': 'kubeflow'}}, 'trainingService: wants'),
    ({'trainingService': {'platform': ['local']}}, 'trainingService: wants'),
    ({'trainingService': {'platform': 'remote'}}, 'needs machineList'),
    ({'trainingService': {'platform': 'remote', 'machinelist': []}}, "did you mean 'machineList'"),
    ({'trainingService': {'platform': 'local'}, 'engine': 'sequential'}, 'engine and trainingService disagree'),
])
def test_a_training_service_that_cannot_be(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig.from_dict({'model': {'name': 'resnet10t'}, **more})


def test_a_search_file_with_a_training_service_stays_one(tmp_path: Path) -> None:
    path = tmp_path / 'search.yml'
    path.write_text('model: {name: resnet10t}\ntrainingService: {platform: local}\n')
    assert load_config(path).engine == 'local'
    path.write_text('trainingService: {platform: local}\ntrialCommand: x\n')
    with pytest.raises(ConfigError, match='for nnictl'):
        load_config(path)
