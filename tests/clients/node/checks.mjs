// RocketMQ's official Node client against a running Millpond, with its default settings: plaintext.
//
// Usage: node checks.mjs HOST:PORT PREFIX FEATURE...; what it reads and prints is told in
// tests/clients/README.md.

import assert from 'node:assert/strict';
import {
  ConsumeResult, FilterExpression, LitePushConsumerBuilder, Producer, PushConsumer, SimpleConsumer,
} from 'rocketmq-client-nodejs';
import proto from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js';

const { FilterType, TransactionResolution } = proto;
const MESSAGES = 100;
const INVISIBLE = 60_000;
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const quietLogger = { debug() {}, info() {}, warn() {}, error: console.error };
const opened = [];
let endpoints, prefix, topic;

const features = {
  async normal() {
    const [ producer, consumer ] = [ await open.producer(), await open.consumer(5) ];
    const [ sent, found ] = [ new Map(), new Map() ];
    for (let i = 0; i < MESSAGES; i++) {
      const { messageId } = await producer.send(message(`body-${i}`, {
        tag: 'order', keys: [ `key-${i}`, 'all' ], properties: new Map([[ 'colour', 'grün' ]]),
      }));
      sent.set(messageId, `body-${i}`);
    }
    equal(MESSAGES, sent.size, 'ids of the sends');
    for (const got of await receive(consumer, MESSAGES)) {
      const body = got.body.toString();
      equal(false, found.has(got.messageId), 'deliveries before');
      equal(false, Boolean(got.corrupted), 'corruption');
      equal('order', got.tag, 'tag');
      equal('grün', got.properties.get('colour'), 'property');
      equal([ `key-${body.slice(5)}`, 'all' ], got.keys, 'keys');
      equal(1, got.deliveryAttempt, 'attempt');
      found.set(got.messageId, body);
    }
    equal(sorted(sent.entries()), sorted(found.entries()), 'messages');
    await quiet(consumer, 'deliveries of what is acknowledged');
  },

  // A poll that waits is answered as soon as a message comes, long before its time is over.
  async poll() {
    const [ producer, consumer ] = [ await open.producer(), await open.consumer(15) ];
    const started = Date.now();
    const waiting = consumer.receive(1, INVISIBLE);
    await sleep(1000);
    await producer.send(message('first'));
    const got = await waiting;
    equal(1, got.length, 'messages');
    between(1000, 6000, Date.now() - started, 'ms until the answer');
    await consumer.ack(got[0]);
  },

  // An unacknowledged message comes back when its invisible time ends, which may be moved.
  async invisible() {
    await (await open.producer()).send(message('slow'));
    const consumer = await open.consumer(10);
    const first = await receiveOne(consumer);
    await consumer.changeInvisibleDuration(first, 2000);
    const moved = Date.now();
    const again = await receiveOne(consumer);
    between(1500, 8000, Date.now() - moved, 'ms until it returned');
    equal(first.messageId, again.messageId, 'message');
    equal(2, again.deliveryAttempt, 'attempt');
    await consumer.ack(again);
  },

  async 'unknown-topic'() {
    const producer = await open.producer();
    const unknown = `${prefix}-no-such-topic`;
    const error = await producer.send({ ...message('lost'), topic: unknown }).then(
      () => assert.fail('the send succeeded'), error => error);
    equal(true, String(error).includes(unknown), `the refusal names the topic: ${error}`);
  },

  async push() {
    const got = [];
    await open.push(one => got.push(one));
    const producer = await open.producer();
    const sent = numbered(MESSAGES);
    for (const body of sent) await producer.send(message(body));
    await until(got, MESSAGES);
    await sleep(3000);
    equal(sorted(sent), sorted(bodies(got)), 'messages');
  },

  async tag() {
    const producer = await open.producer();
    for (let i = 0; i < 30; i++) await producer.send(message(`body-${i}`, { tag: `tag-${i % 3}` }));
    await filtered(new FilterExpression('tag-0 || tag-2'), i => i % 3 !== 1);
  },

  async sql() {
    const producer = await open.producer();
    for (let i = 0; i < 30; i++) {
      const properties = new Map([[ 'price', String(i) ]]);
      await producer.send(message(`body-${i}`, { tag: `tag-${i % 3}`, properties }));
    }
    const expression = "price BETWEEN 5 AND 20 AND TAGS <> 'tag-0' AND colour IS NULL";
    await filtered(new FilterExpression(expression, FilterType.SQL),
      i => i >= 5 && i <= 20 && i % 3 !== 0);
  },

  async nack() {
    const got = [];
    await open.push(one => got.push(one) && one.deliveryAttempt >= 2);
    await (await open.producer()).send(message('again'));
    await until(got, 2);
    await sleep(5000);
    equal([ 1, 2 ], got.map(one => one.deliveryAttempt), 'attempts');
    equal(got[0].messageId, got[1].messageId, 'message');
  },

  // The group gives up after two attempts; its dead letters are a topic like others, there before the first one.
  async dead() {
    const got = [];
    await open.push(one => { got.push(one); return false; });
    const letters = await open.simple(`%DLQ%${topic}`, `${topic}-letters`, '*', 10);
    const properties = new Map([[ 'colour', 'red' ]]);
    const sent = await (await open.producer()).send(message('hopeless', { properties }));
    await until(got, 2);
    const letter = await receiveOne(letters);
    equal('hopeless', letter.body.toString(), 'body of the dead letter');
    equal('red', letter.properties.get('colour'), 'property of the dead letter');
    equal(sent.messageId, letter.messageId, 'id of the dead letter');
    await letters.ack(letter);
    await sleep(3000);
    equal(2, got.length, 'deliveries');
  },

  async fifo() {
    const sent = await sendGroups();
    const got = await receive(await open.consumer(5), 40);
    equal(sent, byGroup(got), 'messages by group, in order');
  },

  // A message that fails is tried again before the next one of its group; the other group flows.
  async 'fifo-push'() {
    const got = [], failed = new Set();
    await open.push(one => {
      const body = one.body.toString();
      if (body.endsWith('7') && !failed.has(body)) {
        failed.add(body);
        return false;
      }
      got.push(one);
      return true;
    });
    const sent = await sendGroups();
    await until(got, 40);
    equal(sent, byGroup(got), 'messages by group, in order');
  },

  // A consumer gets its own lite topics, each in order.
  async lite() {
    const got = [];
    const consumer = await new LitePushConsumerBuilder()
      .setClientConfiguration({ endpoints, namespace: '', logger: quietLogger })
      .setConsumerGroup(topic).bindTopic(topic)
      .setMessageListener({ consume: async one => {
        got.push(one);
        return ConsumeResult.SUCCESS;
      } })
      .build();
    opened.push(consumer);
    await consumer.subscribeLite('red');
    await consumer.subscribeLite('blue');
    const sent = await sendLite();
    for (let i = 0; i < 600 && got.length < 20; i++) await sleep(100);
    await sleep(2000);
    const found = { red: [], blue: [] };
    for (const one of got) (found[one.liteTopic] ??= []).push(one.body.toString());
    equal(sent, found, 'messages by lite topic, in order');
  },

  async delay() {
    const [ producer, consumer ] = [ await open.producer(), await open.consumer(15) ];
    const due = Date.now() + 4000;
    await producer.send(message('later', { deliveryTimestamp: new Date(due) }));
    const got = await receiveOne(consumer);
    between(0, 2000, Date.now() - due, 'ms after it was due');
    await consumer.ack(got);
  },

  async recall() {
    const producer = await open.producer();
    const deliveryTimestamp = new Date(Date.now() + 4000);
    const gone = await producer.send(message('recalled', { deliveryTimestamp }));
    await producer.send(message('kept', { deliveryTimestamp }));
    const recalled = await producer.recallMessage(topic, gone.recallHandle);
    equal(gone.messageId, recalled.messageId, 'id of the recalled message');
    const consumer = await open.consumer(8);
    equal([ 'kept' ], bodies(await receive(consumer, 1)), 'messages');
    await quiet(consumer, 'recalled messages');
  },

  async transaction() {
    const unknown = TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED;
    const producer = await open.producer({ check: async () => unknown });
    const consumer = await open.consumer(5);
    const rolledBack = producer.beginTransaction();
    await producer.send(message('rolled back'), rolledBack);
    const committed = producer.beginTransaction();
    const sent = await producer.send(message('committed'), committed);
    await quiet(consumer, 'messages before the commit');
    await rolledBack.rollback();
    await committed.commit();
    const got = await receive(consumer, 1);
    equal([ 'committed' ], bodies(got), 'messages');
    equal(sent.messageId, got[0].messageId, 'id');
    await quiet(consumer, 'messages rolled back');
  },

  // A producer that says nothing is asked.
  async 'check-back'() {
    const asked = [];
    const check = async half => { asked.push(half); return TransactionResolution.COMMIT; };
    const [ producer, consumer ] = [ await open.producer({ check }), await open.consumer(10) ];
    const properties = new Map([[ 'colour', 'red' ]]);
    await producer.send(message('undecided', { properties }), producer.beginTransaction());
    equal([ 'undecided' ], bodies(await receive(consumer, 1)), 'messages');
    equal('red', asked[0].properties.get('colour'), 'property in the question');
  },

  async priority() {
    const producer = await open.producer();
    for (let i = 1; i <= 10; i++) await producer.send(message(`priority-${i}`, { priority: i }));
    const consumer = await open.consumer(5);
    const found = [];
    while (found.length < 10) {
      const got = await receiveOne(consumer);
      found.push(got.body.toString());
      await consumer.ack(got);
    }
    const expected = numbered(10).map((_, i) => `priority-${10 - i}`);
    equal(expected, found, 'messages, the greatest priority first');
  },
};

