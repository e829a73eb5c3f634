"""Batch systems, shared file systems, containers: signals, locks, folders that are missing, full or elsewhere."""
from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from syno_nni.errors import DataError, MeasureError, SynoError
from syno_nni.measure import lock
from syno_nni.measure.latency import measure_pair
from syno_nni.nas.signals import interruptible, shielded
from syno_nni.nas.training import fit
from syno_nni.run.config import EvaluationConfig
from syno_nni.run.directory import load_run, run_config

from ..testing.run_factory import make_run
from ..testing.searching import make_config

TESTING = Path(__file__).parents[1] / 'testing'
REQUESTS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2']
SLURM = {'SLURM_JOB_ID': '1', 'SLURM_JOB_NAME': 'train', 'SLURM_NTASKS': '1', 'SLURM_NTASKS_PER_NODE': '1', 'SLURM_PROCID': '0',
         'SLURM_LOCALID': '0', 'SLURM_NODEID': '0', 'SLURM_NODELIST': 'localhost', 'SLURM_NNODES': '1'}
SHORT = {'min_rounds': 2, 'max_rounds': 2, 'seconds': 0.01, 'warmup': 1, 'threads': 1}


@pytest.mark.parametrize('name', REQUESTS)
def test_every_request_to_stop_is_one(name):
    """submitit#1615, pytorch-lightning#14610, hydra#108: clusters announce the end by SIGUSR1, SIGUSR2 or SIGTERM. Of the
    first two, and of a closed terminal, the search died at once, its end unrecorded."""
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
        time.sleep(1)
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        with shielded():
            os.kill(os.getpid(), number)
            done.append('what belongs together')
        done.append('and no more')
    assert done == ['what belongs together']
    assert signal.getsignal(number) is before


@pytest.mark.parametrize('name', ['SIGHUP', 'SIGUSR1', 'SIGUSR2'])
@pytest.mark.parametrize('own', [False, True])
def test_signals_that_someone_handles_are_left_alone(name, own):
    """mmsegmentation#1998: under nohup SIGHUP is ignored, and a program that installs a handler of its own has it back for
    nothing."""
    number, seen = getattr(signal, name), []
    handler = (lambda *_: seen.append(1)) if own else signal.SIG_IGN
    before = signal.signal(number, handler)
    try:
        with interruptible():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert seen == [1] * own


def test_a_trial_leaves_the_job_to_the_user(monkeypatch: pytest.MonkeyPatch):
    """pytorch-lightning#20542, pytorch-lightning#21406, pytorch-lightning#4265: inside a SLURM job Lightning took SIGUSR1 and
    SIGTERM for itself while a trial was trained: it requeued the whole job, and bypassed the request to stop."""
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    handlers = set()

    class Net(nn.Sequential):
        def forward(self, x):
            handlers.add(signal.getsignal(signal.SIGUSR1))
            return super().forward(x)

    data = TensorDataset(torch.randn(8, 3, 4, 4), torch.arange(8) % 2)
    options = {'num_classes': 2, 'batch_size': 4}
    fit(Net(nn.Flatten(), nn.Linear(48, 2)), EvaluationConfig(epochs=1), data, data, **options)
    assert handlers == {signal.SIG_DFL}

    class Stopped(nn.Sequential):
        def forward(self, x):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt), interruptible():
        fit(Stopped(nn.Flatten(), nn.Linear(48, 2)), EvaluationConfig(epochs=1), data, data, **options)


def search(run: str, mode: str, trials: int, seconds: float, cwd: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(TESTING / 'searching.py'), run, mode, 'sequential', '8080', str(trials),
                             str(seconds)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, **environment})


def events(journal: Path) -> list[str]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [json.loads(line)['event'] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGKILL'])
def test_a_requeued_search_goes_on(name, tmp_path: Path):
    """EgoVerse#621, pocket-tts#277, spd#676: stopped by the cluster, started again elsewhere: other working directory, the
    run directory by a link, no writable home."""
    (tmp_path / 'scratch').mkdir()
    (tmp_path / 'node').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'scratch')
    journal = tmp_path / 'scratch' / 'run' / 'journal.jsonl'
    first = search('link/run', 'new', 6, 1.0, tmp_path, HOME='/dev/null', **SLURM)
    deadline = time.monotonic() + 120
    while 'finished' not in events(journal) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(getattr(signal, name))
    output, _ = first.communicate(timeout=60)
    assert 'finished' in events(journal), output
    assert (events(journal)[-1] == 'ended') == (name != 'SIGKILL')
    finished = events(journal).count('finished')
    second = search('../link/run', 'resume', 3, 0.01, tmp_path / 'node', HOME='/dev/null')
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    state = load_run(tmp_path / 'link' / 'run')
    assert events(journal)[-1] == 'ended'
    assert events(journal).count('finished') > finished
    assert len(state.candidates) == len({c.id for c in state.candidates.values()})


