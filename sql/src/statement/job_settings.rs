//! `ALTER JOB name SET (…)`: how a continuous query is run, which changes nothing of what it computes.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use millpond_proto::limits::{
    JOB_RESTARTS_MAX, JOB_STATE_BYTES_LIMIT_MAX, JOB_STATE_BYTES_LIMIT_MIN,
};

use crate::dialect::is_word;
use crate::error::{SqlError, nearest};
use crate::statement::kind::{JobChange, Statement};
use crate::statement::parser::StatementParser;
use crate::statement::refusal::at_token;

const PARALLELISM: &str = "parallelism";
const STATE_LIMIT: &str = "state_limit";
const RESTARTS: &str = "restarts";
const SETTINGS: [&str; 3] = [PARALLELISM, STATE_LIMIT, RESTARTS];

const UNITS: [(&str, u64); 5] = [
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl StatementParser<'_> {
    /// Whether a name and then `SET` follow.
    pub(super) fn sets(&self) -> bool {
        is_word(&self.parser.peek_nth_token(1).token, "SET")
    }

    /// `name SET (parallelism = 3, state_limit = '256 MiB', restarts = DEFAULT)`.
    pub(super) fn alter_job(&mut self) -> Result<Statement, SqlError> {
        let name = self.name()?;
        self.expect_word("SET")?;
        self.expect(&Token::LParen)?;
        let mut change = JobChange::default();
        loop {
            let at = self.parser.peek_token();
            let setting = self.name()?;
            self.expect(&Token::Eq)?;
            let is_again = match setting.as_str() {
                PARALLELISM => {
                    let lanes = self.or_default(Self::parallelism)?;
                    change.parallelism.replace(lanes).is_some()
                }
                STATE_LIMIT => {
                    let bytes = self.or_default(Self::state_limit)?;
                    change.state_bytes_max.replace(bytes).is_some()
                }
                RESTARTS => {
                    let restarts = self.or_default(Self::restarts)?;
                    change.restarts_max.replace(restarts).is_some()
                }
                _ => return Err(unknown(&at, &setting)),
            };
            if is_again {
                return Err(at_token(
                    &at,
                    &format!("setting {setting} is set twice"),
                    "remove one of them",
                ));
            }
            if self.parser.consume_token(&Token::RParen) {
                return Ok(Statement::AlterJob { name, change });
            }
            if !self.parser.consume_token(&Token::Comma) {
                return Err(self.unexpected("a comma or a closing parenthesis"));
            }
        }
    }

    fn or_default<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<Option<T>, SqlError> {
        if self.word("DEFAULT") {
            return Ok(None);
        }
        value(self).map(Some)
    }

    fn restarts(&mut self) -> Result<u32, SqlError> {
        let at = self.parser.peek_token();
        let restarts = self.sub(Parser::parse_literal_uint)?;
        match u32::try_from(restarts) {
            Ok(restarts) if restarts <= JOB_RESTARTS_MAX => Ok(restarts),
            _ => Err(at_token(
                &at,
                &format!("a query is started over at most {JOB_RESTARTS_MAX} times an hour"),
                "choose a smaller number, or DEFAULT",
            )),
        }
    }

    fn state_limit(&mut self) -> Result<u64, SqlError> {
        let at = self.parser.next_token();
        let bytes = match &at.token {
            Token::SingleQuotedString(text) => bytes_of(text),
            _ => None,
        };
        let allowed = JOB_STATE_BYTES_LIMIT_MIN..=JOB_STATE_BYTES_LIMIT_MAX;
        bytes
            .filter(|bytes| allowed.contains(bytes))
            .ok_or_else(|| {
                at_token(
                    &at,
                    "a limit of state is a size from 1 MiB to 1 GiB",
                    "write it like '256 MiB'",
                )
            })
    }
}

/// A size with its unit.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let mut units = UNITS.iter();
    let (_, factor) = units.find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn unknown(at: &TokenWithSpan, setting: &str) -> SqlError {
    let near = nearest(setting, SETTINGS);
    at_token(
        at,
        &format!("there is no setting {setting}"),
        &near.map_or_else(
            || {
                format!(
                    "the settings of a continuous query are {}",
                    SETTINGS.join(", ")
                )
            },
            |near| format!("did you mean {near}?"),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse;

    #[test]
    fn settings_of_a_job_view_or_sink_are_read_and_wrong_ones_pointed_at() {
        let change = JobChange {
            parallelism: Some(Some(3)),
            state_bytes_max: Some(Some(256 << 20)),
            restarts_max: Some(None),
        };
        let settings = "SET (parallelism = 3, state_limit = '256 MiB', restarts = DEFAULT)";
        for what in ["JOB", "SINK", "MATERIALIZED VIEW"] {
            let parsed = parse(&format!("ALTER {what} v {settings}")).unwrap();
            let name = "v".to_owned();
            assert_eq!(parsed, Statement::AlterJob { name, change });
        }
        for (settings, expected) in [
            ("(paralelism = 3)", "did you mean parallelism?"),
            ("(parallelism = 0)", "a query has 1 to 64 lanes, not 0"),
            ("(state_limit = '2 GiB')", "from 1 MiB to 1 GiB"),
            ("(state_limit = 5)", "write it like '256 MiB'"),
            ("(restarts = 1, restarts = 2)", "set twice"),
        ] {
            let error = parse(&format!("ALTER JOB v SET {settings}")).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
