// Loaded into NNI's manager with `node --require`. Made for NNI 3.0, it undoes these defects:
// 1. The manager listens on all interfaces. Servers that name no host now listen on SYNO_NNI_BIND only.
// 2. It answers whoever reaches it: web pages of other origins, names that were bound to this address, other users. Now a
//    request needs a Host of this machine, no foreign Origin, Referer or Sec-Fetch-Site, and a secret path (SYNO_NNI_TOKEN,
//    which becomes NNI's URL prefix without being seen in `ps`).
// 3. A malformed message of a trial or tuner ends the experiment. It is now logged and dropped.
// 4. It gives a tuner ten seconds to start, and does not say why one failed. It now waits SYNO_NNI_PATIENCE seconds, notices
//    when the tuner's process ends, and answers the request that starts the experiment only then.
// 5. It outlives a killed parent and keeps its port. It now shuts down, trials included.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const Module = require('module');
const { Server } = require('net');
const path = require('path');

const host = process.env.SYNO_NNI_BIND || '127.0.0.1';
const names = new Set((process.env.SYNO_NNI_HOSTS || '').split(',').filter(name => name).map(name => name.toLowerCase()));
const token = process.env.SYNO_NNI_TOKEN || '';
const patience = Number(process.env.SYNO_NNI_PATIENCE) || 120; // seconds
const parent = Number(process.env.SYNO_NNI_PARENT); // it may be gone before this line runs; without one, nobody's
for (const name of Object.keys(process.env)) { // not for the manager's children
  if (name === 'NODE_OPTIONS' || /^SYNO_NNI_(BIND|HOSTS|TOKEN|PATIENCE|PARENT)$/.test(name)) {
    delete process.env[name];
  }
}

// --- where it listens ------------------------------------------------------------------------------------------------

const listen = Server.prototype.listen;
Server.prototype.listen = function (...args) {
  const [first, second] = args;
  if (first !== null && typeof first === 'object') {
    if (first.port !== undefined && !first.host && !first.path) {
      args[0] = { ...first, host };
    }
  } else if ((typeof first === 'number' || /^\d+$/.test(first)) && typeof second !== 'string') {
    args.splice(1, 0, host);
  }
  return listen.apply(this, args);
};

// --- whom it answers -------------------------------------------------------------------------------------------------

const MAX_BODY = 16 * 1024 * 1024; // bytes
let prefix = ''; // of every path, once the arguments are known

function hostName(value) { // of a Host header, without the port; null for what is none
  const match = /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?$/.exec(value);
  return match && match[1];
}

function isOurs(name, socket) {
  if (name === 'localhost' || name === '[::1]' || /^127(\.\d{1,3}){3}$/.test(name) || names.has(name)) {
    return true;
  }
  // An address cannot be rebound: it is ours if the connection came in by it.
  const local = (socket.localAddress || '').replace(/^::ffff:/, '').toLowerCase();
  return local !== '' && (name === local || name === `[${local}]`);
}

function values(request, header) {
  const found = [];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    if (request.rawHeaders[i].toLowerCase() === header) {
      found.push(request.rawHeaders[i + 1].trim().toLowerCase());
    }
  }
  return found;
}

function knowsPrefix(url) {
  const wanted = Buffer.from(prefix);
  const given = Buffer.from(url.slice(0, prefix.length));
  return given.length === wanted.length && crypto.timingSafeEqual(given, wanted) && /^([/?]|$)/.test(url.slice(prefix.length));
}

function refusal(request) { // [status, why], or null
  const hosts = values(request, 'host');
  const name = hosts.length === 1 ? hostName(hosts[0]) : null;
  if (name === null || !isOurs(name, request.socket)) {
    return [403, 'the Host is not this machine'];
  }
  const origin = `http://${hosts[0]}`;
  if (values(request, 'origin').some(value => value !== origin)) {
    return [403, 'the Origin is foreign'];
  }
  if (values(request, 'referer').some(value => value !== origin && !value.startsWith(`${origin}/`))) {
    return [403, 'the Referer is foreign'];
  }
  if (values(request, 'sec-fetch-site').some(value => value !== 'same-origin' && value !== 'none')) {
    return [403, 'the request comes from another site: type the address, or paste it'];
  }
  if (!knowsPrefix(request.url)) {
    return [403, 'the address lacks the token: use the link that was printed'];
  }
  const inside = request.url.slice(prefix.length);
  if (/^\/+netron/i.test(decodeSafely(inside))) {
    return [403, 'the proxy to another site is closed'];
  }
  const length = Number(request.headers['content-length'] || 0);
  if (!(length <= MAX_BODY)) {
    return [413, 'the body is too large'];
  }
  const hasBody = length > 0 || request.headers['transfer-encoding'] !== undefined;
  if (hasBody && !/^application\/json\s*(;|$)/i.test(request.headers['content-type'] || '')) {
    return [415, 'the body is not declared as JSON'];
  }
  return null;
}