@pytest.mark.parametrize('as_seen', ['run', 'link/run', './link/../runs/run'])
def test_one_run_by_several_names(as_seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """hydra#108, nni#2195: relative, through links, from another working directory."""
    (tmp_path / 'runs').mkdir()
    make_run(tmp_path / 'runs' / 'run')
    (tmp_path / 'link').symlink_to('runs')
    (tmp_path / 'run').symlink_to('runs/run')
    monkeypatch.chdir(tmp_path)
    path = Path(as_seen)
    state = load_run(path)
    assert len(state.candidates) == len(load_run(tmp_path / 'runs' / 'run').candidates)
    assert run_config(path).digest() == run_config(tmp_path / 'run').digest()


def test_data_by_a_relative_path_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """hydra#108, sibling: a folder of images that is named from the working directory is missing in another: in words."""
    from syno_nni.data.datasets import load_data
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    config = make_config(data={'name': 'imagefolder', 'path': 'photos', 'imageSize': 32})
    with pytest.raises(DataError, match='no image folder photos'):
        load_data(config.data)


@pytest.mark.parametrize('error', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_measurements_where_nothing_can_be_locked(error, tmp_path, monkeypatch: pytest.MonkeyPatch, caplog):
    """filelock#6, aws-fsx-csi-driver#65, glusterfs#911, nvc#417: file systems without locks ended every measurement."""
    def flock(*_):
        raise OSError(error, os.strerror(error))
    monkeypatch.setattr(lock.fcntl, 'flock', flock)
    monkeypatch.setattr(lock, 'lock_path', lambda: tmp_path / 'lock')
    model = nn.Conv2d(4, 4, 1).eval()
    with caplog.at_level(logging.WARNING):
        assert measure_pair(model, model, torch.randn(1, 4, 4, 4), **SHORT).speedup > 0
    assert 'measuring without knowing of others' in caplog.text


def test_measurements_without_a_folder_for_temporary_files(tmp_path, monkeypatch: pytest.MonkeyPatch, caplog):
    """nni#1439, capreolus#154: the lock of another user, or no folder at all."""
    monkeypatch.setattr(lock, 'lock_path', lambda: tmp_path / 'missing' / 'lock')
    model = nn.Conv2d(4, 4, 1).eval()
    assert measure_pair(model, model, torch.randn(1, 4, 4, 4), **SHORT).speedup > 0
    assert 'measuring without knowing of others' in caplog.text


@pytest.mark.parametrize('raised', [OSError(errno.ENOSPC, 'No space left on device'), PermissionError(errno.EACCES, 'denied'),
                                    FileNotFoundError(errno.ENOENT, 'No usable temporary directory found')])
def test_a_full_folder_for_temporary_files_is_named(raised, monkeypatch: pytest.MonkeyPatch):
    """clearml#627, decofre#7, miss-alignment#87: what to do about a full /tmp."""
    from syno_nni.measure import runtime
    from syno_nni.measure.runtimes import missing
    if missing('openvino'):
        pytest.skip(missing('openvino'))

    def full(*_, **__):
        raise raised
    monkeypatch.setattr(runtime.tempfile, 'TemporaryDirectory', full)
    model = nn.Conv2d(4, 4, 1).eval()
    with pytest.raises(MeasureError, match='set TMPDIR to another folder') as error:
        measure_pair(model, model, torch.randn(1, 4, 4, 4), runtime='openvino', **SHORT)
    assert raised.strerror in str(error.value)


@pytest.mark.parametrize('error', [errno.ENOLCK, errno.ENOTSUP])
def test_a_run_directory_without_locks_is_refused_in_words(error, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """sarus#36, nfs-volume-release#13: two writers of one journal must be kept apart, so the directory is refused."""
    from syno_nni.run import journal

    def flock(*_):
        raise OSError(error, os.strerror(error))
    monkeypatch.setattr(journal.fcntl, 'flock', flock)
    with pytest.raises(SynoError, match='choose a run directory on a local disk'):
        make_run(tmp_path / 'run')


def test_a_run_that_another_host_holds(tmp_path):
    """wake#593, nfs-subdir-external-provisioner#145: where locks hold within one host only, the name in the file counts."""
    make_run(tmp_path / 'run', ended=False)
    (tmp_path / 'run' / 'run.lock').write_text('pid 1 on another-node\n')
    from syno_nni.run.directory import open_run
    with pytest.raises(SynoError, match=r'in use by pid 1 on another-node; if that process is gone, delete .*run\.lock'):
        open_run(run_config(tmp_path / 'run'), tmp_path / 'run', resume=True)


def test_a_home_that_cannot_be_written(tmp_path):
    """nni#3924, singularity#1323: in containers the home directory is read-only or missing."""
    make_run(tmp_path / 'run')
    done = subprocess.run([sys.executable, '-m', 'syno_nni.cli.main', 'report', 'run'], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, 'HOME': '/dev/null'}, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'report.html').exists()
