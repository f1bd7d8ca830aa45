//! `DROP`.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::dialect::is_word;
use crate::error::{Refusal, SqlError, nearest};
use crate::statement::kind::Statement;
use crate::statement::parser::StatementParser;
use crate::statement::refusal::{ALLOWED, at_token, position_of};

impl StatementParser<'_> {
    pub(super) fn drop_something(&mut self) -> Result<Statement, SqlError> {
        let what = self.parser.peek_token();
        let dropped = self.drop_one()?;
        let comma = self.parser.peek_token();
        if comma.token == Token::Comma {
            return Err(at_token(
                &comma,
                &format!("DROP {} takes one name", what.token),
                "write a statement for each",
            ));
        }
        Ok(dropped)
    }

    fn drop_one(&mut self) -> Result<Statement, SqlError> {
        let what = self.parser.next_token();
        if is_word(&what.token, "TOPIC") {
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropTopic { name, if_exists });
        }
        if is_word(&what.token, "VIEW") {
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropView { name, if_exists });
        }
        if is_word(&what.token, "MATERIALIZED") {
            self.expect_word("VIEW")?;
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropMaterializedView { name, if_exists });
        }
        if is_word(&what.token, "JOB") || is_word(&what.token, "SINK") {
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropJob { name, if_exists });
        }
        if is_word(&what.token, "SAVEPOINT") {
            return self.drop_savepoint();
        }
        let suggestion = match &what.token {
            token if is_word(token, "TABLE") => {
                "tables are topics here: write DROP TOPIC name".to_owned()
            }
            Token::Word(word) => nearest(
                &word.value,
                ["TOPIC", "VIEW", "MATERIALIZED", "JOB", "SINK", "SAVEPOINT"],
            )
            .map_or_else(
                || ALLOWED.to_owned(),
                |near| format!("did you mean DROP {near}?"),
            ),
            _ => ALLOWED.to_owned(),
        };
        Err(SqlError::NotAllowed(Refusal {
            position: position_of(&what),
            cause: format!("DROP {} is not a statement of this server", what.token),
            suggestion: Some(suggestion),
        }))
    }
}
