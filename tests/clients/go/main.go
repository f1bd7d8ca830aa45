// RocketMQ's official Go client against a running Millpond, with its default settings: over TLS.
//
// Usage: checks HOST:PORT PREFIX FEATURE...; what it reads and prints is told in
// tests/clients/README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

const (
	messages  = 100
	invisible = 60 * time.Second
)

var features = map[string]func(*checks){
	"normal":        (*checks).normal,
	"poll":          (*checks).poll,
	"invisible":     (*checks).invisible,
	"unknown-topic": (*checks).unknownTopic,
	"push":          (*checks).push,
	"tag":           (*checks).tag,
	"sql":           (*checks).sql,
	"nack":          (*checks).nack,
	"dead":          (*checks).dead,
	"fifo":          (*checks).fifo,
	"delay":         (*checks).delay,
	"recall":        (*checks).recall,
	"transaction":   (*checks).transaction,
	"check-back":    (*checks).checkBack,
	"priority":      (*checks).priority,
	"lite":          (*checks).lite,
}

type checks struct {
	endpoint, prefix, topic string
	closers                 []func() error
}

func main() {
	failed := false
	for _, feature := range os.Args[3:] {
		check, known := features[feature]
		if !known {
			fmt.Println("none", feature)
			continue
		}
		prefix := os.Args[2]
		c := &checks{endpoint: os.Args[1], prefix: prefix, topic: prefix + "-" + feature}
		if err := c.run(check); err != nil {
			failed = true
			fmt.Printf("FAILED %s: %v\n", feature, err)
		} else {
			fmt.Println("ok", feature)
		}
		c.close()
	}
	if failed {
		os.Exit(1)
	}
}

func (c *checks) run(check func(*checks)) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%v", reason)
		}
	}()
	check(c)
	return nil
}

func (c *checks) normal() {
	producer, consumer := c.producer(), c.consumer(rmq.SUB_ALL, 5)
	sent, found := map[string]string{}, map[string]string{}
	for i := range messages {
		message := c.message("body-" + strconv.Itoa(i))
		message.SetTag("order")
		message.SetKeys("key-"+strconv.Itoa(i), "all")
		message.AddProperty("colour", "grün")
		sent[send(producer, message).MessageID] = string(message.Body)
	}
	equal(messages, len(sent), "ids of the sends")
	for _, one := range receive(consumer, messages, 60) {
		_, before := found[one.GetMessageId()]
		equal(false, before, "deliveries before")
		body := string(one.GetBody())
		found[one.GetMessageId()] = body
		equal("order", *one.GetTag(), "tag")
		equal("grün", one.GetProperties()["colour"], "property")
		equal([]string{"key-" + body[5:], "all"}, one.GetKeys(), "keys")
		equal(int32(1), one.GetDeliveryAttempt(), "attempt")
	}
	equal(sent, found, "messages")
	equal(0, len(poll(consumer, 32)), "deliveries of what is acknowledged")
}

// A poll that waits is answered as soon as a message comes, long before its time is over.
func (c *checks) poll() {
	producer, consumer := c.producer(), c.consumer(rmq.SUB_ALL, 15)
	started := time.Now()
	got := make(chan []*rmq.MessageView, 1)
	go func() { got <- poll(consumer, 1) }()
	time.Sleep(time.Second)
	send(producer, c.message("first"))
	all := <-got
	equal(1, len(all), "messages")
	between(time.Second, 6*time.Second, time.Since(started), "until the answer")
	must(consumer.Ack(context.Background(), all[0]))
}

// An unacknowledged message comes back when its invisible time ends, which may be moved.
func (c *checks) invisible() {
	send(c.producer(), c.message("slow"))
	consumer := c.consumer(rmq.SUB_ALL, 10)
	first := receiveOne(consumer)
	must(consumer.ChangeInvisibleDuration(first, 2*time.Second))
	moved := time.Now()
	again := receiveOne(consumer)
	between(1500*time.Millisecond, 8*time.Second, time.Since(moved), "until it returned")
	equal(first.GetMessageId(), again.GetMessageId(), "message")
	equal(int32(2), again.GetDeliveryAttempt(), "attempt")
	must(consumer.Ack(context.Background(), again))
}

func (c *checks) unknownTopic() {
	unknown := c.prefix + "-no-such-topic"
	message := &rmq.Message{Topic: unknown, Body: []byte("lost")}
	_, err := c.producer().Send(context.Background(), message)
	equal(true, err != nil, "the send was refused")
	equal(true, strings.Contains(err.Error(), unknown), "the refusal names the topic: "+err.Error())
}

