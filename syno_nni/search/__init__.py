"""The top floor, where the parts meet: run a search, make a retrofit of what it found.

The package is a function, too: ``syno_nni.search(model, train, val)`` is :func:`.api.search`.
"""
import sys
from types import ModuleType
from typing import Any

import syno_nni.nas  # noqa: F401 - silences a warning of NNI's import, before the modules below import NNI


class _Search(ModuleType):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from .api import search
        return search(*arguments, **named)


sys.modules[__name__].__class__ = _Search
