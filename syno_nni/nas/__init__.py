"""The glue to NNI: mutable, slot, evaluator, profilers, and the experiment that runs them.

The modules below import torch and NNI; this file imports neither.
"""
from __future__ import annotations

import warnings

# `nni.nas.nn.pytorch` walks through torch.nn when it is imported and warns of every class younger than NNI itself.
# The classes are harmless to us; the filter must stand before the first of our modules imports NNI's.
warnings.filterwarnings('ignore', message=r'.* is found to be not a nn\.Module', category=RuntimeWarning)
