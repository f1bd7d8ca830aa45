//! `ALTER TOPIC`: what may change of a topic while it is used.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::SqlError;
use crate::statement::kind::{AlterTopic, Statement};
use crate::statement::parser::StatementParser;

impl StatementParser<'_> {
    pub(super) fn alter(&mut self) -> Result<Statement, SqlError> {
        self.expect_word("TOPIC")?;
        let name = self.name()?;
        let mut change = AlterTopic {
            name,
            add_columns: Vec::new(),
            queues: None,
        };
        if self.word("SET") {
            change.queues = self.options()?;
        } else {
            loop {
                self.expect_word("ADD")?;
                self.word("COLUMN");
                let at = self.parser.peek_token();
                let column = self.column()?;
                self.check_distinct(&change.add_columns, &column, &at)?;
                change.add_columns.push(column);
                if !self.parser.consume_token(&Token::Comma) {
                    break;
                }
            }
        }
        Ok(Statement::AlterTopic(change))
    }
}
