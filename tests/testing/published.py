"""The published operators: those of the zoo, and beside them the files of their artifact where its folder is there."""
from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import syno_nni as sn

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = {entry['name'].removeprefix('syno_').replace('_0', '-0'): entry
           for entry in (json.loads(path.read_text()) for path in sorted((ROOT / 'model_zoo' / 'operators').glob('*.json')))
           if entry['source'] == 'published'}
NAMES = list(ENTRIES)
SLOTS = {
    model: [{'N': 128, 'C_in': c_in, 'C_out': c_out, 'H': h, 'g': 32, 'k_1': 3, 'k_2': 7, 's': 2} for c_in, c_out, h in shapes]
    for model, shapes in {
        'densenet121': [(128, 32, 56), (128, 32, 28), (128, 32, 14), (128, 32, 7)],
        'efficientnet_v2_s': [(24, 24, 112), (24, 96, 56), (48, 192, 56), (48, 192, 28), (64, 256, 28)],
        'resnet': [(64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)],
        'resnext29_2x64d': [(128, 128, 56), (256, 256, 28), (512, 512, 14), (1024, 1024, 7)]}.items()}
"""The sizes of the layers that the operators of a backbone replace."""
BINDING = {'N': 2, 'C_in': 16, 'C_out': 8, 'H': 14, 'g': 4, 'k_1': 3, 'k_2': 7, 's': 2}

ARTIFACT = ROOT.parent / 'shared' / 'data' / 'published_operators'
with_artifact = pytest.mark.skipif(not ARTIFACT.is_dir(), reason="the files of the operators' artifact are not here")


@cache
def operator(name: str) -> sn.Operator:
    return sn.Operator.parse(ENTRIES[name]['formula'])


def slots(name: str) -> list[dict[str, int]]:
    """The sizes of the layers that the operator replaces in its backbone."""
    return SLOTS[name.rpartition('-')[0]]


# ---- the artifact ----

def graph(name: str) -> str:
    """The text of the operator's ``graph.dot``."""
    return (ARTIFACT / name / 'graph.dot').read_text()


@cache
def facts(name: str) -> dict[str, Any]:
    """The `slots` with their published MACs, and the ``binding`` of `expected`."""
    return json.loads((ARTIFACT / name / 'facts.json').read_text())


def expected(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Input and weights of the operator of `graph`, and the exact output, at ``facts(name)['binding']``."""
    with np.load(ARTIFACT / name / 'expected.npz') as arrays:
        inputs = [arrays[f'in_{t}'].astype(np.float64) for t in range(len(arrays.files) - 1)]
        return inputs, arrays['out']
