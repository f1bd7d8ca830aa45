//! What `*` stands for: the declared columns of a topic; system columns are named or not read.
//!
//! `SELECT * FROM orders` answers what `CREATE TOPIC` declared, so that its rows can be written to another
//! topic, a view or a file as they are. The system columns (`_offset`, `_key`, `_body`, …) are there for
//! whoever names them, and all that there is of a topic without columns: there `*` means them. Done
//! on the syntax tree, before anything else is rewritten, for bounded and continuous queries alike.
//! `NATURAL JOIN` would compare system columns as well, and is refused.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint,
    JoinOperator, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    TableFactor, TableWithJoins, VisitMut, VisitorMut, WildcardAdditionalOptions,
};

use crate::catalog;
use crate::error::SqlError;
use crate::statement::name_of;
use crate::topic::Topics;

/// Rewrites every `*` of a query.
///
/// # Errors
/// [`SqlError::Invalid`] for a `NATURAL JOIN`.
pub(crate) fn expand(query: &mut Query, topics: &dyn Topics) -> Result<(), SqlError> {
    let mut stars = Stars {
        topics,
        local: BTreeSet::new(),
    };
    match query.visit(&mut stars) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Stars<'a> {
    topics: &'a dyn Topics,
    /// Names that `WITH` gives to queries.
    local: BTreeSet<String>,
}

/// One relation in `FROM`.
struct Relation {
    /// What its columns are qualified with.
    name: ObjectName,
    /// Whether it has system columns beside declared ones.
    hides: bool,
}

impl VisitorMut for Stars<'_> {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.local.insert(name_of(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        if select.from.iter().any(is_natural) {
            return ControlFlow::Break(Box::new(SqlError::invalid(
                "NATURAL JOIN would compare the system columns of topics as well",
                "write JOIN … USING (column, …) with the columns that are to be equal",
            )));
        }
        let mut relations = Vec::new();
        for from in &select.from {
            self.relations(from, &mut relations);
        }
        if relations.iter().all(|relation| !relation.hides) {
            return ControlFlow::Continue(());
        }
        let shared = shared_columns(&select.from);
        let mut items = Vec::new();
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::Wildcard(options) => {
                    items.extend(
                        shared
                            .iter()
                            .cloned()
                            .map(|column| SelectItem::UnnamedExpr(Expr::Identifier(column))),
                    );
                    items.extend(
                        relations
                            .iter()
                            .map(|relation| relation.all(&options, &shared)),
                    );
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    let hides = relations
                        .iter()
                        .any(|relation| relation.hides && is_same(&relation.name, &name));
                    items.push(Relation { name, hides }.all(&options, &[]));
                }
                other => items.push(other),
            }
        }
        select.projection = items;
        ControlFlow::Continue(())
    }
}

impl Stars<'_> {
    fn relations(&self, from: &TableWithJoins, into: &mut Vec<Relation>) {
        self.relation(&from.relation, into);
        for join in &from.joins {
            let only_left = matches!(
                join.join_operator,
                JoinOperator::Semi(_)
                    | JoinOperator::LeftSemi(_)
                    | JoinOperator::Anti(_)
                    | JoinOperator::LeftAnti(_)
            );
            if !only_left {
                self.relation(&join.relation, into);
            }
        }
    }

    fn relation(&self, factor: &TableFactor, into: &mut Vec<Relation>) {
        let (name, alias, hides) = match factor {
            TableFactor::Table {
                name, alias, args, ..
            } => {
                let topic = match args {
                    None => last_of(name),
                    Some(args) => args.args.first().and_then(first_name),
                };
                (topic.clone(), alias, self.hides(topic.as_ref()))
            }
            TableFactor::TableFunction {
                expr: Expr::Function(function),
                alias,
            } => {
                let topic = match &function.args {
                    FunctionArguments::List(list) => list.args.first().and_then(first_name),
                    _ => None,
                };
                (topic.clone(), alias, self.hides(topic.as_ref()))
            }
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => return self.relations(table_with_joins, into),
            TableFactor::Derived { alias, .. } | TableFactor::UNNEST { alias, .. } => {
                (None, alias, false)
            }
            _ => (None, &None, false),
        };
        let alias = alias.as_ref().map(|alias| alias.name.clone());
        if let Some(name) = alias.or(name) {
            let name = ObjectName::from(vec![name]);
            into.push(Relation { name, hides });
        }
    }

    fn hides(&self, topic: Option<&Ident>) -> bool {
        let Some(name) = topic.map(name_of).filter(|name| !self.local.contains(name)) else {
            return false;
        };
        let topic = self.topics.topic(&name);
        topic.is_some_and(|topic| !topic.columns.is_empty())
    }
}

impl Relation {
    /// All its columns, but for system columns and those of `shared`.
    fn all(&self, written: &WildcardAdditionalOptions, shared: &[Ident]) -> SelectItem {
        let mut options = written.clone();
        let system = catalog::system_columns().iter().filter(|_| self.hides);
        let system = system.map(|field| Ident::with_quote('"', field.name()));
        let mut without: Vec<Ident> = system.chain(shared.iter().cloned()).collect();
        if let Some(except) = options.opt_except.take() {
            without.push(except.first_element);
            without.extend(except.additional_elements);
        }
        let mut without = without.into_iter();
        if let Some(first_element) = without.next() {
            options.opt_except = Some(ExceptSelectItem {
                first_element,
                additional_elements: without.collect(),
            });
        }
        let kind = SelectItemQualifiedWildcardKind::ObjectName(self.name.clone());
        SelectItem::QualifiedWildcard(kind, options)
    }
}

/// The columns of `USING`, which `*` answers once.
fn shared_columns(from: &[TableWithJoins]) -> Vec<Ident> {
    let joins = from.iter().flat_map(|from| &from.joins);
    let mut shared: Vec<Ident> = Vec::new();
    for join in joins {
        let Some(JoinConstraint::Using(columns)) = constraint(&join.join_operator) else {
            continue;
        };
        for column in columns.iter().filter_map(last_of) {
            if !shared
                .iter()
                .any(|known| name_of(known) == name_of(&column))
            {
                shared.push(column);
            }
        }
    }
    shared
}

fn is_natural(from: &TableWithJoins) -> bool {
    from.joins
        .iter()
        .any(|join| constraint(&join.join_operator) == Some(&JoinConstraint::Natural))
}

fn constraint(join: &JoinOperator) -> Option<&JoinConstraint> {
    match join {
        JoinOperator::Join(of)
        | JoinOperator::Inner(of)
        | JoinOperator::Left(of)
        | JoinOperator::LeftOuter(of)
        | JoinOperator::Right(of)
        | JoinOperator::RightOuter(of)
        | JoinOperator::FullOuter(of)
        | JoinOperator::Semi(of)
        | JoinOperator::LeftSemi(of)
        | JoinOperator::Anti(of)
        | JoinOperator::LeftAnti(of) => Some(of),
        _ => None,
    }
}

fn last_of(name: &ObjectName) -> Option<Ident> {
    match name.0.as_slice() {
        [one] => one.as_ident().cloned(),
        _ => None,
    }
}

fn is_same(left: &ObjectName, right: &ObjectName) -> bool {
    matches!((last_of(left), last_of(right)), (Some(l), Some(r)) if name_of(&l) == name_of(&r))
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
