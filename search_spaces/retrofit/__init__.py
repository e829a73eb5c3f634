"""Operators in a trained model: filling slots, starting weights, distillation, a choice per slot."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
