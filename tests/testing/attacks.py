"""What a web page, another user or a rebound name can send to NNI's manager."""
from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

Headers = list[tuple[str, str]]


def foreign(port: int) -> dict[str, Headers]:
    """Headers that no request of the owner has."""
    here = ('Host', f'localhost:{port}')
    headers: dict[str, Headers] = {}
    for origin in ('http://evil.example', 'https://evil.example', 'null', 'file://', 'http://localhost:1', 'http://localhost',
                   f'https://localhost:{port}', f'http://127.0.0.1:{port}', f'http://localhost:{port}.evil.example',
                   f'http://localhost:{port}@evil.example', 'chrome-extension://abc', ''):
        headers[f'origin {origin}'] = [here, ('Origin', origin)]
    headers['two origins'] = [here, ('Origin', f'http://localhost:{port}'), ('Origin', 'http://evil.example')]
    for referer in ('http://evil.example/', f'http://localhost:{port}.evil.example/', 'about:blank'):
        headers[f'referer {referer}'] = [here, ('Referer', referer)]
    for site in ('cross-site', 'same-site'):
        headers[f'fetch {site}'] = [here, ('Sec-Fetch-Site', site)]
    for host in ('evil.example', f'evil.example:{port}', f'localhost.evil.example:{port}', f'127.0.0.1.evil.example:{port}',
                 f'localhost:{port}.evil.example', f'evil.example#localhost:{port}', f'user@localhost:{port}', '', ' ', '127.1',
                 f'0.0.0.0:{port}', f'localhost.:{port}', '2130706433', '[::ffff:7f00:1]', 'localhost:99999999',
                 'localhost localhost'):
        headers[f'host {host}'] = [('Host', host)]
    headers['two hosts'] = [here, ('Host', 'evil.example')]
    headers['no host'] = []
    return headers


def harmful(trial: str, canary: Path) -> list[tuple[str, str, Any]]:
    """Method, path below the prefix, and body of requests that NNI's manager would obey."""
    made = {'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']}
    api = '/api/v1/nni'
    metric = {'parameter_id': 0, 'trial_job_id': trial, 'type': 'PERIODICAL', 'sequence': 0,
              'value': json.dumps({'default': made})}
    return [('GET', f'{api}/trial-jobs', None), ('GET', f'{api}/check-status', None), ('GET', '/', None),
            ('GET', '/oview', None), ('GET', '/logs/nnimanager.log', None), ('GET', '/netron/', None),
            ('HEAD', f'{api}/trial-jobs', None), ('OPTIONS', f'{api}/trial-jobs', None),
            ('POST', f'{api}/trial-jobs', {'operator': made, 'payload': made}),
            ('POST', f'{api}/experiment', {'trialCommand': f'touch {canary}'}),
            ('POST', f'{api}/experiment/import-data', [{'parameter': made, 'value': made}]),
            ('PUT', f'{api}/experiment?update_type=MAX_TRIAL_NUM', {'params': {'maxTrialNumber': 0}}),
            ('PUT', f'{api}/experiment?update_type=SEARCH_SPACE', {'params': {'searchSpace': made}}),
            ('PUT', f'/env/local-env/{trial}', {'type': 'metric', 'metric': json.dumps(metric)}),
            ('PUT', f'/env/local-env/{trial}', {'type': 'metric', 'metric': json.dumps({'type': 'FINAL', 'value': '1'})}),
            ('POST', f'{api}/tensorboard', {'trials': trial}), ('DELETE', f'{api}/trial-jobs/{trial}', None),
            ('DELETE', f'{api}/experiment', None)]


