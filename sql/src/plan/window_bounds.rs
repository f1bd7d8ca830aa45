//! Whether rows have `window_start` and `window_end` already, so that a window over them takes their place.
//!
//! Hours of minutes: `FROM TUMBLE(TABLE minutes, DESCRIPTOR(window_start), INTERVAL '1 hour')`, where `minutes` answers the bounds of
//! its own windows. The names of what a query answers are read off its text, as far as that tells them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor,
    WildcardAdditionalOptions, visit_expressions,
};

use crate::batch::view::view;
use crate::plan::star::first_name;
use crate::statement::name_of;
use crate::topic::Topics;

const BOUNDS: [&str; 2] = ["window_start", "window_end"];

/// The last moment of a window, a millisecond before its end: the time of what its rows come to.
pub(crate) const WINDOW_TIME: &str = "window_time";

/// Which of the bounds that a window gives the rows of a query have, or of a topic or view of this name.
pub(crate) fn bounds_of(
    name: &str,
    rows: Option<&Query>,
    gives_time: bool,
    topics: &dyn Topics,
) -> Vec<&'static str> {
    let names = match rows {
        Some(query) => names_of_query(query, topics),
        None => names_of_table(name, topics),
    };
    let known = BOUNDS.into_iter().chain(gives_time.then_some(WINDOW_TIME));
    known.filter(|bound| names.contains(*bound)).collect()
}

/// Whether a query names the last moment of a window, anywhere in it.
pub(crate) fn names_time(query: &Query) -> bool {
    let is_time = |ident: &Ident| name_of(ident) == WINDOW_TIME;
    let found = visit_expressions(query, |expr| match expr {
        Expr::Identifier(column) if is_time(column) => ControlFlow::Break(()),
        Expr::CompoundIdentifier(parts) if parts.last().is_some_and(is_time) => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn names_of_table(name: &str, topics: &dyn Topics) -> BTreeSet<String> {
    match (topics.topic(name), view(topics, name)) {
        (Some(topic), _) => topic
            .columns
            .into_iter()
            .map(|column| column.name)
            .collect(),
        (None, Some(view)) => names_of_query(&view.query, topics),
        (None, None) => BTreeSet::new(),
    }
}

fn names_of_query(query: &Query, topics: &dyn Topics) -> BTreeSet<String> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Query(query) => return names_of_query(query, topics),
            // The names of a union are those of its first query.
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Select(select) => return names_of_select(query, select, topics),
            _ => return BTreeSet::new(),
        }
    }
}

fn names_of_select(query: &Query, select: &Select, topics: &dyn Topics) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let factors = || {
        let each = select.from.iter();
        each.flat_map(|from| {
            let joined = from.joins.iter().map(|join| &join.relation);
            std::iter::once(&from.relation).chain(joined)
        })
    };
    for item in &select.projection {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => {
                names.insert(name_of(alias));
            }
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => {
                names.insert(name_of(column));
            }
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                names.extend(parts.last().map(name_of));
            }
            SelectItem::Wildcard(options) => {
                let all = factors().flat_map(|factor| names_of_factor(query, factor, topics));
                names.extend(without(all.collect(), options));
            }
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) => {
                let called = name.0.last().and_then(|part| part.as_ident()).map(name_of);
                let of = factors().filter(|factor| called_as(factor) == called);
                let all = of.flat_map(|factor| names_of_factor(query, factor, topics));
                names.extend(without(all.collect(), options));
            }
            _ => {}
        }
    }
    names
}

fn without(all: BTreeSet<String>, options: &WildcardAdditionalOptions) -> BTreeSet<String> {
    let Some(except) = &options.opt_except else {
        return all;
    };
    let left_out = std::iter::once(&except.first_element).chain(&except.additional_elements);
    let left_out: BTreeSet<String> = left_out.map(name_of).collect();
    all.difference(&left_out).cloned().collect()
}

fn called_as(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table {
            name, alias, args, ..
        } => match (alias, args) {
            (Some(alias), _) => Some(name_of(&alias.name)),
            (None, Some(args)) => args.args.first().and_then(first_name).as_ref().map(name_of),
            (None, None) => name.0.last().and_then(|part| part.as_ident()).map(name_of),
        },
        TableFactor::Derived { alias, .. } | TableFactor::TableFunction { alias, .. } => {
            alias.as_ref().map(|alias| name_of(&alias.name))
        }
        _ => None,
    }
}

fn names_of_factor(query: &Query, factor: &TableFactor, topics: &dyn Topics) -> BTreeSet<String> {
    match factor {
        TableFactor::Table {
            name, args: None, ..
        } => {
            let Some(name) = name.0.last().and_then(|part| part.as_ident()).map(name_of) else {
                return BTreeSet::new();
            };
            let parts = query.with.iter().flat_map(|with| &with.cte_tables);
            let mut local = parts.filter(|part| name_of(&part.alias.name) == name);
            match local.next() {
                Some(part) => names_of_query(&part.query, topics),
                None => names_of_table(&name, topics),
            }
        }
        TableFactor::Derived { subquery, .. } => names_of_query(subquery, topics),
        // A window.
        TableFactor::Table { args: Some(_), .. } | TableFactor::TableFunction { .. } => {
            BOUNDS.map(str::to_owned).into()
        }
        _ => BTreeSet::new(),
    }
}
