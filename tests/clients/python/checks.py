"""RocketMQ's official Python client against a running Millpond, with its default settings: plaintext.

Usage: checks.py HOST:PORT PREFIX FEATURE...; what it reads and prints is told in
tests/clients/README.md.
"""

import os
import queue
import sys
import threading
import time

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression,
                      LitePushConsumer, Message, MessageListener, Producer, PushConsumer, SimpleConsumer, TransactionChecker,
                      TransactionResolution)
from rocketmq.grpc_protocol import FilterType

MESSAGES = 100
INVISIBLE = 60


class Listener(MessageListener):
    """Calls a function for each message."""

    def __init__(self, answer):
        self.answer = answer

    def consume(self, message):
        return ConsumeResult.SUCCESS if self.answer(message) else ConsumeResult.FAILURE


class Checker(TransactionChecker):
    """Keeps the questions and always gives the same answer."""

    def __init__(self, answer):
        self.answer, self.asked = answer, queue.Queue()

    def check(self, message):
        self.asked.put(message)
        return self.answer


class Checks:
    """The checks of one feature, with the clients that they opened."""

    def __init__(self, endpoint, prefix, feature):
        self.configuration = ClientConfiguration(endpoint, Credentials())
        self.prefix, self.topic, self.opened = prefix, f"{prefix}-{feature}", []

    def normal(self):
        producer, consumer = self.producer(), self.consumer(wait=5)
        sent = {}
        for i in range(MESSAGES):
            made = self.message(f"body-{i}")
            made.tag = "order"
            made.keys = f"key-{i}"
            made.add_property("colour", "grün")
            sent[producer.send(made).message_id] = f"body-{i}"
        equal(MESSAGES, len(sent), "ids of the sends")
        found = {}
        for got in receive(consumer, MESSAGES):
            equal(False, got.message_id in found, "deliveries before")
            equal(False, got.corrupted, "corruption")
            found[got.message_id] = got.body.decode()
            equal("order", got.tag, "tag")
            equal("grün", got.properties.get("colour"), "property")
            equal([f"key-{got.body.decode()[5:]}"], list(got.keys), "keys")
            equal(1, got.delivery_attempt, "attempt")
        equal(sent, found, "messages")
        equal([], consumer.receive(32, INVISIBLE), "deliveries of what is acknowledged")

    def poll(self):
        """A poll that waits is answered as soon as a message comes, long before its time is over."""
        producer, consumer = self.producer(), self.consumer(wait=15)
        polled, started = [], time.monotonic()
        waiting = threading.Thread(target=lambda: polled.extend(consumer.receive(1, INVISIBLE)))
        waiting.start()
        time.sleep(1)
        producer.send(self.message("first"))
        waiting.join(timeout=20)
        equal(1, len(polled), "messages")
        between(1, 6, time.monotonic() - started, "s until the answer")
        consumer.ack(polled[0])

    def invisible(self):
        """An unacknowledged message comes back when its invisible time ends, which may be moved."""
        self.producer().send(self.message("slow"))
        consumer = self.consumer(wait=10)
        first = receive_one(consumer)
        consumer.change_invisible_duration(first, 2)
        moved = time.monotonic()
        again = receive_one(consumer)
        between(1.5, 8, time.monotonic() - moved, "s until it returned")
        equal(first.message_id, again.message_id, "message")
        equal(2, again.delivery_attempt, "attempt")
        consumer.ack(again)

    def unknown_topic(self):
        producer, made = self.producer(), self.message("lost")
        made.topic = f"{self.prefix}-no-such-topic"
        try:
            producer.send(made)
        except Exception as error:  # pylint: disable=broad-except
            equal(True, made.topic in str(error), f"the refusal names the topic: {error}")
            return
        raise AssertionError("the send succeeded")

    def push(self):
        got = queue.Queue()
        self.listen(lambda message: got.put(message) or True)
        producer = self.producer()
        for i in range(MESSAGES):
            producer.send(self.message(f"body-{i}"))
        equal(sorted(f"body-{i}" for i in range(MESSAGES)), sorted(bodies(take(got, MESSAGES))),
              "messages")
        quiet(got, 3, "a message too many")

    def tag(self):
        producer = self.producer()
        for i in range(30):
            made = self.message(f"body-{i}")
            made.tag = f"tag-{i % 3}"
            producer.send(made)
        self.filtered(FilterExpression("tag-0 || tag-2"), lambda i: i % 3 != 1)

    def sql(self):
        producer = self.producer()
        for i in range(30):
            made = self.message(f"body-{i}")
            made.tag = f"tag-{i % 3}"
            made.add_property("price", str(i))
            producer.send(made)
        expression = "price BETWEEN 5 AND 20 AND TAGS <> 'tag-0' AND colour IS NULL"
        self.filtered(FilterExpression(expression, FilterType.SQL),
                      lambda i: 5 <= i <= 20 and i % 3 != 0)

    def filtered(self, expression, wanted):
        expected = sorted(f"body-{i}" for i in range(30) if wanted(i))
        consumer = self.consumer(expression, wait=5)
        equal(expected, sorted(bodies(receive(consumer, len(expected)))),
              "messages that pass the filter")
        equal([], consumer.receive(32, INVISIBLE), "messages that do not pass it")

    def nack(self):
        got = queue.Queue()
        self.listen(lambda message: got.put(message) or message.delivery_attempt >= 2)
        self.producer().send(self.message("again"))
        first, second = take(got, 2)
        equal(first.message_id, second.message_id, "message")
        equal((1, 2), (first.delivery_attempt, second.delivery_attempt), "attempts")
        quiet(got, 5, "a delivery after the success")

    def dead(self):
        """The group gives up after two attempts; its dead letters are a topic like others, there before the first one."""
        got = queue.Queue()
        self.listen(lambda message: got.put(message))
        letters = self.simple(f"%DLQ%{self.topic}", f"{self.topic}-letters", FilterExpression(), 10)
        made = self.message("hopeless")
        made.add_property("colour", "red")
        sent = self.producer().send(made)
        take(got, 2)
        letter = receive_one(letters)
        equal("hopeless", letter.body.decode(), "body of the dead letter")
        equal("red", letter.properties.get("colour"), "property of the dead letter")
        equal(sent.message_id, letter.message_id, "id of the dead letter")
        letters.ack(letter)
        quiet(got, 3, "a third delivery")

    def fifo(self):
        sent = self.send_groups()
        equal(sent, by_group(receive(self.consumer(wait=5), 40)), "messages by group, in order")

    def fifo_push(self):
        """A message that fails is tried again before the next one of its group."""
        got, failed = queue.Queue(), set()

        def answer(message):
            body = message.body.decode()
            if body.endswith("7") and body not in failed:
                failed.add(body)
                return False
            got.put(message)
            return True

        self.listen(answer)
        sent = self.send_groups()
        equal(sent, by_group(take(got, 40, 90)), "messages by group, in order")

    def send_groups(self):
        producer, sent = self.producer(), {"red": [], "blue": []}
        for i in range(20):
            for group, all_of_it in sent.items():
                made = self.message(f"{group}-{i}")
                made.message_group = group
                producer.send(made)
                all_of_it.append(f"{group}-{i}")
        return sent

    def delay(self):
        """This client's due times are whole seconds."""
        producer, consumer = self.producer(), self.consumer(wait=15)
        due = int(time.time()) + 4
        made = self.message("later")
        made.delivery_timestamp = due
        producer.send(made)
        got = receive_one(consumer)
        between(0, 2, time.time() - due, "s after it was due")
        consumer.ack(got)

    def recall(self):
        producer, due, receipts = self.producer(), int(time.time()) + 4, {}
        for body in ["recalled", "kept"]:
            made = self.message(body)
            made.delivery_timestamp = due
            receipts[body] = producer.send(made)
        gone = receipts["recalled"]
        equal(gone.message_id, producer.recall_message(self.topic, gone.recall_handle),
              "id of the recalled message")
        consumer = self.consumer(wait=8)
        equal(["kept"], bodies(receive(consumer, 1)), "messages")
        equal([], consumer.receive(32, INVISIBLE), "recalled messages")

    def transaction(self):
        producer = self.producer(Checker(TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED))
        consumer = self.consumer(wait=5)
        rolled_back = producer.begin_transaction()
        producer.send(self.message("rolled back"), rolled_back)
        committed = producer.begin_transaction()
        sent = producer.send(self.message("committed"), committed)
        equal([], consumer.receive(32, INVISIBLE), "messages before the commit")
        rolled_back.rollback()
        committed.commit()
        got = receive(consumer, 1)
        equal(["committed"], bodies(got), "messages")
        equal(sent.message_id, got[0].message_id, "id")
        equal([], consumer.receive(32, INVISIBLE), "messages rolled back")

    def check_back(self):
        """A producer that says nothing is asked."""
        checker = Checker(TransactionResolution.COMMIT)
        producer, consumer = self.producer(checker), self.consumer(wait=10)
        made = self.message("undecided")
        made.add_property("colour", "red")
        producer.send(made, producer.begin_transaction())
        equal(["undecided"], bodies(receive(consumer, 1)), "messages")
        equal("red", take(checker.asked, 1, 5)[0].properties.get("colour"),
              "property in the question")

    def priority(self):
        producer = self.producer()
        for i in range(1, 11):
            made = self.message(f"priority-{i}")
            made.priority = i
            producer.send(made)
        consumer, found = self.consumer(wait=5), []
        while len(found) < 10:
            got = receive_one(consumer)
            found.append(got.body.decode())
            consumer.ack(got)
        equal([f"priority-{i}" for i in range(10, 0, -1)], found, "messages, the greatest first")

    def lite(self):
        """A consumer gets its own lite topics, each in order."""
        got, sent = queue.Queue(), {}
        consumer = self.started(LitePushConsumer(
            self.configuration, self.topic, self.topic,
            Listener(lambda message: got.put(message) or True)))
        for name in ("red", "blue"):
            consumer.subscribe_lite(name)
        # This client sends the letters of a name instead of the name; the whole set it sends right.
        consumer.subscribe_lite_all()
        producer = self.producer()
        for i in range(10):
            for name in ("red", "green", "blue"):
                made = self.message(f"{name}-{i}")
                made.lite_topic = name
                producer.send(made)
                sent.setdefault(name, []).append(f"{name}-{i}")
        del sent["green"]
        found = {}
        for message in take(got, 20):
            found.setdefault(message.lite_topic, []).append(message.body.decode())
        equal(sent, found, "messages by lite topic, in order")
        quiet(got, 2, "a message of another lite topic")

    def started(self, client):
        client.startup()
        self.opened.append(client)
        return client

    def producer(self, checker=None):
        return self.started(Producer(self.configuration, (self.topic,), checker))

    def consumer(self, expression=None, wait=10):
        return self.simple(self.topic, self.topic, expression or FilterExpression(), wait)

    def simple(self, topic, group, expression, wait):
        return self.started(SimpleConsumer(self.configuration, group, {topic: expression},
                                           await_duration=wait))

    def listen(self, answer):
        return self.started(PushConsumer(self.configuration, self.topic, Listener(answer),
                                         {self.topic: FilterExpression()}))

    def message(self, body):
        made = Message()
        made.topic, made.body = self.topic, body.encode()
        return made

    def close(self):
        for client in self.opened:
            client.shutdown()


