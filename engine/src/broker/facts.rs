//! System tables of what operators look for: messages that wait, transactions, what consumers hold, dead letters.
//!
//! | table | columns |
//! |---|---|
//! | `delayed` | topic, queue, message_id, due, stored_at, bytes |
//! | `transactions` | topic, queue, message_id, id, state (`open`, `rolled back`), stored_at, checks, next_check |
//! | `in_flight` | group, topic, queue, offset, consumer, since, until, attempts |
//! | `dead_letters` | group, topic, queue, offset, message_id, attempts, reason, died_at |
//!
//! Times are UTC, in milliseconds. A table is filled when a statement names it, and is no snapshot: the shards are
//! asked one after the other. It has at most [`FACT_ROWS_MAX`](millpond_proto::limits::FACT_ROWS_MAX) rows, because most rows cost a
//! read, and says when there are more; there is no body in any of them. A half message that can not be read has no id.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millpond_proto::name::TopicName;
use millpond_sql::topic::{DEAD_LETTERS, DELAYED, Facts, FactsAsked, IN_FLIGHT, TRANSACTIONS};
use millpond_storage::format::envelope::Envelope;

use crate::broker::delay::{DelayedPlace, WaitingMessage};
use crate::broker::half::Transaction;
use crate::broker::transfer::{Selection, property, text};
use crate::broker::{Broker, BrokerError, Group, InFlightMessage};

/// A column of one of these tables: its name, and how a row gives it.
struct Column<'a, R> {
    name: &'static str,
    cell: Cell<'a, R>,
}

/// A text of a row, if it has one.
type Text<'a, R> = Box<dyn Fn(&R) -> Option<String> + 'a>;

/// How a row gives a value.
enum Cell<'a, R> {
    Text(Text<'a, R>),
    Small(fn(&R) -> u32),
    Large(fn(&R) -> Option<u64>),
    /// Milliseconds.
    Time(fn(&R) -> Option<i64>),
}

/// Columns, in order; none: the table is not one of these.
fn columns_of<R>(columns: &[Column<'_, R>]) -> SchemaRef {
    let fields = columns.iter().map(|column| {
        let (kind, nullable) = match column.cell {
            Cell::Text(_) => (DataType::Utf8, true),
            Cell::Small(_) => (DataType::UInt32, false),
            Cell::Large(_) => (DataType::UInt64, true),
            Cell::Time(_) => {
                let utc = Some(Arc::from("UTC"));
                (DataType::Timestamp(TimeUnit::Millisecond, utc), true)
            }
        };
        Field::new(column.name, kind, nullable)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn batch_of<R>(columns: &[Column<'_, R>], rows: &[R]) -> RecordBatch {
    let arrays = columns.iter().map(|column| -> ArrayRef {
        match &column.cell {
            Cell::Text(of) => Arc::new(rows.iter().map(of).collect::<StringArray>()),
            Cell::Small(of) => Arc::new(UInt32Array::from_iter_values(rows.iter().map(of))),
            Cell::Large(of) => Arc::new(rows.iter().map(of).collect::<UInt64Array>()),
            Cell::Time(of) => {
                let times = rows.iter().map(of).collect::<TimestampMillisecondArray>();
                Arc::new(times.with_timezone("UTC"))
            }
        }
    });
    RecordBatch::try_new(columns_of(columns), arrays.collect())
        .expect("the arrays are those of the columns, one value a row")
}

fn text_column<'a, R>(name: &'static str, of: impl Fn(&R) -> Option<String> + 'a) -> Column<'a, R> {
    let cell = Cell::Text(Box::new(of));
    Column { name, cell }
}

fn small<'a, R>(name: &'static str, of: fn(&R) -> u32) -> Column<'a, R> {
    let cell = Cell::Small(of);
    Column { name, cell }
}

fn large<'a, R>(name: &'static str, of: fn(&R) -> Option<u64>) -> Column<'a, R> {
    let cell = Cell::Large(of);
    Column { name, cell }
}

fn time<'a, R>(name: &'static str, of: fn(&R) -> Option<i64>) -> Column<'a, R> {
    let cell = Cell::Time(of);
    Column { name, cell }
}