func (c *checks) push() {
	got := make(chan *rmq.MessageView, 10*messages)
	c.listen(rmq.SUB_ALL, func(one *rmq.MessageView) rmq.ConsumerResult {
		got <- one
		return rmq.SUCCESS
	})
	producer, sent := c.producer(), []string{}
	for i := range messages {
		body := "body-" + strconv.Itoa(i)
		send(producer, c.message(body))
		sent = append(sent, body)
	}
	equal(sorted(sent), sorted(bodies(take(got, messages, 60))), "messages")
	quiet(got, 3, "a message too many")
}

func (c *checks) tag() {
	producer := c.producer()
	for i := range 30 {
		message := c.message("body-" + strconv.Itoa(i))
		message.SetTag("tag-" + strconv.Itoa(i%3))
		send(producer, message)
	}
	filter := rmq.NewFilterExpression("tag-0 || tag-2")
	c.filtered(filter, func(i int) bool { return i%3 != 1 })
}

func (c *checks) sql() {
	producer := c.producer()
	for i := range 30 {
		message := c.message("body-" + strconv.Itoa(i))
		message.SetTag("tag-" + strconv.Itoa(i%3))
		message.AddProperty("price", strconv.Itoa(i))
		send(producer, message)
	}
	expression := "price BETWEEN 5 AND 20 AND TAGS <> 'tag-0' AND colour IS NULL"
	filter := rmq.NewFilterExpressionWithType(expression, rmq.SQL92)
	c.filtered(filter, func(i int) bool { return i >= 5 && i <= 20 && i%3 != 0 })
}

func (c *checks) filtered(filter *rmq.FilterExpression, wanted func(int) bool) {
	expected := []string{}
	for i := range 30 {
		if wanted(i) {
			expected = append(expected, "body-"+strconv.Itoa(i))
		}
	}
	consumer := c.consumer(filter, 5)
	got := receive(consumer, len(expected), 60)
	equal(sorted(expected), sorted(bodies(got)), "messages that pass the filter")
	equal(0, len(poll(consumer, 32)), "messages that do not pass it")
}

func (c *checks) nack() {
	got := make(chan *rmq.MessageView, messages)
	c.listen(rmq.SUB_ALL, func(one *rmq.MessageView) rmq.ConsumerResult {
		got <- one
		if one.GetDeliveryAttempt() < 2 {
			return rmq.FAILURE
		}
		return rmq.SUCCESS
	})
	send(c.producer(), c.message("again"))
	both := take(got, 2, 60)
	equal(both[0].GetMessageId(), both[1].GetMessageId(), "message")
	equal(int32(1), both[0].GetDeliveryAttempt(), "first attempt")
	equal(int32(2), both[1].GetDeliveryAttempt(), "second attempt")
	quiet(got, 5, "a delivery after the success")
}

// The group gives up after two attempts; its dead letters are a topic like others, there before the first one.
func (c *checks) dead() {
	got := make(chan *rmq.MessageView, messages)
	c.listen(rmq.SUB_ALL, func(one *rmq.MessageView) rmq.ConsumerResult {
		got <- one
		return rmq.FAILURE
	})
	letters := c.simple("%DLQ%"+c.topic, c.topic+"-letters", rmq.SUB_ALL, 10)
	message := c.message("hopeless")
	message.AddProperty("colour", "red")
	sent := send(c.producer(), message)
	take(got, 2, 60)
	letter := receiveOne(letters)
	equal("hopeless", string(letter.GetBody()), "body of the dead letter")
	equal("red", letter.GetProperties()["colour"], "property of the dead letter")
	equal(sent.MessageID, letter.GetMessageId(), "id of the dead letter")
	must(letters.Ack(context.Background(), letter))
	quiet(got, 3, "a third delivery")
}

func (c *checks) fifo() {
	sent := c.sendGroups()
	got := receive(c.consumer(rmq.SUB_ALL, 5), 40, 60)
	equal(sent, byGroup(got), "messages by group, in order")
}

// A consumer gets its own lite topics, each in order.
func (c *checks) lite() {
	got := make(chan *rmq.MessageView, messages)
	consumer, err := rmq.NewLitePushConsumer(c.config(c.topic), rmq.NewLitePushConsumerConfig(c.topic, invisible),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: func(one *rmq.MessageView) rmq.ConsumerResult {
			got <- one
			return rmq.SUCCESS
		}}))
	must(err)
	c.started(consumer)
	must(consumer.SubscribeLite("red"))
	must(consumer.SubscribeLite("blue"))
	producer, sent := c.producer(), map[string][]string{}
	for i := range 10 {
		for _, name := range []string{"red", "green", "blue"} {
			message := c.message(name + "-" + strconv.Itoa(i))
			message.SetLiteTopic(name)
			send(producer, message)
			sent[name] = append(sent[name], string(message.Body))
		}
	}
	delete(sent, "green")
	found := map[string][]string{}
	for _, one := range take(got, 20, 60) {
		found[one.GetLiteTopic()] = append(found[one.GetLiteTopic()], string(one.GetBody()))
	}
	equal(sent, found, "messages by lite topic, in order")
	quiet(got, 2, "a message of another lite topic")
}

