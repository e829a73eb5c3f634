"""Runs the tutorials; as a command, it writes what they print into output/, which the pages show."""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SCRIPTS = tuple(sorted(path.stem for path in FOLDER.glob('*.py') if path.name != Path(__file__).name))


def run(name: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tutorial in an empty folder on one thread; return its exit status and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([sys.executable, str(FOLDER / f'{name}.py')], cwd=folder, capture_output=True, text=True,
                              timeout=timeout, check=False,
                              env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'})


def main(names: list[str]) -> int:
    """Write the outputs of the tutorials named, or of all; return the exit status."""
    for name in names or SCRIPTS:
        done = run(name)
        if done.returncode:
            print(f'{name} failed:\n{done.stderr}', file=sys.stderr)
            return 1
        (FOLDER / 'output' / f'{name}.txt').write_text(done.stdout, encoding='utf-8')
        print(name)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
