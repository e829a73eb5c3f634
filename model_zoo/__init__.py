"""Operators and retrofitted models with their evidence; reading them needs no torch.

``import syno_nni`` has registered the retrofitted models with timm, see :mod:`syno_nni._with_timm`.
"""
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
