//! The end of queries by statement or by call, and what is said about it.
//!
//! What a query owns goes with it, as an index goes with its table: the topic of a view, and the side topic of its late rows. Nobody
//! named the side topic, so the answer does.

use crate::answer::Answer;
use crate::batch::dependents::check_unused;
use crate::error::SqlError;
use crate::job::alter::next_of;
use crate::job::runner::late_topic_of;
use crate::sql::{Sql, done};
use crate::statement::{Statement, parse};
use crate::topic::TopicInfo;

impl Sql {
    /// `DROP` of a query.
    pub(super) async fn drop_of(
        &self,
        command: &'static str,
        what: &str,
        name: &str,
        if_exists: bool,
    ) -> Result<Answer, SqlError> {
        if if_exists && self.parts.jobs.describe(name).is_none() {
            let answer = done(command, name)?;
            answer.notices.add(nothing_to_drop(what, name));
            return Ok(answer);
        }
        let gone = self.drop_job(name).await?;
        let answer = done(command, name)?;
        for sentence in gone {
            answer.notices.add(sentence);
        }
        Ok(answer)
    }

    /// Ends a query, and tells in sentences which rows went with it beside those of the view that was named.
    ///
    /// # Errors
    /// [`SqlError`] when there is none of this name, or another query reads it.
    pub async fn drop_job(&self, name: &str) -> Result<Vec<String>, SqlError> {
        let Some(job) = self.parts.jobs.describe(name) else {
            return Err(self.unknown_job(name));
        };
        let mut gone = Vec::new();
        let is_own = |topic: &TopicInfo| topic.written_by.as_deref() == Some(name);
        let late = self.parts.topics.topic(&late_topic_of(name));
        if let Some(late) = late.filter(|late| is_own(late) && job.rows_late > 0) {
            gone.push(format!(
                "topic {} went with it, and with that the rows that came too late, {} by now",
                late.name, job.rows_late
            ));
        }
        if matches!(parse(&job.sql), Ok(Statement::CreateMaterializedView(_))) {
            // It ends with its topic, and one that is being altered has its next one beside it.
            let own = [name, &next_of(name)];
            check_unused("view", name, &own, self.parts.topics.as_ref())?;
        }
        // By its full name, because an `Arc` has a `drop` of its own.
        self.parts.jobs.end(name).await?;
        Ok(gone)
    }
}

/// What `IF NOT EXISTS` says when something is there.
pub(super) fn as_it_is(what: &str, name: &str) -> String {
    format!("{what} {name} exists already and was left as it is")
}

/// What `IF EXISTS` says when nothing is there.
pub(super) fn nothing_to_drop(what: &str, name: &str) -> String {
    format!("there is no {what} {name}, and nothing was dropped")
}
