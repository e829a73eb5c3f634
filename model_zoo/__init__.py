"""Operators and retrofitted models with their evidence; importing it registers the retrofitted models with timm."""
from __future__ import annotations

from . import timm_models  # noqa: F401
from .entries import ZooEntry, find, load, names
from .folder import load_folder, save_folder
from .module_folder import load as load_any
from .module_folder import save_module
from .retrofits import Retrofit, load_retrofit, retrofit_names

__all__ = ['Retrofit', 'ZooEntry', 'find', 'load', 'load_any', 'load_folder', 'load_retrofit', 'names', 'retrofit_names',
           'save_folder', 'save_module']
