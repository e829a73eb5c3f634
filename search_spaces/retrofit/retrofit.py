"""Put operators into the slots of a model: any timm name, any torch module.

>>> fast = retrofit(model, classics.grouped_conv2d(), example_input=(1, 3, 224, 224))    # one operator for all slots
>>> fast = retrofit(model, {'layer4.*': op, 'pointwise': other, 'layer1.0.conv1': 'keep'})

A retrofitted model is saved as data, :func:`slot_config` beside a ``state_dict``, and comes back without running
anything: :func:`apply_slot_config` on a freshly built original, then ``load_state_dict``.
"""
from __future__ import annotations

import copy
import fnmatch
import gc
import weakref
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from syno_nni.errors import SlotError, SynoError
from syno_nni.modes import evaluating, with_gradients
from syno_nni.operator import Operator
from syno_nni.search_spaces.coefficients import Fit, as_bound, fitting
from syno_nni.search_spaces.draws import RUNS, drawing
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.replace import replace_layer
from syno_nni.search_spaces.slots import KINDS, Excluded, Slot, choose, did_you_mean, survey
from syno_nni.search_spaces.trace import LAYERS, Example, eagerly, example_of, keep_buffers, unwrapped

FORMAT = 1
"""Version of what :func:`slot_config` writes."""

Filling = Operator | str
Fillings = Filling | Mapping[str, Filling | None]


@with_gradients()
def retrofit(model: nn.Module, op_or_mapping: Fillings, example_input: Example = None, *,
             slots: Sequence[Slot] | None = None, kinds: str | Collection[str] | None = None,
             coefficients: Mapping[str, int | str] | None = None,
             adapt: bool = True, on_misfit: Literal['error', 'keep'] = 'error', check: bool = True) -> nn.Module:
    """A copy of ``model`` with operators in its slots.

    Args:
        model: any module; it is not changed. The wrappers of ``torch.compile`` and ``DataParallel`` are looked
            through: the result is a copy of the model inside.
        op_or_mapping: an operator or a formula for all slots, or a mapping from slot names, name patterns
            (``layer3.*``) or kinds (``pointwise``) to operators, formulas or ``'keep'``. A name wins over a pattern,
            a pattern over a kind, and of two patterns the first. Slots that nothing names keep their layer.
        example_input: as in :func:`~syno_nni.search_spaces.slots.find_slots`.
        slots: the slots to choose from, with their bindings, when they were found before.
        kinds: kinds of slots to choose from. By default those of
            :func:`~syno_nni.search_spaces.slots.default_kinds`, and any that the mapping names itself.
        coefficients: as in :func:`~syno_nni.search_spaces.slots.find_slots`.
        adapt: take other coefficients (``g``, ``s``, ...) in slots where an operator does not fit those of the binding, as
            :func:`~syno_nni.search_spaces.coefficients.fitting` says. Those in ``coefficients`` were asked for and stay.
        on_misfit: whether a slot that an operator does not fit is an error, or keeps its layer.
        check: run the result once, on ``example_input`` or the input that the slots were found on, to see that every
            operator is reached and shapes come out right. Where it is not run, no other part of the model may hold a
            layer that was replaced.

    Returns:
        The new model in the mode (training or not), types and devices of the old one. Operators have fresh weights;
        biases are copied.

    Raises:
        SlotError: the model has no slot, a name is unknown, an operator does not fit, or the model would not use it.
    """
    mapping = _as_mapping(op_or_mapping)
    model = unwrapped(model)
    if slots is None:
        slots, excluded = _slots_for(model, mapping, example_input, kinds, coefficients)
    else:
        slots, excluded = list(slots), []
        if example_input is None:
            example_input = next((s.example for s in slots if s.example is not None), None)
            check = check and example_input is not None
    fit: Fit = partial(fitting, given=frozenset(coefficients or ())) if adapt else as_bound
    filling = assign(mapping, slots, excluded, on_misfit=on_misfit, fit=fit) if slots or '*' not in mapping else {}
    if not filling:
        raise SlotError(_nothing_filled(model, mapping, slots, excluded, fit))
    while True:
        result = copy.deepcopy(model)
        replaced: dict[str, weakref.ref[nn.Module]] = {}
        for slot in slots:
            if slot.name in filling:
                replaced[slot.name] = weakref.ref(result.get_submodule(slot.name))
                op = filling[slot.name]
                replace_layer(result, (slot.name, *slot.aliases), FilledSlot.of(op, fit(op, slot)))
        if example_input is not None:
            declare_input(result, example_input)
        if not check:
            _check_let_go(replaced)
            return result
        try:
            check_retrofit(model, result, example_input)
        except ReadsLayer as error:
            del filling[error.slot]
            if on_misfit == 'error' or not filling:
                raise
        else:
            return result


