//! What stands on a topic or view, and so is in the way of its end.
//!
//! Views and continuous queries are remembered by their statements, so what they read is read off those. A topic that is
//! dropped under a query would let it fail at its next start, and one of the same name that is made later would be read as if
//! it were the old one; so who wants it gone is told what to drop before.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::Query;

use crate::batch::names::names_of;
use crate::error::SqlError;
use crate::plan::views;
use crate::statement::{PlainView, Statement, parse};
use crate::topic::Topics;

/// What is remembered by a statement and stands on names.
struct Dependent {
    name: String,
    kind: Kind,
    query: Query,
    reads: BTreeSet<String>,
    /// The topic that it writes into and does not own.
    writes: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    View,
    MaterializedView,
    Job,
}

impl Kind {
    fn dropped(self) -> &'static str {
        match self {
            Self::View => "DROP VIEW",
            Self::MaterializedView => "DROP MATERIALIZED VIEW",
            Self::Job => "DROP JOB",
        }
    }
}

fn dependents(topics: &dyn Topics) -> Vec<Dependent> {
    let parsed = topics.jobs().into_iter().filter_map(|spec| {
        let (kind, query, writes) = match parse(&spec.sql).ok()? {
            Statement::CreateView(view) => (Kind::View, view.query, None),
            Statement::CreateMaterializedView(view)
            | Statement::AlterMaterializedView { view, .. } => {
                (Kind::MaterializedView, view.query, None)
            }
            Statement::CreateJob(job) => (Kind::Job, job.query, Some(job.target)),
            _ => return None,
        };
        Some(Dependent {
            name: spec.name,
            kind,
            reads: names_of(&query).read,
            query,
            writes,
        })
    });
    parsed.collect()
}

/// Checks that nothing reads a topic or view, or writes into it, but what is called `except`.
///
/// # Errors
/// [`SqlError::Invalid`] that names what does, with the statements that end it.
pub(crate) fn check_unused(
    what: &str,
    name: &str,
    except: &[&str],
    topics: &dyn Topics,
) -> Result<(), SqlError> {
    let uses: Vec<(&str, Dependent)> = dependents(topics)
        .into_iter()
        .filter(|dependent| !except.contains(&dependent.name.as_str()))
        .filter_map(|dependent| {
            if dependent.reads.contains(name) {
                Some(("read", dependent))
            } else if dependent.writes.as_deref() == Some(name) {
                Some(("written", dependent))
            } else {
                None
            }
        })
        .collect();
    refuse(what, name, &uses)
}

/// Checks that no continuous query was made of a view, by itself or through other views.
///
/// # Errors
/// As [`check_unused`].
pub(crate) fn check_not_running(view: &str, topics: &dyn Topics) -> Result<(), SqlError> {
    let all = dependents(topics);
    let mut names = BTreeSet::from([view.to_owned()]);
    // Each round finds the views that stand on those found before.
    loop {
        let on = all.iter().filter(|dependent| {
            dependent.kind == Kind::View && !dependent.reads.is_disjoint(&names)
        });
        let found: Vec<String> = on.map(|dependent| dependent.name.clone()).collect();
        let before = names.len();
        names.extend(found);
        if names.len() == before {
            break;
        }
    }
    let uses: Vec<(&str, Dependent)> = all
        .into_iter()
        .filter(|dependent| dependent.kind != Kind::View && !dependent.reads.is_disjoint(&names))
        .map(|dependent| ("read", dependent))
        .collect();
    refuse("view", view, &uses)
}

/// Checks that a topic may have one more column: no continuous query reads all of them by `*`, which would be another query at its next
/// start, which its saved state is none of, and no job writes rows of so many columns as there are.
///
/// # Errors
/// As [`check_unused`].
pub(crate) fn check_columns_named(topic: &str, topics: &dyn Topics) -> Result<(), SqlError> {
    let mut by = Vec::new();
    let mut writers = Vec::new();
    for mut dependent in dependents(topics) {
        if dependent.writes.as_deref() == Some(topic) {
            writers.push(dependent.name.clone());
        }
        if dependent.kind == Kind::View {
            continue;
        }
        views::expand(&mut dependent.query, topics)?;
        if names_of(&dependent.query).starred.contains(topic) {
            by.push(dependent.name);
        }
    }
    if !writers.is_empty() {
        return Err(SqlError::invalid(
            format!(
                "topic {topic} is written by {}, whose query has no such column",
                writers.join(", ")
            ),
            "end it with STOP JOB name WITH SAVEPOINT or DROP JOB, and begin it again with one more expression",
        ));
    }
    if by.is_empty() {
        return Ok(());
    }
    let by = by.join(", ");
    Err(SqlError::invalid(
        format!(
            "topic {topic} is read with * by {by}, which would be another query with one more column"
        ),
        "name the columns there: write ALTER MATERIALIZED VIEW name AS SELECT a, b …, or drop it and create it again",
    ))
}

/// Checks that a view which is made or replaced would not read itself, by itself or through other views.
///
/// # Errors
/// [`SqlError::Invalid`].
pub(crate) fn check_not_in_itself(view: &PlainView, topics: &dyn Topics) -> Result<(), SqlError> {
    let views: BTreeMap<String, Dependent> = dependents(topics)
        .into_iter()
        .filter(|dependent| dependent.kind == Kind::View)
        .map(|dependent| (dependent.name.clone(), dependent))
        .collect();
    let mut names = names_of(&view.query).read;
    loop {
        if names.contains(&view.name) {
            return Err(SqlError::invalid(
                format!("view {} would read itself", view.name),
                "choose another name, or write out what it stands for now",
            ));
        }
        let behind = names.iter().filter_map(|name| views.get(name));
        let behind: BTreeSet<String> = behind.flat_map(|view| view.reads.clone()).collect();
        let before = names.len();
        names.extend(behind);
        if names.len() == before {
            return Ok(());
        }
    }
}

fn refuse(what: &str, name: &str, uses: &[(&str, Dependent)]) -> Result<(), SqlError> {
    if uses.is_empty() {
        return Ok(());
    }
    let by = uses
        .iter()
        .map(|(how, dependent)| format!("{how} by {}", dependent.name))
        .collect::<Vec<_>>();
    let first = uses
        .iter()
        .map(|(_, dependent)| format!("{} {}", dependent.kind.dropped(), dependent.name))
        .collect::<Vec<_>>();
    Err(SqlError::invalid(
        format!("{what} {name} is {}", by.join(", ")),
        format!("write {} first", first.join("; ")),
    ))
}
