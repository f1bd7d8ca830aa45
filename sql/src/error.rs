//! What SQL answers when it can not do what was asked: where, why, and what to try instead.

mod placing;
mod wording;

use std::fmt;
use std::sync::Arc;

use datafusion::common::{Column, TableReference};
use datafusion::error::DataFusionError;
use millpond_connectors::format::body::FormatError;
use millpond_proto::remedy::Remedy;

use crate::topic::TopicsError;

/// A place in the text of a statement, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A refusal: where in the statement, what is wrong, what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where, when it is known.
    pub position: Option<Position>,
    /// What is wrong.
    pub cause: String,
    /// What to try.
    pub suggestion: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{position}: ")?;
        }
        f.write_str(&self.cause)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; {suggestion}")?;
        }
        Ok(())
    }
}

/// Why a statement was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SqlError {
    /// The text is not SQL as we speak it.
    #[error("{0}")]
    Syntax(Refusal),
    /// The statement is SQL, but not one that this server does.
    #[error("{0}")]
    NotAllowed(Refusal),
    /// The statement names something that is not there.
    #[error("{0}")]
    Unknown(Refusal),
    /// The statement is understood and can not be done as it stands.
    #[error("{0}")]
    Invalid(Refusal),
    /// Data did not fit an expression, for example a division by zero.
    #[error("the query failed on its data: {cause}")]
    Data {
        /// What failed.
        cause: String,
        /// The engine's error.
        #[source]
        source: Arc<DataFusionError>,
    },
    /// A named limit was reached.
    #[error("the statement reached the limit {limit} of {value}; {advice}")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
        /// Its value, with unit.
        value: String,
        /// What to do next.
        advice: &'static str,
    },
    /// The broker refused.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// An `INSERT` ended before its end, and some of its rows are stored, or may be.
    #[error("{}; look at what is there before you insert the rest: {cause}", so_far(*stored, *unknown))]
    Partly {
        /// Rows that are stored.
        stored: u64,
        /// Rows that may be.
        unknown: u64,
        /// Why it ended.
        #[source]
        cause: Box<Self>,
    },
    /// The export folder could not be written.
    #[error(
        "the export {path} could not be written; check space and permissions of the export folder"
    )]
    Export {
        /// The path asked for.
        path: String,
        /// What the store answered.
        #[source]
        source: Arc<object_store::Error>,
    },
    /// An error of ours.
    #[error("an internal error in SQL: {cause}; please report it with the statement")]
    Bug {
        /// What went wrong.
        cause: String,
    },
}

fn so_far(stored: u64, unknown: u64) -> String {
    let rows = |count: u64| match count {
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    };
    match (stored, unknown) {
        (stored, 0) => format!("not all rows were stored, but {}", rows(stored)),
        (0, unknown) => format!("it is not known whether {} were stored", rows(unknown)),
        (stored, unknown) => format!("{} were stored, and perhaps {unknown} more", rows(stored)),
    }
}

