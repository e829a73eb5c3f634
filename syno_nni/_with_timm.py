"""The zoo's models become timm models as soon as there is timm: when it is imported, or at once where it has been.

``import syno_nni`` needs no torch then, and ``timm.create_model('resnet18_syno_07754')`` and ``'local-dir:FOLDER'`` work after
it, whichever of the two was imported first.
"""
from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODELS = 'syno_nni.model_zoo.timm_models'


class _Finder(MetaPathFinder):
    """Finds timm as others do, and has the models registered behind its import."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != 'timm':
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, 'find_spec'))
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, 'exec_module'):
            # On this one loader: it stays of the class that whoever inspects modules expects.
            spec.loader.exec_module = _then_register(spec.loader.exec_module)  # type: ignore[method-assign, assignment]
        return spec


def _then_register(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        execute(module)
        register()

    return exec_module


def register() -> None:
    """Register the models. A fault of ours must not take timm away from the process: it is a warning."""
    try:
        importlib.import_module(_MODELS)
    except Exception as error:
        warnings.warn(f'syno-nni: timm does not know the models of the zoo: {type(error).__name__}: {error}; '
                      f'`import {_MODELS}` shows where it fails', stacklevel=2)


def install() -> None:
    """Register the models when timm is imported; now, if it has been."""
    if 'timm' in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder())
