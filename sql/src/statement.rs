//! Statements: text in, one of an allow-list out.
//!
//! **Invariant.** What is not a variant of [`Statement`] does not exist: it is refused here, by name,
//! before anything is planned. So no statement reaches files, settings or the network.
//!
//! Unquoted names are folded to lower case, as in PostgreSQL. Queries are sqlparser's syntax trees;
//! the statements around them are parsed here.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DateTimeField, Expr, Ident, Interval, Query, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use millpond_proto::limits;

use crate::dialect::{MillpondDialect, is_word};
use crate::error::{Position, Refusal, SqlError, nearest};
use crate::topic::{ColumnSpec, WatermarkSpec};

/// When a view's rows leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// After every epoch, the groups that changed.
    Changes,
    /// Once per window, when the watermark has passed it.
    OnWindowClose,
}

/// `CREATE TOPIC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    /// Name.
    pub name: String,
    /// Whether an existing topic of that name is no error.
    pub if_not_exists: bool,
    /// Declared columns.
    pub columns: Vec<ColumnSpec>,
    /// Event time.
    pub watermark: Option<WatermarkSpec>,
    /// Number of queues.
    pub queues: Option<u32>,
}

/// `CREATE MATERIALIZED VIEW`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuousView {
    /// Name of the view, and of the topic that holds it.
    pub name: String,
    /// What it keeps computing; window functions not yet rewritten.
    pub query: Query,
    /// When rows leave.
    pub emit: Emit,
    /// The whole statement.
    pub sql: String,
}

/// `CREATE JOB … AS INSERT INTO …`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuousJob {
    /// Name.
    pub name: String,
    /// The topic that it writes.
    pub target: String,
    /// What it keeps computing.
    pub query: Query,
    /// The whole statement.
    pub sql: String,
}

/// Everything that a user may ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT`, `WITH`, `VALUES`: reads up to now and ends.
    Query(Box<Query>),
    /// `EXPLAIN [ANALYZE] query`.
    Explain {
        /// Whether the query is run as well.
        analyze: bool,
        /// The query.
        query: Box<Query>,
    },
    /// Makes a topic.
    CreateTopic(CreateTopic),
    /// Deletes a topic.
    DropTopic {
        /// Name.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
    /// Starts a continuous query whose result is a topic of its own.
    CreateMaterializedView(Box<ContinuousView>),
    /// Ends a view and deletes its topic.
    DropMaterializedView {
        /// Name.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
    /// Starts a continuous query that writes into a topic.
    CreateJob(Box<ContinuousJob>),
    /// `DROP JOB`, `CANCEL JOB`.
    DropJob {
        /// Name.
        name: String,
    },
    /// Writes the rows of a query to a Parquet file of the export folder.
    Copy {
        /// What is written.
        query: Box<Query>,
        /// The path as the user wrote it; not yet checked.
        path: String,
    },
    /// Sends the rows of a query as messages.
    Insert {
        /// The topic.
        topic: String,
        /// Columns that the rows fill, in order; empty: all declared ones.
        columns: Vec<String>,
        /// The rows.
        source: Box<Query>,
    },
    /// `SHOW TOPICS`.
    ShowTopics,
    /// `SHOW JOBS`.
    ShowJobs,
    /// `SHOW GROUPS`.
    ShowGroups,
    /// `DESCRIBE name`: a topic, view or job.
    Describe {
        /// Name.
        name: String,
    },
}

/// What is allowed, as a refusal lists it.
const ALLOWED: &str = "allowed are SELECT, WITH, VALUES, EXPLAIN, CREATE TOPIC, CREATE MATERIALIZED VIEW, \
     CREATE JOB, DROP TOPIC, DROP MATERIALIZED VIEW, DROP JOB, CANCEL JOB, COPY … TO, INSERT INTO, \
     SHOW TOPICS, SHOW JOBS, SHOW GROUPS, DESCRIBE";

/// First words of statements, for suggestions.
const FIRST_WORDS: [&str; 13] = [
    "SELECT", "WITH", "VALUES", "EXPLAIN", "CREATE", "DROP", "CANCEL", "COPY", "INSERT", "SHOW",
    "DESCRIBE", "DESC", "TABLE",
];

/// Words that a misspelt one may have meant where the parser stopped.
const CLAUSE_WORDS: [&str; 24] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "UNION",
    "BETWEEN",
    "VALUES",
    "WATERMARK",
    "TUMBLE",
    "DESCRIPTOR",
    "INTERVAL",
    "EMIT",
    "CHANGES",
    "WINDOW",
    "CLOSE",
    "TOPIC",
    "MATERIALIZED",
    "VIEW",
    "WITH",
];