class ReadsLayer(SlotError):
    """The code of a model asks the layer in a slot for something that an operator does not have."""

    def __init__(self, slot: str, attribute: str) -> None:
        super().__init__(f'the code of the model reads {slot}.{attribute}, which no operator has; keep this layer, by name '
                         "in the mapping ('keep') or with on_misfit='keep'")
        self.slot = slot


def assign(mapping: Mapping[str, Operator | None], slots: Sequence[Slot], excluded: Sequence[Excluded] = (), *,
           on_misfit: Literal['error', 'keep'] = 'error', fit: Fit = fitting) -> dict[str, Operator]:
    """Which operator fills which slot, by slot name; kept slots are left out. ``None`` in the mapping means keep.

    ``fit`` gives a slot the coefficients that the operator gets in it, or raises SlotError.

    Raises:
        SlotError: a key of the mapping names nothing, or an operator does not fit its slot.
    """
    for key in mapping:
        if not any(_rank(key, slot) is not None for slot in slots) and key not in KINDS:
            raise SlotError(_unknown(key, slots, excluded))
    filling: dict[str, Operator] = {}
    for slot in slots:
        op = _wanted(mapping, slot)
        if op is None:
            continue
        try:
            fit(op, slot)
        except SlotError as error:
            if on_misfit == 'error':
                raise SlotError(f'operator {op.id} does not fit slot {slot.name} ({slot.kind}): {error}; '
                                "choose other slots, or pass on_misfit='keep'") from error
        else:
            filling[slot.name] = op
    return filling


def check_retrofit(model: nn.Module, result: nn.Module, example_input: Example = None) -> None:
    """Run the retrofitted model once in evaluation mode.

    Raises:
        SlotError: it fails, an operator is not reached, or the output shapes are not the original's.
    """
    args, kwargs = example_of(model, example_input)
    slots = filled_slots(result)
    called: set[nn.Module] = set()
    originals: dict[str, nn.Module] = {name: m for name, m in model.named_modules() if name in slots}
    with torch.no_grad(), evaluating(model, result), keep_buffers(model, result), eagerly(model), eagerly(result):
        # As often as the search for slots: a model may drop layers at random.
        for number in range(RUNS):
            with drawing(number, model, result):
                want = model(*args, **kwargs)
            handles = [m.register_forward_hook(lambda m, *_: called.add(m)) for m in (*slots.values(), *originals.values())]
            try:
                with drawing(number, model, result) as drawn:
                    got = result(*args, **kwargs)
            except SynoError:
                raise
            except Exception as error:
                read = next((name for name, m in slots.items() if getattr(error, 'obj', None) is m), None)
                if read is not None and isinstance(error, AttributeError):
                    raise ReadsLayer(read, error.name) from error
                raise SlotError(f'the retrofitted {type(model).__name__} does not run ({type(error).__name__}: '
                                f'{error}); its code may use a replaced layer other than by calling it') from error
            finally:
                for handle in handles:
                    handle.remove()
            if isinstance(want, torch.Tensor) and (not isinstance(got, torch.Tensor) or got.shape != want.shape):
                raise SlotError(f'the retrofitted model returns {getattr(got, "shape", type(got).__name__)} '
                                f'instead of {want.shape}')
            if not drawn.any or called.issuperset(slots.values()):
                break
    # A closure is not copied with the model, so it may go on calling the original's layer.
    lost = next((n for n, m in slots.items() if m not in called or originals.get(n) in called), None)
    if lost is not None:
        raise SlotError(_HELD.format(lost))


_HELD = 'the model holds {} also outside its registered modules, so it cannot be replaced; keep this layer'


