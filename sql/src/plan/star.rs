//! What `*` stands for: the declared columns of a topic; system columns are named or not read.
//!
//! `SELECT * FROM orders` answers what `CREATE TOPIC` declared, so that its rows can be written to another
//! topic, a view or a file as they are. The system columns (`_offset`, `_key`, `_body`, …) are there for
//! whoever names them, and all that there is of a topic without columns: there `*` means them. Done
//! on the syntax tree, before anything else is rewritten, for bounded and continuous queries alike. Columns of `USING` come once, before
//! the others, and their bare names mean what SQL says ([`crate::plan::joined`]).
//! `NATURAL JOIN` would compare system columns as well, and is refused.
//!
//! **Invariant.** No relation is passed over in silence: one without a name gets one.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, Expr, FunctionArg, FunctionArgExpr, Ident, JoinConstraint, ObjectName, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, TableFactor, TableWithJoins, VisitMut,
    VisitorMut, WildcardAdditionalOptions,
};

use crate::catalog;
use crate::error::SqlError;
use crate::plan::joined::{Joined, Names, Shared, constraint_mut, last_of};
use crate::statement::name_of;
use crate::topic::Topics;

/// Rewrites every `*` of a query.
///
/// # Errors
/// [`SqlError::Invalid`] for a `NATURAL JOIN`.
pub(crate) fn expand(query: &mut Query, topics: &dyn Topics) -> Result<(), SqlError> {
    let mut stars = Stars {
        names: Names::of(topics),
    };
    match query.visit(&mut stars) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Stars<'a> {
    names: Names<'a>,
}

impl VisitorMut for Stars<'_> {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.names.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Self::Break> {
        self.names.scopes.leave();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        match self.select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

impl Stars<'_> {
    fn select(&mut self, select: &mut Select) -> Result<(), SqlError> {
        let from = select.from.as_mut_slice();
        if has_join(from, |of| matches!(of, JoinConstraint::Natural)) {
            return Err(SqlError::invalid(
                "NATURAL JOIN would compare the system columns of topics as well",
                "write JOIN … USING (column, …) with the columns that are to be equal",
            ));
        }
        let uses = has_join(from, |of| matches!(of, JoinConstraint::Using(_)));
        let has_star = select.projection.iter().any(|item| {
            matches!(
                item,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
            )
        });
        if !(uses || has_star) || is_one_query(&select.from) {
            return Ok(());
        }
        let mut from = Vec::new();
        for entry in &mut select.from {
            from.push(self.names.joined(entry)?);
        }
        let mut shared = from.iter().flat_map(|joined| &joined.shared);
        let are_first = shared.all(|shared| shared.is_first);
        let mut relations = from.iter().flat_map(|joined| &joined.relations);
        if relations.all(|relation| !relation.hides) && are_first {
            return Ok(());
        }
        let is_shared = |column: &Ident| {
            let mut shared = from.iter().flat_map(|joined| &joined.shared);
            shared.any(|shared| !are_first && shared.is_called(column))
        };
        let mut items = Vec::new();
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::Wildcard(options) => items.extend(all(&from, &options)?),
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    let mut relations = from.iter().flat_map(|joined| &joined.relations);
                    let hides =
                        relations.any(|relation| relation.hides && is_same(&relation.name, &name));
                    let without = excepted(&options);
                    items.push(all_of(name, hides, without, &options));
                }
                // It keeps its name.
                SelectItem::UnnamedExpr(Expr::Identifier(column)) if is_shared(&column) => {
                    items.push(SelectItem::ExprWithAlias {
                        expr: Expr::Identifier(column.clone()),
                        alias: column,
                    });
                }
                other => items.push(other),
            }
        }
        select.projection = items;
        if are_first {
            return Ok(());
        }
        let shared = from.into_iter().flat_map(|joined| joined.shared);
        let mut bare = Bare {
            shared: shared.collect(),
            deep: 0,
        };
        match select.visit(&mut bare) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(*error),
        }
    }
}

