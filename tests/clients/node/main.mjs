// Kubernetes' client for Node as a program: exec and port-forward against the URLs of an API server.
// The exit code is the command's; 255 is for everything else.
import { PassThrough, Writable } from 'node:stream';
import { parseArgs } from 'node:util';

import { Exec, KubeConfig, PortForward } from '@kubernetes/client-node';

const text = { type: 'string', default: '' };
const flag = { type: 'boolean', default: false };
const options = { server: text, verb: text, pod: text, container: text, sizes: text, stdin: flag, tty: flag };
const { values, positionals } = parseArgs({ options, allowPositionals: true });
const [namespace, name] = values.pod.split('/');

const config = new KubeConfig();
config.loadFromClusterAndUser({ name: 'test', server: values.server, skipTLSVerify: true }, { name: 'test' });

// A terminal whose size changes: the client asks for rows and columns, and listens for `resize`.
class Terminal extends Writable {
  constructor(sizes) {
    super();
    this.sizes = sizes.split(' ').map((size) => size.split('x').map(Number));
    [this.columns, this.rows] = this.sizes[0];
  }
  _write(chunk, encoding, callback) {
    process.stdout.write(chunk, callback);
  }
  grow() {
    for ([this.columns, this.rows] of this.sizes.slice(1)) {
      this.emit('resize');
    }
  }
}

function end(code) {
  process.stdout.write('', () => process.stderr.write('', () => process.exit(code)));
}

function fail(message) {
  console.error('error:', message);
  end(255);
}

function ended(status) {
  const cause = status.details?.causes?.[0];
  if (status.status === 'Success') {
    end(0);
  } else if (status.reason === 'NonZeroExitCode') {
    end(Number(cause.message));
  } else {
    fail(cause.message);
  }
}

async function exec() {
  const stdout = values.sizes ? new Terminal(values.sizes) : process.stdout;
  const stdin = values.stdin ? process.stdin : null;
  const stderr = values.tty ? null : process.stderr;
  await new Exec(config).exec(namespace, name, values.container, positionals, stdout, stderr, stdin, values.tty, ended);
  if (values.sizes) {
    stdout.grow();
  }
}

async function forward() {
  const errors = new Writable({
    write(chunk, encoding, callback) {
      if (chunk.length > 0) {
        fail(chunk.toString());
      }
      callback();
    },
  });
  const input = new PassThrough(); // the client leaves when its input ends, whatever is still to come
  process.stdin.pipe(input, { end: false });
  const forwarder = new PortForward(config);
  const socket = await forwarder.portForward(namespace, name, [Number(positionals[0])], process.stdout, errors, input);
  socket.on('close', () => end(0));
}

await (values.verb === 'portforward' ? forward() : exec()).catch((error) => fail(error.message));
