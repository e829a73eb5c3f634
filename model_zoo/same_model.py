"""Whether a model that was loaded is the one that was saved: names, shapes and values of its weights, and what it computes."""
from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from syno_nni.errors import ZooError
from syno_nni.search_spaces.draws import drawing

from .timm_args import code_in

_INSTEAD = 'save slot_config(model) and model.state_dict() instead, and load them into the model that your code makes'
TOLERANCE = 1e-4
"""Of outputs, relative to the largest: both models run the same operations in float32."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in ``torch.compile``, data parallel or averaging wrappers; itself where there is none."""
    while not isinstance(vars(model).get('pretrained_cfg'), Mapping):
        modules = vars(model).get('_modules', {})
        inner = modules.get('_orig_mod') or modules.get('module') or modules.get('ema')
        if inner is None:
            return model
        model = inner
    return model


def check_plain(model: nn.Module) -> None:
    """That weights are plain parameters, under the names that timm gives them.

    Raises:
        ZooError: some are computed from others, by pruning or a parametrization, or a part of the model is compiled.
    """
    compiled = [name for name, module in model.named_modules() if name and '_orig_mod' in vars(module).get('_modules', {})]
    if compiled:
        raise ZooError(f'{_listed(compiled)}: parts in a wrapper of torch.compile are not part of a timm model; put back what '
                       'is inside (its _orig_mod), and compile in place: part.compile()')
    names = model.state_dict().keys()
    computed = [k for k in names if 'parametrizations' in k.split('.') or k.endswith('_orig') and f'{k[:-5]}_mask' in names
                or k.endswith('_g') and f'{k[:-2]}_v' in names]
    if computed:
        raise ZooError(f'{_listed(computed)}: pruning and parametrizations are not part of a timm model; make them permanent '
                       'first (torch.nn.utils.prune.remove, torch.nn.utils.parametrize.remove_parametrizations)')


def float_copy(model: nn.Module) -> nn.Module:
    """A copy in float32, on the CPU and in evaluation mode, to run the model without touching it.

    Raises:
        ZooError: the model cannot be copied.
    """
    try:
        return copy.deepcopy(model).cpu().float().eval()
    except Exception as error:  # tensors and attributes that cannot be copied raise all kinds
        raise ZooError(f'{type(model).__name__} cannot be copied to compare it with what is saved: '
                       f'{" ".join(str(error).split())[:200]}; {_INSTEAD}') from error


def run_on(model: nn.Module, size: tuple[int, ...]) -> str | None:
    """Why the model does not run on one input of this size, or None when it does."""
    try:
        _outputs(model, size)
    except Exception as error:  # whatever layers raise
        return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    return None


def check_same(model: nn.Module, twin: nn.Module, load: Callable[[], nn.Module], build: Callable[[], nn.Module],
               size: tuple[int, ...], base: str) -> None:
    """Load what was saved and compare.

    Args:
        model: what was saved.
        twin: its :func:`float_copy`.
        load: loads the model with its weights.
        build: makes its architecture without them, to explain what does not load.
        size: (channels, height, width) of an input.
        base: name of the architecture.

    Raises:
        ZooError: it does not load, or is another model; says what differs and what to do.
    """
    try:
        loaded = load()
    except ZooError as error:
        _check_names(model, build(), base)
        raise ZooError(f'what is written does not load: {error}') from error
    _check_names(model, loaded, base)
    mine, theirs = model.state_dict(), loaded.state_dict()
    # Operators of a layer that was called before hold the values in another type than they were loaded in.
    other = [k for k, v in theirs.items() if not torch.equal(mine[k].detach().cpu().to(v.dtype), v.cpu())]
    if other:
        raise ZooError(f'{_listed(other)} would come back with other values{_because_of_code(model)}')
    ties, theirs_tied = _ties(model), _ties(loaded)
    if ties != theirs_tied:
        name = min(ties ^ theirs_tied, key=len)
        raise ZooError(f'{_listed(sorted(name))} share one weight in only one of this model and {base} as timm makes it; '
                       f'{_INSTEAD}')
    _check_constants(model, loaded, base)
    expected, got = _outputs(twin, size), _outputs(loaded.float().eval(), size)
    if len(expected) != len(got) or not all(_close(a, b) for a, b in zip(expected, got, strict=True)):
        raise ZooError(f'{base} with these weights computes something else than this model: a layer, hook or attribute was '
                       f'changed that its name and arguments do not tell{_because_of_code(model)}; {_INSTEAD}')
    _warn_of_training(model, loaded, base)


