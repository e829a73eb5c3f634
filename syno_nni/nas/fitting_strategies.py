"""Which of NNI's exploration strategies work on which spaces with operators; the others say so before anything is tried.

===========================================  ==============  =======  =====================================
strategy                                     operator space  a pool   with ``LayerChoice``, ``Repeat``, ...
===========================================  ==============  =======  =====================================
``Random``                                   yes             yes      yes
``GridSearch``                               a part of it    yes      yes
``RegularizedEvolution``                     yes             yes      yes
``TPE``                                      needs a pool    yes      but not with ``InputChoice``
``PolicyBasedRL``                            needs a pool    yes      ``InputChoice`` of one input
one-shot (``DARTS``, ``ENAS``, ...)          no              no       no
===========================================  ==============  =======  =====================================
"""
from __future__ import annotations

from collections.abc import Iterable

from nni.mutable import CategoricalMultiple, LabeledMutable

from .mutable import OperatorChoice, is_pool

ONE_SHOT = ('DARTS', 'Proxyless', 'GumbelDARTS', 'ENAS', 'RandomOneShot')
LISTED = ('TPE', 'TPEStrategy', 'HPOTunerStrategy', 'PolicyBasedRL')
"""Strategies that want to know every value beforehand."""
_INSTEAD = 'Random, RegularizedEvolution, or SynoEvolution and SynoMCTS, which know operators'


def why_not(strategy: type, mutables: Iterable[LabeledMutable]) -> str:
    """Why a strategy of NNI cannot explore a space with operators, and what to do; '' where it can, or has no operators."""
    mutables = list(mutables)
    spaces = [m for m in mutables if isinstance(m, OperatorChoice)]
    pools = [m for m in mutables if is_pool(m)]
    if not spaces and not pools:
        return ''
    names = [cls.__name__ for cls in strategy.__mro__]
    name = names[0]
    if one_shot(names):
        return (f'{name} trains one network that holds all choices at once, and operators are too many and share no weights; '
                f'use {_INSTEAD}')
    if not any(listed in names for listed in LISTED):
        return ''
    if spaces:
        return (f'{name} chooses from a list, and {spaces[0].label!r} is a whole space of operators: make the space with '
                f'pool=100, a list of so many samples (BackboneSpace(..., pool=100)), or use {_INSTEAD}')
    several = next((m for m in mutables if isinstance(m, CategoricalMultiple) and ('PolicyBasedRL' not in names
                                                                                    or m.n_chosen != 1)), None)
    if several is not None:
        return f'{name} cannot choose {several.label!r}, an InputChoice or another choice of several values; use {_INSTEAD}'
    return ''


def one_shot(names: Iterable[str]) -> bool:
    """Whether a strategy, by the names of its class and those above, is one of NNI's one-shot strategies."""
    return any(name in (*ONE_SHOT, 'OneShotStrategy') for name in names)
