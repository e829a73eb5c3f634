"""Types of command-line arguments that several commands share."""
from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from syno_nni.run.config import SearchConfig


class SubParsers(Protocol):
    """What ``argparse.ArgumentParser.add_subparsers`` returns."""

    def add_parser(self, name: str, **kwargs: object) -> argparse.ArgumentParser: ...


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'wants a whole number of at least 1, got {text!r}')
    return value


def seconds(text: str) -> float:
    """A duration in seconds: more than none, at most a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f'wants a number of seconds, more than 0 and at most 86400, got {text!r}')
    return value


def binding(text: str) -> dict[str, int]:
    """``C_in=64,C_out=128`` as a mapping."""
    sizes = {}
    for part in filter(None, text.replace(' ', ',').split(',')):
        name, equals, value = part.partition('=')
        if not equals or not name.isidentifier():
            raise argparse.ArgumentTypeError(f'wants VARIABLE=NUMBER pairs such as C_in=64,H=56, got {part!r}')
        sizes[name] = positive(value)
    return sizes


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """How much is printed, and in which form; for commands that take long."""
    parser.add_argument('--quiet', action='store_true', help='print the result alone: no progress')
    parser.add_argument('--json', action='store_true', help='print the result as JSON, and nothing else on stdout')


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that change how a run goes on, but not what it is."""
    parser.add_argument('--engine', choices=('sequential', 'local', 'remote'), help="sequential: in this process; "
                        "local: NNI's local training service, with its web UI; remote: machines reached by SSH")
    parser.add_argument('--port', type=positive, metavar='PORT', help='of the web UI')
    parser.add_argument('--max-trials', type=positive, metavar='N', help='evaluate N operators in all')
    add_output_options(parser)


def with_run_options(config: SearchConfig, args: argparse.Namespace) -> SearchConfig:
    """``config`` with the options of :func:`add_run_options` that were given."""
    given = {'engine': args.engine, 'port': args.port, 'max_trial_number': args.max_trials}
    return config.replace(**{key: value for key, value in given.items() if value is not None})
