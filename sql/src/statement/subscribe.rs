//! `SUBSCRIBE`: a query, or the name of a topic or view, and where to begin. `SELECT … EMIT CHANGES` is the same, as in ksqlDB.

use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::SqlError;
use crate::statement::kind::Statement;
use crate::statement::name::quoted;
use crate::statement::parser::{StatementParser, parse_query};
use crate::statement::refusal::at_token;

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With everything that there is, as one change.
    Snapshot,
    /// With what changes from now on.
    Now,
    /// Behind the cursor of a row.
    Cursor(String),
}

impl StatementParser<'_> {
    /// What a statement that begins with a query is: one that ends, or with `EMIT CHANGES` one that is watched.
    pub(super) fn query_or_subscription(
        &mut self,
        query: Box<Query>,
    ) -> Result<Statement, SqlError> {
        let is_emit = |token: &Token| crate::dialect::is_word(token, "EMIT");
        let is_changes = |token: &Token| crate::dialect::is_word(token, "CHANGES");
        let [emit, changes] = self.parser.peek_tokens();
        if is_emit(&emit) && is_changes(&changes) {
            self.expect_word("EMIT")?;
            self.expect_word("CHANGES")?;
            let from = Begin::Snapshot;
            return Ok(Statement::Subscribe { query, from });
        }
        self.no_emit()?;
        Ok(Statement::Query(query))
    }

    /// `SUBSCRIBE [TO] name | (SELECT …) | SELECT … [FROM NOW | FROM CURSOR '…']`.
    pub(super) fn subscribe(&mut self) -> Result<Statement, SqlError> {
        self.word("TO");
        let next = self.parser.peek_token();
        let is_query = matches!(next.token, Token::LParen)
            || ["SELECT", "WITH"]
                .iter()
                .any(|word| crate::dialect::is_word(&next.token, word));
        let query = if is_query {
            self.query()?
        } else {
            let name = self.name()?;
            parse_query(&format!("SELECT * FROM {}", quoted(&name)))?
        };
        if self.word("EMIT") {
            self.expect_word("CHANGES")?;
        }
        let from = if !self.word("FROM") {
            Begin::Snapshot
        } else if self.word("NOW") {
            Begin::Now
        } else {
            self.expect_word("CURSOR")?;
            let at = self.parser.next_token();
            match at.token {
                Token::SingleQuotedString(cursor) => Begin::Cursor(cursor),
                _ => {
                    return Err(at_token(
                        &at,
                        "a cursor is a quoted text",
                        "write FROM CURSOR '…' with the _cursor of a row",
                    ));
                }
            }
        };
        Ok(Statement::Subscribe { query, from })
    }
}