fn size(message: &Envelope) -> u64 {
    message.body.as_ref().map_or(0, bytes::Bytes::len) as u64
}

fn number(envelope: &Envelope, key: &str) -> Option<u64> {
    text(envelope, key)?.parse().ok()
}

/// A row of `in_flight`.
type Holding = (String, InFlightMessage);
/// A row of `dead_letters`.
type Letter = (String, Envelope);

impl Broker {
    fn delayed_columns(&self) -> Vec<Column<'_, WaitingMessage>> {
        vec![
            text_column("topic", |one: &WaitingMessage| {
                self.name_of(one.handle.topic)
            }),
            small("queue", |one| one.handle.queue),
            text_column("message_id", |one: &WaitingMessage| {
                Some(one.message.message_id.clone())
            }),
            time("due", |one| one.message.due_at_ms),
            time("stored_at", |one| Some(one.message.stored_at_ms)),
            large("bytes", |one| Some(size(&one.message))),
        ]
    }

    fn name_of(&self, topic: u64) -> Option<String> {
        let topic = self.catalog().topic_by_id(topic).cloned();
        topic.map(|topic| topic.name.clone())
    }

    /// The schema of one of these tables; none when it is another one.
    pub(super) fn fact_columns(&self, table: &str) -> Option<SchemaRef> {
        match table {
            DELAYED => Some(columns_of(&self.delayed_columns())),
            TRANSACTIONS => Some(columns_of(&transaction_columns())),
            IN_FLIGHT => Some(columns_of(&in_flight_columns())),
            DEAD_LETTERS => Some(columns_of(&dead_letter_columns())),
            _ => None,
        }
    }

    /// What one of these tables holds now, so many rows at most; none when it is another one.
    pub(super) async fn fact_rows(
        &self,
        table: &str,
        asked: &FactsAsked,
        most: usize,
    ) -> Result<Option<Facts>, BrokerError> {
        // One more tells whether there are more.
        let limit = most + 1;
        let facts = match table {
            DELAYED => {
                let rows = self.all_delayed(asked, limit).await?;
                facts_of(&self.delayed_columns(), rows, most)
            }
            TRANSACTIONS => {
                let rows = self.all_transactions(asked, limit).await?;
                facts_of(&transaction_columns(), rows, most)
            }
            IN_FLIGHT => {
                let rows = self.all_in_flight(asked, limit).await?;
                facts_of(&in_flight_columns(), rows, most)
            }
            DEAD_LETTERS => {
                let rows = self.all_dead_letters(asked, limit).await?;
                facts_of(&dead_letter_columns(), rows, most)
            }
            _ => return Ok(None),
        };
        Ok(Some(facts))
    }

    /// The groups that are asked for.
    pub(super) fn groups_asked(&self, asked: &FactsAsked) -> impl Iterator<Item = Group> {
        let only = asked.group.clone();
        let is_asked = move |group: &Group| match &only {
            Some(only) => group.name.as_str() == only,
            None => true,
        };
        self.groups().into_iter().filter(is_asked)
    }

    async fn all_delayed(
        &self,
        asked: &FactsAsked,
        limit: usize,
    ) -> Result<Vec<WaitingMessage>, BrokerError> {
        let mut rows = Vec::new();
        let Some(topic) = topic_asked(asked) else {
            return Ok(rows);
        };
        let mut place = Some(DelayedPlace::default());
        while let Some(from) = place.filter(|_| rows.len() < limit) {
            let left = limit - rows.len();
            match self.delayed(topic.as_ref(), from, left).await {
                Ok((some, next)) => {
                    rows.extend(some);
                    place = next;
                }
                Err(BrokerError::TopicNotFound { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    async fn all_transactions(
        &self,
        asked: &FactsAsked,
        limit: usize,
    ) -> Result<Vec<Transaction>, BrokerError> {
        let Some(topic) = topic_asked(asked) else {
            return Ok(Vec::new());
        };
        match self.transactions(topic.as_ref(), None, limit).await {
            Err(BrokerError::TopicNotFound { .. }) => Ok(Vec::new()),
            found => found.map(|(found, _)| found),
        }
    }

    async fn all_in_flight(
        &self,
        asked: &FactsAsked,
        limit: usize,
    ) -> Result<Vec<Holding>, BrokerError> {
        let mut rows = Vec::new();
        for group in self.groups_asked(asked) {
            if rows.len() >= limit {
                break;
            }
            match self.group_in_flight(&group.name, limit - rows.len()).await {
                Ok(held) => rows.extend(held.into_iter().map(|one| (group.name.to_string(), one))),
                // It was deleted while the others were asked.
                Err(BrokerError::GroupNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    async fn all_dead_letters(
        &self,
        asked: &FactsAsked,
        limit: usize,
    ) -> Result<Vec<Letter>, BrokerError> {
        let mut rows = Vec::new();
        for group in self.groups_asked(asked) {
            let mut from = Some((0, 0));
            while let Some(next) = from.filter(|_| rows.len() < limit) {
                let selection = Selection {
                    from: next,
                    limit: limit - rows.len(),
                    ..Selection::default()
                };
                match self.dead_letters(&group.name, &selection).await {
                    Ok(found) => {
                        let letters = found.letters.into_iter();
                        rows.extend(letters.map(|letter| (group.name.to_string(), letter)));
                        from = found.next;
                    }
                    Err(BrokerError::GroupNotFound { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(rows)
    }
}

/// The topic that is asked for, or all; none when no topic can be called so.
#[expect(clippy::option_option, reason = "no such topic and any topic differ")]
fn topic_asked(asked: &FactsAsked) -> Option<Option<TopicName>> {
    match &asked.topic {
        None => Some(None),
        Some(name) => Some(Some(TopicName::new(name).ok()?)),
    }
}

fn facts_of<R>(columns: &[Column<'_, R>], mut rows: Vec<R>, most: usize) -> Facts {
    let is_cut = rows.len() > most;
    rows.truncate(most);
    Facts {
        rows: batch_of(columns, &rows),
        is_cut,
    }
}

fn transaction_columns() -> Vec<Column<'static, Transaction>> {
    let state = |one: &Transaction| match one.next_check {
        Some(_) => "open",
        None => "rolled back",
    };
    vec![
        text_column("topic", |one: &Transaction| Some(one.topic.clone())),
        small("queue", |one| one.id.queue),
        text_column("message_id", |one: &Transaction| {
            Some(one.message.as_ref()?.message_id.clone())
        }),
        text_column("id", |one: &Transaction| Some(one.id.to_text())),
        text_column("state", move |one: &Transaction| {
            Some(state(one).to_owned())
        }),
        time("stored_at", |one| Some(one.stored_at.as_ms())),
        small("checks", |one| one.checks),
        time("next_check", |one| one.next_check.map(|at| at.as_ms())),
    ]
}

fn in_flight_columns() -> Vec<Column<'static, Holding>> {
    let named = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    vec![
        text_column("group", |(group, _): &Holding| Some(group.clone())),
        text_column("topic", |(_, one): &Holding| Some(one.topic.to_string())),
        small("queue", |(_, one)| one.queue.0),
        large("offset", |(_, one)| Some(one.offset.0)),
        text_column("consumer", move |(_, one): &Holding| named(&one.consumer)),
        time("since", |(_, one)| Some(one.since.as_ms())),
        time("until", |(_, one)| Some(one.until.as_ms())),
        small("attempts", |(_, one)| one.attempts),
    ]
}

fn dead_letter_columns() -> Vec<Column<'static, Letter>> {
    let said =
        |key: &'static str| move |(_, letter): &Letter| text(letter, key).map(ToOwned::to_owned);
    vec![
        text_column("group", |(group, _): &Letter| Some(group.clone())),
        text_column("topic", said(property::TOPIC)),
        large("queue", |(_, letter)| number(letter, property::QUEUE)),
        large("offset", |(_, letter)| number(letter, property::OFFSET)),
        text_column("message_id", |(_, letter): &Letter| {
            Some(letter.message_id.clone())
        }),
        large("attempts", |(_, letter)| number(letter, property::ATTEMPTS)),
        text_column("reason", said(property::REASON)),
        time("died_at", |(_, letter)| Some(letter.stored_at_ms)),
    ]
}

#[cfg(test)]
mod tests;
