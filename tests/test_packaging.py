"""What is packaged, and that importing it is quiet and light."""
from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def options() -> configparser.SectionProxy:
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    return parser['options']


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith('#')]


def test_every_folder_with_code_is_packaged(options: configparser.SectionProxy) -> None:
    homes = dict(line.replace(' ', '').split('=') for line in lines(options['package_dir']))
    found = {'.'.join([name, *path.parent.relative_to(ROOT / folder).parts])
             for name, folder in homes.items() for path in (ROOT / folder).rglob('__init__.py')}
    assert sorted(found) == sorted(lines(options['packages']))


def test_pins_that_nni_needs_are_there(options: configparser.SectionProxy) -> None:
    requirements = lines(options['install_requires'])
    assert {'setuptools<82', 'nni>=3.0,<4'} <= set(requirements)
    assert any(r.startswith('pytorch-lightning') for r in requirements)


@pytest.mark.parametrize(('module', 'absent'), [
    ('syno_nni', ('torch', 'nni', 'numpy')),
    ('syno_nni.cli.main', ('torch', 'nni', 'timm', 'matplotlib')),
    ('syno_nni.synthesis', ('torch', 'nni')),
    ('syno_nni.run.journal, syno_nni.run.config, syno_nni.run.report', ('torch', 'nni', 'matplotlib')),
    ('syno_nni.search.run, syno_nni.search_spaces.backbone, syno_nni.strategies', ()),
])
def test_imports_are_quiet_and_light(module: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    code = f'import {module}, sys; print([m for m in {absent!r} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ('[]\n', '')


def test_folders_leak_no_top_level_names(tmp_path: Path) -> None:
    code = 'import importlib.util as u; print([n for n in ("search_spaces", "strategies", "model_zoo", "examples") ' \
           'if u.find_spec(n)])'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == '[]\n', done.stderr


@pytest.mark.slow
def test_wheel_holds_every_file_that_code_reads(options: configparser.SectionProxy, tmp_path: Path) -> None:
    """The editable install reads the folders themselves, so only a wheel shows what packaging forgot."""
    homes = dict(line.replace(' ', '').split('=') for line in lines(options['package_dir']))
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, tmp_path)
    for folder in homes.values():
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__'))
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', 'dist', '.'],
                   cwd=tmp_path, check=True, timeout=300)
    packed = set(zipfile.ZipFile(next((tmp_path / 'dist').glob('*.whl'))).namelist())
    for name, folder in homes.items():
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and path.suffix != '.pyc':
                assert f'{name.replace(".", "/")}/{path.relative_to(ROOT / folder).as_posix()}' in packed


def test_the_oldest_dependencies_are_those_that_are_tested(options: configparser.SectionProxy) -> None:
    declared = {}
    for line in lines(options['install_requires']):
        name, found, minimum = line.partition('>=')
        if found:
            declared[name] = minimum.partition(',')[0]
    pinned = dict(line.split('==') for line in (ROOT / 'tests' / 'oldest.txt').read_text().split() if '==' in line)
    assert declared.keys() == pinned.keys()
    assert all((pinned[name] + '.0').startswith(minimum) for name, minimum in declared.items())
