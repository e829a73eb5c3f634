"""onnxruntime, in a process of its own."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError

from .runtime import OwnProcess


class Onnx(OwnProcess):
    """Models travel as ONNX files."""
    name = 'onnx'
    packages = ('onnxruntime', 'onnx', 'onnxscript')
    extra = 'onnx'
    suffix = '.onnx'

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        export_onnx(model, example, path)


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
