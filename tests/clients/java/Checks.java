import java.io.Closeable;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * RocketMQ's official Java client against a running Millpond, with its default settings: over TLS.
 *
 * <p>Usage: {@code Checks HOST:PORT PREFIX FEATURE...}; what it reads and prints is told in
 * {@code tests/clients/README.md}.
 */
public final class Checks {
    private static final int MESSAGES = 100;
    private static final Duration INVISIBLE = Duration.ofSeconds(60);
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();

    private final ClientConfiguration configuration;
    private final String prefix;
    private final String feature;
    private final String topic;
    private final List<Closeable> open = new ArrayList<>();

    private interface Check {
        void run(Checks checks) throws Exception;
    }

    private static final Map<String, Check> FEATURES = Map.ofEntries(
        Map.entry("normal", Checks::normal),
        Map.entry("poll", Checks::poll),
        Map.entry("invisible", Checks::invisible),
        Map.entry("unknown-topic", Checks::unknownTopic),
        Map.entry("push", Checks::push),
        Map.entry("tag", Checks::tag),
        Map.entry("sql", Checks::sql),
        Map.entry("nack", Checks::nack),
        Map.entry("dead", Checks::dead),
        Map.entry("fifo", Checks::fifo),
        Map.entry("fifo-push", Checks::fifoPush),
        Map.entry("delay", Checks::delay),
        Map.entry("recall", Checks::recall),
        Map.entry("transaction", Checks::transaction),
        Map.entry("check-back", Checks::checkBack),
        Map.entry("priority", Checks::priority),
        Map.entry("lite", Checks::lite));

    private Checks(String endpoints, String prefix, String feature) {
        this.configuration = ClientConfiguration.newBuilder().setEndpoints(endpoints).build();
        this.prefix = prefix;
        this.feature = feature;
        this.topic = prefix + "-" + feature;
    }

    public static void main(String[] arguments) {
        boolean failed = false;
        for (String feature : Arrays.copyOfRange(arguments, 2, arguments.length)) {
            Check check = FEATURES.get(feature);
            if (check == null) {
                System.out.println("none " + feature);
                continue;
            }
            Checks checks = new Checks(arguments[0], arguments[1], feature);
            try {
                check.run(checks);
                System.out.println("ok " + feature);
            } catch (Throwable error) {
                failed = true;
                System.out.println("FAILED " + feature + ": " + error);
            } finally {
                checks.close();
            }
        }
        // Threads of the client outlive their owners.
        Runtime.getRuntime().halt(failed ? 1 : 0);
    }

