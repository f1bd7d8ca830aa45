//! Conditions on the properties of a message, and what they say about one.
//!
//! Logic has three values, as in SQL: what compares with an absent property, or as a number with a
//! text that is none, is unknown (`None`), and so is its negation. RocketMQ gives up on the whole
//! condition in the second case; here `a > 1 OR b = 'x'` can still be true by its other half.
//!
//! Every property is text. Beside a number it is read as a number, beside TRUE or FALSE as a truth
//! value; `=` and `<>` compare two properties as text, `<` and its kin as numbers. `TAGS` is the
//! message's tag and `KEYS` its keys, separated by spaces. Names are case-sensitive, keywords are not.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use millpond_storage::format::envelope::{Envelope, PropertyValue};

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All of them; at least two.
    And(Vec<Condition>),
    /// One of them; at least two.
    Or(Vec<Condition>),
    /// The opposite; of unknown, unknown.
    Not(Box<Condition>),
    /// A value that is true.
    Truth(Value),
    /// Two values compare so.
    Compare {
        /// Left of the sign.
        left: Value,
        /// The sign.
        sign: Sign,
        /// Right of it.
        right: Value,
    },
    /// The value is one of a list of literals.
    In {
        /// The value.
        value: Value,
        /// Not empty.
        list: Vec<Value>,
    },
    /// The value is absent; never unknown.
    IsNull(Value),
    /// The value, as text, holds another text.
    Holds {
        /// The value.
        value: Value,
        /// Where.
        place: Place,
        /// The other text.
        text: String,
    },
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A property by its name.
    Property(String),
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Another number; finite.
    Decimal(f64),
    /// TRUE or FALSE.
    Truth(bool),
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Where a text is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    Anywhere,
    /// At the beginning.
    Start,
    /// At the end.
    End,
}

/// A value with its property looked up.
enum Known<'a> {
    Text(Cow<'a, str>),
    Integer(i64),
    Decimal(f64),
    Truth(bool),
}

impl Condition {
    /// What the condition says about a message; `None` when it can not say.
    #[must_use]
    pub fn evaluate(&self, message: &Envelope) -> Option<bool> {
        match self {
            Self::And(all) => every(all, message, true),
            Self::Or(some) => every(some, message, false),
            Self::Not(condition) => condition.evaluate(message).map(|truth| !truth),
            Self::Truth(value) => value.of(message)?.truth(),
            Self::Compare { left, sign, right } => {
                sign.holds(&left.of(message)?, &right.of(message)?)
            }
            Self::In { value, list } => {
                let value = value.of(message)?;
                let mut unknown = false;
                for candidate in list {
                    match Sign::Equal.holds(&value, &candidate.of(message)?) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => unknown = true,
                    }
                }
                (!unknown).then_some(false)
            }
            Self::IsNull(value) => Some(value.of(message).is_none()),
            Self::Holds { value, place, text } => {
                let Known::Text(value) = value.of(message)? else {
                    return None;
                };
                Some(match place {
                    Place::Anywhere => value.contains(text.as_str()),
                    Place::Start => value.starts_with(text.as_str()),
                    Place::End => value.ends_with(text.as_str()),
                })
            }
        }
    }

    /// Whether it is the literal TRUE.
    #[must_use]
    pub fn is_true(&self) -> bool {
        matches!(self, Self::Truth(Value::Truth(true)))
    }
}

/// AND (`neutral` is true) and OR: the opposite of neutral decides, unknown comes next.
fn every(conditions: &[Condition], message: &Envelope, neutral: bool) -> Option<bool> {
    let mut outcome = Some(neutral);
    for condition in conditions {
        match condition.evaluate(message) {
            Some(truth) if truth == neutral => {}
            Some(decided) => return Some(decided),
            None => outcome = None,
        }
    }
    outcome
}

impl Value {
    fn of<'a>(&'a self, message: &'a Envelope) -> Option<Known<'a>> {
        Some(match self {
            Self::Property(name) => Known::Text(property(message, name)?),
            Self::Text(text) => Known::Text(Cow::Borrowed(text)),
            Self::Integer(number) => Known::Integer(*number),
            Self::Decimal(number) => Known::Decimal(*number),
            Self::Truth(truth) => Known::Truth(*truth),
        })
    }
}

