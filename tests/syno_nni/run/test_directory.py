from __future__ import annotations

from pathlib import Path

import pytest

from syno_nni.errors import ConfigError, JournalError
from syno_nni.run.config import SearchConfig, load_config
from syno_nni.run.directory import CONFIG_FILE, load_run, new_run_directory, open_run, run_config

from ...testing.run_factory import SCRATCH, make_run


@pytest.fixture
def config() -> SearchConfig:
    return load_config(SCRATCH)


def contents(run_dir: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in run_dir.iterdir() if p.name != 'run.lock'}


def other(config: SearchConfig) -> SearchConfig:
    return config.replace(strategy=config.strategy.model_copy(update={'seed': 99}))


def test_new_run_directories_have_names_of_their_own(config: SearchConfig, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_run_directory(config)
    assert first.is_dir(), 'one that begins in the same second must not take it'
    assert first.parent == Path('runs') and first.name.startswith('scratch-')
    assert new_run_directory(config) != first
    assert new_run_directory(config.replace(run_directory='here')) == Path('here')


def test_a_run_begins_with_its_configuration_and_environment(config: SearchConfig, tmp_path: Path) -> None:
    open_run(config, tmp_path / 'a' / 'run').close()
    state = load_run(tmp_path / 'a' / 'run')
    assert state.header.digest == config.digest()
    assert state.environment['cpu'] and state.environment['versions']['torch']
    assert load_config(tmp_path / 'a' / 'run' / CONFIG_FILE) == config


def test_starting_twice_is_refused_with_the_command_that_continues(config: SearchConfig, tmp_path: Path) -> None:
    make_run(tmp_path / 'run')
    before = contents(tmp_path / 'run')
    with pytest.raises(JournalError, match='holds this run already; continue it with: syno-nni resume'):
        open_run(config, tmp_path / 'run')
    assert contents(tmp_path / 'run') == before


@pytest.mark.parametrize('resume', [False, True])
def test_another_configuration_is_refused_with_the_difference(config: SearchConfig, tmp_path: Path,
                                                              resume: bool) -> None:
    make_run(tmp_path / 'run')
    before = contents(tmp_path / 'run')
    with pytest.raises(JournalError, match=r'another configuration \(strategy.seed: 0 -> 99\)'):
        open_run(other(config), tmp_path / 'run', resume=resume)
    assert contents(tmp_path / 'run') == before
    open_run(config, tmp_path / 'run', resume=True).close()  # and no lock is left


def test_budget_engine_and_port_may_change(config: SearchConfig, tmp_path: Path) -> None:
    make_run(tmp_path / 'run')
    larger = config.replace(max_trial_number=50, engine='sequential', port=9999)
    with open_run(larger, tmp_path / 'run', resume=True) as journal:
        assert journal.state.config['maxTrialNumber'] == 50 and journal.state.sessions == 2


def test_folders_with_other_things_are_left_alone(config: SearchConfig, tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(JournalError, match=r'is not empty \(it has thesis.tex\)'):
        open_run(config, tmp_path)
    with pytest.raises(JournalError, match='is no directory'):
        open_run(config, tmp_path / 'thesis.tex')
    with pytest.raises(JournalError, match='cannot make the run directory'):
        open_run(config, tmp_path / 'thesis.tex' / 'run')
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_nothing_to_resume(config: SearchConfig, tmp_path: Path) -> None:
    for read in (lambda p: open_run(config, p, resume=True), run_config, load_run):
        with pytest.raises(JournalError, match='no run directory'):
            read(tmp_path / 'nowhere')
        with pytest.raises(JournalError, match='holds no run'):
            read(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('named', ['', 'syno/journal.jsonl', 'syno/config.yml'])
def test_the_folder_that_holds_the_run_is_hinted_at(named: str, config: SearchConfig, tmp_path: Path) -> None:
    """NNI's folder of an experiment holds the run in ``syno/``; a folder of runs holds several."""
    run = tmp_path / 'abc' / 'syno'
    open_run(config, run).close()
    for read in (load_run, run_config):
        with pytest.raises(JournalError, match=f'; did you mean {run}[?]'):
            read(tmp_path / 'abc' / named)
    (tmp_path / 'runs' / 'empty').mkdir(parents=True)
    with pytest.raises(JournalError, match='it has no journal.jsonl$'):
        load_run(tmp_path / 'runs')
    open_run(config, tmp_path / 'runs' / 'first').close()
    with pytest.raises(JournalError, match=f'; did you mean {tmp_path}/runs/first[?]'):
        load_run(tmp_path / 'runs')


def test_a_run_killed_before_its_first_record_can_be_resumed(config: SearchConfig, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(config.to_yaml())
    (tmp_path / 'journal.jsonl').write_text('{"event": "hea')
    with pytest.raises(JournalError, match='not recorded anything yet'):
        load_run(tmp_path)
    assert run_config(tmp_path) == config
    with open_run(config, tmp_path, resume=True) as journal:
        assert journal.state.header is not None


def test_edited_config_file_may_change_the_budget_only(config: SearchConfig, tmp_path: Path) -> None:
    make_run(tmp_path / 'run')
    file = tmp_path / 'run' / CONFIG_FILE
    file.write_text(config.replace(max_trial_number=77).to_yaml())
    assert run_config(tmp_path / 'run').max_trial_number == 77
    file.write_text(other(config).to_yaml())
    with pytest.raises(JournalError, match='strategy.seed: 0 -> 99'):
        run_config(tmp_path / 'run')
    file.write_text('model: [')
    with pytest.raises(ConfigError, match='line 1'):
        run_config(tmp_path / 'run')
    file.unlink()
    assert run_config(tmp_path / 'run') == config
