//! `CREATE SAVEPOINT`, `STOP JOB … WITH SAVEPOINT`, `DROP SAVEPOINT`.

use millpond_proto::limits::SAVEPOINT_NAME_BYTES_MAX;

use crate::error::SqlError;
use crate::statement::kind::Statement;
use crate::statement::parser::StatementParser;
use crate::statement::refusal::at_token;

/// What is done with a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavepointChange {
    /// `CREATE SAVEPOINT name FOR JOB job`: the job goes on.
    Create {
        /// Name of the savepoint.
        name: String,
        /// The job whose state it holds.
        job: String,
    },
    /// `STOP JOB job WITH SAVEPOINT name`: the job is no more.
    Stop {
        /// Name of the savepoint.
        name: String,
        /// The job whose state it holds.
        job: String,
    },
    /// `DROP SAVEPOINT name`.
    Drop {
        /// Name of the savepoint.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
}

impl StatementParser<'_> {
    /// `name FOR JOB job`.
    pub(super) fn create_savepoint(&mut self) -> Result<Statement, SqlError> {
        let name = self.savepoint_name()?;
        self.expect_word("FOR")?;
        self.job_or_view()?;
        let job = self.name()?;
        Ok(Statement::Savepoint(SavepointChange::Create { name, job }))
    }

    /// `JOB job WITH SAVEPOINT name`.
    pub(super) fn stop_with_savepoint(&mut self) -> Result<Statement, SqlError> {
        self.job_or_view()?;
        let job = self.name()?;
        self.expect_word("WITH")?;
        self.expect_word("SAVEPOINT")?;
        let name = self.savepoint_name()?;
        Ok(Statement::Savepoint(SavepointChange::Stop { name, job }))
    }

    /// `[IF EXISTS] name`.
    pub(super) fn drop_savepoint(&mut self) -> Result<Statement, SqlError> {
        let if_exists = self.if_exists()?;
        let name = self.name()?;
        Ok(Statement::Savepoint(SavepointChange::Drop {
            name,
            if_exists,
        }))
    }

    /// A name that can be part of an object's key.
    fn savepoint_name(&mut self) -> Result<String, SqlError> {
        let at = self.parser.peek_token();
        let name = self.name()?;
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let length = 1..=SAVEPOINT_NAME_BYTES_MAX;
        if length.contains(&name.len()) && name.bytes().all(is_fit) {
            return Ok(name);
        }
        Err(at_token(
            &at,
            &format!("{name:?} can not be the name of a savepoint"),
            &format!(
                "choose 1 to {SAVEPOINT_NAME_BYTES_MAX} letters, digits, underscores and hyphens"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse;

    #[test]
    fn savepoints_are_made_stopped_with_and_dropped_by_statements() {
        let (name, job) = ("before_upgrade".to_owned(), "j".to_owned());
        for (sql, change) in [
            (
                "CREATE SAVEPOINT before_upgrade FOR JOB j",
                SavepointChange::Create {
                    name: name.clone(),
                    job: job.clone(),
                },
            ),
            (
                "STOP JOB j WITH SAVEPOINT before_upgrade",
                SavepointChange::Stop {
                    name: name.clone(),
                    job,
                },
            ),
            (
                "DROP SAVEPOINT IF EXISTS before_upgrade;",
                SavepointChange::Drop {
                    name,
                    if_exists: true,
                },
            ),
        ] {
            assert_eq!(parse(sql).unwrap(), Statement::Savepoint(change), "{sql}");
        }
        for (sql, expected) in [
            (
                "CREATE SAVEPOINT \"a/b\" FOR JOB j",
                "can not be the name of a savepoint",
            ),
            ("STOP JOB j", "expected WITH"),
            (
                "CREATE MATERIALIZED VIEW v WITH (savepoint = 's') AS SELECT a FROM t",
                "a materialized view can not begin with a savepoint",
            ),
            (
                "CREATE JOB j WITH (savepoint = 3) AS INSERT INTO u SELECT a FROM t",
                "write its name as text",
            ),
        ] {
            let error = parse(sql).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
