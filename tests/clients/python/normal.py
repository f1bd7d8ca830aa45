"""RocketMQ's official Python client against a running Millpond: producer and simple consumer.

Usage: normal.py HOST:PORT TOPIC

TOPIC exists and is empty. Prints one line per check and exits 1 when one fails.
"""

import sys
import threading
import time

from rocketmq import (ClientConfiguration, Credentials, FilterExpression, Message, Producer,
                      SimpleConsumer)

MESSAGES = 100
failed = 0


def check(what, ok, detail=""):
    global failed
    failed += 0 if ok else 1
    print(f"{'ok' if ok else 'FAILED'}: python: {what}{'' if ok else f' ({detail})'}", flush=True)


def message(topic, body):
    made = Message()
    made.topic = topic
    made.body = body.encode()
    made.tag = "order"
    made.keys = f"key-{body}"
    made.add_property("colour", "grün")
    return made


def receive_all(consumer, count, seconds):
    """Receives until `count` messages came or the time is over; acknowledges each."""
    found = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        for got in consumer.receive(32, 30):
            consumer.ack(got)
            found.append(got)
    return found


def main(endpoint, topic):
    configuration = ClientConfiguration(endpoint, Credentials())
    producer = Producer(configuration, (topic,))
    producer.startup()
    consumer = SimpleConsumer(configuration, "python-group", {topic: FilterExpression()},
                              await_duration=10)
    consumer.startup()

    # A poll that waits is answered as soon as a message comes, long before its time is over.
    polled = []
    started = time.monotonic()
    waiting = threading.Thread(target=lambda: polled.extend(consumer.receive(1, 30)))
    waiting.start()
    time.sleep(1)
    producer.send(message(topic, "first"))
    waiting.join(timeout=15)
    waited = time.monotonic() - started
    check("a waiting poll gets the message that comes", len(polled) == 1, polled)
    check("and gets it at once", 1 <= waited < 5, f"{waited:.1f} s")
    for got in polled:
        consumer.ack(got)

    receipts = [producer.send(message(topic, f"body-{i}")) for i in range(MESSAGES)]
    check("every send has an id", len({r.message_id for r in receipts}) == MESSAGES, receipts[:3])
    found = receive_all(consumer, MESSAGES, 60)
    bodies = sorted(got.body.decode() for got in found)
    check(f"{MESSAGES} sent are received once each",
          bodies == sorted(f"body-{i}" for i in range(MESSAGES)), f"{len(bodies)} came")
    check("ids are those of the sends",
          {got.message_id for got in found} == {r.message_id for r in receipts})
    check("tag, keys and properties survive",
          all(got.tag == "order" and f"key-{got.body.decode()}" in got.keys
              and got.properties.get("colour") == "grün" for got in found),
          found[0] if found else "nothing came")
    check("bodies are intact", not any(got.corrupted for got in found))
    consumer.await_duration = 3
    check("what was acknowledged does not return", consumer.receive(32, 30) == [])

    # An unacknowledged message comes back when its invisible time ends, which may be moved.
    consumer.await_duration = 10
    producer.send(message(topic, "slow"))
    first = consumer.receive(1, 60)
    check("the message is delivered", len(first) == 1 and first[0].delivery_attempt == 1, first)
    if first:
        consumer.change_invisible_duration(first[0], 2)
        moved = time.monotonic()
        again = consumer.receive(1, 60)
        waited = time.monotonic() - moved
        check("it returns after its changed invisible time",
              len(again) == 1 and again[0].message_id == first[0].message_id, again)
        check("not before and not much later", 1 <= waited < 8, f"{waited:.1f} s")
        if again:
            check("as the second attempt", again[0].delivery_attempt == 2, again[0].delivery_attempt)
            consumer.ack(again[0])

    try:
        producer.send(message("no-such-topic", "lost"))
        check("an unknown topic is refused", False, "the send succeeded")
    except Exception as error:  # pylint: disable=broad-except
        check("an unknown topic is refused by its name", "no-such-topic" in str(error), error)

    consumer.shutdown()
    producer.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    sys.exit(1 if failed else 0)
