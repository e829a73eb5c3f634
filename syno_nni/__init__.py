"""Neural operator synthesis for NNI: new tensor operators fill the slots of timm backbones."""
from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    'Operator': 'operator', 'Size': 'size', 'SynoError': 'errors', 'read_graph_dot': 'dot_reader',
    'SynthesizedLayer': 'layer', 'OperatorSpace': 'synthesis.space', 'retrofit': 'search_spaces.retrofit',
}
__all__ = [*_HOME, '__version__']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    # Lazy, so that reading formulas or sampling operators imports neither torch nor nni.
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{_HOME[name]}', __name__), name)