func (c *checks) sendGroups() map[string][]string {
	producer, sent := c.producer(), map[string][]string{}
	for i := range 20 {
		for _, group := range []string{"red", "blue"} {
			message := c.message(group + "-" + strconv.Itoa(i))
			message.SetMessageGroup(group)
			send(producer, message)
			sent[group] = append(sent[group], string(message.Body))
		}
	}
	return sent
}

func byGroup(all []*rmq.MessageView) map[string][]string {
	found := map[string][]string{}
	for _, one := range all {
		found[*one.GetMessageGroup()] = append(found[*one.GetMessageGroup()], string(one.GetBody()))
	}
	return found
}

func (c *checks) delay() {
	producer, consumer := c.producer(), c.consumer(rmq.SUB_ALL, 15)
	due := time.Now().Add(4 * time.Second)
	message := c.message("later")
	message.SetDelayTimestamp(due)
	send(producer, message)
	one := receiveOne(consumer)
	between(0, 2*time.Second, time.Since(due.Truncate(time.Second)), "after it was due")
	must(consumer.Ack(context.Background(), one))
}

func (c *checks) recall() {
	producer, due := c.producer(), time.Now().Add(4*time.Second)
	receipts := map[string]*rmq.SendReceipt{}
	for _, body := range []string{"recalled", "kept"} {
		message := c.message(body)
		message.SetDelayTimestamp(due)
		receipts[body] = send(producer, message)
	}
	gone := receipts["recalled"]
	id, err := producer.Recall(context.Background(), c.topic, gone.RecallHandle)
	must(err)
	equal(gone.MessageID, id, "id of the recalled message")
	consumer := c.consumer(rmq.SUB_ALL, 8)
	equal([]string{"kept"}, bodies(receive(consumer, 1, 20)), "messages")
	equal(0, len(poll(consumer, 32)), "recalled messages")
}

func (c *checks) transaction() {
	producer := c.transactional(func(*rmq.MessageView) rmq.TransactionResolution { return rmq.UNKNOWN })
	consumer := c.consumer(rmq.SUB_ALL, 5)
	rolledBack, committed := producer.BeginTransaction(), producer.BeginTransaction()
	sendIn(producer, c.message("rolled back"), rolledBack)
	sent := sendIn(producer, c.message("committed"), committed)
	equal(0, len(poll(consumer, 32)), "messages before the commit")
	must(rolledBack.RollBack())
	must(committed.Commit())
	got := receive(consumer, 1, 30)
	equal([]string{"committed"}, bodies(got), "messages")
	equal(sent.MessageID, got[0].GetMessageId(), "id")
	equal(0, len(poll(consumer, 32)), "messages rolled back")
}

// A producer that says nothing is asked.
func (c *checks) checkBack() {
	asked := make(chan *rmq.MessageView, messages)
	producer := c.transactional(func(half *rmq.MessageView) rmq.TransactionResolution {
		asked <- half
		return rmq.COMMIT
	})
	consumer := c.consumer(rmq.SUB_ALL, 10)
	message := c.message("undecided")
	message.AddProperty("colour", "red")
	sendIn(producer, message, producer.BeginTransaction())
	equal([]string{"undecided"}, bodies(receive(consumer, 1, 60)), "messages")
	equal("red", take(asked, 1, 5)[0].GetProperties()["colour"], "property in the question")
}

func (c *checks) priority() {
	producer := c.producer()
	expected, found := []string{}, []string{}
	for i := range 10 {
		message := c.message("priority-" + strconv.Itoa(i))
		must(message.SetPriority(int32(i)))
		send(producer, message)
		expected = append(expected, "priority-"+strconv.Itoa(9-i))
	}
	consumer := c.consumer(rmq.SUB_ALL, 5)
	for len(found) < 10 {
		one := receiveOne(consumer)
		found = append(found, string(one.GetBody()))
		must(consumer.Ack(context.Background(), one))
	}
	equal(expected, found, "messages, the greatest priority first")
}

func (c *checks) config(group string) *rmq.Config {
	return &rmq.Config{
		Endpoint:      c.endpoint,
		ConsumerGroup: group,
		Credentials:   &credentials.SessionCredentials{},
	}
}

