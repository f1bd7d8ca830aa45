// RocketMQ's official Node client against a running Millpond: producer and simple consumer.
//
// Usage: node normal.mjs HOST:PORT TOPIC
//
// TOPIC exists and is empty. Prints one line per check and exits 1 when one fails.

import { Producer, SimpleConsumer } from 'rocketmq-client-nodejs';

const MESSAGES = 100;
let failed = 0;

function check(what, ok, detail = '') {
  failed += ok ? 0 : 1;
  console.log(`${ok ? 'ok' : 'FAILED'}: node: ${what}${ok ? '' : ` (${detail})`}`);
}

const quiet = { debug() {}, info() {}, warn: console.warn, error: console.error };
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

function message(topic, body) {
  return {
    topic,
    tag: 'order',
    keys: [ `key-${body}` ],
    properties: new Map([[ 'colour', 'grün' ]]),
    body: Buffer.from(body),
  };
}

/** Receives until `count` messages came or the time is over; acknowledges each. */
async function receiveAll(consumer, count, seconds) {
  const found = [];
  const end = Date.now() + seconds * 1000;
  while (found.length < count && Date.now() < end) {
    for (const got of await consumer.receive(32, 30_000)) {
      await consumer.ack(got);
      found.push(got);
    }
  }
  return found;
}

async function main(endpoints, topic) {
  const producer = new Producer({ endpoints, namespace: '', topics: [ topic ], logger: quiet });
  await producer.startup();
  const consumerWith = awaitDuration => new SimpleConsumer({
    endpoints,
    namespace: '',
    consumerGroup: 'node-group',
    subscriptions: new Map([[ topic, '*' ]]),
    awaitDuration,
    logger: quiet,
  });
  const consumer = consumerWith(10_000);
  await consumer.startup();

  // A poll that waits is answered as soon as a message comes, long before its time is over.
  const started = Date.now();
  const waiting = consumer.receive(1, 30_000);
  await sleep(1000);
  await producer.send(message(topic, 'first'));
  const polled = await waiting;
  const waited = Date.now() - started;
  check('a waiting poll gets the message that comes', polled.length === 1, polled.length);
  check('and gets it at once', waited >= 1000 && waited < 5000, `${waited} ms`);
  for (const got of polled) await consumer.ack(got);

  const receipts = [];
  for (let i = 0; i < MESSAGES; i++) receipts.push(await producer.send(message(topic, `body-${i}`)));
  const ids = new Set(receipts.map(receipt => receipt.messageId));
  check('every send has an id', ids.size === MESSAGES, ids.size);
  const found = await receiveAll(consumer, MESSAGES, 60);
  const bodies = new Set(found.map(got => got.body.toString()));
  check(`${MESSAGES} sent are received once each`,
    found.length === MESSAGES && bodies.size === MESSAGES && !bodies.has('first'),
    `${found.length} came`);
  check('ids are those of the sends', found.every(got => ids.has(got.messageId)));
  check('tag, keys and properties survive', found.every(got => got.tag === 'order'
    && got.keys.includes(`key-${got.body}`) && got.properties.get('colour') === 'grün'));
  check('bodies are intact', !found.some(got => got.corrupted));

  const impatient = consumerWith(3000);
  await impatient.startup();
  check('what was acknowledged does not return', (await impatient.receive(32, 30_000)).length === 0);
  await impatient.shutdown();

  // An unacknowledged message comes back when its invisible time ends, which may be moved.
  await producer.send(message(topic, 'slow'));
  const [ first ] = await consumer.receive(1, 60_000);
  check('the message is delivered', first?.deliveryAttempt === 1, first?.deliveryAttempt);
  if (first) {
    await consumer.changeInvisibleDuration(first, 2000);
    const moved = Date.now();
    const [ again ] = await consumer.receive(1, 60_000);
    const took = Date.now() - moved;
    check('it returns after its changed invisible time', again?.messageId === first.messageId, again);
    check('not before and not much later', took >= 1000 && took < 8000, `${took} ms`);
    check('as the second attempt', again?.deliveryAttempt === 2, again?.deliveryAttempt);
    if (again) await consumer.ack(again);
  }

  try {
    await producer.send(message('no-such-topic', 'lost'));
    check('an unknown topic is refused', false, 'the send succeeded');
  } catch (error) {
    check('an unknown topic is refused by its name', String(error).includes('no-such-topic'), error);
  }

  await consumer.shutdown();
  await producer.shutdown();
}

await main(process.argv[2], process.argv[3]);
// The client keeps timers of its own alive after its shutdown.
process.exit(failed ? 1 : 0);