def _check_let_go(replaced: Mapping[str, weakref.ref[nn.Module]]) -> None:
    """Without a run: a layer that still exists is held by something that may call it (a plain list, a dict).

    Raises:
        SlotError: a layer that was replaced still exists.
    """
    if any(layer() is not None for layer in replaced.values()):
        gc.collect()  # a circle of references is no holder
    for name, layer in replaced.items():
        if layer() is not None:
            raise SlotError(_HELD.format(name))


def filled_slots(model: nn.Module) -> dict[str, FilledSlot]:
    """The operators in a retrofitted model by slot name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, FilledSlot)}


def slot_config(model: nn.Module) -> dict[str, Any]:
    """What was put where, as JSON-able data: ``{'format': 1, 'slots': {name: {formula, sizes, stride, ...}}}``.

    Together with the ``state_dict`` it is all of a retrofitted model.
    """
    names: dict[FilledSlot, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FilledSlot):
            names.setdefault(module, []).append(name)
    return {'format': FORMAT, 'slots': {first: module.config() | ({'aliases': others} if others else {})
                                        for module, (first, *others) in names.items()}}


@with_gradients()
def apply_slot_config(model: nn.Module, config: Mapping[str, Any], *, inplace: bool = False) -> nn.Module:
    """Rebuild a retrofitted model from its original architecture and :func:`slot_config`, without running it.

    The weights are fresh: load the ``state_dict`` afterwards.

    Args:
        model: the original architecture; a copy is changed unless ``inplace``.

    Raises:
        SlotError: the configuration is malformed, of a newer format, or for another architecture.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get('slots'), Mapping):
        raise SlotError("a slot configuration is a mapping with 'format' and 'slots', as slot_config() returns it")
    if config.get('format') != FORMAT:
        raise SlotError(f'slot configuration of format {config.get("format")!r}, this version reads {FORMAT}')
    modules = dict(model.named_modules(remove_duplicate=False))
    filled: dict[str, FilledSlot] = {}
    for name, entry in config['slots'].items():
        old = modules.get(name)
        if not isinstance(old, (*LAYERS, FilledSlot)):
            raise SlotError(f'slot {name!r} is no convolution or linear layer of {type(model).__name__}: another '
                            f'architecture?{did_you_mean(name, modules)}')
        try:
            filled[name] = FilledSlot.from_config(entry)
        except SynoError as error:
            raise SlotError(f'slot {name!r}: {error}') from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SlotError(f'slot {name!r}: malformed entry ({type(error).__name__}: {error}), want formula, sizes, '
                            'stride, input_size, bias and layout as slot_config() returns them') from error
        have, want = _channels(old), (filled[name].in_channels, filled[name].out_channels)
        if have != want:
            raise SlotError(f'slot {name!r} maps {have[0]} channels to {have[1]}, its entry {want[0]} to {want[1]}: '
                            'another architecture?')
    result = model if inplace else copy.deepcopy(model)
    for name, module in filled.items():
        replace_layer(result, (name, *config['slots'][name].get('aliases', ())), module)
    return result


# --- choosing --------------------------------------------------------------------------------------------------------

def _as_mapping(op_or_mapping: Fillings) -> dict[str, Operator | None]:
    if isinstance(op_or_mapping, (Operator, str)):
        op_or_mapping = {'*': op_or_mapping}
    if not isinstance(op_or_mapping, Mapping) or not op_or_mapping:
        raise SlotError('give an operator, a formula, or a mapping from slot names, patterns or kinds to them, '
                        f'got {op_or_mapping!r}')
    mapping: dict[str, Operator | None] = {}
    for key, value in op_or_mapping.items():
        if value is None or value == 'keep':
            mapping[key] = None
        elif isinstance(value, str):
            mapping[key] = Operator.parse(value).canonical
        elif isinstance(value, Operator):
            mapping[key] = value
        else:
            raise SlotError(f"{key!r} maps to {type(value).__name__}, want an Operator, a formula or 'keep'")
    return mapping