/// A property's text; of several with one name the last, as the wire's map keeps it.
fn property<'a>(message: &'a Envelope, name: &str) -> Option<Cow<'a, str>> {
    match name {
        "TAGS" => return message.tag.as_deref().map(Cow::Borrowed),
        "KEYS" => {
            return (!message.keys.is_empty()).then(|| Cow::Owned(message.keys.join(" ")));
        }
        _ => {}
    }
    let last = message.properties.iter().rfind(|one| one.key == name)?;
    match last.value.as_ref()? {
        PropertyValue::Text(text) => Some(Cow::Borrowed(text)),
        PropertyValue::Binary(_) => None,
    }
}

impl Known<'_> {
    fn truth(&self) -> Option<bool> {
        match self {
            Self::Truth(truth) => Some(*truth),
            Self::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Self::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            Self::Text(_) | Self::Integer(_) | Self::Decimal(_) => None,
        }
    }

    /// As a number: exactly, if it is a whole one.
    fn number(&self) -> Option<Result<i64, f64>> {
        match self {
            Self::Integer(number) => Some(Ok(*number)),
            Self::Decimal(number) => Some(Err(*number)),
            Self::Truth(_) => None,
            Self::Text(text) => {
                let text = text.trim();
                if let Ok(number) = text.parse::<i64>() {
                    return Some(Ok(number));
                }
                // Digits only: the parser of the standard library also takes "inf" and "nan".
                let plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
                if !text.bytes().all(plain) {
                    return None;
                }
                let number = text.parse::<f64>().ok().filter(|one| one.is_finite())?;
                Some(Err(number))
            }
        }
    }

    fn compare_numbers(&self, other: &Self) -> Option<Ordering> {
        match (self.number()?, other.number()?) {
            (Ok(left), Ok(right)) => Some(left.cmp(&right)),
            (left, right) => decimal(left).partial_cmp(&decimal(right)),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "beside a decimal number, a whole one is a decimal number too"
)]
fn decimal(number: Result<i64, f64>) -> f64 {
    number.map_or_else(|decimal| decimal, |whole| whole as f64)
}

impl Sign {
    fn holds(self, left: &Known<'_>, right: &Known<'_>) -> Option<bool> {
        let equal = || match (left, right) {
            (Known::Text(left), Known::Text(right)) => Some(left == right),
            (Known::Truth(_), _) | (_, Known::Truth(_)) => Some(left.truth()? == right.truth()?),
            _ => Some(left.compare_numbers(right)?.is_eq()),
        };
        match self {
            Self::Equal => equal(),
            Self::NotEqual => equal().map(|equal| !equal),
            Self::Less => left.compare_numbers(right).map(Ordering::is_lt),
            Self::LessOrEqual => left.compare_numbers(right).map(Ordering::is_le),
            Self::Greater => left.compare_numbers(right).map(Ordering::is_gt),
            Self::GreaterOrEqual => left.compare_numbers(right).map(Ordering::is_ge),
        }
    }

    /// Whether both sides must be numbers.
    #[must_use]
    pub fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(all) => join(f, all, " AND "),
            Self::Or(some) => join(f, some, " OR "),
            Self::Not(condition) => write!(f, "NOT ({condition})"),
            Self::Truth(value) => write!(f, "{value}"),
            Self::Compare { left, sign, right } => write!(f, "{left} {} {right}", sign.text()),
            Self::In { value, list } => {
                write!(f, "{value} IN (")?;
                for (index, one) in list.iter().enumerate() {
                    write!(f, "{}{one}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            Self::IsNull(value) => write!(f, "{value} IS NULL"),
            Self::Holds { value, place, text } => {
                let word = match place {
                    Place::Anywhere => "CONTAINS",
                    Place::Start => "STARTSWITH",
                    Place::End => "ENDSWITH",
                };
                write!(f, "{value} {word} {}", Quoted(text))
            }
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, conditions: &[Condition], word: &str) -> fmt::Result {
    for (index, condition) in conditions.iter().enumerate() {
        let word = if index == 0 { "" } else { word };
        match condition {
            Condition::And(_) | Condition::Or(_) => write!(f, "{word}({condition})")?,
            _ => write!(f, "{word}{condition}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Property(name) => f.write_str(name),
            Self::Text(text) => write!(f, "{}", Quoted(text)),
            Self::Integer(number) => write!(f, "{number}"),
            // With a point or an exponent, so that it is read as the same kind of number again.
            Self::Decimal(number) => write!(f, "{number:?}"),
            Self::Truth(truth) => f.write_str(if *truth { "TRUE" } else { "FALSE" }),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.replace('\'', "''"))
    }
}