function decodeSafely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const notes = { refused: 200, dropped: 200 }; // lines; whoever floods the manager does not fill the disk
function note(kind, message) {
  notes[kind] -= 1;
  if (notes[kind] >= 0 && global.nni && global.nni.logStream) {
    const time = new Date().toISOString().replace('T', ' ').slice(0, 19);
    const last = notes[kind] ? '' : '; no more of these are logged';
    global.nni.logStream.writeLine(`[${time}] WARNING (guard) ${kind} ${message}${last}`);
  }
}

function shown(text) { // without control characters, at most 200 long, and without the token
  const plain = String(text);
  return JSON.stringify(token ? plain.replaceAll(token, '...') : plain).slice(0, 200);
}

function answer(request, [status, why]) {
  note('refused', `${shown(request.method)} ${shown(request.url)} from ${shown(request.headers.host)}: ${why}`);
  return `${why}\n`;
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, second, ...rest) {
  if (event === 'request' || event === 'checkContinue' || event === 'checkExpectation') {
    const refused = refusal(request);
    if (refused) {
      const body = answer(request, refused);
      second.writeHead(refused[0], { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' });
      second.end(body);
      return true;
    }
    second.setHeader('Referrer-Policy', 'same-origin');
    second.setHeader('X-Content-Type-Options', 'nosniff');
    second.setHeader('X-Frame-Options', 'DENY');
    second.setHeader('Cross-Origin-Resource-Policy', 'same-origin');
  } else if (event === 'upgrade' || event === 'connect') {
    const refused = event === 'connect' ? [405, 'this is no proxy'] : refusal(request);
    if (refused) {
      answer(request, refused);
      second.on('error', () => {});
      second.end(`HTTP/1.1 ${refused[0]} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
      second.destroySoon();
      return true;
    }
  }
  return emit.call(this, event, request, second, ...rest);
};

// --- the arguments that others must not see --------------------------------------------------------------------------

function argument(...spellings) { // index of an argument's value
  return process.argv.findIndex((_, i) => i > 1 && spellings.includes(process.argv[i - 1]));
}

const directory = argument('--experiments-directory', '--experimentsDirectory');
if (directory > 0) { // this is NNI's manager
  const root = path.join(process.argv[directory], process.argv[argument('--experiment-id', '--experimentId')]);
  fs.mkdirSync(root, { recursive: true, mode: 0o700 });
  fs.chmodSync(root, 0o700); // NNI's logs hold the token
  if (token) {
    const given = argument('--url-prefix', '--urlPrefix');
    const all = given > 0 ? `${process.argv[given]}/${token}` : token;
    if (given > 0) {
      process.argv[given] = all;
    } else {
      process.argv.push('--url-prefix', all);
    }
    prefix = `/${all}`;
    const channel = argument('--tuner-command-channel', '--tunerCommandChannel');
    if (channel > 0) {
      process.argv[channel] = process.argv[channel].replace(/\/tuner$/, `/${token}/tuner`);
    }
    const file = path.join(root, '.token');
    fs.rmSync(file, { force: true });
    fs.writeFileSync(file, token, { mode: 0o600, flag: 'wx' });
  }
}

// --- messages --------------------------------------------------------------------------------------------------------

const MAX_SEQUENCE = 1e9;

function parsed(text) {
  try {
    return typeof text === 'string' ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}

function isObject(value) {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

function metricProblem(id, data, trial) {
  const metric = parsed(data);
  if (!isObject(metric)) {
    return 'it is no JSON object';
  }
  if (metric.trial_job_id !== id) {
    return 'trial_job_id is not that of the trial';
  }
  if (metric.type !== 'PERIODICAL' && metric.type !== 'FINAL') {
    return 'type is neither PERIODICAL nor FINAL';
  }
  if (!Number.isInteger(metric.sequence) || metric.sequence < 0 || metric.sequence > MAX_SEQUENCE) {
    return 'sequence is no natural number';
  }
  if (typeof metric.value !== 'string') {
    return 'value is no text';
  }
  const form = parsed(trial && trial.form && trial.form.hyperParameters && trial.form.hyperParameters.value);
  if (isObject(form) && metric.parameter_id !== form.parameter_id) {
    return 'parameter_id is not that of the trial';
  }
  return null;
}

function commandProblem(type, content) {
  const data = type === 'NO' || type === 'ID' ? null : parsed(content);
  switch (type) {
    case 'ID': case 'NO':
      return null;
    case 'TR':
      return isObject(data) && isObject(data.parameters) && Number.isInteger(data.parameter_id) ? null : 'no parameters';
    case 'SP':
      return 'trials here have one parameter';
    case 'KI':
      return typeof data === 'string' ? null : 'no id of a trial';
    default:
      return 'unknown command';
  }
}

const changes = {
  NNIManager(manager) {
    const { onTrialJobMetrics, onTunerCommand, startExperiment, resumeExperiment } = manager.prototype;
    manager.prototype.onTrialJobMetrics = async function (metric) {
      const problem = metricProblem(metric.id, metric.data, this.trialJobs.get(metric.id));
      if (problem) {
        note('dropped', `a metric of trial ${shown(metric.id)}: ${problem}`);
        return;
      }
      await onTrialJobMetrics.call(this, metric);
    };
    manager.prototype.onTunerCommand = async function (type, content) {
      const problem = commandProblem(type, content);
      if (problem) {
        note('dropped', `a command of the tuner, ${shown(type)}: ${problem}`);
        return;
      }
      await onTunerCommand.call(this, type, content);
    };
    for (const [name, start] of Object.entries({ startExperiment, resumeExperiment })) {
      manager.prototype[name] = async function (...args) {
        const result = await start.apply(this, args);
        if (this.dispatcherPid > 0) { // a tuner that NNI started, not one that connects later
          await this.dispatcher.init();
        }
        return result;
      };
    }
  },
  WsConnection(connection) {
    const handleMessage = connection.prototype.handleMessage;
    connection.prototype.handleMessage = function (data, isBinary) {
      const command = parsed(String(data));
      if (!isObject(command) || typeof command.type !== 'string') {
        note('dropped', 'a message that is no command');
        return;
      }
      handleMessage.call(this, data, isBinary);
    };
  },
  TrialKeeper(keeper) { // trials of this machine report to it
    const start = keeper.prototype.start;
    keeper.prototype.start = function () {
      const handlePut = this.channels.handlePut;
      this.channels.handlePut = function (request, response) {
        if (!isObject(request.body) || typeof request.body.type !== 'string') {
          note('dropped', `a message of trial ${shown(request.params.channel)}`);
          response.sendStatus(400);
          return;
        }
        handlePut.call(this, request, response);
      };
      return start.call(this);
    };
  },
  getTunerServer(get) {
    const server = Object.getPrototypeOf(get());
    server.init = function () {
      if (!this.connect.settled && !this.patience) {
        this.patience = setTimeout(() => {
          if (!this.connect.settled) {
            this.connect.reject(new Error(`the tuner did not connect in ${patience} seconds; see log/dispatcher.log`));
          }
        }, patience * 1000).unref();
      }
      return this.connect.promise;
    };
    tuner = get;
  },
  getTunerProc(spawn, utils) {
    utils.getTunerProc = function (...args) {
      args[3] = { ...args[3], SYNO_NNI_PATIENCE: String(patience) }; // for its environment
      const child = spawn(...args);
      const { connect } = tuner();
      connect.promise.catch(() => {}); // who awaits it comes later
      child.once('exit', (code, signal) => {
        if (!connect.settled) {
          connect.reject(new Error(`the tuner ended at its start (${signal || `status ${code}`}); see log/dispatcher.log`));
        }
      });
      return child;
    };
  },
};
let tuner = null;

const load = Module._load;
const pending = new Set(Object.keys(changes));
if (directory > 0) {
  Module._load = function (request, ...rest) {
    const loaded = load.call(this, request, ...rest);
    if (rest[1] === true && [...pending].some(name => name !== 'TrialKeeper')) { // main.js; it loads the keeper later
      console.error(`the guard was made for NNI 3.0, and this one has no ${[...pending].join(', ')}`);
      process.exit(1);
    }
    if (pending.size && loaded && loaded.__esModule && !request.includes('node_modules')) {
      for (const name of pending) {
        if (typeof loaded[name] === 'function') {
          pending.delete(name);
          changes[name](loaded[name], loaded);
        }
      }
    }
    return loaded;
  };
}

// --- its end ---------------------------------------------------------------------------------------------------------

const watch = setInterval(() => {
  if (!parent || process.ppid === parent) {
    return;
  }
  clearInterval(watch);
  process.kill(process.pid, 'SIGTERM');
  // Should the clean way hang: the trials are in the manager's process group.
  setTimeout(() => process.kill(-process.pid, 'SIGKILL'), 15000).unref();
}, 1000);
watch.unref();
