//! The parser: whole texts in, one statement or one part of it out.
//!
//! This file looks at the first word and knows how words, names and queries are read; each kind of
//! statement is parsed in a file of its own.

use datafusion::sql::sqlparser::ast::{self, Expr, Query, Visit, VisitMut};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use millpond_proto::limits;

use crate::dialect::{MillpondDialect, is_word};
use crate::error::{Position, Refusal, SqlError};
use crate::statement::all_rows;
use crate::statement::clause::{self, written};
use crate::statement::kind::Statement;
use crate::statement::name::name_of;
use crate::statement::pairs;
use crate::statement::refusal::{ALLOWED, check_chains, position_of};
use crate::statement::spelling;

/// How deep expressions and queries may nest.
pub const DEPTH_MAX: usize = 50;

/// Parses exactly one statement; a semicolon may follow it.
///
/// # Errors
/// [`SqlError::Syntax`] with position and suggestion, [`SqlError::NotAllowed`] for statements that this
/// server does not do, [`SqlError::Limit`] above `SQL_BYTES_MAX`.
pub fn parse(sql: &str) -> Result<Statement, SqlError> {
    if sql.len() > limits::SQL_BYTES_MAX {
        return Err(SqlError::Limit {
            limit: "SQL_BYTES_MAX",
            value: format!("{} bytes", limits::SQL_BYTES_MAX),
            advice: "send a shorter statement; rows are better sent as messages",
        });
    }
    let mut statement = StatementParser::new(sql)?;
    let parsed = statement.statement()?;
    while statement.parser.consume_token(&Token::SemiColon) {}
    match &statement.parser.peek_token_ref().token {
        Token::EOF => Ok(parsed),
        _ => Err(statement.unexpected("the end of the statement")),
    }
}

/// Parses one expression, as a computed column holds it.
///
/// # Errors
/// [`SqlError::Syntax`].
pub fn parse_expression(sql: &str) -> Result<Expr, SqlError> {
    let mut expr = parse_plain_expression(sql)?;
    settled(&mut expr, sql)?;
    Ok(expr)
}

/// Parses one expression and leaves its calls as they are written.
pub(super) fn parse_plain_expression(sql: &str) -> Result<Expr, SqlError> {
    let mut statement = StatementParser::new(sql)?;
    let expr = statement.sub(Parser::parse_expr)?;
    match &statement.parser.peek_token_ref().token {
        Token::EOF => Ok(expr),
        _ => Err(statement.unexpected("the end of the expression")),
    }
}

/// Parses one query.
///
/// # Errors
/// [`SqlError::Syntax`].
pub fn parse_query(sql: &str) -> Result<Box<Query>, SqlError> {
    let mut statement = StatementParser::new(sql)?;
    let query = statement.query()?;
    match &statement.parser.peek_token_ref().token {
        Token::EOF => Ok(query),
        _ => Err(statement.unexpected("the end of the query")),
    }
}

/// Parses a SQL type.
///
/// # Errors
/// [`SqlError::Syntax`].
pub fn parse_type(sql: &str) -> Result<ast::DataType, SqlError> {
    let mut statement = StatementParser::new(sql)?;
    let parsed = statement.sub(Parser::parse_data_type)?;
    match &statement.parser.peek_token_ref().token {
        Token::EOF => Ok(parsed),
        _ => Err(statement.unexpected("the end of the type")),
    }
}

/// Writes a syntax tree with the planner's words, and refuses what would be left out of it.
fn settled<T: Visit + VisitMut>(tree: &mut T, sql: &str) -> Result<(), SqlError> {
    written::write(tree)?;
    spelling::rewrite(tree)?;
    clause::check(tree, sql)
}

pub(super) struct StatementParser<'a> {
    pub(super) sql: &'a str,
    pub(super) parser: Parser<'a>,
}