func (c *checks) started(client interface {
	Start() error
	GracefulStop() error
}) {
	must(client.Start())
	c.closers = append(c.closers, client.GracefulStop)
}

func (c *checks) producer() rmq.Producer {
	producer, err := rmq.NewProducer(c.config(""), rmq.WithTopics(c.topic))
	must(err)
	c.started(producer)
	return producer
}

func (c *checks) transactional(check func(*rmq.MessageView) rmq.TransactionResolution) rmq.Producer {
	producer, err := rmq.NewProducer(c.config(""), rmq.WithTopics(c.topic),
		rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: check}))
	must(err)
	c.started(producer)
	return producer
}

func (c *checks) consumer(filter *rmq.FilterExpression, waitSeconds int) rmq.SimpleConsumer {
	return c.simple(c.topic, c.topic, filter, waitSeconds)
}

func (c *checks) simple(from, group string, filter *rmq.FilterExpression, waitSeconds int) rmq.SimpleConsumer {
	consumer, err := rmq.NewSimpleConsumer(c.config(group),
		rmq.WithSimpleAwaitDuration(time.Duration(waitSeconds)*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{from: filter}))
	must(err)
	c.started(consumer)
	return consumer
}

func (c *checks) listen(filter *rmq.FilterExpression, listener func(*rmq.MessageView) rmq.ConsumerResult) {
	consumer, err := rmq.NewPushConsumer(c.config(c.topic),
		rmq.WithPushAwaitDuration(5*time.Second),
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{c.topic: filter}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: listener}))
	must(err)
	c.started(consumer)
}

func (c *checks) message(body string) *rmq.Message {
	return &rmq.Message{Topic: c.topic, Body: []byte(body)}
}

func (c *checks) close() {
	for _, close := range c.closers {
		if err := close(); err != nil {
			fmt.Println("closing:", err)
		}
	}
}

func send(producer rmq.Producer, message *rmq.Message) *rmq.SendReceipt {
	receipts, err := producer.Send(context.Background(), message)
	must(err)
	equal(1, len(receipts), "receipts")
	return receipts[0]
}

func sendIn(producer rmq.Producer, message *rmq.Message, transaction rmq.Transaction) *rmq.SendReceipt {
	receipts, err := producer.SendWithTransaction(context.Background(), message, transaction)
	must(err)
	return receipts[0]
}

// poll gives nothing when nothing came: this client has an error for it.
func poll(consumer rmq.SimpleConsumer, count int32) []*rmq.MessageView {
	got, err := consumer.Receive(context.Background(), count, invisible)
	if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == 40401 {
		return nil
	}
	must(err)
	return got
}

// receive polls until count messages came or the time is over, and acknowledges each.
func receive(consumer rmq.SimpleConsumer, count, seconds int) []*rmq.MessageView {
	found := []*rmq.MessageView{}
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for len(found) < count && time.Now().Before(end) {
		for _, one := range poll(consumer, 32) {
			must(consumer.Ack(context.Background(), one))
			found = append(found, one)
		}
	}
	return found
}

func receiveOne(consumer rmq.SimpleConsumer) *rmq.MessageView {
	end := time.Now().Add(30 * time.Second)
	for time.Now().Before(end) {
		if got := poll(consumer, 1); len(got) > 0 {
			return got[0]
		}
	}
	panic("no message within 30 s")
}

func take(queue chan *rmq.MessageView, count, seconds int) []*rmq.MessageView {
	found := []*rmq.MessageView{}
	end := time.After(time.Duration(seconds) * time.Second)
	for len(found) < count {
		select {
		case one := <-queue:
			found = append(found, one)
		case <-end:
			panic(fmt.Sprintf("%d of %d messages came within %d s", len(found), count, seconds))
		}
	}
	return found
}

func quiet(queue chan *rmq.MessageView, seconds int, what string) {
	select {
	case one := <-queue:
		panic(what + ": " + string(one.GetBody()))
	case <-time.After(time.Duration(seconds) * time.Second):
	}
}

func bodies(all []*rmq.MessageView) []string {
	found := []string{}
	for _, one := range all {
		found = append(found, string(one.GetBody()))
	}
	return found
}

func sorted(texts []string) []string {
	sort.Strings(texts)
	return texts
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func equal(expected, found any, what string) {
	if !reflect.DeepEqual(expected, found) {
		panic(fmt.Sprintf("%s: expected %v, found %v", what, expected, found))
	}
}

func between(low, high, found time.Duration, what string) {
	if found < low || found > high {
		panic(fmt.Sprintf("%s: %v, expected %v to %v", what, found, low, high))
	}
}
