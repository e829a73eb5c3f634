"""What the pages of docs/ show works, and what they say of the project is so. Tutorials: test_tutorials.py."""
from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from syno_nni import model_zoo
from syno_nni.cli.main import build_parser
from syno_nni.run.config import SearchConfig, parse_yaml

from .testing.markdown import blocks, commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = [*sorted(DOCS.rglob('*.md')), ROOT / 'CONTRIBUTING.md', ROOT / 'SECURITY.md']
PAGES = [page for page in PAGES if page.exists()]

# What a page takes as given.
GIVEN = {
    'operators.md': """
import syno_nni as sn
json_text = sn.classics.conv2d().to_dict()
import json; json_text = json.dumps(json_text)
""",
    'plans.md': """
import syno_nni as sn
op = sn.classics.operator_2()
sizes = {'N': 1, 'C_in': 16, 'C_out': 16, 'H': 8, 'k_1': 3, 'g': 4, 's': 2}
import importlib.util
if importlib.util.find_spec('openvino') is None:
    sn.SynthesizedLayer.tune = lambda self, **options: self
""",
    'retrofit.md': """
import json
import timm, torch
from torch.utils.data import DataLoader, TensorDataset
import syno_nni as sn
MyModel = lambda: timm.create_model('resnet10t', channels=(64, 64, 64, 64), num_classes=4)
from syno_nni import classics
model = MyModel()
loader = DataLoader(TensorDataset(torch.randn(8, 3, 64, 64), torch.randint(4, (8,))), batch_size=4)
batches = [x for x, _ in loader]
operators = [classics.operator_2(), classics.grouped_conv2d()]
accuracy = lambda model: 50.0
""",
    'synthesis.md': """
from syno_nni.synthesis.presets import PRESETS
from syno_nni.synthesis import OperatorSpace
from syno_nni.testing.spaces import OperatorSpaceSuite
""",
    'search.md': 'import pytest\nfrom syno_nni.strategies import SynoRandom as MyStrategy\n',
}


# The same in less time, without a download, and where only the extra `test` is installed.
SMALLER = {'224, 224': '64, 64', 'layer4': 'layer2', 'steps=200': 'steps=2', "Recipe('resnet18'": "Recipe('test_resnet'",
           'operator_2(), weights': 'grouped_conv2d(groups=4), weights', 'pretrained=True),': '),',
           "('eager', 'openvino')": "('eager',)", "('resnet18-fast', onnx=True)": "('fast')"}


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize('page', [page for page in PAGES if commands(page)], ids=ids)
def test_commands_parse(page: Path) -> None:
    for line in commands(page):
        build_parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'yaml')], ids=ids)
def test_keys_of_experiment_files_are_known(page: Path) -> None:
    for block in blocks(page, 'yaml'):
        SearchConfig.from_dict({'model': {'name': 'resnet18'}, **parse_yaml(block, page.name)}, page.name)


@pytest.mark.parametrize('name', GIVEN)
def test_pages_whose_code_runs(name: str) -> None:
    assert blocks(DOCS / name, 'python'), 'no code: leave it out of GIVEN'


@pytest.mark.slow
@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'python')], ids=ids)
def test_python_runs(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other."""
    code = '\n'.join([GIVEN[page.name], *blocks(page, 'python')])
    for shown, less in SMALLER.items():
        code = code.replace(shown, less)
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


def test_layers_are_those_that_are_checked() -> None:
    contract = configparser.ConfigParser()
    contract.read(ROOT / '.importlinter')
    wanted = [re.findall(r'\w+', line) for line in contract['importlinter:contract:layers']['layers'].split('\n') if line]
    text = (DOCS / 'architecture.md').read_text(encoding='utf-8')
    table = text[text.index('| layer | holds |'):].partition('\n\n')[0].splitlines()[2:]
    shown = [re.findall(r'`(\w+)`', row.split('|')[1]) for row in table]
    assert shown == wanted


def test_places_that_are_named_are_there() -> None:
    """Files and folders in the table of what is added where."""
    text = (DOCS / 'architecture.md').read_text(encoding='utf-8')
    section = text[text.index('## Where to add what'):].partition('\n## ')[0]
    named = set(re.findall(r'`((?:syno_nni|strategies|search_spaces|tests)/[\w./]*)`', section))
    assert len(named) > 15
    missing = [place for place in named if not (ROOT / place).exists()]
    assert not missing, missing
    for name in set(re.findall(r'`([a-z_]+\.pyi?)`', section)):
        assert list(ROOT.glob(f'*/**/{name}')), name


def test_published_numbers_are_those_of_the_zoo() -> None:
    rows = re.findall(r'^\| (\d{5}) \| ([\w -]+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) \| ([\d.]+)x \|$',
                      (DOCS / 'compared.md').read_text(encoding='utf-8'), re.MULTILINE)
    shown = {}
    for operator, model, accuracy, original, lost, speedup in rows:
        assert f'{float(original) - float(accuracy):.2f}' == lost
        shown[operator, re.sub(r'\W', '', model).lower()] = (float(accuracy), float(original), float(speedup))
    known = {}
    for name in model_zoo.names():
        for claim in model_zoo.load(name).published:
            if claim['imagenet_accuracy'] is not None:
                known[name[-5:], re.sub(r'[\W_]', '', claim['model'])] = (
                    round(100 * claim['imagenet_accuracy'], 2), round(100 * claim['imagenet_baseline'], 2),
                    float(f'{claim["speedup_a100_inductor"]:.2f}'))
    assert shown == known


def test_the_readme_tells_what_is_lost_as_the_comparison_does() -> None:
    readme, compared = ((ROOT / name).read_text(encoding='utf-8') for name in ('README.md', 'docs/compared.md'))
    for loss in ('3.76', '4.10', '1.27'):
        assert loss in readme and f'| {loss} |' in compared
