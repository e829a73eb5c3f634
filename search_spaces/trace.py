"""What a model really does: one run with hooks on its leaf layers, instead of guesses from names.

:func:`trace` records every call of the layers that an operator could replace (linear layers and all convolutions),
with concrete shapes. It runs the model as it is used for inference, then a copy in training mode, to notice layers
that only one of the two modes reaches; layers that training drops at random count as reached. It also notices weights
that are used without calling their layer (tied embeddings, fused attention): replacing such a layer would change or
break the model.
"""
from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from syno_nni.errors import SlotError
from syno_nni.modes import evaluating
from syno_nni.nested import tensors
from syno_nni.text import cell

from .draws import RUNS, drawing

_log = logging.getLogger(__name__)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)

Example = Tensor | Sequence[Any] | Mapping[str, Any] | None


@dataclass
class LayerTrace:
    """What was seen of one layer.

    ``inputs`` and ``outputs`` hold one shape per call in evaluation mode, ``in_training`` tells whether training mode
    called it (None when the model could not run in training mode), ``outside_use`` names a function that used its
    weight outside its own forward, and ``is_output`` tells whether the model returns its result unchanged.
    ``odd_call`` says in words what was unlike one tensor in and one tensor out, ``sample`` is its first input
    (kept only of layers whose class has a forward of its own), and ``runs`` is how many runs in evaluation mode there were
    until one called it: several in a model that draws random numbers.
    """
    names: list[str]
    module: nn.Module
    inputs: list[tuple[int, ...]] = field(default_factory=list)
    outputs: list[tuple[int, ...]] = field(default_factory=list)
    odd_call: str = ''
    sample: Tensor | None = None
    in_training: bool | None = None
    outside_use: str | None = None
    is_output: bool = False
    runs: int = 0

    @property
    def name(self) -> str:
        """The first of the names under which the model holds this layer."""
        return self.names[0]


@dataclass(frozen=True)
class ModelTrace:
    """The layers of a model in the order of ``named_modules()``, and the totals of one run.

    ``batch`` is the batch size of the run, ``macs`` the multiply-accumulates of the whole model per sample (all
    convolutions and matrix products, those inside attention included).
    """
    layers: list[LayerTrace]
    batch: int
    macs: int