def _check_names(model: nn.Module, made: nn.Module, base: str) -> None:
    mine = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    theirs = {k: tuple(v.shape) for k, v in made.state_dict().items()}
    if mine == theirs:
        return
    extra = [k for k in mine if k not in theirs]
    missing = [k for k in theirs if k not in mine]
    shapes = [f'{k} {list(mine[k])} instead of {list(theirs[k])}' for k in mine if k in theirs and mine[k] != theirs[k]]
    parts = [f'has {_listed(extra)}' if extra else '', f'lacks {_listed(missing)}' if missing else '',
             f'has {_listed(shapes)}' if shapes else '']
    raise ZooError(f'a folder names {base} and its arguments, and this model {" and ".join(filter(None, parts))}'
                   f'{_because_of_code(model)}; put the layers back (for a classifier, reset_classifier), or {_INSTEAD}')


def _because_of_code(model: nn.Module) -> str:
    code = code_in(model)
    if not code:
        return ''
    shown = ', '.join(f'{k}={_name(v)}' for k, v in code.items())
    return f' ({shown}: classes and functions are code, which folders do not hold)'


def _name(value: Any) -> str:
    if isinstance(value, partial):
        return f'partial({", ".join([_name(value.func), *(f"{k}={v}" for k, v in value.keywords.items())])})'
    return f'{getattr(value, "__name__", value)!s:.60}'


def _check_constants(model: nn.Module, loaded: nn.Module, base: str) -> None:
    """Numbers that outputs hardly show: what normalizations add to variances."""
    theirs = dict(loaded.named_modules())
    for name, module in model.named_modules():
        eps, other = getattr(module, 'eps', None), getattr(theirs.get(name), 'eps', None)
        if isinstance(eps, float) and isinstance(other, float) and eps != other:
            raise ZooError(f'{name} has eps {eps:g}, and {other:g} in {base} as timm makes it'
                           f'{_because_of_code(model)}; {_INSTEAD}')


def _warn_of_training(model: nn.Module, loaded: nn.Module, base: str) -> None:
    """Dropout and momentum, which a folder does not hold where they were changed after the model was made."""
    theirs = dict(loaded.named_modules())
    for name, module in model.named_modules():
        for key in ('p', 'drop_prob', 'momentum'):
            mine, other = _rate(module, key), _rate(theirs.get(name), key)
            if mine != other:
                warnings.warn(f'{name} has {key} = {mine} here and {other} in the saved {base}: training goes on otherwise '
                              'than it would with this model', stacklevel=4)
                return


def _rate(module: nn.Module | None, key: str) -> Any:
    value = getattr(module, key, None)
    dropping = 'drop' in type(module).__name__.lower()
    if dropping and isinstance(value, (int, float)) or key == 'momentum' and isinstance(value, float):
        return value or None
    return None


def _ties(model: nn.Module) -> set[frozenset[str]]:
    """The names of each parameter that has several."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in names.values() if len(group) > 1}


def _outputs(model: nn.Module, size: tuple[int, ...]) -> list[Tensor]:
    """The tensors that the model returns for one input, always the same."""
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), drawing(0, model):
        return [leaf for leaf in _pytree.tree_leaves(model(x)) if isinstance(leaf, Tensor)]


def _close(a: Tensor, b: Tensor) -> bool:
    scale = a.abs().nan_to_num(0, 0, 0).max().item() if a.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ', '.join(shown[:3]) + f' and {len(shown) - 3} more' * (len(shown) > 3)
