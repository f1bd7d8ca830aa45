//! `WITH (…)` of a continuous query: how long it keeps state, all of it or `state_ttl.name` that of a join's side, what
//! becomes of late rows, in how many lanes it is computed, which savepoint it begins with, how the keys of its rows are written.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use millpond_proto::limits::JOB_PARALLELISM_MAX;

use crate::error::{SqlError, nearest};
use crate::statement::interval::interval_ms;
use crate::statement::kind::{LateRows, QueryOptions};
use crate::statement::parser::{StatementParser, parse_expression};
use crate::statement::refusal::{at_token, place};
use crate::topic::KeyFormat;

const STATE_TTL: &str = "state_ttl";
const ALLOWED_LATENESS: &str = "allowed_lateness";
const LATE: &str = "late";
const PARALLELISM: &str = "parallelism";
const SAVEPOINT: &str = "savepoint";
const KEY_FORMAT: &str = "key_format";
const OPTIONS: [&str; 6] = [
    STATE_TTL,
    ALLOWED_LATENESS,
    LATE,
    PARALLELISM,
    SAVEPOINT,
    KEY_FORMAT,
];

impl StatementParser<'_> {
    /// `WITH (state_ttl = '1 day', …)`, if it is there.
    pub(super) fn query_options(&mut self) -> Result<QueryOptions, SqlError> {
        let mut options = QueryOptions::default();
        if !self.word("WITH") {
            return Ok(options);
        }
        self.expect(&Token::LParen)?;
        loop {
            let at = self.parser.peek_token();
            let mut option = self.name()?;
            let side = match self.parser.consume_token(&Token::Period) {
                true => Some(self.name()?),
                false => None,
            };
            if let Some(side) = side.as_ref().filter(|_| option != STATE_TTL) {
                option = format!("{option}.{side}");
            }
            if !OPTIONS.contains(&option.as_str()) {
                let near = nearest(&option, OPTIONS);
                return Err(at_token(
                    &at,
                    &format!("there is no option {option}"),
                    &near.map_or_else(
                        || {
                            format!(
                                "the options of a continuous query are {}",
                                OPTIONS.join(", ")
                            )
                        },
                        |near| format!("did you mean {near}?"),
                    ),
                ));
            }
            self.expect(&Token::Eq)?;
            let is_again = match (option.as_str(), side) {
                (STATE_TTL, Some(side)) => {
                    let ttl_ms = self.length_ms(1)?;
                    let ttls = &mut options.side_ttls_ms;
                    let is_again = ttls.iter().any(|(known, _)| *known == side);
                    ttls.push((side, ttl_ms));
                    is_again
                }
                (STATE_TTL, None) => options.state_ttl_ms.replace(self.length_ms(1)?).is_some(),
                (ALLOWED_LATENESS, _) => options
                    .allowed_lateness_ms
                    .replace(self.length_ms(0)?)
                    .is_some(),
                (PARALLELISM, _) => options.parallelism.replace(self.parallelism()?).is_some(),
                (KEY_FORMAT, _) => options.key_format.replace(self.key_format()?).is_some(),
                (SAVEPOINT, _) => options.savepoint.replace(self.savepoint()?).is_some(),
                _ => options.late.replace(self.late_rows()?).is_some(),
            };
            if is_again {
                return Err(at_token(
                    &at,
                    &format!("option {option} is set twice"),
                    "remove one of them",
                ));
            }
            if self.parser.consume_token(&Token::RParen) {
                return Ok(options);
            }
            if !self.parser.consume_token(&Token::Comma) {
                return Err(self.unexpected("a comma or a closing parenthesis"));
            }
        }
    }

    /// A number of lanes.
    pub(super) fn parallelism(&mut self) -> Result<usize, SqlError> {
        let at = self.parser.peek_token();
        let lanes = self.sub(Parser::parse_literal_uint)?;
        match usize::try_from(lanes) {
            Ok(lanes) if (1..=JOB_PARALLELISM_MAX).contains(&lanes) => Ok(lanes),
            _ => Err(at_token(
                &at,
                &format!("a query has 1 to {JOB_PARALLELISM_MAX} lanes, not {lanes}"),
                "choose a number in that range, or leave parallelism out",
            )),
        }
    }

    /// `'raw'` or `'json'`.
    fn key_format(&mut self) -> Result<KeyFormat, SqlError> {
        let at = self.parser.next_token();
        let known = match &at.token {
            Token::SingleQuotedString(text) => match text.as_str() {
                "raw" => Some(KeyFormat::Raw),
                "json" => Some(KeyFormat::Json),
                _ => None,
            },
            _ => None,
        };
        known.ok_or_else(|| {
            at_token(
                &at,
                &format!("{} is no format of keys", at.token),
                "write key_format = 'raw' (a single VARCHAR as it is) or 'json' (an array of the columns)",
            )
        })
    }

    /// The name of a savepoint, as text.
    fn savepoint(&mut self) -> Result<String, SqlError> {
        let at = self.parser.next_token();
        match at.token {
            Token::SingleQuotedString(name) => Ok(name),
            _ => Err(at_token(
                &at,
                &format!("{} is no savepoint", at.token),
                "write its name as text, like 'before_upgrade'",
            )),
        }
    }

    /// `'drop'`, `'topic'` or `'update'`.
    fn late_rows(&mut self) -> Result<LateRows, SqlError> {
        let at = self.parser.peek_token();
        let policy = match &at.token {
            Token::SingleQuotedString(text) => match text.as_str() {
                "drop" => Some(LateRows::Drop),
                "topic" => Some(LateRows::Topic),
                "update" => Some(LateRows::Update),
                _ => None,
            },
            _ => None,
        };
        self.parser.advance_token();
        policy.ok_or_else(|| {
            at_token(
                &at,
                &format!("late rows do not become {}", at.token),
                "write late = 'drop', 'topic' (the side topic) or 'update'",
            )
        })
    }

    /// A length of time as text, `'1 day'`, or as an interval; of at least so many milliseconds.
    pub(super) fn length_ms(&mut self, least_ms: i64) -> Result<i64, SqlError> {
        let at = self.parser.peek_token();
        let length_ms = if let Token::SingleQuotedString(text) = &at.token {
            self.parser.advance_token();
            let text = text.replace('\'', "''");
            interval_ms(&parse_expression(&format!("INTERVAL '{text}'"))?)
        } else {
            let expr = self.sub(Parser::parse_expr)?;
            interval_ms(&expr)
        };
        let length_ms = length_ms.map_err(|error| place(error, &at))?;
        if length_ms < least_ms {
            return Err(at_token(
                &at,
                &format!("a length of {length_ms} ms is too short here"),
                &format!("choose at least {least_ms} ms, for example '1 day'"),
            ));
        }
        Ok(length_ms)
    }
}
