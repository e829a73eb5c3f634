"""Datasets: their part of the experiment file, and the splits that it describes."""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
