//! How long and how much of a topic is kept, as `WITH (…)` and `SET (…)` say it.

use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use millpond_proto::limits;

use crate::error::SqlError;
use crate::statement::parser::StatementParser;
use crate::statement::refusal::at_token;
use crate::topic::Keep;

/// The names of the options.
pub(super) const OPTIONS: [&str; 6] = [
    "cleanup",
    "tombstone_retention",
    "retention",
    "retention_bytes",
    "table_retention",
    "table_retention_bytes",
];

/// What [`OPTIONS`] says of time and bytes that have no bound.
const NONE: &str = "none";
/// What `table_retention` says when the table is kept as the log is.
const LOG: &str = "log";

impl StatementParser<'_> {
    /// The value of one of [`OPTIONS`]; answers whether it was set before.
    pub(super) fn keep_option(&mut self, name: &str, keep: &mut Keep) -> Result<bool, SqlError> {
        Ok(match name {
            "cleanup" => {
                let compacts = self.one_of(cleanup_of, &["delete", "compact"])?;
                keep.compacts.replace(compacts).is_some()
            }
            "tombstone_retention" => {
                let time = self.time_to_keep()?;
                keep.tombstones_ms.replace(time).is_some()
            }
            "retention" => {
                let time = self.time_to_keep()?;
                keep.retention_ms.replace(time).is_some()
            }
            "table_retention" if self.says(LOG) => {
                std::mem::replace(&mut keep.table_as_log, true) || keep.table_ms.is_some()
            }
            "table_retention" => {
                let time = self.time_to_keep()?;
                keep.table_ms.replace(time).is_some() || keep.table_as_log
            }
            "table_retention_bytes" => {
                let bytes = self.bytes_to_keep()?;
                keep.table_bytes.replace(bytes).is_some()
            }
            _ => {
                let bytes = self.bytes_to_keep()?;
                keep.retention_bytes.replace(bytes).is_some()
            }
        })
    }

    fn says(&mut self, word: &str) -> bool {
        let token = self.parser.peek_token().token;
        let is_said = matches!(&token, Token::SingleQuotedString(text) if text == word);
        if is_said {
            self.parser.advance_token();
        }
        is_said
    }

    /// A length of time, or `'none'` for no bound, which is 0.
    fn time_to_keep(&mut self) -> Result<i64, SqlError> {
        if self.says(NONE) {
            return Ok(0);
        }
        self.length_ms(limits::RETENTION_MS_MIN)
    }

    /// A number of bytes, or `'none'` for no bound, which is 0.
    fn bytes_to_keep(&mut self) -> Result<u64, SqlError> {
        if self.says(NONE) {
            return Ok(0);
        }
        let at = self.parser.peek_token();
        match self.sub(Parser::parse_literal_uint)? {
            0 => Err(at_token(
                &at,
                "a topic of 0 bytes keeps nothing",
                "write a number of bytes, or 'none' for no bound",
            )),
            bytes => Ok(bytes),
        }
    }
}

/// Whether a cleanup keeps the last message of each key only.
fn cleanup_of(text: &str) -> Option<bool> {
    match text {
        "compact" => Some(true),
        "delete" => Some(false),
        _ => None,
    }
}
