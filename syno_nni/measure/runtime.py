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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError

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
    """Milliseconds per call of every model, round by round, and every model's output as an array."""
    timings_ms: list[list[float]]
    outputs: list[np.ndarray]


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
            outputs = [_array(call()) for call in calls]
            return Timed(take_turns(calls, **asdict(rounds)), outputs)


class OwnProcess(Runtime):
    """A runtime in a process that holds all models to be compared and takes turns between them on one thread pool
    (:mod:`.worker`). Models travel as files that are data, never as pickles.

    The worker imports ``syno_nni.measure.NAME_session``, whose function ``load(paths, x, threads)`` returns what runs each
    model once; that module must not import torch.
    """
    suffix: str

    @abstractmethod
    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Write the model to a file that the worker's half loads.

        Raises:
            MeasureError: it cannot be exported.
        """

    def time(self, models: Sequence[nn.Module], example: Tensor, *, threads: int, rounds: Rounds) -> Timed:
        with tempfile.TemporaryDirectory(prefix='syno-nni-') as name:
            folder = Path(name)
            paths = [folder / f'{n}{self.suffix}' for n in range(len(models))]
            for path, model in zip(paths, models):
                with torch.no_grad():
                    self.export(model, example, path)
            np.save(folder / 'input.npy', example.numpy())
            job = {'runtime': self.name, 'models': list(map(str, paths)), 'threads': threads, 'folder': name,
                   'rounds': asdict(rounds)}
            done = subprocess.run([sys.executable, '-m', 'syno_nni.measure.worker'], input=json.dumps(job), text=True,
                                  capture_output=True, env={**os.environ, 'OMP_NUM_THREADS': str(threads)}, check=False)
            if done.returncode:
                raise MeasureError(f'{self.name} cannot run the model: {done.stderr.strip()[-400:] or "no message"}')
            timings = json.loads(done.stdout.splitlines()[-1])
            return Timed(timings, [np.load(folder / f'{n}.npy') for n in range(len(models))])


def _array(output: object) -> np.ndarray:
    first = output[0] if isinstance(output, (tuple, list)) else output
    return first.detach().float().numpy() if isinstance(first, Tensor) else np.zeros(0)