impl SqlError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Syntax(_)
            | Self::NotAllowed(_)
            | Self::Unknown(_)
            | Self::Invalid(_)
            | Self::Data { .. }
            | Self::Limit { .. }
            // Never again as it is, whatever the cause says: what is stored would be stored twice.
            | Self::Partly { .. } => Remedy::FixRequest,
            Self::Topics(error) => error.remedy(),
            Self::Export { .. } => Remedy::Operator,
            Self::Bug { .. } => Remedy::Bug,
        }
    }

    /// Where in the statement, when it is known.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Syntax(refusal)
            | Self::NotAllowed(refusal)
            | Self::Unknown(refusal)
            | Self::Invalid(refusal) => refusal.position,
            _ => None,
        }
    }

    /// A statement that is understood and can not be done, with what to do instead.
    #[must_use]
    pub fn invalid(cause: impl Into<String>, suggestion: impl Into<String>) -> Self {
        Self::Invalid(Refusal {
            position: None,
            cause: cause.into(),
            suggestion: Some(suggestion.into()),
        })
    }

    /// A name that is not there, with the nearest that is.
    #[must_use]
    pub fn unknown(
        kind: &str,
        name: &str,
        position: Option<Position>,
        known: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        Self::Unknown(Refusal {
            position,
            cause: format!("there is no {kind} {name}"),
            suggestion: nearest(name, known).map(|near| format!("did you mean {near}?")),
        })
    }

    /// Adds the nearest known name where there is no suggestion yet.
    fn or_near<'a>(mut self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        if let Self::Unknown(refusal) = &mut self
            && refusal.suggestion.is_none()
        {
            refusal.suggestion = nearest(name, known).map(|near| format!("did you mean {near}?"));
        }
        self
    }

    /// Adds a suggestion where there is none yet.
    #[must_use]
    pub fn or_say(mut self, suggestion: &str) -> Self {
        if let Self::Unknown(refusal) | Self::Invalid(refusal) | Self::NotAllowed(refusal) =
            &mut self
        {
            refusal
                .suggestion
                .get_or_insert_with(|| suggestion.to_owned());
        }
        self
    }

    /// Says how texts are quoted, if what is not there stands in double quotes in a statement.
    #[must_use]
    pub fn or_meant_as_text(self, sql: &str) -> Self {
        let Some(position) = self.position() else {
            return self;
        };
        let line = usize::try_from(position.line)
            .ok()
            .and_then(|line| sql.lines().nth(line.checked_sub(1)?));
        let column = usize::try_from(position.column).unwrap_or(usize::MAX);
        let at = line.and_then(|line| line.chars().nth(column.checked_sub(1)?));
        match (&self, at) {
            (Self::Unknown(_), Some('"')) => {
                self.or_say("a text stands in single quotes, a name in double ones")
            }
            _ => self,
        }
    }

    /// Takes the position away: it counts in another text than the statement.
    #[must_use]
    pub fn without_position(mut self) -> Self {
        if let Self::Syntax(refusal)
        | Self::NotAllowed(refusal)
        | Self::Unknown(refusal)
        | Self::Invalid(refusal) = &mut self
        {
            refusal.position = None;
        }
        self
    }

    /// Sorts an error of the query engine into ours.
    #[must_use]
    pub fn from_engine(error: DataFusionError) -> Self {
        engine_error(error)
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        engine_error(error)
    }
}

impl From<FormatError> for SqlError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Value { source } => source.into(),
            // Its text says what to do.
            other => Self::Invalid(Refusal {
                position: None,
                cause: other.to_string(),
                suggestion: None,
            }),
        }
    }
}

impl From<arrow::error::ArrowError> for SqlError {
    fn from(error: arrow::error::ArrowError) -> Self {
        engine_error(DataFusionError::from(error))
    }
}

fn engine_error(error: DataFusionError) -> SqlError {
    // Our own errors travel through the engine's streams as external ones.
    let error = match error {
        DataFusionError::External(inner) => match inner.downcast::<SqlError>() {
            Ok(own) => return *own,
            Err(inner) => match inner.downcast::<TopicsError>() {
                Ok(topics) => return SqlError::Topics(*topics),
                Err(inner) => DataFusionError::External(inner),
            },
        },
        DataFusionError::Context(_, inner) => return engine_error(*inner),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let position = diagnostic.span.map(|span| Position {
                line: span.start.line,
                column: span.start.column,
            });
            return placed(engine_error(*inner), position);
        }
        DataFusionError::Shared(shared) => match own_in(&shared) {
            Some(own) => return own,
            None => return classify(shared),
        },
        DataFusionError::Collection(mut errors) if !errors.is_empty() => {
            return engine_error(errors.swap_remove(0));
        }
        other => other,
    };
    classify(Arc::new(error))
}

/// Our own error within one that is shared by several readers.
fn own_in(error: &DataFusionError) -> Option<SqlError> {
    match error {
        DataFusionError::External(inner) => inner
            .downcast_ref::<SqlError>()
            .cloned()
            .or_else(|| inner.downcast_ref().cloned().map(SqlError::Topics)),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => own_in(inner),
        DataFusionError::Shared(inner) => own_in(inner),
        _ => None,
    }
}

fn placed(error: SqlError, position: Option<Position>) -> SqlError {
    let place = |mut refusal: Refusal| {
        refusal.position = refusal.position.or(position);
        refusal
    };
    match error {
        SqlError::Syntax(refusal) => SqlError::Syntax(place(refusal)),
        SqlError::NotAllowed(refusal) => SqlError::NotAllowed(place(refusal)),
        SqlError::Unknown(refusal) => SqlError::Unknown(place(refusal)),
        SqlError::Invalid(refusal) => SqlError::Invalid(place(refusal)),
        other => other,
    }
}

