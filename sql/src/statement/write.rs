//! Statements that write rows: `COPY … TO` a file, `INSERT INTO` a topic.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Refusal, SqlError};
use crate::statement::kind::Statement;
use crate::statement::name::quoted;
use crate::statement::parser::{StatementParser, parse_query};
use crate::statement::refusal::{at_token, position_of};

impl StatementParser<'_> {
    pub(super) fn copy(&mut self) -> Result<Statement, SqlError> {
        let query = if self.parser.consume_token(&Token::LParen) {
            let query = self.bounded_query()?;
            self.expect(&Token::RParen)?;
            query
        } else {
            let name = self.name()?;
            parse_query(&format!("SELECT * FROM {}", quoted(&name)))?
        };
        let at = self.parser.peek_token();
        if self.word("FROM") {
            return Err(SqlError::NotAllowed(Refusal {
                position: position_of(&at),
                cause: "COPY FROM is not a statement of this server, which reads no files"
                    .to_owned(),
                suggestion: Some(
                    "send the rows as messages, or use the client's import".to_owned(),
                ),
            }));
        }
        self.expect_word("TO")?;
        let at = self.parser.next_token();
        let Token::SingleQuotedString(path) = at.token else {
            return Err(at_token(
                &at,
                "COPY writes to a quoted path below the export folder",
                "write TO 'file.parquet'",
            ));
        };
        Ok(Statement::Copy { query, path })
    }

    pub(super) fn insert(&mut self) -> Result<Statement, SqlError> {
        self.expect_word("INTO")?;
        let topic = self.name()?;
        let mut columns = Vec::new();
        let lists_columns = matches!(self.parser.peek_token_ref().token, Token::LParen)
            && matches!(&self.parser.peek_nth_token_ref(1).token,
                Token::Word(word) if !matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE));
        if lists_columns {
            columns = self.names_in_parentheses()?;
        }
        let source = self.bounded_query()?;
        Ok(Statement::Insert {
            topic,
            columns,
            source,
        })
    }
}
