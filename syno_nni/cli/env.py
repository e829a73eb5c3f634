"""`syno-nni env`: what a report of a problem needs to know of this machine."""
from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from syno_nni.environment import environment
from syno_nni.measure import RUNTIMES
from syno_nni.text import columns

from .arguments import SubParsers
from .terminal import say

_TIMEOUT_S = 20.0


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'env', parents=[common], help='print versions, CPU, runtimes and node, for reports of problems',
        description='Print what a report of a problem needs: versions, CPU, which runtimes can be measured in, the node '
        "that runs NNI's manager, and programs that are optional. Nothing is sent anywhere.")
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    facts = collect()
    say(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def collect() -> dict[str, Any]:
    """The facts of :func:`~syno_nni.environment.environment`, and ``runtimes`` (what each lacks, '' when nothing), ``node``
    (version of the node of NNI, or what is wrong with it) and ``programs`` (paths, None where there is none)."""
    return {**environment(), 'runtimes': {name: _lacking(name) for name in RUNTIMES}, 'node': _node(),
            'programs': {name: shutil.which(name) for name in ('dot', 'ssh')}}


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a table of two columns."""
    rows = [['platform', facts['platform']], ['cpu', f"{facts['cpu']}, {facts['cores']} cores for this process"],
            ['memory', 'unknown' if facts['memory_gb'] is None else f"{facts['memory_gb']} GB"],
            ['python', facts['python']], *map(list, facts['versions'].items()),
            *([f'runtime {name}', f'needs {lacks}' if lacks else 'ready'] for name, lacks in facts['runtimes'].items()),
            ['node', facts['node']],
            *([name, path or 'not found'] for name, path in facts['programs'].items())]
    return columns(rows)


def _lacking(runtime: str) -> str:
    """A broken torch is what people report, too: whatever happens is an answer."""
    try:
        from syno_nni.measure.runtimes import missing
        return missing(runtime)
    except Exception as error:
        return f'something else: {type(error).__name__}: {error}'


def _node() -> str:
    """NNI comes with a node of its own."""
    spec = importlib.util.find_spec('nni_node')
    if spec is None or not spec.submodule_search_locations:
        return 'nni_node, a part of NNI, is not installed'
    program = Path(spec.submodule_search_locations[0], 'node')
    try:
        done = subprocess.run([str(program), '--version'], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f'does not start: {type(error).__name__}: {error}'
    return done.stdout.strip() if done.returncode == 0 else f'does not start: {done.stderr.strip()[-200:]}'
