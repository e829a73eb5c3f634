"""A headless Chromium, driven through its DevTools protocol: enough to use a page and look at it."""
from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect


def _found() -> str | None:
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        path = shutil.which(name)
        # Ubuntu's package is a program that asks for another package system.
        if path and subprocess.run([path, '--version'], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
            return path
    return None


CHROMIUM = _found()
_FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
          '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--no-proxy-server',
          '--window-size=1500,1400', '--remote-debugging-port=0']


class Page:
    """One tab. Everything it says is what the page's own JavaScript says."""

    def __init__(self, socket: ClientConnection, session: str, shots: Path) -> None:
        self._socket, self._session, self._shots, self._count = socket, session, shots, 0
        self.events: list[dict[str, Any]] = []
        """What the browser told unasked: for the domains (Log, Network, Runtime) that were enabled."""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        self._count += 1
        self._socket.send(json.dumps({'id': self._count, 'method': method, 'params': params, 'sessionId': self._session}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if 'method' in answer:
                self.events.append(answer)
            if answer.get('id') == self._count:
                assert 'error' not in answer, answer
                return answer['result']

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def go(self, url: str) -> None:
        """Open an address."""
        self.call('Page.navigate', url=url)

    @property
    def text(self) -> str:
        """The visible text."""
        return self.js('document.body ? document.body.innerText : ""')

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        """Poll until a condition holds."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f'waited in vain; the page says: {self.text[:2000]}'
            time.sleep(0.2)
        return value

    def wait_for(self, *words: str) -> str:
        """The text, once it has all words."""
        return self.wait(lambda: (text := self.text) and all(word in text for word in words) and text)

    def click(self, selector: str, text: str = '', nth: int = 0) -> None:
        """Click an element that a CSS selector finds and whose text contains ``text``."""
        find = (f'[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent !== null && '
                f'e.innerText.includes({json.dumps(text)}))[{nth}]')
        self.wait(lambda: self.js(f'Boolean({find})'))
        self.js(f'{find}.click()')
        time.sleep(0.5)

    def texts(self, selector: str) -> list[str]:
        """The texts of all visible elements that a CSS selector finds, without the glyphs of icons."""
        texts = self.js(f'[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent !== null)'
                        '.map(e => e.innerText)')
        return [re.sub('[\ue000-\uf8ff]', '', text).strip() for text in texts]

    def emulate(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and which colours the reader prefers."""
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = 'dark' if dark else 'light'
        self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])

    def shot(self, name: str, *, whole: bool = False) -> Path:
        """A screenshot: of the window, or of the whole page."""
        self._shots.mkdir(parents=True, exist_ok=True)
        path = self._shots / f'{name}.png'
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot', format='png',
                                                          captureBeyondViewport=whole)['data']))
        return path


@contextmanager
def open_browser(directory: Path, *flags: str) -> Iterator[Page]:
    """An empty tab of a new browser, started with further ``flags``; screenshots go to ``directory``."""
    log = directory / 'chromium.log'
    directory.mkdir(parents=True, exist_ok=True)
    short = tempfile.mkdtemp(prefix='c', dir='/tmp')  # Chromium makes a socket there, whose path has at most 107 characters
    with log.open('w') as stderr:
        process = subprocess.Popen([CHROMIUM, *_FLAGS, *flags, f'--user-data-dir={directory / "profile"}', 'about:blank'],
                                   stdout=subprocess.DEVNULL, stderr=stderr, env={**os.environ, 'TMPDIR': short})
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r'ws://\S+', log.read_text())):
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
        with connect(found[0], max_size=None, proxy=None) as socket:
            browser = Page(socket, '', directory)
            target = _plain(socket, 1, 'Target.createTarget', url='about:blank')['targetId']
            session = _plain(socket, 2, 'Target.attachToTarget', targetId=target, flatten=True)['sessionId']
            browser._session, browser._count = session, 2
            browser.call('Page.enable')
            yield browser
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(short, ignore_errors=True)


def _plain(socket: ClientConnection, number: int, method: str, **params: Any) -> dict[str, Any]:
    socket.send(json.dumps({'id': number, 'method': method, 'params': params}))
    while True:
        answer = json.loads(socket.recv(timeout=30))
        if answer.get('id') == number:
            return answer['result']


METRICS = ('accuracy', 'latency_ms', 'speedup', 'macs', 'params')


def rest_needs_chromium(what: str) -> None:
    """End a test that has passed so far, and say what it could not look at; nothing where there is a browser."""
    if CHROMIUM is None:
        pytest.skip(f'all but {what} passed: needs chromium')


def look_at_web_ui(url: str, directory: Path, name: str, formula: str) -> None:
    """What a person can see of an experiment in NNI's web UI: assert it, and leave screenshots."""
    with open_browser(directory) as page:
        page.go(f'{url}/oview')
        page.wait_for(name, 'Trial numbers', 'Duration')
        page.shot('overview')

        page.go(f'{url}/detail')
        page.wait_for('Add/Remove columns', 'Default metric')
        page.wait(lambda: page.texts('.ms-DetailsRow'))
        page.click('button, .ms-Button', 'Add/Remove columns')
        page.wait_for('operator (space)')
        offered = page.texts('.ms-Checkbox')
        for column in ('operator (space)', *(f'{metric} (metric)' for metric in METRICS)):
            assert column in offered, offered
            page.js(f'[...document.querySelectorAll(".ms-Checkbox")].find(e => e.innerText.split("\\n").pop().trim() === '
                    f'{json.dumps(column)}).querySelector("input").click()')
        page.shot('columns')
        page.click('button', 'Save')
        page.wait_for(*(f'{metric}' for metric in METRICS))
        rows = page.wait(lambda: [row for row in page.texts('.ms-DetailsRow') if formula[:40] in row])
        assert '[object Object]' not in page.text
        assert any(character.isdigit() for character in rows[0])
        page.shot('trials')

        page.click('.ms-Dropdown', 'default')
        options = page.texts('.ms-Dropdown-item')
        assert {'default', *METRICS} <= set(options), options
        page.shot('metric drop-down')
        page.click('.ms-Dropdown-item', 'latency_ms')
        page.shot('latency')
        page.click('button[role=tab]', 'Hyper-parameter')
        time.sleep(1)
        page.shot('hyper-parameters')
        page.click('button[role=tab]', 'Intermediate')
        page.wait(lambda: page.js('document.querySelectorAll("canvas").length > 0'))
        page.shot('intermediate results')
