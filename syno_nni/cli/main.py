"""`syno-nni`: parses arguments, runs a command, turns errors into one line and an exit status.

Exit status: 0 success, 1 a :class:`SynoError` (one line on stderr), 2 wrong usage, 130 interrupted.
"""
from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Sequence

from syno_nni import __version__
from syno_nni.errors import ConfigError, SynoError
from syno_nni.files import MIB, exists, is_directory, read_text

from . import env, nnictl, report, resume, retrofit, search, show, slots, zoo
from .terminal import Formatter, Parser, complain, complain_at_length, forget_stdout, prepare_streams

COMMANDS = (search, resume, report, show, slots, retrofit, zoo, nnictl, env)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (``sys.argv[1:]`` by default) names; return the exit status."""
    prepare_streams()
    args = build_parser().parse_args(argv)
    _log_to_stderr(args.debug)
    try:
        _check_here()
        status = args.run(args)
        sys.stdout.flush()
        return status
    except SynoError as error:
        if args.debug:
            complain_at_length(error)
        else:
            complain(f'error: {error}')
        return 1
    except KeyboardInterrupt as error:
        if args.debug:
            complain_at_length(error)
        else:
            complain('interrupted')
        return 130
    except MemoryError as error:
        if args.debug:
            raise
        complain(f'error: not enough memory{f": {error}" if str(error) else ""}')
        return 1
    except BrokenPipeError:
        # The reader of our output went away (`| head`).
        forget_stdout()
        return 141
    except OSError as error:
        if args.debug or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        complain(f'error: {error.strerror}{f": {error.filename}" if error.filename else ""}; make room, then try again')
        forget_stdout()
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Each command sets ``run``, a function of the parsed arguments."""
    parser = Parser(
        prog='syno-nni', description='Neural operator synthesis for NNI: search new operators for a timm model, '
        'measured on this machine.')
    parser.add_argument('--version', action='version', version=f'syno-nni {__version__}')
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--debug', action='store_true', help='show tracebacks and log details')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for command in COMMANDS:
        command.add_parser(commands, common)
    return parser


def _check_here() -> None:
    """Raise ConfigError if matplotlib would read what is no file from where we are: it takes a ``matplotlibrc`` from there."""
    if exists('matplotlibrc') and not is_directory('matplotlibrc'):
        read_text('matplotlibrc', limit=MIB, error=ConfigError, what="matplotlib's settings")


def _log_to_stderr(debug: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter('%(levelname)s: %(message)s'))
    # On the handler: NNI sets the levels of its own loggers when it is imported.
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler])


if __name__ == '__main__':
    sys.exit(main())
