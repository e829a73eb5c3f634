from __future__ import annotations

import os

import pytest

# Workers and their child processes share the cores: more threads than cores spin, and take ten times as long.
os.environ.setdefault('OMP_NUM_THREADS', '1')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--update-golden', action='store_true',
                     help='rewrite tests/syno_nni/operator/golden from what the code says now')
    parser.addoption('--hostile-seed', type=int, default=0, metavar='SEED', help='of the generated hostile files')
    parser.addoption('--hostile-cases', type=int, default=1000, metavar='N', help='hostile files to generate')
