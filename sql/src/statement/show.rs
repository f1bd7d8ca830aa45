//! `SHOW`.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::dialect::is_word;
use crate::error::{Refusal, SqlError, nearest};
use crate::statement::kind::Statement;
use crate::statement::parser::StatementParser;
use crate::statement::refusal::position_of;

impl StatementParser<'_> {
    pub(super) fn show(&mut self) -> Result<Statement, SqlError> {
        let what = self.parser.next_token();
        for (word, statement) in [
            ("TOPICS", Statement::ShowTopics),
            ("TABLES", Statement::ShowTopics),
            ("JOBS", Statement::ShowJobs),
            ("GROUPS", Statement::ShowGroups),
        ] {
            if is_word(&what.token, word) {
                return Ok(statement);
            }
        }
        let suggestion = match &what.token {
            Token::Word(word) => nearest(&word.value, ["TOPICS", "JOBS", "GROUPS"])
                .map(|near| format!("did you mean SHOW {near}?")),
            _ => None,
        };
        Err(SqlError::NotAllowed(Refusal {
            position: position_of(&what),
            cause: format!("SHOW {} is not a statement of this server", what.token),
            suggestion: Some(
                suggestion
                    .unwrap_or_else(|| "write SHOW TOPICS, SHOW JOBS or SHOW GROUPS".to_owned()),
            ),
        }))
    }
}
