"""Models that draw random numbers when they run: the same numbers at every look, and the caller's own go on as before.

A model may drop layers at random, in training or always. One run then shows some of its layers, by the seed. Code that
looks at a model runs it under :func:`drawing`, a few times where it must: the numbers of run 0, 1, ... are always the same.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

RUNS = 8
"""So many runs are made of a model that draws random numbers before a layer that none of them called is given up."""


@dataclass
class Drawn:
    """``any`` tells, after the run, whether it drew random numbers."""
    any: bool = False


@contextmanager
def drawing(number: int, *models: nn.Module) -> Iterator[Drawn]:
    """Run ``number`` of ``models``: generators of torch, numpy, Python and the models' own are seeded by it, and restored.

    Runs 1 and 2 get extreme numbers from torch (:class:`_Extremes`).
    """
    drawn = Drawn()
    with keep_random_state(seed=number), ExitStack() as stack:
        held = _generators(models)
        for get, put, reseed in held:
            stack.callback(put, get())
            reseed(number)
        states = [_torch_state, np.random.get_state, random.getstate, *[get for get, _, _ in held]]
        before = [_comparable(get()) for get in states]
        if number in _Extremes.ENDS:
            stack.enter_context(_Extremes(number))
        yield drawn
        drawn.any = before != [_comparable(get()) for get in states]


@contextmanager
def keep_random_state(seed: int | None = None) -> Iterator[None]:
    """Whatever draws random numbers inside, those of torch, numpy and Python go on afterwards as if it had not.

    ``seed`` seeds all three inside.
    """
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


class _Extremes(TorchFunctionMode):
    """Runs 1 and 2 get random numbers at either end of [0, 1], so that ``rand() < p`` takes both branches."""
    ENDS = {1: 0.0, 2: 1.0 - 2.0 ** -8}

    def __init__(self, number: int) -> None:
        super().__init__()
        self._value = self.ENDS[number]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, '__name__', '')
        if name in ('rand', 'rand_like', 'uniform_', 'bernoulli', 'bernoulli_'):
            result.fill_(round(self._value) if 'bernoulli' in name else self._value)
        return result


Held = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[int], Any]]


def _generators(models: tuple[nn.Module, ...]) -> list[Held]:
    """How to read, put back and seed each generator that a module holds as an attribute."""
    held: dict[int, Held] = {}
    for value in (v for model in models for module in model.modules() for v in vars(module).values()):
        if isinstance(value, torch.Generator):
            held[id(value)] = value.get_state, value.set_state, value.manual_seed
        elif isinstance(value, random.Random):
            held[id(value)] = value.getstate, value.setstate, value.seed
        elif isinstance(value, np.random.RandomState):
            held[id(value)] = value.get_state, value.set_state, value.seed
        elif isinstance(value, np.random.Generator):
            held[id(value)] = _of_numpy(value.bit_generator)
    return list(held.values())


def _of_numpy(bits: Any) -> Held:
    def put(state: Any) -> None:
        bits.state = state
    return lambda: bits.state, put, lambda seed: put(type(bits)(seed).state)


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _comparable(state: Any) -> Any:
    """The state of a generator as something that ``==`` compares whole."""
    if isinstance(state, (torch.Tensor, np.ndarray)):
        return np.asarray(state).tobytes()
    if isinstance(state, dict):
        return {k: _comparable(v) for k, v in state.items()}
    return tuple(map(_comparable, state)) if isinstance(state, tuple) and len(state) < 10 else state
