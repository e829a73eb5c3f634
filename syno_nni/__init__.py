"""Neural operator synthesis for NNI: new tensor operators fill the slots of timm backbones."""
import importlib

import lazy_loader as lazy

from . import _moved, _with_timm

# Lazy, so that reading formulas or sampling operators imports neither torch nor nni; __init__.pyi says what is there.
_named, _, __all__ = lazy.attach_stub(__name__, __file__)
__all__ += ['search']
__version__ = '0.1.0'
_moved.install()
_with_timm.install()


def __getattr__(name: str) -> object:
    # A package that can be called: what lazy_loader knows are modules and what is in them.
    return importlib.import_module('.search', __name__) if name == 'search' else _named(name)


def __dir__() -> list[str]:
    return [*__all__]