    private void normal() throws Exception {
        Producer producer = producer();
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 5);
        Map<String, String> sent = new HashMap<>();
        for (int i = 0; i < MESSAGES; i++) {
            SendReceipt receipt = producer.send(message("body-" + i)
                .setTag("order").setKeys("key-" + i, "all").addProperty("colour", "grün").build());
            sent.put(receipt.getMessageId().toString(), "body-" + i);
        }
        equal(MESSAGES, sent.size(), "ids of the sends");
        Map<String, String> found = new HashMap<>();
        for (MessageView one : receive(consumer, MESSAGES, 60)) {
            equal(null, found.put(one.getMessageId().toString(), body(one)), "deliveries before");
            equal("order", one.getTag().orElse(null), "tag");
            equal("grün", one.getProperties().get("colour"), "property");
            equal(Set.of("key-" + body(one).substring(5), "all"), new HashSet<>(one.getKeys()), "keys");
            equal(1, one.getDeliveryAttempt(), "attempt");
        }
        equal(sent, found, "messages");
        equal(0, consumer.receive(32, INVISIBLE).size(), "deliveries of what is acknowledged");
    }

    /** A poll that waits is answered as soon as a message comes, long before its time is over. */
    private void poll() throws Exception {
        Producer producer = producer();
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 15);
        long started = System.nanoTime();
        CompletableFuture<List<MessageView>> waiting = consumer.receiveAsync(1, INVISIBLE);
        Thread.sleep(1000);
        producer.send(message("first").build());
        List<MessageView> got = waiting.get(20, TimeUnit.SECONDS);
        equal(1, got.size(), "messages");
        between(1000, 6000, millisSince(started), "ms until the answer");
        consumer.ack(got.get(0));
    }

    /** An unacknowledged message comes back when its invisible time ends, which may be moved. */
    private void invisible() throws Exception {
        producer().send(message("slow").build());
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 10);
        MessageView first = receiveOne(consumer);
        consumer.changeInvisibleDuration(first, Duration.ofSeconds(2));
        long moved = System.nanoTime();
        MessageView again = receiveOne(consumer);
        between(1500, 8000, millisSince(moved), "ms until it returned");
        equal(first.getMessageId(), again.getMessageId(), "message");
        equal(2, again.getDeliveryAttempt(), "attempt");
        consumer.ack(again);
    }

    private void unknownTopic() throws Exception {
        Producer producer = producer();
        String unknown = prefix + "-no-such-topic";
        try {
            producer.send(PROVIDER.newMessageBuilder().setTopic(unknown).setBody(new byte[] {1}).build());
        } catch (Exception error) {
            truth(error.toString().contains(unknown), "the refusal names no topic: " + error);
            return;
        }
        throw new AssertionError("the send succeeded");
    }

    private void push() throws Exception {
        BlockingQueue<MessageView> got = new LinkedBlockingQueue<>();
        push(FilterExpression.SUB_ALL, one -> {
            got.add(one);
            return ConsumeResult.SUCCESS;
        });
        Producer producer = producer();
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < MESSAGES; i++) {
            producer.send(message("body-" + i).build());
            sent.add("body-" + i);
        }
        List<String> bodies = bodies(take(got, MESSAGES, 60));
        equal(sent, new HashSet<>(bodies), "messages");
        equal(null, got.poll(3, TimeUnit.SECONDS), "a message too many");
    }

    private void tag() throws Exception {
        Producer producer = producer();
        for (int i = 0; i < 30; i++) {
            producer.send(message("body-" + i).setTag("tag-" + i % 3).build());
        }
        filtered(new FilterExpression("tag-0 || tag-2"), i -> i % 3 != 1);
    }

    private void sql() throws Exception {
        Producer producer = producer();
        for (int i = 0; i < 30; i++) {
            MessageBuilder message = message("body-" + i).setTag("tag-" + i % 3);
            producer.send(message.addProperty("price", String.valueOf(i)).build());
        }
        String expression = "price BETWEEN 5 AND 20 AND TAGS <> 'tag-0' AND colour IS NULL";
        filtered(new FilterExpression(expression, FilterExpressionType.SQL92),
            i -> i >= 5 && i <= 20 && i % 3 != 0);
    }

    private void filtered(FilterExpression filter, java.util.function.IntPredicate wanted) throws Exception {
        Set<String> expected = IntStream.range(0, 30).filter(wanted).mapToObj(i -> "body-" + i)
            .collect(Collectors.toSet());
        SimpleConsumer consumer = consumer(filter, 5);
        List<MessageView> got = receive(consumer, expected.size(), 60);
        equal(expected, new HashSet<>(bodies(got)), "messages that pass the filter");
        equal(0, consumer.receive(32, INVISIBLE).size(), "messages that do not pass it");
    }

    private void nack() throws Exception {
        BlockingQueue<MessageView> got = new LinkedBlockingQueue<>();
        push(FilterExpression.SUB_ALL, one -> {
            got.add(one);
            return one.getDeliveryAttempt() < 2 ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
        });
        producer().send(message("again").build());
        List<MessageView> both = take(got, 2, 60);
        equal(both.get(0).getMessageId(), both.get(1).getMessageId(), "message");
        equal(List.of(1, 2), both.stream().map(MessageView::getDeliveryAttempt).collect(Collectors.toList()),
            "attempts");
        equal(null, got.poll(5, TimeUnit.SECONDS), "a delivery after the success");
    }

    /** The group gives up after two attempts; its dead letters are a topic like others. */
    private void dead() throws Exception {
        BlockingQueue<MessageView> got = new LinkedBlockingQueue<>();
        push(FilterExpression.SUB_ALL, one -> {
            got.add(one);
            return ConsumeResult.FAILURE;
        });
        SimpleConsumer letters = simple("%DLQ%" + topic, topic + "-letters", FilterExpression.SUB_ALL, 10);
        SendReceipt sent = producer().send(message("hopeless").addProperty("colour", "red").build());
        take(got, 2, 60);
        MessageView letter = receiveOne(letters);
        equal("hopeless", body(letter), "body of the dead letter");
        equal("red", letter.getProperties().get("colour"), "property of the dead letter");
        equal(sent.getMessageId(), letter.getMessageId(), "id of the dead letter");
        letters.ack(letter);
        equal(null, got.poll(3, TimeUnit.SECONDS), "a third delivery");
    }

    private void fifo() throws Exception {
        Map<String, List<String>> sent = sendGroups(producer());
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 5);
        Map<String, List<String>> found = new HashMap<>();
        for (MessageView one : receive(consumer, 40, 60)) {
            found.computeIfAbsent(one.getMessageGroup().orElse(null), group -> new ArrayList<>()).add(body(one));
        }
        equal(sent, found, "messages by group, in order");
    }

    /** A message that fails is tried again before the next one of its group; the other group flows. */
    private void fifoPush() throws Exception {
        BlockingQueue<MessageView> got = new LinkedBlockingQueue<>();
        Set<String> failed = java.util.concurrent.ConcurrentHashMap.newKeySet();
        push(FilterExpression.SUB_ALL, one -> {
            boolean fails = body(one).endsWith("7") && failed.add(body(one));
            if (!fails) {
                got.add(one);
            }
            return fails ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
        });
        Map<String, List<String>> sent = sendGroups(producer());
        Map<String, List<String>> found = new HashMap<>();
        for (MessageView one : take(got, 40, 90)) {
            found.computeIfAbsent(one.getMessageGroup().orElse(null), group -> new ArrayList<>()).add(body(one));
        }
        equal(sent, found, "messages by group, in order");
    }

    /** A consumer gets its own lite topics, each in order. */
    private void lite() throws Exception {
        BlockingQueue<MessageView> got = new LinkedBlockingQueue<>();
        LitePushConsumer consumer = PROVIDER.newLitePushConsumerBuilder().setClientConfiguration(configuration)
            .setConsumerGroup(topic).bindTopic(topic).setMessageListener(one -> {
                got.add(one);
                return ConsumeResult.SUCCESS;
            }).build();
        open.add(consumer);
        consumer.subscribeLite("red");
        consumer.subscribeLite("blue");
        Producer producer = producer();
        Map<String, List<String>> sent = new HashMap<>();
        for (int i = 0; i < 10; i++) {
            for (String name : List.of("red", "green", "blue")) {
                producer.send(message(name + "-" + i).setLiteTopic(name).build());
                sent.computeIfAbsent(name, any -> new ArrayList<>()).add(name + "-" + i);
            }
        }
        sent.remove("green");
        Map<String, List<String>> found = new HashMap<>();
        for (MessageView one : take(got, 20, 60)) {
            found.computeIfAbsent(one.getLiteTopic().orElse(null), any -> new ArrayList<>()).add(body(one));
        }
        equal(sent, found, "messages by lite topic, in order");
        equal(null, got.poll(2, TimeUnit.SECONDS), "a message of another lite topic");
    }

    private Map<String, List<String>> sendGroups(Producer producer) throws Exception {
        Map<String, List<String>> sent = new HashMap<>();
        for (int i = 0; i < 20; i++) {
            for (String group : List.of("red", "blue")) {
                String body = group + "-" + i;
                producer.send(message(body).setMessageGroup(group).build());
                sent.computeIfAbsent(group, name -> new ArrayList<>()).add(body);
            }
        }
        return sent;
    }

    private void delay() throws Exception {
        Producer producer = producer();
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 15);
        long due = System.currentTimeMillis() + 4000;
        producer.send(message("later").setDeliveryTimestamp(due).build());
        MessageView one = receiveOne(consumer);
        between(0, 2000, System.currentTimeMillis() - due, "ms after it was due");
        equal(due, one.getDeliveryTimestamp().orElse(0L), "delivery timestamp");
        consumer.ack(one);
    }

    private void recall() throws Exception {
        Producer producer = producer();
        long due = System.currentTimeMillis() + 4000;
        SendReceipt gone = producer.send(message("recalled").setDeliveryTimestamp(due).build());
        producer.send(message("kept").setDeliveryTimestamp(due).build());
        equal(gone.getMessageId(), producer.recallMessage(topic, gone.getRecallHandle()).getMessageId(),
            "id of the recalled message");
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 8);
        equal(List.of("kept"), bodies(receive(consumer, 1, 20)), "messages");
        equal(0, consumer.receive(32, INVISIBLE).size(), "recalled messages");
    }

    private void transaction() throws Exception {
        Producer producer = transactional(TransactionResolution.UNKNOWN, new LinkedBlockingQueue<>());
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 5);
        Transaction rolledBack = producer.beginTransaction();
        producer.send(message("rolled back").build(), rolledBack);
        Transaction committed = producer.beginTransaction();
        SendReceipt sent = producer.send(message("committed").build(), committed);
        equal(0, consumer.receive(32, INVISIBLE).size(), "messages before the commit");
        rolledBack.rollback();
        committed.commit();
        List<MessageView> got = receive(consumer, 1, 30);
        equal(List.of("committed"), bodies(got), "messages");
        equal(sent.getMessageId(), got.get(0).getMessageId(), "id");
        equal(0, consumer.receive(32, INVISIBLE).size(), "messages rolled back");
    }

    /** A producer that says nothing is asked. */
    private void checkBack() throws Exception {
        BlockingQueue<MessageView> asked = new LinkedBlockingQueue<>();
        Producer producer = transactional(TransactionResolution.COMMIT, asked);
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 10);
        producer.send(message("undecided").addProperty("colour", "red").build(), producer.beginTransaction());
        List<MessageView> got = receive(consumer, 1, 60);
        equal(List.of("undecided"), bodies(got), "messages");
        equal("red", take(asked, 1, 5).get(0).getProperties().get("colour"), "property in the question");
    }

    private void priority() throws Exception {
        Producer producer = producer();
        for (int i = 0; i < 10; i++) {
            producer.send(message("priority-" + i).setPriority(i).build());
        }
        List<String> expected = IntStream.range(0, 10).mapToObj(i -> "priority-" + (9 - i))
            .collect(Collectors.toList());
        SimpleConsumer consumer = consumer(FilterExpression.SUB_ALL, 5);
        List<String> found = new ArrayList<>();
        while (found.size() < 10) {
            MessageView one = receiveOne(consumer);
            found.add(body(one));
            consumer.ack(one);
        }
        equal(expected, found, "messages, the greatest priority first");
    }

    private Producer producer() throws Exception {
        Producer producer = PROVIDER.newProducerBuilder().setClientConfiguration(configuration)
            .setTopics(topic).build();
        open.add(producer);
        return producer;
    }

    private Producer transactional(TransactionResolution answer, BlockingQueue<MessageView> asked)
        throws Exception {
        Producer producer = PROVIDER.newProducerBuilder().setClientConfiguration(configuration)
            .setTopics(topic).setTransactionChecker(half -> {
                asked.add(half);
                return answer;
            }).build();
        open.add(producer);
        return producer;
    }

    private SimpleConsumer consumer(FilterExpression filter, int waitSeconds) throws Exception {
        return simple(topic, topic, filter, waitSeconds);
    }

    private SimpleConsumer simple(String from, String group, FilterExpression filter, int waitSeconds)
        throws Exception {
        SimpleConsumer consumer = PROVIDER.newSimpleConsumerBuilder().setClientConfiguration(configuration)
            .setConsumerGroup(group).setAwaitDuration(Duration.ofSeconds(waitSeconds))
            .setSubscriptionExpressions(Map.of(from, filter)).build();
        open.add(consumer);
        return consumer;
    }

    private void push(FilterExpression filter, MessageListener listener) throws Exception {
        PushConsumer consumer = PROVIDER.newPushConsumerBuilder().setClientConfiguration(configuration)
            .setConsumerGroup(topic).setSubscriptionExpressions(Map.of(topic, filter))
            .setMessageListener(listener).build();
        open.add(consumer);
    }

    private MessageBuilder message(String body) {
        return PROVIDER.newMessageBuilder().setTopic(topic).setBody(body.getBytes(StandardCharsets.UTF_8));
    }

    private static String body(MessageView one) {
        return StandardCharsets.UTF_8.decode(one.getBody().duplicate()).toString();
    }

    private static List<String> bodies(List<MessageView> all) {
        return all.stream().map(Checks::body).collect(Collectors.toList());
    }

    /** Receives until {@code count} messages came or the time is over; acknowledges each. */
    private static List<MessageView> receive(SimpleConsumer consumer, int count, int seconds) throws Exception {
        List<MessageView> found = new ArrayList<>();
        long started = System.nanoTime();
        while (found.size() < count && millisSince(started) < seconds * 1000L) {
            for (MessageView one : consumer.receive(32, INVISIBLE)) {
                consumer.ack(one);
                found.add(one);
            }
        }
        return found;
    }

    private static MessageView receiveOne(SimpleConsumer consumer) throws Exception {
        long started = System.nanoTime();
        while (millisSince(started) < 30_000) {
            List<MessageView> found = consumer.receive(1, INVISIBLE);
            if (!found.isEmpty()) {
                return found.get(0);
            }
        }
        throw new AssertionError("no message within 30 s");
    }

    private static List<MessageView> take(BlockingQueue<MessageView> queue, int count, int seconds)
        throws Exception {
        List<MessageView> found = new ArrayList<>();
        long started = System.nanoTime();
        while (found.size() < count) {
            MessageView one = queue.poll(seconds * 1000L - millisSince(started), TimeUnit.MILLISECONDS);
            truth(one != null, found.size() + " of " + count + " messages came within " + seconds + " s");
            found.add(one);
        }
        return found;
    }

    private static long millisSince(long started) {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - started);
    }

    private static void truth(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    private static void equal(Object expected, Object found, String what) {
        truth(java.util.Objects.equals(expected, found), what + ": expected " + expected + ", found " + found);
    }

    private static void between(long low, long high, long found, String what) {
        truth(low <= found && found <= high, what + ": " + found + ", expected " + low + " to " + high);
    }

    private void close() {
        for (Closeable one : open) {
            try {
                one.close();
            } catch (Exception error) {
                System.out.println("closing: " + error);
            }
        }
    }
}