def example_of(model: nn.Module, example_input: Example = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments ``(args, kwargs)`` to run the model with.

    ``example_input`` may be a tensor, a shape such as ``(1, 3, 224, 224)``, a tuple of arguments, a mapping of keyword
    arguments, or None for the input size that a timm model declares. Shapes become standard normal tensors on the
    device and in the type of the model's parameters.

    Raises:
        SlotError: None was given and the model declares no input size, or the example is of another type.
    """
    if example_input is None:
        config = getattr(model, 'pretrained_cfg', None) or getattr(model, 'default_cfg', None) or {}
        size = config.get('input_size') if isinstance(config, Mapping) else getattr(config, 'input_size', None)
        if not size:
            raise SlotError(f'{type(model).__name__} declares no input size: pass example_input, a tensor or a shape '
                            'such as (1, 3, 224, 224)')
        example_input = (1, *size)
    if isinstance(example_input, Tensor):
        return (example_input,), {}
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, Sequence) and not isinstance(example_input, str) and len(example_input) > 0:
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in example_input):
            return tuple(example_input), {}
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        # A fixed seed of its own: looking at a model must not disturb the caller's random state.
        generator = torch.Generator().manual_seed(0)
        try:
            return (torch.randn(*example_input, generator=generator, device='cpu').to(like),), {}
        except (RuntimeError, OverflowError, TypeError) as error:
            raise SlotError(f'cannot make an example input of shape {cell(example_input)}: '
                            f'{cell(str(error).splitlines()[0])}; choose a smaller one') from None
    raise SlotError(f'example_input must be a tensor, a shape, a tuple of arguments, a mapping of keyword arguments '
                    f'or None, got {example_input!r}')


def trace(model: nn.Module, example_input: Example = None, *, training: bool = True) -> ModelTrace:
    """Run ``model`` once in evaluation mode and, on a copy, once in training mode; record its layers.

    The model is left as it was: parameters, buffers and training flags do not change, nor do the random states of
    torch, numpy and Python. Wrappers are looked through (:func:`unwrapped`).

    Raises:
        SlotError: the model cannot run on the example input.
    """
    model = unwrapped(model)
    args, kwargs = example_of(model, example_input)
    batch = _batch_of(args, kwargs)
    if batch < 1:
        raise SlotError('the example input holds no sample: its batch axis is 0; pass at least one')
    layers = _layers_of(model)
    flops = _trace_evaluation(model, layers, args, kwargs)
    if training:
        _trace_training(model, layers, args, kwargs)
    return ModelTrace(list(layers.values()), batch, flops // 2 // batch)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of ``torch.compile``, data parallelism and averaged weights (torch's, timm's).

    Raises:
        SlotError: the model cannot be looked into (TorchScript), or its parameters have no shapes yet.
    """
    while True:
        wraps = isinstance(model, _WRAPPERS) or type(model).__module__ == 'timm.utils.model_ema'
        inner = getattr(model, '_orig_mod', None) or (model.module if wraps else None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise SlotError('a TorchScript model holds no layers that could be replaced: pass the model that it was made from')
    lazy = next((name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        raise SlotError(f'{type(model).__name__} has a lazy parameter without a shape, {lazy}: run the model once first')
    return model


_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def _layers_of(model: nn.Module) -> dict[nn.Module, LayerTrace]:
    layers: dict[nn.Module, LayerTrace] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LAYERS) and name:
            layers.setdefault(module, LayerTrace([], module)).names.append(name)
    return layers


def _trace_evaluation(model: nn.Module, layers: dict[nn.Module, LayerTrace], args: tuple, kwargs: dict) -> int:
    """Fill ``layers`` from a run in evaluation mode; return its floating-point operations.

    A model that draws random numbers may have dropped the layers that it did not call: it runs a few more times, and a layer
    is what the first run shows that calls it.
    """
    most = 0
    for number in range(RUNS):
        seen, counter = _layers_of(model), _FlopCounter()
        with drawing(number, model) as drawn, evaluating(model), keep_buffers(model), counter:
            _run(model, seen, args, kwargs, record=True)
        most = max(most, counter.flops)
        for layer, now in zip(layers.values(), seen.values(), strict=True):
            if not layer.inputs:
                layer.inputs, layer.outputs, layer.sample, layer.runs = now.inputs, now.outputs, now.sample, number + 1
            layer.odd_call, layer.outside_use = layer.odd_call or now.odd_call, layer.outside_use or now.outside_use
            layer.is_output |= now.is_output
        if not drawn.any or all(layer.inputs for layer in layers.values()):
            break
    return most


def _trace_training(model: nn.Module, layers: dict[nn.Module, LayerTrace], args: tuple, kwargs: dict) -> None:
    """Set ``in_training`` of every layer from runs of a copy in training mode.

    A layer that the first run does not reach may have been dropped at random: the model then runs a few more times,
    with other seeds and with extreme random numbers. What one run reaches is reached, and where the runs differ, the
    model drops layers at random and what none of them reached shows nothing.
    """
    try:
        twin = copy.deepcopy(model).train()
        by_name = _layers_of(twin)
        # Batch normalisation of 1x1 maps needs two samples.
        args, kwargs = _map_tensors((args, kwargs), _at_least_two)
        by_closure: set[nn.Module] = set()
        handles = [m.register_forward_pre_hook(lambda m, _: by_closure.add(m)) for m in layers]
        runs: list[frozenset[int]] = []
        wanted = {n for n, layer in enumerate(layers.values()) if layer.inputs}
        try:
            for number in range(RUNS):
                for seen in by_name.values():
                    seen.in_training = None
                with drawing(number, model, twin), keep_buffers(model):
                    _run(twin, by_name, args, kwargs, record=False)
                runs.append(frozenset(n for n, seen in enumerate(by_name.values()) if seen.in_training))
                if wanted <= frozenset.union(*runs):
                    break
        finally:
            for handle in handles:
                handle.remove()
    except Exception as error:  # what a model does in training mode is its own business: only the check is lost
        _log.info('%s does not run in training mode on this input (%s): layers used only in training are not noticed',
                  type(model).__name__, error)
        return
    reached, at_random = frozenset.union(*runs), len(set(runs)) > 1
    for n, (layer, seen) in enumerate(zip(layers.values(), by_name.values(), strict=True)):
        layer.in_training = n in reached or (at_random and n in wanted)
        if layer.module in by_closure:
            layer.odd_call = layer.odd_call or ('a function that is not copied with the model calls it, so a copy would go '
                                                'on calling the old layer')
        layer.outside_use = layer.outside_use or seen.outside_use


def _run(model: nn.Module, layers: dict[nn.Module, LayerTrace], args: tuple, kwargs: dict, *, record: bool) -> Any:
    """Run the model with hooks that fill ``layers``."""
    running: list[nn.Module] = []
    results: dict[nn.Module, weakref.ref[Tensor]] = {}

    def enter(module: nn.Module, inputs: tuple, named: dict) -> None:
        running.append(module)
        layer = layers[module]
        if record and layer.sample is None and has_own_forward(module):
            value = next(tensors((inputs, named)), None)
            # Code that follows may change it in place.
            layer.sample = None if value is None else value.detach().clone()

    def leave(module: nn.Module, inputs: tuple, named: dict, output: Any) -> None:
        running.pop()
        layer = layers[module]
        layer.in_training = True
        layer.odd_call = layer.odd_call or _odd_call(inputs, named, output)
        value = inputs[0] if inputs else next(iter(named.values()), None)
        if record and isinstance(value, Tensor):
            layer.inputs.append(tuple(value.shape))
            layer.outputs.append(tuple(output.shape) if isinstance(output, Tensor) else ())
            if isinstance(output, Tensor):
                results[module] = weakref.ref(output)

    # Parameters only, which live as long as their layer: a weight that is computed anew (pruned, parametrized) is a
    # temporary tensor, whose id another one may bear later.
    owners: dict[int, list[nn.Module]] = {}
    for module in layers:
        for name, parameter in module.named_parameters():
            if name != 'bias':
                owners.setdefault(id(parameter), []).append(module)
    # First in, last out: what other hooks of a layer do with its weight is its own use.
    handles = [m.register_forward_pre_hook(enter, with_kwargs=True, prepend=True) for m in layers]
    handles += [m.register_forward_hook(leave, with_kwargs=True) for m in layers]
    try:
        with torch.no_grad(), eagerly(model), _OutsideUse(layers, owners, running):
            output = model(*args, **kwargs)
    except Exception as error:
        shapes = [tuple(t.shape) for t in tensors((args, kwargs))]
        raise SlotError(f'{type(model).__name__} does not run on an example input of shape {shapes}: '
                        f'{type(error).__name__}: {error}') from error
    finally:
        for handle in handles:
            handle.remove()
    if record:
        for layer in layers.values():
            layer.in_training = None
        final = {id(t) for t in tensors(output)}
        for module, ref in results.items():
            value = ref()
            layers[module].is_output = value is not None and id(value) in final
    return output


def has_own_forward(module: nn.Module) -> bool:
    """Whether a convolution or linear layer computes its output by other code than torch's class of its kind."""
    base = next(c for c in LAYERS if isinstance(module, c))
    return any(getattr(type(module), name, None) is not getattr(base, name, None)
               for name in ('forward', '_conv_forward', '__call__'))


def _odd_call(inputs: tuple, named: dict, output: Any) -> str:
    given = [v for v in (*inputs, *named.values()) if v is not None]
    if len(given) != 1 or not isinstance(given[0], Tensor):
        kinds = ' and '.join(('a tensor' if isinstance(v, Tensor) else type(v).__name__) for v in given) or 'nothing'
        return f'it is called with {kinds}, and an operator takes one tensor'
    # An argument of None is one too many as well, and one that is named must be named as torch's layers name theirs.
    if len(inputs) + len(named) > 1 or named.keys() - {'input'}:
        names = ', '.join(named) or f'{len(inputs)} arguments'
        return f'it is called with {names}, and an operator takes one tensor, by position or as input'
    if not isinstance(output, Tensor):
        return f'it returns a {type(output).__name__}, and an operator returns one tensor'
    return ''


@contextmanager
def eagerly(model: nn.Module) -> Iterator[None]:
    """Parts of the model that ``torch.compile`` made run as they were written, with their hooks."""
    if any(getattr(m, '_compiled_call_impl', None) is not None or hasattr(m, '_orig_mod') for m in model.modules()):
        with torch.compiler.set_stance('force_eager'):
            yield
    else:
        yield


class _FlopCounter(TorchDispatchMode):
    """Sums what convolutions, matrix products and fused attention compute (torch's FlopCounterMode needs gradients)."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


class _OutsideUse(TorchFunctionMode):
    """Notices functions that take a layer's weight while that layer is not running."""

    def __init__(self, layers: dict[nn.Module, LayerTrace], owners: dict[int, list[nn.Module]],
                 running: list[nn.Module]) -> None:
        super().__init__()
        self._layers, self._owners, self._running = layers, owners, running

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, '__name__', str(func))
        if name == '__get__':
            name = getattr(func.__self__, '__name__', name)
        # Of these an operator's weights have the same.
        if name not in _HARMLESS:
            for value in (*args, *(kwargs or {}).values()):
                for owner in self._owners.get(id(value), ()):
                    if owner not in self._running:
                        self._layers[owner].outside_use = name
        return func(*args, **(kwargs or {}))


_HARMLESS = {'dtype', 'device', 'is_cuda', 'is_cpu', 'is_meta', 'is_mps', 'is_xpu', 'get_device', 'layout', 'is_sparse',
             'is_quantized', 'requires_grad', 'is_leaf', 'is_floating_point', 'is_complex', '__hash__'}


def _map_tensors(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {k: _map_tensors(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map_tensors(v, change) for v in value)
    return value


def _at_least_two(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() > 1 and tensor.shape[0] == 1 else tensor


def _batch_of(args: tuple, kwargs: dict) -> int:
    """The samples in the model's arguments; detectors take them as a list of images, each without a batch axis."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, list) and value and all(isinstance(v, Tensor) and v.dim() == 3 for v in value):
            return len(value)
        first = next(tensors(value), None)
        if first is not None:
            return first.shape[0] if first.dim() else 1
    return 1


@contextmanager
def keep_buffers(*models: nn.Module) -> Iterator[None]:
    """Buffers that a model changes in evaluation mode (counters, caches) get their values back."""
    before = [(m, {name: (b, None if b is None else b.clone()) for name, b in m._buffers.items()})
              for model in models for m in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, buffers in before:
                for name in module._buffers.keys() - buffers.keys():
                    del module._buffers[name]
                for name, (buffer, value) in buffers.items():
                    if buffer is not None and value is not None and not _same(buffer, value):
                        buffer.copy_(value)
                    module._buffers[name] = buffer


def _same(a: Tensor, b: Tensor) -> bool:
    # A model without values, on the meta device, has none that could change.
    return a.shape == b.shape and (a.is_meta or torch.equal(a, b))