const open = {
  async started(client) {
    await client.startup();
    opened.push(client);
    return client;
  },
  producer(checker) {
    return this.started(new Producer({
      endpoints, namespace: '', topics: [ topic ], logger: quietLogger, checker,
    }));
  },
  consumer(waitSeconds, filter = '*') {
    return this.simple(topic, topic, filter, waitSeconds);
  },
  simple(from, consumerGroup, filter, waitSeconds) {
    return this.started(new SimpleConsumer({
      endpoints, namespace: '', consumerGroup, logger: quietLogger,
      subscriptions: new Map([[ from, filter ]]), awaitDuration: waitSeconds * 1000,
    }));
  },
  push(answer) {
    const consume = async one => answer(one) ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE;
    return this.started(new PushConsumer({
      endpoints, namespace: '', consumerGroup: topic, logger: quietLogger,
      subscriptions: new Map([[ topic, '*' ]]), messageListener: { consume },
    }));
  },
};

async function filtered(filter, wanted) {
  const expected = numbered(30).filter((_, i) => wanted(i));
  const consumer = await open.consumer(5, filter);
  const got = await receive(consumer, expected.length);
  equal(sorted(expected), sorted(bodies(got)), 'messages that pass the filter');
  await quiet(consumer, 'messages that do not pass it');
}