/// How deep expressions and queries may nest.
pub const DEPTH_MAX: usize = 50;

/// How many words may follow each other without comma or parenthesis.
pub const CHAIN_TOKENS_MAX: usize = 2000;

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
    let query = statement.sub(Parser::parse_query)?;
    match &statement.parser.peek_token_ref().token {
        Token::EOF => Ok(query),
        _ => Err(statement.unexpected("the end of the query")),
    }
}

/// Parses a SQL type.
///
/// # Errors
/// [`SqlError::Syntax`].
pub fn parse_type(sql: &str) -> Result<datafusion::sql::sqlparser::ast::DataType, SqlError> {
    let mut statement = StatementParser::new(sql)?;
    let parsed = statement.sub(Parser::parse_data_type)?;
    match &statement.parser.peek_token_ref().token {
        Token::EOF => Ok(parsed),
        _ => Err(statement.unexpected("the end of the type")),
    }
}

/// The name that an identifier stands for: folded unless quoted.
#[must_use]
pub fn name_of(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// A constant interval in milliseconds.
///
/// # Errors
/// [`SqlError::Invalid`] when it is not a constant, or counts months, whose length varies.
pub fn interval_ms(expr: &Expr) -> Result<i64, SqlError> {
    let refuse = |cause: &str| {
        SqlError::invalid(
            format!("{cause}: {expr}"),
            "write a constant of weeks, days, hours, minutes, seconds or milliseconds, for example INTERVAL '1 day'",
        )
    };
    let Expr::Interval(Interval {
        value,
        leading_field,
        last_field: None,
        ..
    }) = expr
    else {
        return Err(refuse("this is not a constant interval"));
    };
    let number = match value.as_ref() {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            Value::Number(number, _) => number.to_string(),
            _ => return Err(refuse("this is not a constant interval")),
        },
        _ => return Err(refuse("this is not a constant interval")),
    };
    let text = match leading_field {
        Some(unit) => format!("{number} {}", unit_word(unit)),
        None => number,
    };
    let parsed = arrow::compute::kernels::cast_utils::parse_interval_month_day_nano(&text)
        .map_err(|_| refuse("this interval can not be read"))?;
    if parsed.months != 0 {
        return Err(refuse("months and years have no fixed length"));
    }
    if parsed.nanoseconds % 1_000_000 != 0 {
        return Err(refuse("event time counts milliseconds and not less"));
    }
    Ok(i64::from(parsed.days) * 86_400_000 + parsed.nanoseconds / 1_000_000)
}

fn unit_word(unit: &DateTimeField) -> String {
    unit.to_string().to_lowercase()
}

