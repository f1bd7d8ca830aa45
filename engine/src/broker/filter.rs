//! Which messages a consumer wants: by tag, or by a condition on properties.
//!
//! A filter is parsed once, when the consumer names it, and asked for every message. Parsing and
//! matching are pure and bounded: no input makes them panic, recurse without limit or read anything
//! but the envelope. The body is never looked at.
//!
//! The language of conditions is RocketMQ's SQL92, read by [`parser`] and evaluated by [`sql92`]. What
//! is not of that language is refused when the consumer subscribes, with the place and what to write
//! instead, never passed over.

pub mod parser;
pub mod sql92;

use std::collections::BTreeSet;
use std::fmt;

use millpond_proto::limits;
use millpond_proto::message::stable_hash;
use millpond_proto::remedy::Remedy;
use millpond_storage::format::envelope::Envelope;

use crate::broker::filter::sql92::Condition;

/// The language of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// `*` or tags: `a || b`.
    Tag,
    /// A condition on properties.
    Sql92,
}

/// Why a filter was refused. Positions count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than [`limits::FILTER_BYTES_MAX`].
    #[error(
        "the filter has {size_bytes} bytes, limit {limit_bytes}; shorten it, for example with \
         IN ('a', 'b') instead of a chain of OR",
        limit_bytes = limits::FILTER_BYTES_MAX
    )]
    TooLong {
        /// Its size.
        size_bytes: usize,
    },
    /// Nested deeper than [`limits::FILTER_DEPTH_MAX`].
    #[error(
        "the filter nests more than {limit} levels at character {position}; drop parentheses and \
         doubled NOTs that change nothing",
        limit = limits::FILTER_DEPTH_MAX
    )]
    TooDeep {
        /// Where the level too many begins.
        position: usize,
    },
    /// A condition without text.
    #[error("the SQL92 filter is empty; write a condition such as a > 5, or TRUE for all messages")]
    Empty,
    /// A tag expression that names no tag.
    #[error("tag filter at character {position}: {problem}; write *, one tag, or a || b")]
    Tag {
        /// Where.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// Not of the language.
    #[error("SQL92 filter at character {position}: {found} where {expected} should be; {advice}")]
    Syntax {
        /// Where.
        position: usize,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: &'static str,
        /// What to write instead.
        advice: &'static str,
    },
}

impl FilterError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::FixRequest
    }
}

/// A parsed filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Wanted);

#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    All,
    /// Not empty.
    Tags(BTreeSet<String>),
    If(Condition),
}

impl Filter {
    /// The filter that lets every message through.
    #[must_use]
    pub fn all() -> Self {
        Self(Wanted::All)
    }

    /// Reads an expression. An empty tag expression means all messages, an empty condition is refused.
    ///
    /// # Errors
    /// [`FilterError`] with the place and what to write instead.
    pub fn parse(kind: FilterKind, expression: &str) -> Result<Self, FilterError> {
        let size_bytes = expression.len();
        if size_bytes > limits::FILTER_BYTES_MAX {
            return Err(FilterError::TooLong { size_bytes });
        }
        match kind {
            FilterKind::Tag => tags(expression).map(Self),
            FilterKind::Sql92 => match parser::parse(expression)? {
                condition if condition.is_true() => Ok(Self::all()),
                condition => Ok(Self(Wanted::If(condition))),
            },
        }
    }

    /// Whether it lets every message through.
    #[must_use]
    pub fn is_all(&self) -> bool {
        matches!(self.0, Wanted::All)
    }

    /// Whether the message is wanted. A condition that is neither true nor false, because a property is
    /// absent or is no number, does not want it.
    #[must_use]
    pub fn matches(&self, message: &Envelope) -> bool {
        match &self.0 {
            Wanted::All => true,
            Wanted::Tags(tags) => message.tag.as_ref().is_some_and(|tag| tags.contains(tag)),
            Wanted::If(condition) => condition.evaluate(message) == Some(true),
        }
    }

    /// A number that equal filters share, whatever their spaces, case of keywords or order of tags; the
    /// same in every version and on every machine.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        stable_hash(self.to_string().as_bytes())
    }
}

/// The normalised expression, with its language in front.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Wanted::All => f.write_str("*"),
            Wanted::Tags(tags) => {
                f.write_str("TAG ")?;
                for (index, tag) in tags.iter().enumerate() {
                    let or = if index == 0 { "" } else { " || " };
                    write!(f, "{or}{tag}")?;
                }
                Ok(())
            }
            Wanted::If(condition) => write!(f, "SQL92 {condition}"),
        }
    }
}

fn tags(expression: &str) -> Result<Wanted, FilterError> {
    if expression.trim().is_empty() {
        return Ok(Wanted::All);
    }
    let (mut tags, mut position, mut all) = (BTreeSet::new(), 1, false);
    for part in expression.split("||") {
        let tag = part.trim();
        if tag.contains('|') {
            return Err(FilterError::Tag {
                position,
                problem: "a single |",
            });
        }
        all |= tag == "*";
        if !tag.is_empty() {
            tags.insert(tag.to_owned());
        }
        position += part.chars().count() + 2;
    }
    match tags.is_empty() {
        _ if all => Ok(Wanted::All),
        true => Err(FilterError::Tag {
            position: 1,
            problem: "no tag between the ||",
        }),
        false => Ok(Wanted::Tags(tags)),
    }
}

#[cfg(test)]
mod tests;
