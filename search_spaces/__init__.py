"""Where operators go: slots in any timm or torch model, filling them, and NNI model spaces over them."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
