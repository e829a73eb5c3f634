"""Another user of the machine, beside a search: sees no token, reaches no manager, and stops no measurement."""
from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from syno_nni.measure.lock import measurement_lock
from syno_nni.nas.manager import free_port
from syno_nni.nas.patches import token_in

from ..testing.command import Commands, wait_for, write_file

SETPRIV = shutil.which('setpriv')
pytestmark = pytest.mark.skipif(os.getuid() != 0 or SETPRIV is None, reason='only root can become another user (setpriv)')

# What the other one tries, with nothing but Python's own library: every file of the run and of /proc that may hold the
# token, and the manager by all the addresses that are to be found. It prints what it got.
INTRUDER = """
import glob, json, os, sys, urllib.error, urllib.request
root, port, pids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
assert os.getuid() != 0
read, opened = {}, {}
places = [os.path.join(d, f) for d, _, fs in os.walk(root, followlinks=True) for f in fs]
places += [f'{root}/nni/_latest/.token', f'{root}/nni/_latest/log/nnimanager.log']
for pid in pids:
    places += [f'/proc/{pid}/{name}' for name in ('cmdline', 'environ', 'mem', 'maps', 'status')]
    places += glob.glob(f'/proc/{pid}/fd/*')
for place in places:
    try:
        with open(place, 'rb') as file:
            read[place] = file.read(1 << 22).decode('latin-1')
    except OSError:
        pass
api = '/api/v1/nni/'
for path in ('/', '/oview', api + 'trial-jobs', api + 'check-status', api + 'experiment', '/logs/nnimanager.log',
             '/' + '0' * 32 + api + 'trial-jobs'):
    for name in ('localhost', '127.0.0.1', '[::1]'):
        try:
            with urllib.request.urlopen(f'http://{name}:{port}{path}', timeout=10) as answer:
                opened[name + path] = answer.status
        except urllib.error.HTTPError as error:
            opened[name + path] = error.code
        except OSError:
            opened[name + path] = 0
print(json.dumps({'read': read, 'opened': opened}))
"""


def _as_nobody(*words: object) -> str:
    nobody = pwd.getpwnam('nobody')
    # The interpreter of the tests may lie where only root gets.
    python = next(p for p in ('/usr/bin/python3', '/usr/local/bin/python3', sys.executable) if Path(p).exists())
    prefix = [SETPRIV, f'--reuid={nobody.pw_uid}', f'--regid={nobody.pw_gid}', '--clear-groups', python, '-I']
    if subprocess.run([*prefix, '-c', ''], cwd='/', capture_output=True).returncode:
        pytest.skip('another user cannot run Python here')
    done = subprocess.run([*prefix, *map(str, words)], cwd='/', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that everybody may look into: what is secret must be so by itself."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path('/') and not folder.stat().st_mode & 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith('pytest-of-'):
            break
    return tmp_path


@pytest.mark.nni
@pytest.mark.slow
def test_beside_a_search_with_a_manager(open_folder: Path, command: Commands) -> None:
    port, run = free_port(), open_folder / 'run'
    file = write_file(open_folder / 'search.yml', engine='local', port=port, maxTrialNumber=1000)
    search = command('search', file, '--run-dir', run, umask=0o022)
    latest = run / 'nni' / '_latest'
    token = wait_for(lambda: latest.exists() and token_in(latest.resolve()), why=lambda: search.said)

    process = psutil.Process(search.process.pid)

    def trial() -> bool:
        return any('syno_nni.trial' in ' '.join(p.cmdline()) for p in process.children(recursive=True))

    wait_for(trial, why=lambda: search.said)
    pids = [p.pid for p in (process, *process.children(recursive=True))]
    answer = json.loads(_as_nobody('-c', INTRUDER, run, port, json.dumps(pids)))
    assert str(run / 'journal.jsonl') in answer['read'], 'the intruder did look'
    assert any(place.endswith('/cmdline') for place in answer['read'])
    assert [place for place, content in answer['read'].items() if token in content] == []
    assert answer['opened'] and set(answer['opened'].values()) <= {0, 403}
    assert 403 in answer['opened'].values()
    assert search.process.poll() is None


def test_who_stands_in_the_way_of_measurements(open_folder: Path, monkeypatch: pytest.MonkeyPatch,
                                               caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr('tempfile.tempdir', str(open_folder))
    open_folder.chmod(0o1777)
    name = open_folder / f'syno-nni-{os.getuid()}-measure.lock'
    _as_nobody('-c', 'import os, sys; os.close(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600))', name)
    assert name.stat().st_uid != os.getuid()
    with measurement_lock():  # root may open it, or not (fs.protected_regular): both will do
        pass