def send(port: int, method: str, path: str, headers: Headers, body: Any = None, content_type: str = 'application/json',
         ) -> tuple[int, str]:
    """Status and text of the answer; 0 when the connection was closed without one."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        data = b'' if body is None else json.dumps(body).encode()
        if body is not None:
            connection.putheader('Content-Type', content_type)
        connection.putheader('Content-Length', str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors='replace')
    except (http.client.HTTPException, ConnectionError):
        return 0, ''
    finally:
        connection.close()


def refused_requests(port: int, token: str, trial: str, canary: Path) -> Iterator[tuple[str, int, str]]:
    """Send them all; yields what was sent, the status and the text. The last ones know the token, and are foreign."""
    owner = [('Host', f'localhost:{port}')]
    for method, path, body in harmful(trial, canary):
        for prefix in ('', '/' + '0' * 32, f'/{token[:-1]}', f'/{token}0', f'/{token.upper()}x', f'//{token}',
                       f'/x/../{token}'):
            yield (f'{method} {prefix}{path}', *send(port, method, prefix + path, owner, body))
        for name, headers in foreign(port).items():
            yield (f'{method} {path} {name}', *send(port, method, f'/{token}{path}', headers, body))
        if body is not None:
            for form in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', ''):
                yield (f'{method} {path} {form}', *send(port, method, f'/{token}{path}', owner, body, form))
    yield ('absolute address', *send(port, 'GET', f'http://localhost:{port}/api/v1/nni/trial-jobs', owner))


def raw_requests(port: int, token: str, canary: Path) -> Iterator[bytes]:
    """Requests that no library sends: odd request lines, headers that stand twice or are folded, bodies of two lengths,
    upgrades of all sorts. Those that know the token are foreign otherwise."""
    here, api = f'localhost:{port}', '/api/v1/nni'
    host, other, origin = f'Host: {here}', 'Host: evil.example', 'Origin: http://evil.example'
    body = json.dumps({'operator': {'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']}})
    json_type, plain_type, chunked = 'Content-Type: application/json', 'Content-Type: text/plain', 'Transfer-Encoding: chunked'
    length = f'Content-Length: {len(body)}'
    sent = [json_type, length]
    upgrade = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13',
               'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==']

    def request(line: str, *headers: str, content: str = '', version: str = 'HTTP/1.1') -> bytes:
        return '\r\n'.join((f'{line} {version}', *headers, '', content)).encode('latin-1')

    trials = f'{api}/trial-jobs'
    paths = [f'//{token}{trials}', f'/./{token}{trials}', f'/%2e/{token}{trials}', f'/%2f{token}{api}',
             f'/x/..%2f{token}{trials}', f'/{token[:-1]}%{ord(token[-1]):x}{trials}', f'/{token}%00{trials}',
             f'/{token};{trials}', f'/{token}%2f..{trials}', f'\\{token}{trials}', trials, f'/%61{trials[2:]}', f'/{trials}',
             f'http://{here}/{token}{trials}', f'http://evil.example/{token}{trials}', f'//{here}/{token}{trials}',
             '*', '', f'?{token}', f'/?x=/{token}{trials}', f'/#/{token}', '/' + 'x' * 20_000, '/' + '%' * 100, '/\xff\xfe']
    for method in ('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'TRACE', 'PROPFIND', 'M-SEARCH', 'get', 'X'):
        for path in paths if method in ('GET', 'POST') else paths[:2]:
            yield request(f'{method} {path}', host, *sent, content=body)
    known = f'POST /{token}{trials}'
    for headers in ([host, origin], [other], [host, 'hOsT: evil.example'], [host, ' evil.example'], [host, 'ORIGIN: null'],
                    [f'Host : {here}'], ['Host:'], [], [f'Host:\t{here} evil'], [host, f'Origin: http://{here}\x0b'],
                    [f'Host: {here}\0'], [host, 'Origin:', ' http://evil.example'], [f'X: y\nHost: {here}', other],
                    [f'Host: {here}@evil.example'], [f'Host: evil.example, {here}'],
                    [host, f'Origin: http://{here}, http://evil'], [f'X-Forwarded-Host: {here}', other],
                    [f'Forwarded: host={here}', other], [host, f'Referer: http://evil/{here}'],
                    [host, 'Sec-Fetch-Site: same-origin', 'Sec-Fetch-Site: cross-site']):
        yield request(known, *headers, *sent, content=body)
        yield request(f'GET /{token}/tuner/x', *headers, *upgrade)
    for more in ([*sent, 'Content-Length: 3'], [*sent, chunked], [json_type, 'Content-Length: -1'],
                 [json_type, 'Content-Length: 1e3'], [json_type, f'Content-Length: {"9" * 20}'],
                 [json_type, 'Content-Length: +5'], [json_type, f'{chunked}, identity'], [json_type, 'Transfer-Encoding: x'],
                 [plain_type, length], [f'{plain_type}; application/json', length], [f'{json_type}-x', length],
                 [f'{json_type}p', length], [length], ['Content-Type: ', length]):
        yield request(known, host, *more, content=body)
    for wanted in ('websocket', 'h2c', 'TLS/1.0', 'websocket, h2c', ''):
        switch = [upgrade[0], f'Upgrade: {wanted}', *upgrade[2:]]
        for path in ('/tuner/x', trials, f'//{token}/tuner/x', f'/{token}x/tuner/x'):
            yield request(f'GET {path}', host, *switch)
        yield request(known, host, origin, *switch, *sent, content=body)
    yield request(f'CONNECT {here}', host)
    yield request('CONNECT evil.example:80', host)
    yield request(f'GET /{token}{trials}', version='HTTP/1.0')
    yield request(f'GET /{token}{trials}', host, version='HTTP/9.9')
    for expectation in ('100-continue', 'nonsense'):
        yield request(known, host, f'Expect: {expectation}', origin, *sent, content=body)
    yield request('GET /', host, *(f'X-{i}: {"y" * 100}' for i in range(3000)))
    yield request('GET /', host) + request(known, other, *sent, content=body)  # one after the other
    yield b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
    yield b'\x16\x03\x01' + b'\0' * 300
    yield b'GET\r\n\r\n' + b'\0' * 1000


def answers(port: int, request: bytes) -> list[int]:
    """The statuses that come back for the bytes of a connection, until it is closed or silent for some time."""
    data = b''
    with socket.create_connection(('127.0.0.1', port), timeout=20) as raw:
        try:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            while piece := raw.recv(1 << 16):
                data += piece
        except OSError:
            pass
    return [int(status) for status in re.findall(rb'HTTP/1\.[01] (\d{3})', data)]


def websocket_opens(port: int, path: str, origin: str | None, host: str | None, *messages: Any) -> bool:
    """Whether the manager accepts a WebSocket; the messages are sent then."""
    with socket.create_connection(('127.0.0.1', port), timeout=20) as raw:
        try:
            with connect(f'ws://{host or f"localhost:{port}"}{path}', sock=raw, origin=origin, proxy=None,  # type: ignore[arg-type]
                         open_timeout=20, close_timeout=2) as ws:
                for message in messages:
                    ws.send(json.dumps(message))
                return True
        except (WebSocketException, OSError):
            return False


PAGE = """<!doctype html><title>evil</title><body><script>
const port = PORT, token = 'TOKEN', requests = REQUESTS;
const done = [];
async function attack() {
  for (const name of ['localhost', '127.0.0.1']) for (const prefix of ['', '/' + token]) {
    const at = `http://${name}:${port}${prefix}`;
    for (const [method, path, body] of requests) {
      for (const type of ['text/plain', 'application/json']) for (const mode of ['no-cors', 'cors']) {
        const options = { method, mode, credentials: 'include' };
        if (body !== null) { options.body = JSON.stringify(body); options.headers = { 'Content-Type': type }; }
        try { done.push((await fetch(at + path, options)).type); } catch (error) { done.push('error'); }
      }
      if (method === 'POST') {
        const frame = document.createElement('iframe'); frame.name = 'f' + done.length; document.body.append(frame);
        const form = document.createElement('form');
        form.action = at + path; form.method = 'post'; form.enctype = 'text/plain'; form.target = frame.name;
        const field = document.createElement('input');
        field.name = JSON.stringify(body).slice(0, -1) + ',"x":"'; field.value = '"}';
        form.append(field); document.body.append(form); form.submit();
      }
    }
    for (const path of ['/tuner', '/tuner/x']) await new Promise(resolve => {
      const ws = new WebSocket(`ws://${name}:${port}${prefix}${path}`);
      ws.onopen = () => { done.push('OPEN'); ws.send(JSON.stringify(MESSAGE)); resolve(); };
      ws.onerror = () => { done.push('refused'); resolve(); };
    });
  }
  document.title = 'attacked';
}
attack();
</script>"""


def page(port: int, token: str, trial: str, canary: Path) -> str:
    """A web page that does all of that."""
    made = {'__symbol__': 'path:os.system', '__args__': [f'touch {canary}']}
    message = {'type': 'TR', 'content': json.dumps({'parameter_id': 99, 'parameters': {'operator': made, 'payload': made}})}
    return (PAGE.replace('PORT', str(port)).replace('TOKEN', token).replace('MESSAGE', json.dumps(message))
            .replace('REQUESTS', json.dumps(harmful(trial, canary))))
