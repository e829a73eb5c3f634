"""Neural operator synthesis for NNI: new tensor operators fill the slots of timm backbones."""
import lazy_loader as lazy

from . import _moved, _with_timm

# Lazy, so that reading formulas or sampling operators imports neither torch nor nni; __init__.pyi says what is there.
__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
__version__ = '0.1.0'
_moved.install()
_with_timm.install()
