//! `SHOW`: the system tables by name, the columns and schemas of a topic, and the statements that make again what is there.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::dialect::is_word;
use crate::error::{Refusal, SqlError, nearest};
use crate::statement::foreign;
use crate::statement::kind::{Shown, Statement};
use crate::statement::parser::StatementParser;
use crate::statement::refusal::position_of;

/// What `SHOW` lists, and the system table that answers it.
const TABLES: [(&str, &str); 9] = [
    ("TOPICS", "topics"),
    ("TABLES", "topics"),
    ("QUEUES", "queues"),
    ("GROUPS", "groups"),
    ("JOBS", "jobs"),
    ("VIEWS", "views"),
    ("SAVEPOINTS", "savepoints"),
    ("LIMITS", "limits"),
    ("FUNCTIONS", "functions"),
];

impl StatementParser<'_> {
    pub(super) fn show(&mut self) -> Result<Statement, SqlError> {
        let what = self.parser.next_token();
        if is_word(&what.token, "COLUMNS") {
            if !self.word("FROM") {
                self.expect_word("IN")?;
            }
            return Ok(Statement::Show(Shown::Columns(self.name()?)));
        }
        if is_word(&what.token, "SCHEMAS") {
            let named = self.word("FROM") || self.word("IN");
            let topic = if named { Some(self.name()?) } else { None };
            return Ok(Statement::Show(Shown::Schemas(topic)));
        }
        if is_word(&what.token, "CREATE") {
            return self.show_create();
        }
        for (word, table) in TABLES {
            if is_word(&what.token, word) {
                return Ok(Statement::Show(Shown::Table(table)));
            }
        }
        let known = TABLES
            .iter()
            .map(|(word, _)| *word)
            .chain(["COLUMNS", "SCHEMAS", "CREATE"]);
        let suggestion = match &what.token {
            Token::Word(word) => {
                nearest(&word.value, known).map(|near| format!("did you mean SHOW {near}?"))
            }
            _ => None,
        };
        let suggestion = foreign::shown(&what.token)
            .map(str::to_owned)
            .or(suggestion);
        let all = "write SHOW TOPICS, QUEUES, GROUPS, JOBS, SAVEPOINTS, VIEWS, LIMITS, FUNCTIONS, SCHEMAS, COLUMNS FROM topic or CREATE TOPIC name";
        Err(SqlError::NotAllowed(Refusal {
            position: position_of(&what),
            cause: format!("SHOW {} is not a statement of this server", what.token),
            suggestion: Some(suggestion.unwrap_or_else(|| all.to_owned())),
        }))
    }

    /// `TOPIC name`, `VIEW name`, `MATERIALIZED VIEW name`, `JOB name`.
    fn show_create(&mut self) -> Result<Statement, SqlError> {
        let is_job = self.word("JOB") || self.word("SINK");
        if !is_job && !self.word("TOPIC") && !self.word("TABLE") {
            self.word("MATERIALIZED");
            if !self.word("VIEW") {
                return Err(self.unexpected("TOPIC, VIEW, MATERIALIZED VIEW or JOB"));
            }
        }
        let name = self.name()?;
        Ok(Statement::Show(Shown::Create { name, is_job }))
    }
}
