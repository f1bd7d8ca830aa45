//! Names of topics and consumer groups, checked once at the edge.
//!
//! The rules are RocketMQ's (its topic and group validators): an alphabet, a length, and names that
//! its own system keeps. A name that is held as a [`TopicName`] or [`GroupName`] has been checked.

use std::fmt;

use crate::limits;
use crate::remedy::Remedy;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but white space.
    #[error("the {what} name is empty; give it 1 to {limit} characters")]
    Empty {
        /// "topic" or "consumer group".
        what: &'static str,
        /// Longest name allowed.
        limit: usize,
    },
    /// Longer than allowed.
    #[error("the {what} name has {length} characters, limit {limit}; choose a shorter one")]
    TooLong {
        /// "topic" or "consumer group".
        what: &'static str,
        /// Characters given.
        length: usize,
        /// Longest name allowed.
        limit: usize,
    },
    /// Outside the alphabet.
    #[error(
        "the {what} name {name:?} contains {found:?}; use letters, digits, '_', '-', '%' and '|'"
    )]
    Character {
        /// "topic" or "consumer group".
        what: &'static str,
        /// The name as given.
        name: String,
        /// The first character outside the alphabet.
        found: char,
    },
    /// Kept for the system.
    #[error("the {what} name {name:?} is reserved by the system; choose another")]
    Reserved {
        /// "topic" or "consumer group".
        what: &'static str,
        /// The name as given.
        name: String,
    },
}

impl NameError {
    /// What the caller should do: always mend the request.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::FixRequest
    }
}

/// The checked name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(String);

/// The checked name of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(String);

const RESERVED_TOPICS: [&str; 10] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

impl TopicName {
    /// Checks a topic's name.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check("topic", name, limits::TOPIC_NAME_MAX)?;
        if RESERVED_TOPICS.contains(&name) || name.starts_with("rmq_sys_") {
            return Err(NameError::Reserved {
                what: "topic",
                name: name.to_owned(),
            });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GroupName {
    /// Checks a consumer group's name.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check("consumer group", name, limits::GROUP_NAME_MAX)?;
        if name.starts_with("CID_RMQ_SYS_") {
            return Err(NameError::Reserved {
                what: "consumer group",
                name: name.to_owned(),
            });
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(what: &'static str, name: &str, limit: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Empty { what, limit });
    }
    let length = name.chars().count();
    if length > limit {
        return Err(NameError::TooLong {
            what,
            length,
            limit,
        });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '%' | '|');
    match name.chars().find(|&c| !allowed(c)) {
        Some(found) => Err(NameError::Character {
            what,
            name: name.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        assert_eq!(TopicName::new("flights").unwrap().as_str(), "flights");
        assert!(GroupName::new("%DLQ%billing|eu-1").is_ok());
    }

    #[test]
    fn each_broken_rule_is_named() {
        assert!(matches!(TopicName::new("  "), Err(NameError::Empty { .. })));
        assert!(matches!(
            TopicName::new(&"a".repeat(128)),
            Err(NameError::TooLong { .. })
        ));
        assert!(matches!(
            TopicName::new("a.b"),
            Err(NameError::Character { found: '.', .. })
        ));
        assert!(matches!(
            TopicName::new("rmq_sys_x"),
            Err(NameError::Reserved { .. })
        ));
        assert!(matches!(
            GroupName::new("CID_RMQ_SYS_x"),
            Err(NameError::Reserved { .. })
        ));
    }
}
