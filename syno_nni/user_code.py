"""Functions of the user's own: what ``module:function`` in an experiment file names.

The module is imported from the folder of the file, or from what is installed: an experiment file with such a name is code, and
trusted as code is (SECURITY.md). Nothing else in a file is ever imported.
"""
from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigError, shown
from .schema import FUNCTION_NAME
from .text import cell, did_you_mean


def import_function(name: str, folder: str | Path | None, where: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Args:
        name: of the module, as in an import statement, and of the function in it.
        folder: where modules are looked for first; None for installed ones only.
        where: the key of the file that says so, for messages.

    Raises:
        ConfigError: it is malformed, there is no such module or function, or the import fails.
    """
    if not isinstance(name, str) or not re.match(FUNCTION_NAME, name):
        raise ConfigError(f"{where}: should name a function as 'module:function', got {shown(name)}")
    module_name, _, path = name.partition(':')
    module = _import(module_name, folder, where)
    found: Any = module
    for part in path.split('.'):
        if not hasattr(found, part):
            hint = did_you_mean(part, [n for n in vars(module) if not n.startswith('_')], 3)
            raise ConfigError(f'{where}: {module_name} has no {part}; {hint}')
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f'{where}: {name} should be a function, got {type(found).__name__}')
    return found


def find_module(name: str, folder: str | Path | None, where: str) -> None:
    """Look for the module that ``module:function`` names, without running any of it.

    Raises:
        ConfigError: there is none.
    """
    top = name.partition(':')[0].partition('.')[0]
    if folder is not None and any((Path(folder) / f'{top}{end}').exists() for end in ('.py', '')):
        return
    if importlib.util.find_spec(top) is None:
        raise ConfigError(_missing(top, None if folder is None else str(Path(folder).absolute()), where))


def call_function(function: Callable[..., Any], arguments: dict[str, Any], where: str) -> Any:
    """What the function returns.

    Raises:
        ConfigError: it raises; the message says what and in which line of whose file.
    """
    try:
        return function(**arguments)
    except Exception as error:
        raise ConfigError(f'{where}: {_raised(error)}') from error


def _import(name: str, folder: str | Path | None, where: str) -> Any:
    inserted = str(Path(folder).absolute()) if folder is not None else None
    if inserted is not None:
        sys.path.insert(0, inserted)
    importlib.invalidate_caches()
    try:
        if importlib.util.find_spec(name.partition('.')[0]) is None:
            raise ConfigError(_missing(name, inserted, where))
        return importlib.import_module(name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f'{where}: {cell(name, 80)} cannot be imported: {_raised(error)}') from error
    finally:
        # Left where it is: a module may import its neighbours when its functions run.
        if inserted is not None and sys.path.count(inserted) > 1:
            sys.path.remove(inserted)


def _missing(name: str, folder: str | None, where: str) -> str:
    looked = f'in {cell(folder, 200)} and among installed packages' if folder else 'installed'
    return f'{where}: there is no module {cell(name, 80)} {looked}'


def _raised(error: BaseException) -> str:
    """The exception in a line, with the place of the user's code that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name != Path(__file__).name
              and not f.filename.startswith('<')]
    place = f' ({Path(frames[-1].filename).name}, line {frames[-1].lineno})' if frames else ''
    return f'{type(error).__name__}: {cell(" ".join(str(error).split()), 300)}{place}'
