//! `SHOW`: the system tables by name, and the columns and schemas of a topic.

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
        for (word, table) in TABLES {
            if is_word(&what.token, word) {
                return Ok(Statement::Show(Shown::Table(table)));
            }
        }
        let known = TABLES
            .iter()
            .map(|(word, _)| *word)
            .chain(["COLUMNS", "SCHEMAS"]);
        let suggestion = match &what.token {
            Token::Word(word) => {
                nearest(&word.value, known).map(|near| format!("did you mean SHOW {near}?"))
            }
            _ => None,
        };
        let suggestion = foreign::shown(&what.token)
            .map(str::to_owned)
            .or(suggestion);
        let all = "write SHOW TOPICS, QUEUES, GROUPS, JOBS, SAVEPOINTS, VIEWS, LIMITS, FUNCTIONS, SCHEMAS or COLUMNS FROM topic";
        Err(SqlError::NotAllowed(Refusal {
            position: position_of(&what),
            cause: format!("SHOW {} is not a statement of this server", what.token),
            suggestion: Some(suggestion.unwrap_or_else(|| all.to_owned())),
        }))
    }
}
