//! Plain views: a name for a query, planned anew wherever the name is used.
//!
//! The broker remembers a view as it remembers a continuous query, by its statement; it has no output and
//! nothing runs. So a view survives a restart, and no continuous query can take its name.

use datafusion::sql::sqlparser::ast::Query;
use millpond_proto::message::JobId;

use crate::error::SqlError;
use crate::statement::{PlainView, Statement, parse};
use crate::topic::{JobSpec, Topics};

/// How deep views may stand on views.
pub const VIEWS_DEEP_MAX: usize = 16;

/// A view as the broker remembers it.
#[derive(Clone, Debug)]
pub struct View {
    /// Identity.
    pub id: JobId,
    /// Name.
    pub name: String,
    /// What it stands for.
    pub query: Query,
    /// The whole statement.
    pub sql: String,
}

impl View {
    fn of(spec: &JobSpec) -> Option<Self> {
        match parse(&spec.sql) {
            Ok(Statement::CreateView(view)) => Some(Self {
                id: JobId(spec.id),
                name: spec.name.clone(),
                query: view.query,
                sql: spec.sql.clone(),
            }),
            _ => None,
        }
    }
}

/// Whether a remembered statement is a plain view, and so nothing that runs.
#[must_use]
pub fn is_view(spec: &JobSpec) -> bool {
    View::of(spec).is_some()
}

/// All views, by name.
#[must_use]
pub fn views(topics: &dyn Topics) -> Vec<View> {
    let mut views: Vec<View> = topics.jobs().iter().filter_map(View::of).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// One view.
#[must_use]
pub fn view(topics: &dyn Topics, name: &str) -> Option<View> {
    let specs = topics.jobs();
    let spec = specs.iter().find(|spec| spec.name == name)?;
    View::of(spec)
}

/// Remembers a view that was planned once, so that it is known to be one.
///
/// # Errors
/// [`SqlError`] when the name is taken by something else, or by a view that is not to be replaced.
pub async fn create(topics: &dyn Topics, view: &PlainView) -> Result<(), SqlError> {
    let name = &view.name;
    if topics.topic(name).is_some() {
        return Err(SqlError::invalid(
            format!("a topic {name} exists already"),
            "choose another name, or drop that topic",
        ));
    }
    let specs = topics.jobs();
    if let Some(known) = specs.iter().find(|spec| spec.name == *name) {
        if !is_view(known) {
            return Err(SqlError::invalid(
                format!("a continuous query {name} exists already"),
                "choose another name, or drop that query",
            ));
        }
        if !view.or_replace {
            return Err(SqlError::invalid(
                format!("a view {name} exists already"),
                "choose another name, or write CREATE OR REPLACE VIEW",
            ));
        }
        return Ok(topics.replace_job(JobId(known.id), &view.sql).await?);
    }
    topics.create_job(name, &view.sql, &[]).await?;
    Ok(())
}

/// Forgets a view.
///
/// # Errors
/// [`SqlError::Unknown`] when there is none of that name.
pub async fn remove(topics: &dyn Topics, name: &str, if_exists: bool) -> Result<(), SqlError> {
    match view(topics, name) {
        Some(view) => Ok(topics.drop_job(view.id).await?),
        None if if_exists => Ok(()),
        None => {
            if topics.jobs().iter().any(|spec| spec.name == name) {
                return Err(SqlError::invalid(
                    format!("{name} is a continuous query and no plain view"),
                    format!("write DROP MATERIALIZED VIEW {name} or DROP JOB {name}"),
                ));
            }
            let known = views(topics).into_iter().map(|view| view.name);
            Err(SqlError::unknown("view", name, None, known))
        }
    }
}