fn classify(error: Arc<DataFusionError>) -> SqlError {
    use datafusion::common::SchemaError;

    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    match error.as_ref() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound {
                field,
                valid_fields,
            } => unknown_column(field, valid_fields),
            SchemaError::DuplicateUnqualifiedField { name } => SqlError::Invalid(Refusal {
                position: None,
                cause: format!("the query computes {name} of two types"),
                suggestion: Some(
                    "cast in a subquery, for example SELECT max(n), max(t) FROM (SELECT n, CAST(n AS VARCHAR) AS t FROM topic)"
                        .to_owned(),
                ),
            }),
            other => SqlError::Invalid(Refusal {
                position: None,
                cause: first_line(&other.to_string()),
                suggestion: None,
            }),
        },
        DataFusionError::ResourcesExhausted(_) => SqlError::Limit {
            limit: "QUERY_MEMORY_BYTES",
            value: format!("{} bytes", millpond_proto::limits::QUERY_MEMORY_BYTES),
            advice: "read fewer rows or columns, or group by fewer keys",
        },
        DataFusionError::Plan(text) | DataFusionError::Configuration(text) => {
            wording::of_plan(&first_line(text))
        }
        DataFusionError::NotImplemented(text) if wording::misplaced(text).is_some() => {
            SqlError::Invalid(wording::misplaced(text).expect("it was looked at just now"))
        }
        DataFusionError::NotImplemented(text) => SqlError::NotAllowed(Refusal {
            position: None,
            cause: first_line(text),
            suggestion: None,
        }),
        DataFusionError::SQL(parse, _) => SqlError::Syntax(Refusal {
            position: None,
            cause: first_line(&parse.to_string()),
            suggestion: None,
        }),
        DataFusionError::ArrowError(arrow, _) => SqlError::Data {
            cause: wording::of_data(&first_line(&arrow.to_string())),
            source: Arc::clone(&error),
        },
        DataFusionError::Execution(text) => SqlError::Data {
            cause: wording::of_data(&first_line(text)),
            source: Arc::clone(&error),
        },
        other => SqlError::Bug {
            cause: first_line(&other.to_string()),
        },
    }
}

/// A column that is not there, or a table before it that the query does not name.
fn unknown_column(field: &Column, valid: &[Column]) -> SqlError {
    if let Some(relation) = &field.relation {
        let table = relation.table();
        let tables: Vec<&str> = valid
            .iter()
            .filter_map(|column| column.relation.as_ref().map(TableReference::table))
            .collect();
        if !tables.contains(&table) {
            return SqlError::unknown("table or alias", table, None, tables);
        }
        let of_table = valid
            .iter()
            .filter(|column| column.relation.as_ref().map(TableReference::table) == Some(table));
        let names = of_table.map(|column| column.name.as_str());
        return SqlError::unknown("column", &format!("{table}.{}", field.name), None, [""; 0])
            .or_near(&field.name, names);
    }
    let names = valid.iter().map(|column| column.name.as_str());
    SqlError::unknown("column", &field.name, None, names)
}

/// The known name nearest to a misspelt one, if one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str, known: impl IntoIterator<Item = impl AsRef<str>>) -> Option<String> {
    let wanted = name.to_lowercase();
    let reach = (wanted.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| {
            let distance = edit_distance(&wanted, &candidate.as_ref().to_lowercase());
            (distance, candidate.as_ref().to_owned())
        })
        .filter(|(distance, _)| *distance <= reach)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours from one word to another.
fn edit_distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().take(WORD_CHARS_MAX).collect();
    let to: Vec<char> = to.chars().take(WORD_CHARS_MAX).collect();
    let mut before: Vec<usize> = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1; to.len() + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

/// Words are compared up to this length, so that a long name costs little.
const WORD_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        let known = ["flights", "weather", "planes"];
        assert_eq!(nearest("flihgts", known), Some("flights".to_owned()));
        assert_eq!(nearest("wether", known), Some("weather".to_owned()));
        assert_eq!(nearest("orders", known), None);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn an_error_says_where_what_and_what_instead() {
        let error = SqlError::unknown(
            "topic",
            "flihgts",
            Some(Position {
                line: 1,
                column: 15,
            }),
            ["flights"],
        );
        assert_eq!(
            error.to_string(),
            "line 1, column 15: there is no topic flihgts; did you mean flights?"
        );
        assert_eq!(error.remedy(), Remedy::FixRequest);
    }
}
