"""What the README shows works."""
from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from syno_nni.cli.main import build_parser
from syno_nni.run.config import SearchConfig, parse_yaml

from .testing.markdown import blocks, commands

ROOT = Path(__file__).parents[1]
README = ROOT / 'README.md'
TEXT = README.read_text(encoding='utf-8')


@pytest.mark.parametrize('line', commands(README))
def test_commands_parse(line: str) -> None:
    build_parser().parse_args(shlex.split(line, comments=True)[1:])


def test_experiment_files_are_valid() -> None:
    assert blocks(README, 'yaml')
    for block in blocks(README, 'yaml'):
        SearchConfig.from_dict(parse_yaml(block, 'README'), 'README')


@pytest.mark.parametrize('block', blocks(README, 'python'))
def test_python_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, '-W', 'error', '-c', block], cwd=tmp_path, capture_output=True, text=True,
                          timeout=240)
    assert done.returncode == 0, done.stderr
    for line in block.splitlines():
        if line.startswith('print('):
            assert line.partition('# ')[2] in done.stdout


def test_links_lead_somewhere() -> None:
    for page in (README, ROOT / 'CONTRIBUTING.md'):
        for target in re.findall(r'\]\((?!https?://)([^)#]+)', page.read_text(encoding='utf-8')):
            assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    rules = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert set(re.findall(r'make ([a-z]+)', TEXT)) <= set(rules)
