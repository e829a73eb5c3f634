"""Every change that is made to NNI's own Python code from outside, and the version that each was made for.

:data:`SHAPES` lists what is replaced or relied upon though it is not documented, as it is in the known versions. A patch is
refused with an :class:`~syno_nni.errors.EngineError` where NNI looks otherwise; ``tests/syno_nni/nas/test_patches.py`` fails
then. What happens inside NNI's manager is in ``manager_guard.js``.

Importing this module turns comments off (:func:`no_comments`); the others are applied by the processes that need them.
"""
from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import nni

from syno_nni.errors import EngineError, SpaceError
from syno_nni.text import LONGEST_ERROR, one_line, shorten

from . import messages
from .messages import MessageError

_log = logging.getLogger(__name__)

VERSIONS = ('3.0',)
"""The versions of NNI that these patches were made for."""
START_PATIENCE_S = 40
TUNER_PATIENCE_S = 120
TOKEN_FILE = '.token'
"""In an experiment's directory: the secret part of its manager's address."""

SHAPES = {
    'nni.common.serializer.load': 'string, fp, preserve_order, ignore_comments, json_tricks_kwargs',
    'nni.common.serializer.json_tricks': 'module',
    'nni.experiment.launcher._check_rest_server': 'port, retry, url_prefix',
    'nni.experiment.launcher._start_rest_server': 'nni_manager_args, run_mode',
    'nni.experiment.rest.request': 'method, port, api, data, prefix',
    'nni.experiment.rest.timeout': 'int',
    'nni.experiment.experiment.Experiment._start_nni_manager': 'self, port, debug, run_mode, tuner_command_channel, tags',
    'nni.experiment.config.algorithm._AlgorithmConfig._validate_canonical': 'self',
    'nni.nas.execution.training_service.TunerCommandChannel': 'type',
    'nni.nas.strategy.base.Strategy.initialize': 'self, model_space, engine',
    'nni.runtime.command_channel.websocket.connection._wait': 'coro',
    'nni.runtime.command_channel.websocket.connection._decrease_refcnt': '',
    'nni.runtime.msg_dispatcher_base.MsgDispatcherBase.enqueue_command': 'self, command, data',
    'nni.tools.nnictl.common_utils.print_error': 'content',
    'nni.tools.nnictl.nnictl.webui_url': 'args',
    'nni.tools.nnictl.rest_utils.requests': 'module',
}
"""What is patched or relied upon: dotted name to the names of its parameters, or to its type."""

_tokens: dict[int, str] = {}


class ManagerEnded(EngineError):
    """NNI's manager has ended at its start."""


def check_version() -> None:
    """Raise :class:`EngineError` unless this NNI is one that the patches were made for."""
    if nni.__version__ not in VERSIONS:
        raise EngineError(f'NNI {nni.__version__} is installed, and syno-nni changes parts of NNI {" and ".join(VERSIONS)} '
                          f'only: pip install nni=={VERSIONS[-1]}')


def shape_of(name: str) -> str:
    """What a dotted name of NNI is now, in the form of :data:`SHAPES`; empty text also for what takes nothing."""
    owner, attribute = _find(name)
    thing = inspect.getattr_static(owner, attribute, None)
    if isinstance(thing, ModuleType):
        return 'module'
    if inspect.isfunction(thing):
        return ', '.join(inspect.signature(thing).parameters)
    return type(thing).__name__


def check_shape(name: str) -> None:
    """Raise :class:`EngineError` unless a name of :data:`SHAPES` is what it was when the patches were made."""
    check_version()
    try:
        found = shape_of(name)
    except (ImportError, AttributeError) as error:
        found = f'missing ({error})'
    if found != SHAPES[name]:
        raise EngineError(f'{name} of NNI {nni.__version__} is not what syno-nni changes: want ({SHAPES[name]}), got ({found})'
                          f'; pip install --force-reinstall nni=={VERSIONS[-1]}')


def _find(name: str) -> tuple[Any, str]:
    path, attribute = name.rsplit('.', 1)
    try:
        return importlib.import_module(path), attribute
    except ModuleNotFoundError:
        outer, inner = path.rsplit('.', 1)
        return getattr(importlib.import_module(outer), inner), attribute


@contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    check_shape(name)
    owner, attribute = _find(name)
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


# --- everywhere ------------------------------------------------------------------------------------------------------

def no_comments() -> None:
    """NNI 3.0 reads every message as JSON with comments, and drops the rest of a line after ``//`` or ``#`` even inside
    nested strings. A formula such as ``o//(C_out/s)`` then breaks the message, the connection, and with it the search.
    NNI itself writes no comments."""
    check_shape('nni.common.serializer.load')
    nni.load.__kwdefaults__['ignore_comments'] = False


