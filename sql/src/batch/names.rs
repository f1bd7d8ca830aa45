//! What the names of a query stand for: one walk of its tables.
//!
//! A name that no `WITH` has given here ([`crate::plan::scopes`]), by itself or as `public.name`, is that of a topic or view.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArguments, Ident, ObjectName, Query, Select, SelectItem, TableFactor,
    TableWithJoins, Visit, Visitor,
};

use crate::batch::view::{VIEWS_DEEP_MAX, view};
use crate::error::SqlError;
use crate::plan::scopes::Scopes;
use crate::plan::star::first_name;
use crate::runtime::{CATALOG, TOPICS_SCHEMA};
use crate::statement::name_of;
use crate::topic::Topics;

/// Most tables of a query with its views and the queries of its `WITH` written out wherever they are named; each costs planning time.
pub(crate) const TABLES_MAX: u64 = 256;

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Topics and views.
    pub(crate) read: BTreeSet<String>,
    /// Those of which it takes all columns, with `*`.
    pub(crate) starred: BTreeSet<String>,
    /// How many tables it comes to.
    tables: u64,
}

/// Looks at all names of a query.
pub(crate) fn names_of(query: &Query) -> Named {
    walk(query, &mut |_| 1)
}

/// Checks how many tables a query comes to.
///
/// # Errors
/// [`SqlError::Limit`] above [`TABLES_MAX`].
pub(crate) fn check_tables(query: &Query, topics: &dyn Topics) -> Result<(), SqlError> {
    let mut sizes = Sizes {
        topics,
        known: BTreeMap::new(),
    };
    if walk(query, &mut |name| sizes.of(name, 0)).tables <= TABLES_MAX {
        return Ok(());
    }
    Err(SqlError::Limit {
        limit: "TABLES_MAX",
        value: format!("{TABLES_MAX} tables, with views and WITH written out"),
        advice: "name fewer tables, or make what is named again and again a materialized view",
    })
}

/// How many tables the names of topics and views come to.
struct Sizes<'a> {
    topics: &'a dyn Topics,
    known: BTreeMap<String, u64>,
}

impl Sizes<'_> {
    fn of(&mut self, name: &str, depth: usize) -> u64 {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        // One that stands in itself has no end, and is refused for its depth.
        self.known.insert(name.to_owned(), 1);
        let is_view = self.topics.topic(name).is_none() && depth < VIEWS_DEEP_MAX;
        let found = is_view.then(|| view(self.topics, name)).flatten();
        let tables = found.map_or(1, |view| {
            walk(&view.query, &mut |name| self.of(name, depth + 1)).tables
        });
        self.known.insert(name.to_owned(), tables);
        tables
    }
}

fn walk(query: &Query, size: &mut dyn FnMut(&str) -> u64) -> Named {
    let mut walk = Walk {
        size,
        named: Named::default(),
        scopes: Scopes::default(),
        tables: Vec::new(),
    };
    let _: ControlFlow<()> = query.visit(&mut walk);
    walk.named
}

struct Walk<'a> {
    size: &'a mut dyn FnMut(&str) -> u64,
    named: Named,
    /// How many tables each query of a `WITH` comes to.
    scopes: Scopes<u64>,
    /// How many each query on the way has come to by now.
    tables: Vec<u64>,
}

/// A name in the place of a table.
enum Name {
    /// By itself.
    Bare(String),
    /// With the schema of topics.
    Topic(String),
    /// Of another schema.
    Other,
}

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        // One that names itself is one table to itself.
        self.scopes.enter_knowing(query, 1);
        self.tables.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        let tables = self.tables.pop().unwrap_or_default();
        // A query of a `WITH` counts wherever it is named.
        if let Some(tables) = self.scopes.leave_knowing(tables) {
            self.add(tables);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let has_star = select.projection.iter().any(|item| {
            matches!(
                item,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
            )
        });
        for from in select.from.iter().filter(|_| has_star) {
            self.star(from);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let Some(name) = name_in(factor) else {
            return ControlFlow::Continue(());
        };
        let tables = match self.outside(name) {
            Ok(Some(name)) => {
                let tables = (self.size)(&name);
                self.named.read.insert(name);
                tables
            }
            Ok(None) => 1,
            Err(tables) => tables,
        };
        self.add(tables);
        ControlFlow::Continue(())
    }
}

