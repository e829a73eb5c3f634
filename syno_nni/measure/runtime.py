"""What a runtime is: it times models in turns and hands back what they compute.

A new runtime is a module beside this one that ends in ``RUNTIME = ...``, with its name in ``syno_nni.measure.RUNTIMES``.
:class:`InProcess` is for what runs models within this process, :class:`OwnProcess` for what keeps threads spinning after a
call and so would slow down whatever else runs here. `syno_nni.testing.runtimes` checks that it keeps the contract.
"""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError
from syno_nni.nested import tensors

from .turns import Call, take_turns


@dataclass(frozen=True)
class Rounds:
    """How long models are timed: untimed calls of each, then rounds until ``seconds`` are over, within bounds."""
    warmup: int = 5
    min_rounds: int = 15
    max_rounds: int = 200
    seconds: float = 2.0


@dataclass(frozen=True)
class Timed:
    """Milliseconds per call of every model, round by round, and of every model the tensors that it returns, as arrays."""
    timings_ms: list[list[float]]
    outputs: list[list[np.ndarray]]


class Runtime(ABC):
    """A way to run a trained model.

    Attributes:
        name: as in ``syno_nni.measure.RUNTIMES``.
        packages: what must be importable.
        extra: the extra of ``syno-nni`` that installs them.
    """
    name: str
    packages: tuple[str, ...] = ()
    extra: str = ''

    def missing(self) -> str:
        """What has to be installed before it can be used; '' when nothing."""
        names = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return f"{', '.join(names)} (pip install 'syno-nni[{self.extra}]')" if names else ''

    def quick(self) -> Runtime:
        """The same runtime with less time to prepare a model, for many of them whose outputs nobody needs; itself where there
        is no such way."""
        return self

    @abstractmethod
    def time(self, models: Sequence[nn.Module], example: Tensor, *, threads: int, rounds: Rounds) -> Timed:
        """Time models that are in evaluation mode, in turns, on one input.

        The caller has set torch's threads and holds the measurement lock.

        Raises:
            MeasureError: a model does not compile, export or run here.
        """


class InProcess(Runtime):
    """A runtime of torch's own."""

    def begin(self) -> None:
        """Called once before models are prepared."""

    @abstractmethod
    def prepare(self, model: nn.Module, example: Tensor) -> Call:
        """What runs the model once."""

    def time(self, models: Sequence[nn.Module], example: Tensor, *, threads: int, rounds: Rounds) -> Timed:
        self.begin()
        with torch.inference_mode():
            calls = [self.prepare(model, example) for model in models]
            outputs = [_arrays(call()) for call in calls]
            return Timed(take_turns(calls, **asdict(rounds)), outputs)


class OwnProcess(Runtime):
    """A runtime in a process that holds all models to be compared and takes turns between them on one thread pool
    (:mod:`.worker`). Models travel as files that are data, never as pickles.

    The worker imports ``syno_nni.measure.NAME_session``, whose function ``load(paths, x, threads)`` returns what runs each
    model once and returns its outputs; that module must not import torch.
    """
    suffix: str

    @abstractmethod
    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Write the model to a file that the worker's half loads.

        Raises:
            MeasureError: it cannot be exported.
        """

    def time(self, models: Sequence[nn.Module], example: Tensor, *, threads: int, rounds: Rounds) -> Timed:
        if example.dtype is torch.bfloat16:
            raise MeasureError(f'{self.name} is measured on numbers of 32 bits here, got torch.bfloat16: pass model.float() '
                               'and example.float()')
        with _scratch() as folder:
            paths = [folder / f'{n}{self.suffix}' for n in range(len(models))]
            for path, model in zip(paths, models):
                with torch.no_grad():
                    self.export(_Flat(model), example, path)
            np.save(folder / 'input.npy', example.detach().cpu().numpy())
            job = {'runtime': self.name, 'models': list(map(str, paths)), 'threads': threads, 'folder': str(folder),
                   'rounds': asdict(rounds)}
            # -P: modules are those that are installed, not files of this name where somebody happens to be.
            done = subprocess.run([sys.executable, '-P', '-m', 'syno_nni.measure.worker'], input=json.dumps(job), text=True,
                                  capture_output=True, env={**os.environ, 'OMP_NUM_THREADS': str(threads)}, check=False)
            if done.returncode:
                raise MeasureError(f'{self.name} cannot run the model: {done.stderr.strip()[-400:] or "no message"}')
            timings = json.loads(done.stdout.splitlines()[-1])
            return Timed(timings, [_read(folder / f'{n}.npz') for n in range(len(models))])


class _Flat(nn.Module):
    """A model that returns a tensor or a tuple of tensors, which every exporter takes, whatever the one inside returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.model(x)
        return output if isinstance(output, Tensor) else tuple(tensors(output))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for the models.

    Raises:
        MeasureError: it cannot be made, written in or read from.
    """
    try:
        with tempfile.TemporaryDirectory(prefix='syno-nni-') as name:
            yield Path(name)
    except OSError as error:
        raise MeasureError(f'cannot measure by way of temporary files: {error}; make room there, or set TMPDIR to another '
                           'folder') from error


def _read(path: Path) -> list[np.ndarray]:
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def _arrays(output: object) -> list[np.ndarray]:
    return [as_array(t) for t in tensors(output)]


def as_array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor; 16-bit ones in 32 bits, which numpy and runtimes have."""
    value = tensor.detach().cpu()
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