async function sendLite() {
  const producer = await open.producer();
  const sent = { red: [], green: [], blue: [] };
  for (let i = 0; i < 10; i++) {
    for (const liteTopic of Object.keys(sent)) {
      await producer.send(message(`${liteTopic}-${i}`, { liteTopic }));
      sent[liteTopic].push(`${liteTopic}-${i}`);
    }
  }
  delete sent.green;
  return sent;
}

async function sendGroups() {
  const producer = await open.producer();
  const sent = { red: [], blue: [] };
  for (let i = 0; i < 20; i++) {
    for (const messageGroup of Object.keys(sent)) {
      await producer.send(message(`${messageGroup}-${i}`, { messageGroup }));
      sent[messageGroup].push(`${messageGroup}-${i}`);
    }
  }
  return sent;
}

function byGroup(all) {
  const found = { red: [], blue: [] };
  for (const got of all) found[got.messageGroup].push(got.body.toString());
  return found;
}

/** Receives until `count` messages came or the time is over; acknowledges each. */
async function receive(consumer, count, seconds = 60) {
  const found = [];
  const end = Date.now() + seconds * 1000;
  while (found.length < count && Date.now() < end) {
    for (const got of await consumer.receive(32, INVISIBLE)) {
      await consumer.ack(got);
      found.push(got);
    }
  }
  return found;
}

async function receiveOne(consumer) {
  const end = Date.now() + 30_000;
  while (Date.now() < end) {
    const [ got ] = await consumer.receive(1, INVISIBLE);
    if (got) return got;
  }
  return assert.fail('no message within 30 s');
}

async function until(messages, count, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  while (messages.length < count && Date.now() < end) await sleep(50);
  if (messages.length < count) {
    assert.fail(`${messages.length} of ${count} messages came within ${seconds} s`);
  }
}

async function quiet(consumer, what) {
  equal([], bodies(await consumer.receive(32, INVISIBLE)), what);
}

function message(body, more = {}) {
  return { topic, body: Buffer.from(body), ...more };
}

const bodies = all => all.map(got => got.body.toString());
const numbered = count => Array.from({ length: count }, (_, i) => `body-${i}`);
const sorted = all => [ ...all ].sort();

function equal(expected, found, what) {
  const [ left, right ] = [ JSON.stringify(expected), JSON.stringify(found) ];
  if (left !== right) assert.fail(`${what}: expected ${left}, found ${right}`);
}

function between(low, high, found, what) {
  if (found < low || found > high) assert.fail(`${what}: ${found}, expected ${low} to ${high}`);
}

let failed = false;
let asked;
[ endpoints, prefix, ...asked ] = process.argv.slice(2);
for (const feature of asked) {
  topic = `${prefix}-${feature}`;
  if (!features[feature]) {
    console.log(`none ${feature}`);
    continue;
  }
  try {
    await features[feature]();
    console.log(`ok ${feature}`);
  } catch (error) {
    failed = true;
    console.log(`FAILED ${feature}: ${error.message ?? error}`);
  }
  for (const client of opened.splice(0)) await client.shutdown();
}
// The client keeps timers of its own alive after its shutdown.
process.exit(failed ? 1 : 0);
