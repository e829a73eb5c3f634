// Loaded into NNI's manager with `node --require`. It undoes two defects of NNI 3.0:
// 1. The manager listens on all interfaces without authentication, and whoever reaches it can run code. Servers that
//    name no host now listen on SYNO_NNI_BIND only.
// 2. The manager outlives a killed parent and keeps its port. It now shuts down, trials included.
'use strict';
const host = process.env.SYNO_NNI_BIND || '127.0.0.1';
delete process.env.NODE_OPTIONS; // not for the manager's children

const { Server } = require('net');
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

const parent = Number(process.env.SYNO_NNI_PARENT); // it may be gone before this line runs; without one, nobody's
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
