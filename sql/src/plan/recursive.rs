//! `WITH RECURSIVE r (n) AS (…)`: the names of columns that stand behind the name of the query.
//!
//! The engine gives them to what comes out of the recursion, so that the query within it, which reads itself, does not know them. Here
//! the first part of the query stands within one that has them, and with it everything that reads it; what it refers to itself stays as it is.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Cte, Query, SetExpr, TableFactor, VisitMut, VisitorMut};

use crate::error::SqlError;
use crate::statement::parse_query;

/// Writes such names where columns are made, in all of a query.
///
/// # Errors
/// [`SqlError`] if what is written can not be read, which is an error of ours.
pub(crate) fn name_columns(query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Names) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Names;

impl VisitorMut for Names {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let with = query.with.as_mut().filter(|with| with.recursive);
        let mut parts = with.into_iter().flat_map(|with| &mut with.cte_tables);
        match parts.try_for_each(name_in) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn name_in(cte: &mut Cte) -> Result<(), SqlError> {
    let names = cte
        .alias
        .columns
        .iter()
        .map(|column| column.name.to_string());
    let names: Vec<String> = names.collect();
    if names.is_empty() || !matches!(cte.query.body.as_ref(), SetExpr::SetOperation { .. }) {
        return Ok(());
    }
    let mut first = cte.query.body.as_mut();
    while let SetExpr::SetOperation { left, .. } = first {
        first = left.as_mut();
    }
    let mut named = parse_query(&format!(
        "SELECT * FROM (SELECT 1) AS __first ({})",
        names.join(", ")
    ))?;
    if let SetExpr::Select(select) = named.body.as_mut()
        && let [from] = select.from.as_mut_slice()
        && let TableFactor::Derived { subquery, .. } = &mut from.relation
    {
        std::mem::swap(subquery.body.as_mut(), first);
        *first = *named.body;
    }
    Ok(())
}
