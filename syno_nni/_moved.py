"""Old names of modules, which released files and documents use; importing one warns and gives the module of today."""
from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_FOLDERS = {
    'syno_nni.operator': ('size', 'expr', 'formula', 'legality', 'canonical', 'serialize', 'reference', 'cost', 'classics',
                          'draw', 'dot_reader'),
    'syno_nni.plan': ('layer', 'fused_layer', 'initialize'),
    'syno_nni.run': ('config', 'journal', 'records', 'report', 'plots', 'stage_costs', 'nnictl_file'),
}
MOVED = {
    **{f'syno_nni.{name}': f'{folder}.{name}' for folder, names in _FOLDERS.items() for name in names},
    **{f'syno_nni.search_spaces.{name}': f'syno_nni.search_spaces.retrofit.{name}'
       for name in ('warm_start', 'distill', 'measure_slots')},
    'syno_nni.evaluation': 'syno_nni.operator.orders',
    'syno_nni.plan.concrete': 'syno_nni.operator.concrete',
    'syno_nni.run_state': 'syno_nni.run.state',
    'syno_nni.run_directory': 'syno_nni.run.directory',
    'syno_nni.strategies.outcome': 'syno_nni.run.candidate',
    'syno_nni.nas.experiment': 'syno_nni.search.run',
    'syno_nni.nas.verification': 'syno_nni.plan.verification',
    'syno_nni.search_spaces.assign': 'syno_nni.search_spaces.retrofit.knapsack',
    'syno_nni.search_spaces.choose': 'syno_nni.search_spaces.retrofit.per_slot',
    'syno_nni.model_zoo.from_run': 'syno_nni.search.from_run',
}


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f'{spec.name} is now {MOVED[spec.name]}', DeprecationWarning, stacklevel=2)
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just given it the spec of its old name.
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Make the old names importable."""
    sys.meta_path.append(_Finder())
