"""What is packaged, and that importing it is quiet and light."""
from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from syno_nni.cli.main import COMMANDS

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
    ('syno_nni.cli.main', ('torch', 'nni', 'timm', 'matplotlib', 'numpy', 'pydantic', 'yaml')),
    ('syno_nni.model_zoo.entries, syno_nni.model_zoo.retrofits, syno_nni.model_zoo.card', ('torch', 'nni', 'timm')),
    ('syno_nni.synthesis', ('torch', 'nni')),
    ('syno_nni.run.journal, syno_nni.run.config, syno_nni.run.report', ('torch', 'nni', 'matplotlib')),
    ('syno_nni.search.run, syno_nni.search_spaces.backbone, syno_nni.strategies', ()),
])
def test_imports_are_quiet_and_light(module: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    code = f'import {module}, sys; print([m for m in {absent!r} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ('[]\n', '')


@pytest.mark.parametrize('command', [
    ['--help'], ['--version'], ['zoo'], ['zoo', 'list', '--json'], ['zoo', 'show', 'resnet18_syno_07754'],
    ['zoo', 'show', 'syno_resnet_07754'], ['show', 'syno_resnet_07754'], ['show', 'operator_2', '--json'],
    *([command.__name__.rpartition('.')[2], '--help'] for command in COMMANDS)], ids=' '.join)
def test_commands_that_only_read_import_no_large_library(command: list[str], tmp_path: Path) -> None:
    code = ('import sys\nfrom syno_nni.cli.main import main\n'
            f'try:\n    status = main({command!r})\nexcept SystemExit as left:\n    status = left.code\n'
            'print(status, [m for m in ("torch", "nni", "timm", "torchvision", "scipy", "sklearn", "matplotlib", "plotly") '
            'if m in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == '0 []', done.stderr
    assert done.stderr == ''


def test_folders_leak_no_top_level_names(tmp_path: Path) -> None:
    code = 'import importlib.util as u; print([n for n in ("search_spaces", "strategies", "model_zoo", "examples") ' \
           'if u.find_spec(n)])'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == '[]\n', done.stderr


@pytest.fixture(scope='module')
def dist(options: configparser.SectionProxy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of the project's files, and the wheel that is made of it, as an index gets them."""
    tree = tmp_path_factory.mktemp('tree')
    files = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z'], cwd=ROOT,
                           capture_output=True, text=True, timeout=60)
    if files.returncode:
        pytest.skip('not a git repository')
    for name in filter(None, files.stdout.split('\0')):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    build = 'import sys, setuptools.build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])'
    out = tmp_path_factory.mktemp('dist')
    subprocess.run([sys.executable, '-c', build, 'build_sdist', str(out)], cwd=tree, check=True, timeout=300,
                   stdout=subprocess.DEVNULL)
    source = next(out.glob('*.tar.gz'))
    with tarfile.open(source) as archive:
        archive.extractall(out, filter='data')
    unpacked = out / source.name.removesuffix('.tar.gz')
    subprocess.run([sys.executable, '-c', build, 'build_wheel', str(out)], cwd=unpacked, check=True, timeout=300,
                   stdout=subprocess.DEVNULL)
    return {'source': unpacked, 'wheel': next(out.glob('*.whl'))}


@pytest.mark.slow
def test_sdist_and_wheel_hold_every_file_that_code_reads(options: configparser.SectionProxy, dist: dict[str, Path]) -> None:
    """The editable install reads the folders themselves, so only a wheel shows what packaging forgot."""
    homes = dict(line.replace(' ', '').split('=') for line in lines(options['package_dir']))
    packed = set(zipfile.ZipFile(dist['wheel']).namelist())
    for name, folder in homes.items():
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and path.suffix != '.pyc':
                assert f'{name.replace(".", "/")}/{path.relative_to(ROOT / folder).as_posix()}' in packed
                assert (dist['source'] / path.relative_to(ROOT)).is_file()
    # On the page of a package index, relative links lead nowhere.
    metadata = zipfile.ZipFile(dist['wheel']).read(next(n for n in packed if n.endswith('METADATA'))).decode()
    assert '[timm](https://github.com/' in metadata and 'retrofit your own trained model' in metadata
    assert re.findall(r'\]\((?!https?://|#)', metadata) == []
    # What a person who only has the sdist needs to test and cite it.
    for name in ('LICENSE', 'README.md', 'CHANGELOG.md', 'CITATION.cff', 'Makefile', 'tests/conftest.py', 'docs/index.md'):
        assert (dist['source'] / name).is_file(), name


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(dist: dict[str, Path], tmp_path: Path) -> None:
    """An environment with the dependencies and, of this project, nothing but the installed wheel."""
    fresh = tmp_path / 'fresh'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(fresh)], check=True, timeout=120)
    python = fresh / 'bin' / 'python'
    subprocess.run([sys.executable, '-m', 'pip', '--python', str(python), 'install', '-q', '--no-deps', '--no-index',
                    str(dist['wheel'])], check=True, timeout=120)
    site = next((fresh / 'lib').glob('python*/site-packages'))
    # By .pth, whose folders are not searched for .pth files: the editable install does not come along.
    (site / 'dependencies.pth').write_text('\n'.join(p for p in sys.path if p.endswith('-packages')) + '\n')
    code = ('import syno_nni, timm; from syno_nni.run.config import load_config; load_config(None); '
            'print(syno_nni.__file__, timm.create_model("resnet18_cifar_w16_syno_07754").num_classes)')
    done = subprocess.run([python, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout == f'{site / "syno_nni" / "__init__.py"} 10\n', done.stderr
    for command in ('--version', 'zoo list', 'zoo show resnet18_syno_07754', 'show syno_resnet_07754', 'search --dry-run'):
        done = subprocess.run([fresh / 'bin' / 'syno-nni', *command.split()], cwd=tmp_path, capture_output=True, text=True,
                              timeout=300)
        assert (done.returncode, done.stderr) == (0, ''), command
        assert done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['fresh']


def test_the_oldest_dependencies_are_those_that_are_tested(options: configparser.SectionProxy) -> None:
    declared = {}
    for line in lines(options['install_requires']):
        name, found, minimum = line.partition('>=')
        if found:
            declared[name] = minimum.partition(',')[0]
    pinned = dict(line.split('==') for line in (ROOT / 'tests' / 'oldest.txt').read_text().split() if '==' in line)
    assert declared.keys() == pinned.keys()
    assert all((pinned[name] + '.0').startswith(minimum) for name, minimum in declared.items())