def refusing_strategies(why_not: Callable[[type, list[Any]], str]) -> None:
    """NNI 3.0 starts any strategy on any space, and those that cannot work fail by a ``KeyError: 0`` or a ``TypeError`` within.
    From now on they raise :class:`SpaceError` with what ``why_not`` says of their class and the mutables, if it says
    anything."""
    from nni.nas.strategy.base import Strategy
    if hasattr(Strategy.initialize, '__wrapped__'):
        return
    check_shape('nni.nas.strategy.base.Strategy.initialize')
    initialize = Strategy.initialize

    @functools.wraps(initialize)
    def checked(self: Any, model_space: Any, engine: Any) -> Any:
        # A space in NNI's other formats has mutables like any model space.
        reason = why_not(type(self), list(model_space.simplify().values()))
        if reason:
            raise SpaceError(reason)
        return initialize(self, model_space, engine)

    Strategy.initialize = checked


# --- whoever starts a manager, or talks to one -----------------------------------------------------------------------

@contextmanager
def client() -> Iterator[None]:
    """NNI's Python client of its manager, in this process: it waits longer for the manager to start (NNI 3.0 gives up after
    three seconds, and node takes longer on a busy machine), raises :class:`ManagerEnded` at once when there is nothing to
    wait for, and knows the tokens of :func:`use_token`."""
    launcher, rest = importlib.import_module('nni.experiment.launcher'), importlib.import_module('nni.experiment.rest')
    request, start = rest.request, launcher._start_rest_server
    managers: list[Any] = []

    def with_token(method: str, port: int | None, api: str, data: Any = None, prefix: str | None = None) -> Any:
        return request(method, port, api, data, '/'.join(filter(None, (prefix, _token_of(port)))) or None)

    def remembering(nni_manager_args: Any, run_mode: Any) -> Any:
        managers.append(start(nni_manager_args, run_mode))
        return managers[-1]

    def wait_for_manager(port: int, retry: int = START_PATIENCE_S, url_prefix: str | None = None) -> None:
        for _ in range(retry):
            status = managers[-1].poll() if managers else None
            if status is not None:
                raise ManagerEnded(f"NNI's manager ended at its start, with status {status}; what it said is above, or in "
                                   'log/nnictl_stderr.log of the experiment')
            with contextlib.suppress(Exception):
                rest.get(port, '/check-status', url_prefix)
                return
            time.sleep(1)
        rest.get(port, '/check-status', url_prefix)

    with (_replaced('nni.experiment.rest.request', with_token),
          _replaced('nni.experiment.rest.timeout', TUNER_PATIENCE_S + START_PATIENCE_S),
          _replaced('nni.experiment.launcher._start_rest_server', remembering),
          _replaced('nni.experiment.launcher._check_rest_server', wait_for_manager)):
        yield


def use_token(port: int, token: str) -> None:
    """From now on, :func:`client` sends ``token`` to the manager on ``port``."""
    _tokens[port] = token


def _token_of(port: int | None) -> str:
    """The token of the manager on ``port``: known in this process, or kept in the directory of a running experiment."""
    if port is None or port in _tokens:
        return _tokens.get(port or 0, '')
    from nni.tools.nnictl.config_utils import Experiments
    entries = [e for e in Experiments().get_all_experiments().values() if isinstance(e, dict) and e.get('port') == port]
    for entry in sorted(entries, key=lambda e: str(e.get('startTime')), reverse=True):
        if entry.get('status') != 'STOPPED' and (token := token_in(Path(str(entry.get('logDir'))) / str(entry.get('id')))):
            return token
    return ''


def token_in(directory: Path) -> str:
    """The token that the manager of an experiment keeps in the experiment's directory; empty without one."""
    with contextlib.suppress(OSError, ValueError):
        token = (directory / TOKEN_FILE).read_text(encoding='ascii')
        return token if re.fullmatch('[0-9a-f]{32}', token) else ''
    return ''


def web_ui(host: str, port: int, token: str, prefix: str | None = None) -> str:
    """The address of the web UI."""
    path = '/'.join(filter(None, ((prefix or '').strip('/'), token)))
    return f'http://{host}:{port}/{path}/oview' if path else f'http://{host}:{port}'


@contextmanager
def own_channel(channel: type) -> Iterator[None]:
    """NNI's engine for training services makes ``channel`` in the place of its own."""
    with _replaced('nni.nas.execution.training_service.TunerCommandChannel', channel):
        yield


# --- nnictl ----------------------------------------------------------------------------------------------------------

