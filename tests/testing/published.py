"""The published operators, for the tests that use them; none where the data folder is absent."""
from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import syno_nni as sn

FOLDER = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'published_operators'
NAMES = sorted(p.name for p in FOLDER.iterdir()) if FOLDER.is_dir() else []


@cache
def operator(name: str) -> sn.Operator:
    return sn.read_graph_dot((FOLDER / name / 'graph.dot').read_text())


@cache
def facts(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / 'facts.json').read_text())


def expected(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Input and weights, and the exact output, at ``facts(name)['binding']``."""
    with np.load(FOLDER / name / 'expected.npz') as arrays:
        inputs = [arrays[f'in_{t}'].astype(np.float64) for t in range(len(arrays.files) - 1)]
        return inputs, arrays['out']
