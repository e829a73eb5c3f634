"""Files for nnictl are checked as ours are."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from syno_nni.cli.main import main
from syno_nni.errors import ConfigError
from syno_nni.run.config import load_config
from syno_nni.run.nnictl_file import resolved, tuner_config

EXAMPLES = Path(__file__).parents[3] / 'examples'
EXAMPLE = yaml.safe_load((EXAMPLES / 'nnictl.yml').read_text())


def _changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(EXAMPLE)
    *sections, key = path.split('.')
    section = data
    for name in sections:
        section = section[name]
    if value is None:
        del section[key]
    else:
        section[key] = value
    return data


def test_the_example_is_the_quickstart() -> None:
    quickstart = load_config()
    assert tuner_config(EXAMPLE['tuner']['classArgs']).identity() | {'experimentName': ''} == (
        quickstart.identity() | {'experimentName': ''})


@pytest.mark.parametrize(('path', 'value', 'message'), [
    ('tuner.classArgs.evaluation.epoch', 3, "unknown key 'evaluation.epoch'; did you mean 'epochs'?"),
    ('tuner.classArgs.objective.speedupWeight', 'much', 'objective.speedupWeight'),
    ('trialConcurency', 1, "unknown key 'trialConcurency'; did you mean 'trialConcurrency'?"),
    ('tuner.classarg', {}, "unknown key 'tuner.classarg'; did you mean 'classArgs'?"),
    ('tuner', None, "key 'tuner' is missing"),
    ('trainingService', None, "key 'trainingService' is missing"),
    ('trialCommand', 'python mnist.py', 'should run python -m syno_nni.trial'),
    ('tuner.className', 'my.Tuner', 'syno_nni.strategies.tuner.SynoTuner'),
    ('searchSpace', None, "key 'searchSpace' is missing"),
])
def test_mistakes_are_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolved(_changed(path, value), 'my.yml')
    assert message in str(raised.value) and str(raised.value).startswith('my.yml') and '\n' not in str(raised.value)


def test_dry_run_prints_every_default_and_search_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['search', str(EXAMPLES / 'nnictl.yml'), '--dry-run']) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown['tuner']['classArgs']['evaluation']['weightDecay'] == 0.01
    assert resolved(shown, 'again') == shown
    assert main(['search', str(EXAMPLES / 'nnictl.yml')]) == 1
    assert 'this file is for nnictl: syno-nni nnictl create --config' in capsys.readouterr().err


def test_nnictl_checks_before_it_starts_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'bad.yml').write_text(yaml.safe_dump(_changed('maxTrailNumber', 3)))
    assert main(['nnictl', 'create', '--config', str(tmp_path / 'bad.yml')]) == 1
    assert "did you mean 'maxTrialNumber'?" in capsys.readouterr().err
    assert main(['nnictl', 'create']) == 1
    assert '--config FILE.yml is missing' in capsys.readouterr().err