/// All columns of what is joined: those of `USING` once, then those of each relation but for system columns.
fn all(from: &[Joined], options: &WildcardAdditionalOptions) -> Result<Vec<SelectItem>, SqlError> {
    let except = excepted(options);
    let relations = || from.iter().flat_map(|joined| &joined.relations);
    let shared = || from.iter().flat_map(|joined| &joined.shared);
    let is_known = |column: &Ident| {
        relations().any(|relation| relation.has(column) == Some(true))
            || shared().any(|shared| shared.is_called(column))
    };
    let mut items = Vec::new();
    for joined in from {
        for shared in &joined.shared {
            if !except.iter().any(|column| shared.is_called(column)) {
                let expr = shared.value()?;
                items.push(match shared.is_first {
                    true => SelectItem::UnnamedExpr(expr),
                    false => SelectItem::ExprWithAlias {
                        expr,
                        alias: shared.name.clone(),
                    },
                });
            }
        }
        for relation in &joined.relations {
            let leaves = |column: &&Ident| match relation.has(column) {
                Some(has) => has,
                None => !is_known(column),
            };
            let mut without = relation.merged.clone();
            without.extend(except.iter().filter(leaves).cloned());
            let name = relation.name.clone();
            items.push(all_of(name, relation.hides, without, options));
        }
    }
    // The engine says that there is no such column.
    let is_nowhere = |column: &&Ident| {
        !is_known(column) && relations().all(|relation| relation.has(column).is_some())
    };
    if let (Some(column), Some(SelectItem::QualifiedWildcard(_, options))) =
        (except.iter().find(is_nowhere), items.last_mut())
    {
        leave_out(options, vec![column.clone()]);
    }
    Ok(items)
}

/// All columns of a relation, without some, nor system columns where they are hidden.
fn all_of(
    name: ObjectName,
    hides: bool,
    without: Vec<Ident>,
    written: &WildcardAdditionalOptions,
) -> SelectItem {
    let mut options = written.clone();
    let system = catalog::system_columns().iter().filter(|_| hides);
    let hidden = system.map(|field| Ident::with_quote('"', field.name()));
    let shown = |column: &Ident| !(hides && catalog::is_system_column(&name_of(column)));
    let mut left: Vec<Ident> = hidden.collect();
    left.extend(without.into_iter().filter(shown));
    options.opt_except = None;
    leave_out(&mut options, left);
    SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options)
}

/// The columns after `EXCEPT`.
fn excepted(options: &WildcardAdditionalOptions) -> Vec<Ident> {
    let except = options.opt_except.iter();
    let columns = except.flat_map(|except| {
        std::iter::once(&except.first_element).chain(&except.additional_elements)
    });
    columns.cloned().collect()
}

/// Leaves out some columns more, each once.
fn leave_out(options: &mut WildcardAdditionalOptions, more: Vec<Ident>) {
    let mut columns = excepted(options);
    for column in more {
        let is_same = |known: &Ident| name_of(known) == name_of(&column);
        if !columns.iter().any(is_same) {
            columns.push(column);
        }
    }
    let mut columns = columns.into_iter();
    options.opt_except = columns.next().map(|first_element| ExceptSelectItem {
        first_element,
        additional_elements: columns.collect(),
    });
}

/// Writes the values of columns of `USING` where their bare names stand, but within further queries.
struct Bare {
    shared: Vec<Shared>,
    deep: usize,
}

impl VisitorMut for Bare {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Self::Break> {
        self.deep += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Self::Break> {
        self.deep -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Identifier(name) = &*expr else {
            return ControlFlow::Continue(());
        };
        let mut of_name = self.shared.iter().filter(|shared| shared.is_called(name));
        // Of two the engine says that the name tells neither.
        if let (0, Some(one), None) = (self.deep, of_name.next(), of_name.next()) {
            match one.value() {
                Ok(value) => *expr = value,
                Err(error) => return ControlFlow::Break(Box::new(error)),
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether all that is read is a query without a name, of which there is nothing to hide.
fn is_one_query(from: &[TableWithJoins]) -> bool {
    matches!(from, [one] if one.joins.is_empty()
        && matches!(one.relation, TableFactor::Derived { alias: None, .. }))
}

/// Whether a join, at whatever depth of parentheses, has such a constraint.
fn has_join(from: &mut [TableWithJoins], wanted: fn(&JoinConstraint) -> bool) -> bool {
    let within = |factor: &mut TableFactor| match factor {
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => has_join(std::slice::from_mut(table_with_joins.as_mut()), wanted),
        _ => false,
    };
    from.iter_mut().any(|from| {
        let mut joins = from.joins.iter_mut();
        within(&mut from.relation)
            || joins.any(|join| {
                let constraint = constraint_mut(&mut join.join_operator);
                constraint.is_some_and(|of| wanted(of)) || within(&mut join.relation)
            })
    })
}

/// Whether a relation is meant by a name.
fn is_same(relation: &ObjectName, name: &ObjectName) -> bool {
    if relation == name {
        return true;
    }
    let last = relation.0.last().and_then(|part| part.as_ident());
    matches!((last, last_of(name)), (Some(l), Some(r)) if name_of(l) == name_of(&r))
}

/// The topic of a window function: a name, or a name with its `PARTITION BY`.
pub(crate) fn first_name(arg: &FunctionArg) -> Option<Ident> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident))) => Some(ident.clone()),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Tuple(parts))) => match parts.first() {
            Some(Expr::Identifier(ident)) => Some(ident.clone()),
            _ => None,
        },
        _ => None,
    }
}
