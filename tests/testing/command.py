"""`syno-nni` with the toy space of operators: ``python command.py SECONDS ARGUMENT...``.

With SECONDS > 0 the sequential engine trains nothing: an evaluation only takes that long, and its metrics follow from the
formula. For tests, :func:`write_file` makes an experiment file and :class:`Commands` starts and ends such processes.
"""
from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from syno_nni.run.journal import read_journal


def write_file(path: Path, **changes: Any) -> Path:
    """The experiment file of a search that takes seconds."""
    from .searching import make_config
    path.write_text(yaml.safe_dump(make_config(**changes).to_dict()))
    return path


def wait_for(condition: Callable[[], Any], seconds: float = 120.0, why: Callable[[], str] = str) -> Any:
    """Poll until ``condition`` holds, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f'waited in vain: {why()}'
        time.sleep(0.1)
    return value


def finished(run: Path) -> int:
    """How many candidates of a run have an outcome, the baseline included; the run may not have begun yet."""
    path = run / 'journal.jsonl'
    return len(read_journal(path).finished) if path.exists() else 0


@dataclass
class Command:
    """A process, and what it has printed on both streams."""
    process: subprocess.Popen[bytes]
    out: Path

    @property
    def said(self) -> str:
        return self.out.read_text(errors='replace')

    def wait(self, seconds: float = 180.0) -> int:
        """Its exit status."""
        return self.process.wait(seconds)

    @property
    def errors(self) -> list[str]:
        """What a failing command says: the lines that begin with ``error:``. A traceback fails the test."""
        assert 'Traceback' not in self.said, self.said
        return [line for line in self.said.splitlines() if line.startswith('error: ')]


@dataclass
class Commands:
    """Starts processes whose output goes to ``folder``."""
    folder: Path
    started: list[Command] = field(default_factory=list)

    def __call__(self, *words: object, seconds: float = 0.2, prefix: Sequence[object] = (), **options: Any) -> Command:
        out = self.folder / f'out{len(self.started)}.txt'
        with out.open('wb') as file:
            process = subprocess.Popen([*map(str, prefix), sys.executable, __file__, str(seconds), *map(str, words)],
                                       stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=self.folder,
                                       **options)
        self.started.append(Command(process, out))
        return self.started[-1]

    def end(self) -> None:
        """End what still runs."""
        from syno_nni.nas.manager import end_process_tree
        for command in self.started:
            end_process_tree(command.process.pid)


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parent))
    import searching
    import toy

    from syno_nni.cli.main import main
    toy.install()
    if float(sys.argv[1]):
        searching.without_training(float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
