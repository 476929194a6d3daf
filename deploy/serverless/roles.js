// A role for each function: it writes its own log, reads its own secrets by name, and does nothing else at AWS.
// The stars: the streams of a log have names that Lambda makes up, objects of an archive's bucket have names of their content, and for
// network interfaces AWS allows nothing narrower.
'use strict';

const { FUNCTIONS, folder, parameters } = require('./settings');

const here = (service, resource) => ({ 'Fn::Sub': `arn:\${AWS::Partition}:${service}:\${AWS::Region}:\${AWS::AccountId}:${resource}` });

const logging = (name) => ({
  Sid: 'WriteItsOwnLog',
  Effect: 'Allow',
  Action: ['logs:CreateLogStream', 'logs:PutLogEvents'],
  Resource: [here('logs', `log-group:/aws/lambda/${name}:*`)],
});

const secrets = (functionName, stage) => ({
  Sid: 'ReadItsOwnSecrets',
  Effect: 'Allow',
  Action: ['ssm:GetParameters'],
  Resource: parameters(functionName).map((name) => here('ssm', `parameter${folder(stage)}${name}`)),
});

// A key of the account's own. The key that Parameter Store takes by itself lets every role of the account decrypt what it may read.
const decryption = (functionName, stage, key) => ({
  Sid: 'DecryptThemOnly',
  Effect: 'Allow',
  Action: ['kms:Decrypt'],
  Resource: [key],
  Condition: {
    StringEquals: {
      'kms:ViaService': { 'Fn::Sub': 'ssm.${AWS::Region}.amazonaws.com' },
      'kms:EncryptionContext:PARAMETER_ARN': parameters(functionName).map((name) => here('ssm', `parameter${folder(stage)}${name}`)),
    },
  },
});

// `archive`: BUCKET/PREFIX of an archive that lies in S3.
const store = (archive) => {
  const [bucket, ...prefix] = archive.replace(/\/+$/, '').split('/');
  const below = [...prefix, '*'].join('/');
  return [
    {
      Sid: 'ListItsArchive',
      Effect: 'Allow',
      Action: ['s3:ListBucket'],
      Resource: [{ 'Fn::Sub': `arn:\${AWS::Partition}:s3:::${bucket}` }],
      Condition: { StringLike: { 's3:prefix': below } },
    },
    {
      Sid: 'KeepItsArchive',
      Effect: 'Allow',
      Action: ['s3:AbortMultipartUpload', 's3:DeleteObject', 's3:GetObject', 's3:PutObject'],
      Resource: [{ 'Fn::Sub': `arn:\${AWS::Partition}:s3:::${bucket}/${below}` }],
    },
  ];
};

const network = () => ({
  Sid: 'StandInItsNetwork',
  Effect: 'Allow',
  Action: [
    'ec2:AssignPrivateIpAddresses',
    'ec2:CreateNetworkInterface',
    'ec2:DeleteNetworkInterface',
    'ec2:DescribeNetworkInterfaces',
    'ec2:DescribeSubnets',
    'ec2:UnassignPrivateIpAddresses',
  ],
  Resource: ['*'],
});

// HomeServerArchiver of home-server-archiver
const logical = (name) => name.replace(/(^|-)([a-z])/g, (_, __, letter) => letter.toUpperCase());

module.exports = async ({ resolveVariable }) => {
  const [service, stage, region] = await Promise.all(['self:service', 'sls:stage', 'self:provider.region'].map(resolveVariable));
  const [key, archive, subnets] = await Promise.all(
    ['param:kms-key, null', 'param:archive-bucket, null', 'param:subnets, null'].map(resolveVariable)
  );
  const role = (functionName) => ({
    Type: 'AWS::IAM::Role',
    Properties: {
      // Roles are known by name in all of an account's regions.
      RoleName: `${service}-${stage}-${region}-${functionName}`,
      AssumeRolePolicyDocument: {
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Principal: { Service: ['lambda.amazonaws.com'] }, Action: ['sts:AssumeRole'] }],
      },
      Policies: [
        {
          PolicyName: 'own',
          PolicyDocument: {
            Version: '2012-10-17',
            Statement: [
              logging(`${service}-${stage}-${functionName}`),
              secrets(functionName, stage),
              ...(key ? [decryption(functionName, stage, key)] : []),
              ...(archive ? store(archive) : []),
              ...(subnets ? [network()] : []),
            ],
          },
        },
      ],
    },
  });
  return Object.fromEntries(FUNCTIONS.map((name) => [`${logical(name)}Role`, role(name)]));
};