struct StatementParser<'a> {
    sql: &'a str,
    parser: Parser<'a>,
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
            let query = self.bounded_query()?;
            return Ok(Statement::Query(query));
        }
        if self.word("EXPLAIN") {
            let analyze = self.word("ANALYZE");
            self.word("VERBOSE");
            let query = self.bounded_query()?;
            return Ok(Statement::Explain { analyze, query });
        }
        if self.word("CREATE") {
            return self.create();
        }
        if self.word("DROP") {
            return self.drop_something();
        }
        if self.word("CANCEL") {
            self.expect_word("JOB")?;
            return Ok(Statement::DropJob { name: self.name()? });
        }
        if self.word("COPY") {
            return self.copy();
        }
        if self.word("INSERT") {
            return self.insert();
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

    fn create(&mut self) -> Result<Statement, SqlError> {
        if self.word("TOPIC") {
            return self.create_topic().map(Statement::CreateTopic);
        }
        if self.word("MATERIALIZED") {
            self.expect_word("VIEW")?;
            return self.create_view();
        }
        if self.word("JOB") {
            return self.create_job();
        }
        let found = self.parser.peek_token();
        let suggestion = match &found.token {
            token if is_word(token, "TABLE") => {
                "tables are topics here: write CREATE TOPIC name (column TYPE, …)".to_owned()
            }
            token if is_word(token, "VIEW") => {
                "views are continuous here: write CREATE MATERIALIZED VIEW name AS SELECT …"
                    .to_owned()
            }
            Token::Word(word) => nearest(&word.value, ["TOPIC", "MATERIALIZED", "JOB"])
                .map_or_else(
                    || ALLOWED.to_owned(),
                    |near| format!("did you mean CREATE {near}?"),
                ),
            _ => ALLOWED.to_owned(),
        };
        Err(SqlError::NotAllowed(Refusal {
            position: position_of(&found),
            cause: format!("CREATE {} is not a statement of this server", found.token),
            suggestion: Some(suggestion),
        }))
    }

    fn create_topic(&mut self) -> Result<CreateTopic, SqlError> {
        let if_not_exists = self.if_not_exists()?;
        let name = self.name()?;
        let mut columns: Vec<ColumnSpec> = Vec::new();
        let mut watermark = None;
        if self.parser.consume_token(&Token::LParen) {
            loop {
                if is_word(&self.parser.peek_token_ref().token, "WATERMARK")
                    && is_word(&self.parser.peek_nth_token_ref(1).token, "FOR")
                {
                    let at = self.parser.peek_token();
                    let declared = self.watermark()?;
                    if watermark.replace(declared).is_some() {
                        return Err(at_token(
                            &at,
                            "a topic has one watermark",
                            "remove one of them",
                        ));
                    }
                } else {
                    let at = self.parser.peek_token();
                    let column = self.column()?;
                    if columns.iter().any(|other| other.name == column.name) {
                        return Err(at_token(
                            &at,
                            &format!("column {} is declared twice", column.name),
                            "remove or rename one of them",
                        ));
                    }
                    columns.push(column);
                }
                if self.parser.consume_token(&Token::RParen) {
                    break;
                }
                if !self.parser.consume_token(&Token::Comma) {
                    return Err(self.unexpected("a comma or a closing parenthesis"));
                }
            }
        }
        if columns.len() > limits::COLUMNS_MAX {
            return Err(SqlError::Limit {
                limit: "COLUMNS_MAX",
                value: limits::COLUMNS_MAX.to_string(),
                advice: "declare fewer columns; _body holds the rest",
            });
        }
        if let Some(declared) = &watermark {
            let known = columns.iter().map(|column| column.name.as_str());
            if !columns.iter().any(|column| column.name == declared.column) {
                return Err(SqlError::unknown("column", &declared.column, None, known));
            }
        }
        let queues = self.with_queues()?;
        Ok(CreateTopic {
            name,
            if_not_exists,
            columns,
            watermark,
            queues,
        })
    }

    fn column(&mut self) -> Result<ColumnSpec, SqlError> {
        let at = self.parser.peek_token();
        let ident = self.sub(Parser::parse_identifier)?;
        let name = name_of(&ident);
        if name != ident.value {
            return Err(at_token(
                &at,
                &format!(
                    "column {} has capital letters and is not quoted, so it would be {name}",
                    ident.value
                ),
                &format!(
                    "write \"{}\" if the field is called so in the messages, or {name}",
                    ident.value
                ),
            ));
        }
        if name.starts_with('_') && crate::catalog::is_system_column(&name) {
            return Err(at_token(
                &at,
                &format!("column {name} is a system column"),
                "choose another name",
            ));
        }
        let sql_type = if is_word(&self.parser.peek_token_ref().token, "AS") {
            String::new()
        } else {
            let at = self.parser.peek_token();
            let parsed = self.sub(Parser::parse_data_type)?;
            crate::catalog::arrow_type(&parsed).map_err(|error| place(error, &at))?;
            parsed.to_string()
        };
        let expression = if self.word("AS") {
            self.expect(&Token::LParen)?;
            let expr = self.sub(Parser::parse_expr)?;
            self.expect(&Token::RParen)?;
            Some(expr.to_string())
        } else {
            None
        };
        Ok(ColumnSpec {
            name,
            sql_type,
            expression,
        })
    }

    fn watermark(&mut self) -> Result<WatermarkSpec, SqlError> {
        self.expect_word("WATERMARK")?;
        self.expect_word("FOR")?;
        let column = self.name()?;
        self.expect_word("AS")?;
        let at = self.parser.peek_token();
        let expr = self.sub(Parser::parse_expr)?;
        let is_column =
            |expr: &Expr| matches!(expr, Expr::Identifier(ident) if name_of(ident) == column);
        let delay_ms = match &expr {
            expr if is_column(expr) => 0,
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Minus,
                right,
            } if is_column(left) => interval_ms(right).map_err(|error| place(error, &at))?,
            _ => {
                return Err(at_token(
                    &at,
                    &format!("a watermark is the column less a constant delay, not {expr}"),
                    &format!("write {column} - INTERVAL '1 hour', or {column} for no delay"),
                ));
            }
        };
        if delay_ms < 0 {
            return Err(at_token(
                &at,
                "a watermark can not run ahead of its column",
                "use a delay of zero or more",
            ));
        }
        Ok(WatermarkSpec { column, delay_ms })
    }

    fn with_queues(&mut self) -> Result<Option<u32>, SqlError> {
        if !self.word("WITH") {
            return Ok(None);
        }
        self.expect(&Token::LParen)?;
        let at = self.parser.peek_token();
        let option = self.name()?;
        if option != "queues" {
            return Err(at_token(
                &at,
                &format!("there is no option {option}"),
                "the one option of a topic is queues, as in WITH (queues = 8)",
            ));
        }
        self.expect(&Token::Eq)?;
        let at = self.parser.peek_token();
        let queues = self.sub(Parser::parse_literal_uint)?;
        self.expect(&Token::RParen)?;
        match u32::try_from(queues) {
            Ok(queues) if (1..=limits::QUEUES_MAX).contains(&queues) => Ok(Some(queues)),
            _ => Err(at_token(
                &at,
                &format!(
                    "a topic has 1 to {} queues, not {queues}",
                    limits::QUEUES_MAX
                ),
                "choose a number in that range",
            )),
        }
    }

    fn create_view(&mut self) -> Result<Statement, SqlError> {
        let name = self.name()?;
        self.expect_word("AS")?;
        let query = self.sub(Parser::parse_query)?;
        let emit = if self.word("EMIT") {
            if self.word("CHANGES") {
                Emit::Changes
            } else if self.word("ON") {
                self.expect_word("WINDOW")?;
                self.expect_word("CLOSE")?;
                Emit::OnWindowClose
            } else {
                return Err(self.unexpected("CHANGES or ON WINDOW CLOSE"));
            }
        } else {
            Emit::Changes
        };
        Ok(Statement::CreateMaterializedView(Box::new(
            ContinuousView {
                name,
                query: *query,
                emit,
                sql: self.text(),
            },
        )))
    }

    fn create_job(&mut self) -> Result<Statement, SqlError> {
        let name = self.name()?;
        self.expect_word("AS")?;
        self.expect_word("INSERT")?;
        self.expect_word("INTO")?;
        let target = self.name()?;
        let query = self.sub(Parser::parse_query)?;
        Ok(Statement::CreateJob(Box::new(ContinuousJob {
            name,
            target,
            query: *query,
            sql: self.text(),
        })))
    }

    fn drop_something(&mut self) -> Result<Statement, SqlError> {
        let what = self.parser.next_token();
        if is_word(&what.token, "TOPIC") {
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropTopic { name, if_exists });
        }
        if is_word(&what.token, "MATERIALIZED") {
            self.expect_word("VIEW")?;
            let if_exists = self.if_exists()?;
            let name = self.name()?;
            return Ok(Statement::DropMaterializedView { name, if_exists });
        }
        if is_word(&what.token, "JOB") {
            return Ok(Statement::DropJob { name: self.name()? });
        }
        let suggestion = match &what.token {
            token if is_word(token, "TABLE") => {
                "tables are topics here: write DROP TOPIC name".to_owned()
            }
            token if is_word(token, "VIEW") => "write DROP MATERIALIZED VIEW name".to_owned(),
            Token::Word(word) => nearest(&word.value, ["TOPIC", "MATERIALIZED", "JOB"])
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

    fn copy(&mut self) -> Result<Statement, SqlError> {
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

    fn insert(&mut self) -> Result<Statement, SqlError> {
        self.expect_word("INTO")?;
        let topic = self.name()?;
        let mut columns = Vec::new();
        let lists_columns = matches!(self.parser.peek_token_ref().token, Token::LParen)
            && matches!(&self.parser.peek_nth_token_ref(1).token,
                Token::Word(word) if !matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE));
        if lists_columns {
            self.expect(&Token::LParen)?;
            loop {
                columns.push(self.name()?);
                if self.parser.consume_token(&Token::RParen) {
                    break;
                }
                self.expect(&Token::Comma)?;
            }
        }
        let source = self.bounded_query()?;
        Ok(Statement::Insert {
            topic,
            columns,
            source,
        })
    }

    fn show(&mut self) -> Result<Statement, SqlError> {
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

    /// A query that ends; one that says `EMIT` does not.
    fn bounded_query(&mut self) -> Result<Box<Query>, SqlError> {
        let query = self.sub(Parser::parse_query)?;
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
        Ok(query)
    }

    fn if_not_exists(&mut self) -> Result<bool, SqlError> {
        if !self.word("IF") {
            return Ok(false);
        }
        self.expect_word("NOT")?;
        self.expect_word("EXISTS")?;
        Ok(true)
    }

    fn if_exists(&mut self) -> Result<bool, SqlError> {
        if !self.word("IF") {
            return Ok(false);
        }
        self.expect_word("EXISTS")?;
        Ok(true)
    }

    fn name(&mut self) -> Result<String, SqlError> {
        let token = self.parser.peek_token();
        match &token.token {
            Token::Word(word) if word.quote_style != Some('`') => {
                self.parser.advance_token();
                Ok(name_of(&word.clone().into_ident(token.span)))
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    fn word(&mut self, expected: &str) -> bool {
        let found = is_word(&self.parser.peek_token_ref().token, expected);
        if found {
            self.parser.advance_token();
        }
        found
    }

    fn expect_word(&mut self, expected: &str) -> Result<(), SqlError> {
        if self.word(expected) {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    fn expect(&mut self, expected: &Token) -> Result<(), SqlError> {
        if self.parser.consume_token(expected) {
            Ok(())
        } else {
            Err(self.unexpected(&expected.to_string()))
        }
    }

    /// Lets the parser below parse a part, and turns its error into ours.
    fn sub<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>,
    ) -> Result<T, SqlError> {
        parse(&mut self.parser).map_err(|error| self.syntax(error))
    }

    fn syntax(&self, error: ParserError) -> SqlError {
        let text = match error {
            ParserError::RecursionLimitExceeded => {
                return SqlError::Limit {
                    limit: "DEPTH_MAX",
                    value: format!("{DEPTH_MAX} levels"),
                    advice: "nest fewer parentheses and subqueries",
                };
            }
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        };
        let (cause, position) = split_position(&text);
        // The word that stopped the parser, or the one before it, may be a misspelt keyword.
        let near = [
            self.parser.peek_token(),
            self.parser.get_current_token().clone(),
        ]
        .iter()
        .find_map(|token| keyword_meant(&token.token));
        SqlError::Syntax(Refusal {
            position,
            cause,
            suggestion: near.map(|near| format!("did you mean {near}?")),
        })
    }

    fn unexpected(&self, expected: &str) -> SqlError {
        let found = self.parser.peek_token();
        let suggestion = match &found.token {
            Token::Word(word) if word.quote_style.is_none() => {
                nearest(&word.value, [expected]).or_else(|| keyword_meant(&found.token))
            }
            _ => None,
        };
        SqlError::Syntax(Refusal {
            position: position_of(&found),
            cause: format!("expected {expected}, found {}", shown(&found.token)),
            suggestion: suggestion.map(|near| format!("did you mean {near}?")),
        })
    }

    fn not_allowed(&self, first: &TokenWithSpan) -> SqlError {
        let suggestion = match &first.token {
            Token::Word(word) => nearest(&word.value, FIRST_WORDS).map_or_else(
                || ALLOWED.to_owned(),
                |near| format!("did you mean {near}?"),
            ),
            _ => ALLOWED.to_owned(),
        };
        SqlError::NotAllowed(Refusal {
            position: position_of(first),
            cause: format!("{} does not begin a statement of this server", first.token),
            suggestion: Some(suggestion),
        })
    }

    fn text(&self) -> String {
        self.sql.trim().trim_end_matches(';').trim_end().to_owned()
    }
}

/// Refuses chains like `1 + 1 + 1 + …`: the parser takes them in a loop, but the tree they become is as deep
/// as they are long, and whatever walks or drops it needs stack for each level.
fn check_chains(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut levels = vec![0_usize];
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => {}
            Token::LParen => levels.push(0),
            Token::RParen if levels.len() > 1 => {
                levels.pop();
            }
            Token::Comma | Token::SemiColon => {
                if let Some(level) = levels.last_mut() {
                    *level = 0;
                }
            }
            _ => {
                let Some(level) = levels.last_mut() else {
                    continue;
                };
                *level += 1;
                if *level > CHAIN_TOKENS_MAX {
                    return Err(SqlError::Limit {
                        limit: "CHAIN_TOKENS_MAX",
                        value: format!("{CHAIN_TOKENS_MAX} words between two commas"),
                        advice: "use IN (…) or VALUES instead of a long chain of operators",
                    });
                }
            }
        }
    }
    Ok(())
}

/// A name as it must be written to mean exactly itself.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The clause word that a token misspells; a token that is a keyword already misspells nothing.
fn keyword_meant(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() && word.keyword == Keyword::NoKeyword => {
            nearest(&word.value, CLAUSE_WORDS)
        }
        _ => None,
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::EOF => "the end".to_owned(),
        other => other.to_string(),
    }
}

fn position_of(token: &TokenWithSpan) -> Option<Position> {
    let start = token.span.start;
    (start.line > 0).then_some(Position {
        line: start.line,
        column: start.column,
    })
}

fn at_token(token: &TokenWithSpan, cause: &str, suggestion: &str) -> SqlError {
    SqlError::Invalid(Refusal {
        position: position_of(token),
        cause: cause.to_owned(),
        suggestion: Some(suggestion.to_owned()),
    })
}

fn place(error: SqlError, token: &TokenWithSpan) -> SqlError {
    match error {
        SqlError::Invalid(mut refusal) => {
            refusal.position = refusal.position.or(position_of(token));
            SqlError::Invalid(refusal)
        }
        other => other,
    }
}

/// Takes ` at Line: 1, Column: 2` off the end of the parser's message.
fn split_position(text: &str) -> (String, Option<Position>) {
    let Some((cause, place)) = text.rsplit_once(" at Line: ") else {
        return (text.to_owned(), None);
    };
    let position = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(Position {
            line: line.trim().parse().ok()?,
            column: column.trim().parse().ok()?,
        })
    });
    (cause.to_owned(), position)
}

#[cfg(test)]
mod tests;
