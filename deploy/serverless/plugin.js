// What `serverless` does for this service beside its own: it builds a function's artifact before it needs it, deploys the stack before a
// function of a stack that is not there, and leaves a function that runs on this machine the user's own environment.
'use strict';

const { spawn } = require('child_process');
const path = require('path');

const { root } = require('./settings');

class Tierkeeper {
  constructor(serverless, options, { log, progress }) {
    Object.assign(this, { serverless, options, log, progress });
    this.hooks = {
      initialize: () => this.prepareToRunHere(),
      'before:package:createDeploymentArtifacts': () => this.build(serverless.service.getAllFunctions()),
      'before:package:function:package': () => this.build([options.function]),
      'after:package:compileFunctions': () => this.dependOnce(),
      'before:deploy:function:initialize': () => this.deployTheStackFirst(),
      finalize: () => this.sayWhatCameAlong(),
      error: (error) => this.sayWhatHelps(String(error && error.message)),
    };
  }

  // A function that runs here has the user's own environment and `.env`, not what it is told at AWS; and its answer has stdout for itself,
  // where osls would mix it with all that is said meanwhile, and end a fault in two stack traces.
  prepareToRunHere() {
    if (this.serverless.processedInput.commands.join(' ') !== 'invoke local') return;
    for (const name of this.serverless.service.getAllFunctions()) this.serverless.service.getFunction(name).environment = {};
    const local = this.serverless.pluginManager.plugins.find((plugin) => plugin.invokeLocalPython);
    local.invokeLocalPython = (_runtime, ...handler) => this.runHere(...handler);
  }

  async runHere(module, handler, event, context) {
    const { name, timeout } = this.serverless.service.getFunction(this.options.function);
    const argv = ['-u', path.join(__dirname, 'invoke.py'), module, handler];
    const program = this.python(argv, ['pipe', 'inherit', 'inherit'], { detached: true });
    program.stdin.end(JSON.stringify({ event: event ?? {}, context: { name, timeout, ...context } }));
    const code = await this.endAsAsked(program);
    if (code !== 0) throw this.fault(`${this.options.function} failed (${code}): see above`);
  }

  // The script leaves an artifact as it is whose inputs are the same.
  async build(names) {
    const building = this.progress.get('artifact');
    building.notice('Building artifacts');
    const said = await this.run('deploy/lambda/artifacts.py', ...names.flatMap((name) => ['--function', name]));
    building.remove();
    for (const line of said.split('\n').filter((each) => each && !each.endsWith('unchanged'))) {
      this.log.notice.success(line.replace(`${root}/`, ''));
    }
  }

  // What a program of the project's Python says. If it fails that is the error.
  async run(...argv) {
    const program = this.python(argv, ['ignore', 'pipe', 'pipe']);
    let said = '';
    for (const stream of [program.stdout, program.stderr]) stream.on('data', (piece) => (said += piece));
    const code = await this.end(program);
    if (code !== 0) throw this.fault(said.trim() || `${argv[0]} ended with ${code}`);
    return said;
  }

  python(argv, stdio, how = {}) {
    return spawn(path.join(root, '.venv', 'bin', 'python'), argv, { cwd: root, stdio, ...how });
  }

  // The end of a program that has a session of its own, so that a signal reaches it once, from here: the first asks it to end at a safe
  // point, and that is waited for, where osls would leave it at work unseen. It has said then how it ended, and osls has ended with the
  // signal: for it any error would come too late.
  async endAsAsked(program) {
    let asked = false;
    const passed = { SIGINT: 'SIGINT', SIGTERM: 'SIGTERM', SIGHUP: 'SIGTERM' };
    for (const [heard, told] of Object.entries(passed)) process.on(heard, () => (asked = program.kill(told) || asked));
    const code = await this.end(program);
    if (asked) process.exit(code === 0 ? 0 : 1);
    return code;
  }

  end(program) {
    return new Promise((resolve, reject) => {
      program.once('error', (error) => reject(this.fault(`${program.spawnfile} does not start (${error.code}). Run make setup`)));
      program.once('close', (code, signal) => resolve(code ?? signal));
    });
  }

  // An error without a stack trace: it is the user's to mend.
  fault(message) {
    return new this.serverless.classes.Error(message, 'TIERKEEPER');
  }

  // A function is deployed into a stack, with its role, log and schedule: the first one brings the stack with it. So does one that is told
  // to read a secret which its role does not name yet: all that it asks for would be refused.
  async deployTheStackFirst() {
    const { name, environment } = this.serverless.service.getFunction(this.options.function);
    const there = await this.deployed(name);
    const more = there && told(environment).filter((secret) => !told(there.Environment?.Variables).includes(secret));
    if (there && !more.length) return;
    const stack = this.serverless.getProvider('aws').naming.getStackName();
    const why = there ? `the role of ${name} may not read ${more.join(', ')} yet` : `${name} is not at AWS yet`;
    this.log.notice(`${why}: deploying the stack ${stack}, with all four functions`);
    this.cameAlong = `${name} deployed, with the stack ${stack}. "serverless info" shows all of it`;
    await this.serverless.pluginManager.spawn('deploy', { terminateLifecycleAfterExecution: true });
  }

  sayWhatCameAlong() {
    if (this.cameAlong) this.log.notice.success(this.cameAlong);
  }

  // What went wrong is told by AWS and by osls, and nothing of what to do.
  sayWhatHelps(message) {
    if (/UnreservedConcurrentExecution/.test(message)) {
      this.log.error('This account has too few concurrent runs to reserve any: deploy with --param="reserve-concurrency=off"');
    }
    if (/^Function ".*" doesn't exist/.test(message)) {
      this.log.error(`The functions are ${this.serverless.service.getAllFunctions().join(', ')}`);
    }
  }

  // A function that names its role waits for it: osls says so once more, which linters of templates (cfn-lint W3005) refuse.
  dependOnce() {
    for (const resource of Object.values(this.serverless.service.provider.compiledCloudFormationTemplate.Resources)) {
      const role = resource.Properties?.Role?.['Fn::GetAtt']?.[0];
      if (role && Array.isArray(resource.DependsOn)) resource.DependsOn = resource.DependsOn.filter((other) => other !== role);
    }
  }

  // A function's configuration at AWS; null where it is not there.
  async deployed(name) {
    const { LambdaClient, GetFunctionConfigurationCommand } = require('@aws-sdk/client-lambda');
    const lambda = new LambdaClient(await this.serverless.getProvider('aws').getAwsSdkV3Config());
    try {
      return await lambda.send(new GetFunctionConfigurationCommand({ FunctionName: name }));
    } catch (error) {
      if (error.name === 'ResourceNotFoundException') return null;
      throw error;
    }
  }
}

// The names of the secrets that a function with these variables asks for.
const told = (variables) => (variables?.TIERKEEPER_PARAMETER_NAMES || '').split(',').filter(Boolean);

module.exports = Tierkeeper;