@contextmanager
def nnictl(token: str, host: str, tell: Callable[[str], None] = print) -> Iterator[list[str]]:
    """NNI's command line, in this process: as :func:`client`, for all of its commands. A tuner without ``codeDirectory`` is
    one that is installed (NNI 3.0 fails an assertion), and the address that is printed is the one that is listened on.
    Yields the errors that NNI has printed, some of which it ends with status 0.

    Args:
        token: for the managers that are started.
        host: where they listen.
        tell: gets the line with the address.
    """
    import requests
    from nni.experiment import launcher
    from nni.experiment.config.algorithm import _AlgorithmConfig
    from nni.tools.nnictl import nnictl_utils
    from nni.tools.nnictl.config_utils import Experiments
    validate = _AlgorithmConfig._validate_canonical
    shown_host = 'localhost' if host in ('127.0.0.1', '0.0.0.0', '') else host

    def start(self: Any, port: int, debug: bool, run_mode: Any, tuner_command_channel: str | None = None,
              tags: list[str] | None = None) -> None:
        use_token(port, token)
        self._proc = launcher.start_experiment(self._action, self.id, self.config.canonical_copy(), port, debug, run_mode,
                                               self.url_prefix, tuner_command_channel, tags or [])
        self.port = port
        tell(f'Experiment {self.id}; web UI: {web_ui(shown_host, port, token, self.url_prefix)}')

    def with_directory(self: Any) -> None:
        if self.class_name is not None and self.code_directory is None:
            self.code_directory = str(Path(__file__).parents[2])  # where syno_nni is: on the path already
        validate(self)

    def webui_url(args: Any) -> None:
        experiment = nnictl_utils.check_experiment_id(args)
        entry = Experiments().get_all_experiments().get(experiment, {})
        if experiment:
            port = entry.get('port')
            tell(f'Web UI url: {web_ui(shown_host, port, _token_of(port), entry.get("prefixUrl"))}')

    complaints: list[str] = []

    def complain(*content: object) -> None:
        complaints.append(shorten(one_line(' '.join(map(str, content))), LONGEST_ERROR))
        print(f'ERROR: {complaints[-1]}', file=sys.stderr)

    with ExitStack() as stack:
        stack.enter_context(client())
        check_shape('nni.tools.nnictl.common_utils.print_error')
        check_shape('nni.tools.nnictl.nnictl.webui_url')  # which loads all the others
        for names in [vars(m) for name, m in sys.modules.items() if name.startswith('nni.tools.nnictl')]:
            if 'print_error' in names:
                stack.callback(names.update, print_error=names['print_error'])
                names['print_error'] = complain
        for name, value in (('nni.experiment.experiment.Experiment._start_nni_manager', start),
                            ('nni.experiment.config.algorithm._AlgorithmConfig._validate_canonical', with_directory),
                            ('nni.tools.nnictl.nnictl.webui_url', webui_url),
                            ('nni.tools.nnictl.rest_utils.requests', _Requests(requests))):
            stack.enter_context(_replaced(name, value))
        yield complaints


class _Requests(ModuleType):
    """The library ``requests`` for ``nnictl``, whose addresses have no prefix."""

    def __init__(self, library: ModuleType) -> None:
        super().__init__(library.__name__)
        self._library = library

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._library, name)
        if name not in ('get', 'put', 'post', 'delete'):
            return thing
        return lambda url, **arguments: thing(_with_token(url), **arguments)


def _with_token(url: str) -> str:
    match = re.fullmatch(r'(http://localhost:(\d+))(/api/.*)', url)
    token = _token_of(int(match[2])) if match else ''
    return f'{match[1]}/{token}{match[3]}' if match and token else url


# --- the process of the tuner ----------------------------------------------------------------------------------------

def plain_dispatcher() -> None:
    """The process that NNI starts for a tuner decodes messages as plain data, and drops malformed ones. For this process,
    for good; does nothing elsewhere."""
    if os.environ.get('SDK_PROCESS') != 'dispatcher':
        return
    import nni.common.serializer as serializer
    from nni.runtime.msg_dispatcher_base import MsgDispatcherBase
    from nni.runtime.tuner_command_channel import CommandType
    for name in ('nni.common.serializer.json_tricks', 'nni.runtime.msg_dispatcher_base.MsgDispatcherBase.enqueue_command'):
        check_shape(name)
    serializer.json_tricks = _PlainJson(serializer.json_tricks)
    enqueue = MsgDispatcherBase.enqueue_command

    def enqueue_command(self: Any, command: Any, data: Any) -> None:
        try:
            if command is CommandType.ReportMetricData:
                messages.metric(data)
            elif command is CommandType.TrialEnd:
                messages.trial_end(data)
            elif command is CommandType.ImportData:
                count = len(data) if isinstance(data, list) else 1
                data = messages.imported(data)
                if len(data) < count:
                    _log.warning('dropped %d malformed results that were imported', count - len(data))
                # NNI decodes text once more, and takes anything else as it is.
                data = [{**entry, 'value': messages.encode(entry['value'])} for entry in data]
        except MessageError as error:
            _log.warning('dropped a message, %s: %s', getattr(command, 'name', command), error)
            return
        enqueue(self, command, data)

    MsgDispatcherBase.enqueue_command = enqueue_command


class _PlainJson(ModuleType):
    """The library ``json_tricks`` for NNI's ``load``, which hands it the hooks that make objects: they are not called."""

    def __init__(self, library: ModuleType) -> None:
        super().__init__(library.__name__)
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def loads(self, text: Any, **_: Any) -> Any:
        try:
            return messages.decode(text)
        except MessageError as error:
            _log.warning('%s', error)
            return {'type': '_nop_'}  # skipped by NNI's channels; no command has that form

    def load(self, file: Any, **arguments: Any) -> Any:
        return self.loads(file.read(), **arguments)


no_comments()
