//! `ALTER TOPIC`: what may change of a topic while it is used. `ALTER MATERIALIZED VIEW`: another query for a view; its settings, as those of a job, are in
//! [`crate::statement::job_settings`].

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::dialect::is_word;
use crate::error::SqlError;
use crate::statement::kind::{AlterTopic, Statement};
use crate::statement::parser::StatementParser;
use crate::statement::refusal::at_token;

impl StatementParser<'_> {
    pub(super) fn alter(&mut self) -> Result<Statement, SqlError> {
        if self.word("MATERIALIZED") {
            self.expect_word("VIEW")?;
            return match self.sets() {
                true => self.alter_job(),
                false => self.alter_view(),
            };
        }
        if self.word("JOB") || self.word("SINK") {
            return self.alter_job();
        }
        let at = self.parser.peek_token();
        if is_word(&at.token, "TABLE") {
            return Err(at_token(
                &at,
                "ALTER TABLE is not a statement of this server",
                "tables are topics here: write ALTER TOPIC name ADD COLUMN …, or SET (…)",
            ));
        }
        self.expect_word("TOPIC")?;
        let name = self.name()?;
        let at = self.parser.peek_token();
        if ["DROP", "RENAME", "ALTER", "MODIFY"]
            .iter()
            .any(|word| is_word(&at.token, word))
        {
            return Err(at_token(
                &at,
                &format!(
                    "{} changes what messages that are stored already hold, which stay as they are",
                    at.token
                ),
                "write ADD COLUMN for one more, or CREATE VIEW name AS SELECT … for other columns",
            ));
        }
        let mut change = AlterTopic::nothing(&name);
        if self.word("SET") {
            change.options = self.options()?;
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

    /// What follows is what follows `CREATE MATERIALIZED VIEW`.
    fn alter_view(&mut self) -> Result<Statement, SqlError> {
        let name_at = self.parser.peek_token().span.start;
        let created = self.create_view()?;
        let Statement::CreateMaterializedView(mut view) = created else {
            return Err(SqlError::Bug {
                cause: "a view was read as something else".to_owned(),
            });
        };
        let sql = std::mem::take(&mut view.sql);
        let rest = self.text_from(name_at);
        view.sql = format!("CREATE MATERIALIZED VIEW {rest}");
        Ok(Statement::AlterMaterializedView { view, sql })
    }
}
