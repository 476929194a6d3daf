// What the functions at AWS are told, and which secrets each may read: one list for both, so that a role never falls behind.
// Nothing secret goes through here: the template and the environment of a function are read by more people than its secrets.
'use strict';

const fs = require('fs');
const path = require('path');
const { parseEnv } = require('util');

const root = path.resolve(__dirname, '..', '..');

const FUNCTIONS = ['home-server-archiver', 'intelligent-load-balancer', 'multi-tier-quota-manager', 'multi-tier-setup'];

// Settings of the user's environment or `.env` that are no secrets.
const HARMLESS = [
  'CORE_QUOTA_LIMIT',
  'MAIN_QUOTA_LIMIT',
  'ARCHIVE_QUOTA_LIMIT',
  'LOAD_BALANCER_ALGORITHM',
  'HEALTH_CHECK_INTERVAL',
  'MAX_RETRIES',
  'TIERKEEPER_SERVICE',
];

const SECRET = ['ARCHIVE_SUPABASE_URL', 'CORE_SUPABASE_URL', 'HOME_SERVER_TOKEN', 'HOME_SERVER_URL', 'MAIN_SUPABASE_URL'];

// The balancer asks whether a tier is well: that needs no key of the archive.
const WITHOUT_KEY = 'intelligent-load-balancer';

const read = (name) => {
  try {
    return fs.readFileSync(path.join(root, name), 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return '';
    throw error;
  }
};

// The variables that `tierkeeper.toml` refers to as "env:NAME".
const referred = () => [...read('tierkeeper.toml').matchAll(/["']env:\s*([A-Za-z_][A-Za-z0-9_]*)\s*["']/g)].map((found) => found[1]);

const harmless = () => {
  const known = { ...parseEnv(read('.env')), ...process.env };
  return Object.fromEntries(HARMLESS.filter((name) => (known[name] || '').trim()).map((name) => [name, known[name]]));
};

// The names of the parameters that a function may read, sorted.
const parameters = (functionName) => {
  const key = functionName === WITHOUT_KEY ? [] : ['TIERKEEPER_KEY'];
  const names = new Set([...SECRET, ...key, ...referred()]);
  return [...names].filter((name) => !HARMLESS.includes(name)).sort();
};

const folder = (stage) => `/tierkeeper/${stage}/`;

// Shown without a stack trace: it is the user's to mend.
const fault = (message) => Object.assign(new Error(message), { stack: message });

const listed = (text) => (text || '').split(',').map((each) => each.trim()).filter(Boolean);

module.exports = async ({ resolveVariable }) => {
  const stage = await resolveVariable('sls:stage');
  const [reserve, ...places] = await Promise.all(
    ['param:reserve-concurrency', 'param:subnets, null', 'param:security-groups, null'].map(resolveVariable)
  );
  const [subnetIds, securityGroupIds] = places.map(listed);
  if (!subnetIds.length !== !securityGroupIds.length) throw fault('subnets and security-groups go together: give both, or neither');
  if (!['on', 'off'].includes(reserve)) throw fault(`reserve-concurrency is "${reserve}": write on or off`);
  const settings = harmless();
  return {
    // Two runs of such a function at once would only wait for each other.
    alone: reserve === 'on' ? 1 : null,
    vpc: subnetIds.length ? { subnetIds, securityGroupIds } : null,
    environment: Object.fromEntries(
      FUNCTIONS.map((name) => [
        name,
        { ...settings, TIERKEEPER_PARAMETERS: folder(stage), TIERKEEPER_PARAMETER_NAMES: parameters(name).join(',') },
      ])
    ),
  };
};

Object.assign(module.exports, { FUNCTIONS, folder, parameters, root });
