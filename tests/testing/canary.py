"""What makes a file when it is unpickled without restrictions, or imported."""
from __future__ import annotations

from pathlib import Path


class Canary:
    """Unpickled freely, it makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def lay_modules(folder: Path, canary: Path) -> None:
    """Modules in a new folder, with names that every process of ours imports; each makes the file ``canary``."""
    folder.mkdir()
    for name in ('numpy', 'torch', 'nni', 'timm', 'json', 'yaml', 'psutil', 'syno_nni', 'sitecustomize', 'onnxruntime'):
        (folder / f'{name}.py').write_text(f'open({str(canary)!r}, "w")\nraise ImportError({name!r})\n')