def receive(consumer, count, seconds=60):
    """Receives until `count` messages came or the time is over; acknowledges each."""
    found, end = [], time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        for got in consumer.receive(32, INVISIBLE):
            consumer.ack(got)
            found.append(got)
    return found


def receive_one(consumer):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for got in consumer.receive(1, INVISIBLE):
            return got
    raise AssertionError("no message within 30 s")


def take(messages, count, seconds=60):
    found, end = [], time.monotonic() + seconds
    while len(found) < count:
        try:
            found.append(messages.get(timeout=max(0, end - time.monotonic())))
        except queue.Empty:
            raise AssertionError(f"{len(found)} of {count} messages came within {seconds} s") from None
    return found


def quiet(messages, seconds, what):
    try:
        raise AssertionError(f"{what}: {messages.get(timeout=seconds).body}")
    except queue.Empty:
        pass


def bodies(messages):
    return [got.body.decode() for got in messages]


def by_group(messages):
    found = {}
    for got in messages:
        found.setdefault(got.message_group, []).append(got.body.decode())
    return found


def equal(expected, found, what):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected}, found {found}")


def between(low, high, found, what):
    if not low <= found <= high:
        raise AssertionError(f"{what}: {found:.1f}, expected {low} to {high}")


def main(endpoint, prefix, features):
    failed = False
    for feature in features:
        check = getattr(Checks, feature.replace("-", "_"), None)
        if check is None:
            print(f"none {feature}", flush=True)
            continue
        checks = Checks(endpoint, prefix, feature)
        try:
            check(checks)
            print(f"ok {feature}", flush=True)
        except Exception as error:  # pylint: disable=broad-except
            failed = True
            print(f"FAILED {feature}: {type(error).__name__} {error}", flush=True)
        finally:
            checks.close()
    # Threads of the client outlive their owners.
    os._exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