impl Walk<'_> {
    /// Counts tables to the query that is walked, and in the end to the whole.
    fn add(&mut self, tables: u64) {
        let sum = self.tables.last_mut().unwrap_or(&mut self.named.tables);
        *sum = sum.saturating_add(tables);
    }

    /// The topic or view of a name, if it is one; else how many tables a query of `WITH` comes to.
    fn outside(&self, name: Name) -> Result<Option<String>, u64> {
        match name {
            Name::Bare(name) => match self.scopes.known(&name) {
                Some(tables) => Err(*tables),
                None => Ok(Some(name)),
            },
            Name::Topic(name) => Ok(Some(name)),
            Name::Other => Ok(None),
        }
    }

    /// Notes the topics and views of which `*` means all columns.
    fn star(&mut self, from: &TableWithJoins) {
        let joined = from.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&from.relation).chain(joined) {
            match factor {
                TableFactor::NestedJoin {
                    table_with_joins, ..
                } => self.star(table_with_joins),
                factor => {
                    let name = name_in(factor).map(|name| self.outside(name));
                    if let Some(Ok(Some(name))) = name {
                        self.named.starred.insert(name);
                    }
                }
            }
        }
    }
}

/// What one table of `FROM` names; not what a query there does.
fn name_in(factor: &TableFactor) -> Option<Name> {
    let bare = |ident: Ident| Name::Bare(name_of(&ident));
    match factor {
        TableFactor::Table {
            name, args: None, ..
        } => Some(of_parts(name)),
        TableFactor::Table {
            args: Some(args), ..
        } => args.args.first().and_then(first_name).map(bare),
        TableFactor::TableFunction {
            expr: Expr::Function(function),
            ..
        } => match &function.args {
            FunctionArguments::List(list) => list.args.first().and_then(first_name).map(bare),
            _ => None,
        },
        _ => None,
    }
}

fn of_parts(name: &ObjectName) -> Name {
    let parts: Option<Vec<String>> = name
        .0
        .iter()
        .map(|part| part.as_ident().map(name_of))
        .collect();
    match parts.unwrap_or_default().as_slice() {
        [name] => Name::Bare(name.clone()),
        [schema, name] if schema == TOPICS_SCHEMA => Name::Topic(name.clone()),
        [catalog, schema, name] if catalog == CATALOG && schema == TOPICS_SCHEMA => {
            Name::Topic(name.clone())
        }
        _ => Name::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse_query;

    #[track_caller]
    fn check(sql: &str, read: &[&str], starred: &[&str], tables: u64) {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let expected = Named {
            read: set(read),
            starred: set(starred),
            tables,
        };
        assert_eq!(names_of(&parse_query(sql).unwrap()), expected, "{sql}");
    }

    #[test]
    fn names_are_those_of_topics_wherever_they_stand() {
        check("SELECT a FROM t", &["t"], &[], 1);
        check("SELECT a FROM public.t", &["t"], &[], 1);
        check("SELECT * FROM millpond.topics", &[], &[], 1);
        check(
            "SELECT * FROM (t JOIN public.u ON t.id = u.id)",
            &["t", "u"],
            &["t", "u"],
            2,
        );
        check(
            "SELECT (SELECT max(b) FROM u) FROM t WHERE a IN (SELECT * FROM w)",
            &["t", "u", "w"],
            &["w"],
            3,
        );
        check(
            "SELECT count(*) FROM TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1 hour')",
            &["t"],
            &[],
            1,
        );
    }

    #[test]
    fn a_name_of_with_hides_a_topic_where_it_is_known_and_nowhere_else() {
        check(
            "WITH t AS (SELECT id FROM t WHERE id > 1) SELECT * FROM t",
            &["t"],
            &[],
            1,
        );
        check("WITH a AS (SELECT 1) SELECT * FROM a", &[], &[], 0);
        check(
            "SELECT * FROM (WITH a AS (SELECT * FROM t) SELECT * FROM a) AS x JOIN a ON TRUE",
            &["a", "t"],
            &["a", "t"],
            2,
        );
        check(
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
            &[],
            &[],
            1,
        );
    }

    #[test]
    fn a_query_of_with_counts_wherever_it_is_named() {
        check(
            "WITH a AS (SELECT x FROM t UNION ALL SELECT x FROM u), b AS (SELECT x FROM a UNION ALL SELECT x FROM a), c AS (SELECT 1 AS x) \
             SELECT x FROM b JOIN b AS d USING (x) JOIN c USING (x)",
            &["t", "u"],
            &[],
            8,
        );
    }
}
