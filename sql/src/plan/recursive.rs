//! `WITH RECURSIVE r (n) AS (…)`: the names of columns that stand behind the name of the query.
//!
//! The engine gives them to what comes out of the recursion, so that the query within it, which reads itself, does not know them. Here
//! the first part of the query has them, and with it everything that reads it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Cte, Expr, Ident, Query, SelectItem, SetExpr, Value, VisitMut, VisitorMut,
};

/// Writes such names where columns are made, in all of a query.
pub(crate) fn name_columns(query: &mut Query) {
    let _: ControlFlow<()> = query.visit(&mut Names);
}

struct Names;

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let Some(with) = query.with.as_mut().filter(|with| with.recursive) {
            with.cte_tables.iter_mut().for_each(name_in);
        }
        ControlFlow::Continue(())
    }
}

fn name_in(cte: &mut Cte) {
    let names: Vec<Ident> = cte
        .alias
        .columns
        .iter()
        .map(|column| column.name.clone())
        .collect();
    let mut first = cte.query.body.as_mut();
    while let SetExpr::SetOperation { left, .. } = first {
        first = left.as_mut();
    }
    let SetExpr::Select(select) = first else {
        return;
    };
    if names.len() != select.projection.len() {
        return;
    }
    for (item, alias) in select.projection.iter_mut().zip(names) {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            let nothing = Expr::Value(Value::Null.into());
            let expr = std::mem::replace(expr, nothing);
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
}