/// A number without the underscores that group its digits, which the planner does not know.
fn plain_number(mut token: TokenWithSpan) -> TokenWithSpan {
    if let Token::Number(digits, _) = &mut token.token {
        digits.retain(|digit| digit != '_');
    }
    token
}

static DIALECT: MillpondDialect = MillpondDialect;

impl<'a> StatementParser<'a> {
    fn new(sql: &'a str) -> Result<Self, SqlError> {
        let tokens = Tokenizer::new(&DIALECT, sql)
            .tokenize_with_location()
            .map_err(|error| {
                SqlError::Syntax(Refusal {
                    position: Some(Position {
                        line: error.location.line,
                        column: error.location.column,
                    }),
                    cause: error.message,
                    suggestion: None,
                })
            })?;
        check_chains(&tokens)?;
        clause::check_hints(&tokens)?;
        let tokens = tokens.into_iter().map(plain_number).collect();
        let mut tokens = all_rows::selected(tokens);
        pairs::with_commas(&mut tokens);
        let parser = Parser::new(&DIALECT)
            .with_recursion_limit(DEPTH_MAX)
            .with_tokens_with_locations(tokens);
        Ok(Self { sql, parser })
    }

    fn statement(&mut self) -> Result<Statement, SqlError> {
        let first = self.parser.peek_token();
        let starts_query = matches!(first.token, Token::LParen)
            || ["SELECT", "WITH", "VALUES", "TABLE"]
                .iter()
                .any(|word| is_word(&first.token, word));
        if starts_query {
            let query = self.query()?;
            return self.query_or_subscription(query);
        }
        if self.word("EXPLAIN") {
            if self.word("CREATE") {
                let created = self.create()?;
                return match created {
                    Statement::CreateMaterializedView(_) | Statement::CreateJob(_) => {
                        Ok(Statement::ExplainContinuous(Box::new(created)))
                    }
                    _ => Err(self.not_allowed(&first)),
                };
            }
            if self.word("ALTER") {
                let altered = self.alter()?;
                return match altered {
                    Statement::AlterMaterializedView { .. } => {
                        Ok(Statement::ExplainContinuous(Box::new(altered)))
                    }
                    _ => Err(self.not_allowed(&first)),
                };
            }
            if self.word("JOB") || self.word("SINK") {
                return Ok(Statement::ExplainJob { name: self.name()? });
            }
            if self.word("MATERIALIZED") {
                self.expect_word("VIEW")?;
                return Ok(Statement::ExplainJob { name: self.name()? });
            }
            let analyze = self.word("ANALYZE");
            self.word("VERBOSE");
            let query = self.bounded_query()?;
            return Ok(Statement::Explain { analyze, query });
        }
        if self.word("CREATE") {
            return self.create();
        }
        if self.word("ALTER") {
            return self.alter();
        }
        if self.word("DROP") {
            return self.drop_something();
        }
        if self.word("CANCEL") {
            self.job_or_view()?;
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropJob { name, if_exists });
        }
        if self.word("PAUSE") {
            self.job_or_view()?;
            return Ok(Statement::PauseJob { name: self.name()? });
        }
        if self.word("RESUME") {
            self.job_or_view()?;
            return Ok(Statement::ResumeJob { name: self.name()? });
        }
        if self.word("STOP") {
            return self.stop_with_savepoint();
        }
        if self.word("COPY") {
            return self.copy();
        }
        if self.word("INSERT") {
            return self.insert();
        }
        if self.word("SUBSCRIBE") {
            return self.subscribe();
        }
        if self.word("SHOW") {
            return self.show();
        }
        if self.word("DESCRIBE") || self.word("DESC") {
            return Ok(Statement::Describe { name: self.name()? });
        }
        if first.token == Token::EOF {
            return Err(SqlError::Syntax(Refusal {
                position: None,
                cause: "the statement is empty".to_owned(),
                suggestion: Some(ALLOWED.to_owned()),
            }));
        }
        Err(self.not_allowed(&first))
    }

    pub(super) fn job_or_view(&mut self) -> Result<(), SqlError> {
        if self.word("MATERIALIZED") {
            return self.expect_word("VIEW");
        }
        if self.word("SINK") {
            return Ok(());
        }
        self.expect_word("JOB")
    }

    /// A query, whose calls are those of our functions.
    pub(super) fn query(&mut self) -> Result<Box<Query>, SqlError> {
        let mut query = self.sub(Parser::parse_query)?;
        settled(query.as_mut(), self.sql)?;
        Ok(query)
    }

    /// A query that ends; one that says `EMIT` does not.
    pub(super) fn bounded_query(&mut self) -> Result<Box<Query>, SqlError> {
        let query = self.query()?;
        self.no_emit()?;
        Ok(query)
    }

    pub(super) fn no_emit(&mut self) -> Result<(), SqlError> {
        let next = self.parser.peek_token();
        if is_word(&next.token, "EMIT") {
            return Err(SqlError::NotAllowed(Refusal {
                position: position_of(&next),
                cause: "EMIT belongs to continuous queries, and a plain query ends".to_owned(),
                suggestion: Some(
                    "leave EMIT out, or write CREATE MATERIALIZED VIEW name AS SELECT … EMIT …"
                        .to_owned(),
                ),
            }));
        }
        Ok(())
    }

    pub(super) fn if_not_exists(&mut self) -> Result<bool, SqlError> {
        if !self.word("IF") {
            return Ok(false);
        }
        self.expect_word("NOT")?;
        self.expect_word("EXISTS")?;
        Ok(true)
    }

    pub(super) fn if_exists(&mut self) -> Result<bool, SqlError> {
        if !self.word("IF") {
            return Ok(false);
        }
        self.expect_word("EXISTS")?;
        Ok(true)
    }

    /// `(a, b)`.
    pub(super) fn names_in_parentheses(&mut self) -> Result<Vec<String>, SqlError> {
        self.expect(&Token::LParen)?;
        let mut names = Vec::new();
        loop {
            names.push(self.name()?);
            if self.parser.consume_token(&Token::RParen) {
                return Ok(names);
            }
            self.expect(&Token::Comma)?;
        }
    }

    pub(super) fn name(&mut self) -> Result<String, SqlError> {
        let token = self.parser.peek_token();
        match &token.token {
            Token::Word(word) if word.quote_style != Some('`') => {
                self.parser.advance_token();
                Ok(name_of(&word.clone().into_ident(token.span)))
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    pub(super) fn word(&mut self, expected: &str) -> bool {
        let found = is_word(&self.parser.peek_token_ref().token, expected);
        if found {
            self.parser.advance_token();
        }
        found
    }

    pub(super) fn expect_word(&mut self, expected: &str) -> Result<(), SqlError> {
        if self.word(expected) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    pub(super) fn expect(&mut self, expected: &Token) -> Result<(), SqlError> {
        if self.parser.consume_token(expected) {
            Ok(())
        } else {
            Err(self.unexpected(&expected.to_string()))
        }
    }

    /// Lets the parser below parse a part, and turns its error into ours.
    pub(super) fn sub<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>,
    ) -> Result<T, SqlError> {
        parse(&mut self.parser).map_err(|error| self.syntax(error))
    }

    /// The statement's text from a place on.
    pub(super) fn text_from(&self, at: Location) -> String {
        let lines = self.sql.split_inclusive('\n');
        let mut rest = String::new();
        for (number, line) in (1..).zip(lines) {
            if number > at.line {
                rest.push_str(line);
            } else if number == at.line {
                let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(usize::MAX);
                rest.extend(line.chars().skip(column));
            }
        }
        rest.trim().trim_end_matches(';').trim_end().to_owned()
    }

    pub(super) fn text(&self) -> String {
        self.sql.trim().trim_end_matches(';').trim_end().to_owned()
    }
}
