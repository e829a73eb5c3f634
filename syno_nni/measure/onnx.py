"""onnxruntime, in a process of its own."""
from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError

from .runtime import OwnProcess, Runtime


class Onnx(OwnProcess):
    """Models travel as ONNX files."""
    name = 'onnx'
    packages = ('onnxruntime', 'onnx', 'onnxscript')
    extra = 'onnx'
    suffix = '.onnx'

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        export_onnx(model, example, path)

    def quick(self) -> Runtime:
        return QuickOnnx()


class QuickOnnx(Onnx):
    """By torch's older exporter, which takes a tenth of the time, where it knows all that the model does."""

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        try:
            with warnings.catch_warnings(), _quiet():
                warnings.simplefilter('ignore')
                torch.onnx.export(model, (example,), path, dynamo=False, verbose=False)
        except Exception:  # it raises whatever it meets; the newer one may know it
            super().export(model, example, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the older exporter prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def export_onnx(model: nn.Module, example: Tensor, path: Path, *, free_batch: bool = False) -> None:
    """Write the model as ONNX, by torch's dynamo exporter; ``free_batch`` leaves dimension 0 open.

    Raises:
        MeasureError: the model cannot be exported.
    """
    shapes = ({0: torch.export.Dim('batch', min=1)},) if free_batch else None
    sample = example.expand(max(2, len(example)), *example.shape[1:]) if free_batch else example
    try:
        torch.onnx.export(model, (sample,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    except Exception as error:
        raise MeasureError(f'the model does not export to ONNX: {type(error).__name__}: {error}') from error


RUNTIME = Onnx()
