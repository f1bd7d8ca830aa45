//! Changes of topics: what is declared is checked against what stands on them.
//!
//! Whoever changes a topic (SQL, the admin calls) is told here what is in the way, so that both refuse the same.

use crate::answer::Answer;
use crate::batch::dependents::{check_columns_named, check_unused};
use crate::batch::view;
use crate::catalog::{check_columns, timestamp};
use crate::encoding;
use crate::error::SqlError;
use crate::sql::drops::{as_it_is, nothing_to_drop};
use crate::sql::{Sql, done};
use crate::statement::{AlterTopic, CreateTopic};
use crate::topic::{ColumnSpec, Keep, NewTopic, TopicChange, TopicInfo};

impl Sql {
    pub(super) async fn create_topic(&self, topic: CreateTopic) -> Result<Answer, SqlError> {
        let declared = encoding::declare(&topic)?;
        let schema = check_columns(&declared.columns)?;
        if let Some(watermark) = &topic.watermark {
            let field = schema.field_with_name(&watermark.column).map_err(|_| {
                SqlError::unknown("column", &watermark.column, None, [] as [&str; 0])
            })?;
            if *field.data_type() != timestamp() {
                return Err(SqlError::invalid(
                    format!("the watermark column {} is no TIMESTAMP", watermark.column),
                    format!(
                        "declare it so, or add a computed column: event_time AS (to_timestamp_millis({}))",
                        watermark.column
                    ),
                ));
            }
        }
        if view::view(self.parts.topics.as_ref(), &topic.name).is_some() {
            return Err(SqlError::invalid(
                format!("a view {} exists already", topic.name),
                "choose another name, or drop that view",
            ));
        }
        if topic.if_not_exists && self.parts.topics.topic(&topic.name).is_some() {
            let answer = done("CREATE TOPIC", &topic.name)?;
            answer.notices.add(as_it_is("topic", &topic.name));
            return Ok(answer);
        }
        self.parts
            .topics
            .create_topic(NewTopic {
                name: topic.name.clone(),
                queues: topic.options.queues,
                columns: declared.columns,
                watermark: topic.watermark,
                primary_key: topic.primary_key,
                written_by: None,
                encoding: declared.encoding,
                changelog: declared.changelog,
                keep: topic.options.keep,
                family: topic.options.family,
            })
            .await?;
        done("CREATE TOPIC", &topic.name)
    }

    pub(super) async fn alter_topic(&self, change: AlterTopic) -> Result<Answer, SqlError> {
        let topics = &self.parts.topics;
        let topic = topics.topic(&change.name);
        let topic = topic.ok_or_else(|| self.unknown_topic(&change.name))?;
        let keep = change.options.keep;
        // What a query writes is the query's, how long it is kept is not.
        let mut rest = change.clone();
        rest.options.keep = Keep::default();
        let changes_more = rest != AlterTopic::nothing(&change.name);
        if changes_more {
            check_own(&topic)?;
        }
        let schema = encoding::change(&topic, &change)?;
        self.check_more_columns(&topic, &change.add_columns)?;
        if !schema.add_columns.is_empty() {
            check_columns_named(&topic.name, topics.as_ref())?;
        }
        let queues = change.options.queues;
        if let Some(queues) = queues.filter(|queues| *queues < topic.queues) {
            return Err(SqlError::invalid(
                format!(
                    "topic {} has {} queues, more than {queues}",
                    topic.name, topic.queues
                ),
                "queues can only be added",
            ));
        }
        if queues.is_some_and(|queues| queues > topic.queues) && !topic.primary_key.is_empty() {
            return Err(SqlError::invalid(
                format!(
                    "topic {} has a primary key, and rows of a key must stay in one queue",
                    topic.name
                ),
                "make another topic with more queues, and copy the rows: INSERT INTO it SELECT …",
            ));
        }
        let altered = TopicChange {
            queues,
            add_columns: change.add_columns,
            schema,
            keep,
        };
        topics.alter_topic(&topic.name, altered).await?;
        done("ALTER TOPIC", &topic.name)
    }

    /// Checks that a topic may have these columns as well.
    ///
    /// # Errors
    /// [`SqlError`] for a topic that there is not or that a query makes, for names that are taken, types that there are not, and
    /// continuous queries that read the topic by `*`.
    pub fn check_columns_to_add(
        &self,
        topic: &str,
        columns: &[ColumnSpec],
    ) -> Result<(), SqlError> {
        let known = self.parts.topics.topic(topic);
        let known = known.ok_or_else(|| self.unknown_topic(topic))?;
        if !columns.is_empty() {
            check_own(&known)?;
        }
        self.check_more_columns(&known, columns)
    }

    fn check_more_columns(&self, topic: &TopicInfo, more: &[ColumnSpec]) -> Result<(), SqlError> {
        if more.is_empty() {
            return Ok(());
        }
        let mut columns = topic.columns.clone();
        for column in more {
            if columns.iter().any(|known| known.name == column.name) {
                return Err(SqlError::invalid(
                    format!("topic {} has a column {} already", topic.name, column.name),
                    "choose another name",
                ));
            }
            columns.push(column.clone());
        }
        check_columns(&columns)?;
        check_columns_named(&topic.name, self.parts.topics.as_ref())
    }

    /// Checks that no view or continuous query reads a topic or writes into it.
    ///
    /// # Errors
    /// [`SqlError::Invalid`] that names what does, with the statements that end it.
    pub fn check_unused(&self, topic: &str) -> Result<(), SqlError> {
        check_unused("topic", topic, &[], self.parts.topics.as_ref())
    }

    pub(super) async fn drop_topic(&self, name: &str, if_exists: bool) -> Result<Answer, SqlError> {
        match self.parts.topics.topic(name) {
            None if if_exists => {
                let answer = done("DROP TOPIC", name)?;
                answer.notices.add(nothing_to_drop("topic", name));
                return Ok(answer);
            }
            None => return Err(self.unknown_topic(name)),
            Some(TopicInfo {
                written_by: Some(job),
                ..
            }) => {
                return Err(SqlError::invalid(
                    format!("topic {name} is written by {job}"),
                    format!("write DROP MATERIALIZED VIEW {job} or DROP JOB {job} first"),
                ));
            }
            Some(_) => {
                self.check_unused(name)?;
                self.parts.topics.drop_topic(name).await?;
            }
        }
        done("DROP TOPIC", name)
    }
}

/// Refuses to change what a query makes.
fn check_own(topic: &TopicInfo) -> Result<(), SqlError> {
    match &topic.written_by {
        None => Ok(()),
        Some(job) => Err(SqlError::invalid(
            format!("topic {} is what {job} makes of it", topic.name),
            "change that query instead",
        )),
    }
}
