//! `CREATE` and its parts: topics with their columns, views and jobs.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use millpond_proto::limits;

use crate::dialect::is_word;
use crate::error::{Refusal, SqlError, nearest};
use crate::statement::columns::named;
use crate::statement::foreign;
use crate::statement::interval::interval_ms;
use crate::statement::kind::{
    ContinuousJob, ContinuousView, CreateTopic, Emit, PlainView, QueryOptions, Statement,
};
use crate::statement::name::name_of;
use crate::statement::options::TopicOptions;
use crate::statement::parser::StatementParser;
use crate::statement::refusal::{ALLOWED, at_token, place, position_of};
use crate::topic::{ColumnSpec, TICK_MS, WatermarkSpec};

impl StatementParser<'_> {
    pub(super) fn create(&mut self) -> Result<Statement, SqlError> {
        if self.word("TOPIC") {
            return self.create_topic().map(Statement::CreateTopic);
        }
        if self.word("VIEW") {
            return self.create_plain_view(false);
        }
        if self.word("OR") {
            self.expect_word("REPLACE")?;
            self.expect_word("VIEW")?;
            return self.create_plain_view(true);
        }
        if self.word("MATERIALIZED") {
            self.expect_word("VIEW")?;
            return self.create_view();
        }
        if self.word("JOB") {
            return self.create_job();
        }
        if self.word("SINK") {
            return self.create_sink();
        }
        if self.word("SAVEPOINT") {
            return self.create_savepoint();
        }
        let found = self.parser.peek_token();
        let suggestion = match &found.token {
            token if foreign::created(token).is_some() => {
                foreign::created(token).unwrap_or_default().to_owned()
            }
            Token::Word(word) => nearest(
                &word.value,
                ["TOPIC", "VIEW", "MATERIALIZED", "JOB", "SINK", "SAVEPOINT"],
            )
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
        let mut primary_key = Vec::new();
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
                } else if is_word(&self.parser.peek_token_ref().token, "PRIMARY")
                    && is_word(&self.parser.peek_nth_token_ref(1).token, "KEY")
                {
                    let at = self.parser.peek_token();
                    if !primary_key.is_empty() {
                        return Err(at_token(
                            &at,
                            "a topic has one primary key",
                            "remove one of them",
                        ));
                    }
                    primary_key = self.primary_key()?;
                } else {
                    let at = self.parser.peek_token();
                    let column = self.column()?;
                    self.check_distinct(&columns, &column, &at)?;
                    if self.is_key(&column, !primary_key.is_empty())? {
                        primary_key = vec![column.name.clone()];
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
        for name in &primary_key {
            match columns.iter().find(|column| column.name == *name) {
                Some(column) if column.expression.is_none() => {}
                Some(_) => {
                    return Err(SqlError::invalid(
                        format!("column {name} of the primary key is computed"),
                        "choose columns that the messages hold",
                    ));
                }
                None => {
                    let known = columns.iter().map(|column| column.name.as_str());
                    return Err(SqlError::unknown("column", name, None, known));
                }
            }
        }
        let options = if self.word("WITH") {
            self.options()?
        } else {
            TopicOptions::default()
        };
        Ok(CreateTopic {
            name,
            if_not_exists,
            columns,
            watermark,
            primary_key,
            options,
        })
    }

    /// `PRIMARY KEY (a, b)`.
    fn primary_key(&mut self) -> Result<Vec<String>, SqlError> {
        self.expect_word("PRIMARY")?;
        self.expect_word("KEY")?;
        let columns = self.names_in_parentheses()?;
        if self.word("NOT") {
            self.expect_word("ENFORCED")?;
        }
        Ok(columns)
    }

    /// Whether `PRIMARY KEY` stands behind a column; `NOT NULL` can not.
    fn is_key(&mut self, column: &ColumnSpec, has_key: bool) -> Result<bool, SqlError> {
        let at = self.parser.peek_token();
        if self.word("NOT") {
            return Err(at_token(
                &at,
                &format!(
                    "column {} can not be NOT NULL: a body may lack any field",
                    column.name
                ),
                "leave NOT NULL out, and pass over such rows with WHERE … IS NOT NULL",
            ));
        }
        if self.word("UNIQUE") {
            return Err(at_token(
                &at,
                &format!(
                    "column {} can not be UNIQUE: a topic takes what is sent to it",
                    column.name
                ),
                "write PRIMARY KEY for what tells a row; the last row of a key counts",
            ));
        }
        if !self.word("PRIMARY") {
            return Ok(false);
        }
        self.expect_word("KEY")?;
        if self.word("NOT") {
            self.expect_word("ENFORCED")?;
        }
        if has_key {
            return Err(at_token(
                &at,
                "a topic has one primary key",
                "write one PRIMARY KEY (a, b) for a key of several columns",
            ));
        }
        Ok(true)
    }

    /// Refuses a column whose name another one has.
    pub(super) fn check_distinct(
        &self,
        columns: &[ColumnSpec],
        column: &ColumnSpec,
        at: &TokenWithSpan,
    ) -> Result<(), SqlError> {
        if columns.iter().any(|other| other.name == column.name) {
            return Err(at_token(
                at,
                &format!("column {} is declared twice", column.name),
                "remove or rename one of them",
            ));
        }
        Ok(())
    }

    pub(super) fn column(&mut self) -> Result<ColumnSpec, SqlError> {
        let at = self.parser.peek_token();
        if let Some(instead) =
            foreign::constraint(&at.token, &self.parser.peek_nth_token_ref(1).token)
        {
            return Err(at_token(
                &at,
                &format!("{} is no constraint of a topic", at.token),
                instead,
            ));
        }
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
            let at = self.parser.peek_token();
            if is_word(&at.token, "PROCTIME") {
                return Err(at_token(
                    &at,
                    "PROCTIME is no column here",
                    "leave it out: _stored_at is the time at which a message was stored",
                ));
            }
            if at.token != Token::LParen {
                return Err(at_token(
                    &at,
                    "what a column is computed by stands in parentheses",
                    &format!("write {name} AS (expression)"),
                ));
            }
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
        Ok(WatermarkSpec {
            column,
            delay_ms,
            behind: Vec::new(),
        })
    }

    fn create_plain_view(&mut self, or_replace: bool) -> Result<Statement, SqlError> {
        let name = self.name()?;
        let columns = self.column_names()?;
        self.expect_word("AS")?;
        let query = self.bounded_query()?;
        Ok(Statement::CreateView(Box::new(PlainView {
            query: named(*query, &name, &columns)?,
            name,
            or_replace,
            sql: self.text(),
        })))
    }

    pub(super) fn create_view(&mut self) -> Result<Statement, SqlError> {
        let if_not_exists = self.if_not_exists()?;
        let name = self.name()?;
        let columns = self.column_names()?;
        let at = self.parser.peek_token();
        let options = self.query_options()?;
        if options.savepoint.is_some() {
            return Err(at_token(
                &at,
                "a materialized view can not begin with a savepoint, which holds none of its rows",
                "leave savepoint out: the view is computed from the log",
            ));
        }
        self.expect_word("AS")?;
        let query = self.query()?;
        let emit = self.emit()?;
        Ok(Statement::CreateMaterializedView(Box::new(
            ContinuousView {
                if_not_exists,
                query: named(*query, &name, &columns)?,
                name,
                emit,
                options,
                sql: self.text(),
            },
        )))
    }

    /// `EMIT [CHANGES] [EVERY length]` or `EMIT ON WINDOW CLOSE [AND EVERY length]`; changes if nothing is said.
    fn emit(&mut self) -> Result<Emit, SqlError> {
        if !self.word("EMIT") {
            return Ok(Emit::Changes);
        }
        if self.word("ON") {
            self.expect_word("WINDOW")?;
            self.expect_word("CLOSE")?;
            if !self.word("AND") {
                return Ok(Emit::OnWindowClose);
            }
            self.expect_word("EVERY")?;
            return self.emit_every(true);
        }
        let is_changes = self.word("CHANGES");
        if self.word("EVERY") {
            return self.emit_every(false);
        }
        if is_changes {
            return Ok(Emit::Changes);
        }
        Err(self.unexpected("CHANGES, EVERY or ON WINDOW CLOSE"))
    }

    fn emit_every(&mut self, on_close: bool) -> Result<Emit, SqlError> {
        let at = self.parser.peek_token();
        let every_ms = self.length_ms(TICK_MS)?;
        if every_ms % TICK_MS != 0 {
            return Err(at_token(
                &at,
                &format!(
                    "rows leave between two ticks of {TICK_MS} ms, and {every_ms} ms are none"
                ),
                &format!("choose a multiple of {TICK_MS} ms, for example '10 seconds'"),
            ));
        }
        Ok(Emit::Every { every_ms, on_close })
    }

    fn create_job(&mut self) -> Result<Statement, SqlError> {
        let name = self.name()?;
        let options = self.query_options()?;
        self.expect_word("AS")?;
        self.expect_word("INSERT")?;
        self.expect_word("INTO")?;
        let target = self.target()?;
        self.job(name, target, options)
    }

    /// `CREATE SINK name INTO topic AS SELECT …`: a job, told from where its rows go.
    fn create_sink(&mut self) -> Result<Statement, SqlError> {
        let name = self.name()?;
        self.expect_word("INTO")?;
        let target = self.target()?;
        let options = self.query_options()?;
        self.expect_word("AS")?;
        self.job(name, target, options)
    }

    /// The topic that a job writes, and which of its columns: `topic (a, b)`.
    fn target(&mut self) -> Result<(String, Vec<String>), SqlError> {
        let target = self.name()?;
        // A query in parentheses may follow as well.
        let is_list = !matches!(&self.parser.peek_nth_token_ref(1).token, token
            if ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|word| is_word(token, word)));
        let columns = match is_list {
            true => self.column_names()?,
            false => Vec::new(),
        };
        Ok((target, columns))
    }

    fn job(
        &mut self,
        name: String,
        (target, columns): (String, Vec<String>),
        options: QueryOptions,
    ) -> Result<Statement, SqlError> {
        let query = self.query()?;
        let emit = self.emit()?;
        Ok(Statement::CreateJob(Box::new(ContinuousJob {
            name,
            target,
            columns,
            query: *query,
            options,
            emit,
            sql: self.text(),
        })))
    }
}