def _slots_for(model: nn.Module, mapping: Mapping[str, Operator | None], example_input: Example,
               kinds: str | Collection[str] | None, coefficients: Mapping[str, int | str] | None,
               ) -> tuple[list[Slot], list[Excluded]]:
    """The slots of the wanted kinds, and those that the mapping names itself, all with one number of groups."""
    found = survey(model, example_input)
    slots, excluded = choose(found, kinds='auto' if kinds is None else kinds, coefficients=coefficients)
    if kinds is not None:
        return slots, excluded
    chosen = {s.name for s in slots}
    extra = [s.name for s in found if isinstance(s, Slot) and s.name not in chosen
             and any(key == s.kind or key in (s.name, *s.aliases) for key in mapping)]
    if extra:
        wanted = [s if isinstance(s, Excluded) or s.name in chosen or s.name in extra else
                  Excluded(s.name, 'not selected', s.kind, s.macs, s.share, s.module_type) for s in found]
        slots, excluded = choose(wanted, kinds='all', coefficients=coefficients)
    return slots, excluded


def _wanted(mapping: Mapping[str, Operator | None], slot: Slot) -> Operator | None:
    """What the most specific key of the mapping puts into the slot; None for nothing."""
    ranked = [(rank, key) for key in mapping if (rank := _rank(key, slot)) is not None]
    return mapping[min(ranked, key=lambda pair: pair[0])[1]] if ranked else None


def _rank(key: str, slot: Slot) -> int | None:
    """How specifically a key of the mapping means the slot: 0 by name, 1 by pattern, 2 by kind, None not at all."""
    names = (slot.name, *slot.aliases)
    if key in names:
        return 0
    if any(fnmatch.fnmatchcase(n, key) for n in names):
        return 1
    return 2 if key == slot.kind else None


def _unknown(key: str, slots: Sequence[Slot], excluded: Sequence[Excluded]) -> str:
    for layer in excluded:
        if key != '*' and fnmatch.fnmatchcase(layer.name, key):
            hint = "; name it in full or pass kinds='all'" if layer.cause == 'kind' else ''
            return f'no operator can go into {layer.name}: {layer.reason}{hint}'
    names = [s.name for s in slots]
    return f'no slot is called or matches {key!r}{did_you_mean(key, names)}; `syno-nni slots` lists the slots'


def _nothing_filled(model: nn.Module, mapping: Mapping[str, Operator | None], slots: Sequence[Slot],
                    excluded: Sequence[Excluded], fit: Fit) -> str:
    if slots:
        reasons = {slot.name: _reason(fit, op, slot) for slot in slots if (op := _wanted(mapping, slot)) is not None}
        if not reasons:
            return f'the mapping keeps all {len(slots)} slots of {type(model).__name__}'
        # One slot for each reason: the same layer often comes many times.
        first = {reason: name for name, reason in reversed(reasons.items())}
        why = [f'{name}: {reason}' for reason, name in reversed(first.items())]
        more = f'; and {len(why) - 3} more reasons' if len(why) > 3 else ''
        return (f'nothing fits one of the {len(reasons)} slots of {type(model).__name__} that it is for '
                f'({"; ".join(why[:3])}{more})')
    why = list(dict.fromkeys(f'{e.name}: {e.reason}' for e in excluded))
    return f'{type(model).__name__} has no slot' + (f' ({"; ".join(why[:3])})' if why else
                                                   ': it has no convolution or linear layer')


def _reason(fit: Fit, op: Operator, slot: Slot) -> str:
    try:
        fit(op, slot)
    except SlotError as error:
        return str(error)
    return ''


def declare_input(model: nn.Module, example_input: Example) -> None:
    """Tell timm's data pipeline the image size that the operators of a retrofitted timm model are built for.

    Does nothing for other models and for inputs that are no single batch of images.
    """
    cfg = getattr(model, 'pretrained_cfg', None)
    args, kwargs = example_of(model, example_input)
    if not isinstance(cfg, Mapping) or kwargs or len(args) != 1 or getattr(args[0], 'ndim', 0) != 4:
        return
    size = tuple(args[0].shape[1:])
    if tuple(cfg.get('input_size', ())) != size:
        model.pretrained_cfg = model.default_cfg = {  # type: ignore[assignment]
            **{k: v for k, v in cfg.items() if k not in ('test_input_size', 'min_input_size', 'test_crop_pct')},
            'input_size': size, 'pool_size': None}


def _channels(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels
