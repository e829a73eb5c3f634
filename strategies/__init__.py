"""Exploration strategies of NNI that propose operators: random, evolution, tree search."""
import lazy_loader as lazy

import syno_nni.nas  # noqa: F401 - silences a warning of NNI's import, before the modules below import NNI

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
