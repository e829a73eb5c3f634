"""Where operators go: slots in any timm or torch model, filling them, and NNI model spaces over them."""
from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    'Slot': 'slots', 'Excluded': 'slots', 'find_slots': 'slots', 'bindings': 'slots', 'group_slots': 'slots',
    'slot_rows': 'slot_table', 'format_slot_table': 'slot_table', 'FilledSlot': 'filled_slot',
    'filled_slots': 'retrofit', 'slot_config': 'retrofit', 'apply_slot_config': 'retrofit',
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    # Lazy, because these modules import torch.
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{_HOME[name]}', __name__), name)
