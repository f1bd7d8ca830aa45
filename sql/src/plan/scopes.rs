//! Which names `WITH` has given to queries, at each place of a syntax tree.
//!
//! A name holds from the query behind it on to the end of the query that the `WITH` belongs to: in `WITH t AS (SELECT * FROM t) …` the
//! inner `t` is a topic. Behind `RECURSIVE` it holds within its own query, too. Whoever walks a tree tells each query that it
//! enters and leaves.

use datafusion::sql::sqlparser::ast::{Cte, Query};

use crate::statement::name_of;

/// The queries around the place that a walk has come to, the outermost first.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    around: Vec<Scope>,
}

/// A query on the way.
#[derive(Debug)]
struct Scope {
    /// Names of its `WITH` in their order; their queries are walked before anything else of it.
    names: Vec<String>,
    /// How many of them hold.
    holding: usize,
    /// How many of their queries were entered.
    entered: usize,
}

impl Scopes {
    /// The walk enters a query.
    pub(crate) fn enter(&mut self, query: &Query) {
        if let Some(around) = self.around.last_mut() {
            around.entered += 1;
        }
        let with = query.with.as_ref();
        let parts: &[Cte] = with.map_or(&[], |with| &with.cte_tables);
        let names: Vec<String> = parts.iter().map(|part| name_of(&part.alias.name)).collect();
        self.around.push(Scope {
            holding: match with {
                Some(with) if with.recursive => names.len(),
                _ => 0,
            },
            names,
            entered: 0,
        });
    }

    /// The walk leaves the query that it entered last.
    pub(crate) fn leave(&mut self) {
        self.around.pop();
        if let Some(around) = self.around.last_mut()
            && around.entered <= around.names.len()
        {
            around.holding = around.holding.max(around.entered);
        }
    }

    /// Whether a name is that of a query here.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// All names of queries here.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.around.iter();
        names.flat_map(|scope| scope.names.iter().take(scope.holding).map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::{ObjectName, Visit, Visitor};

    use super::*;
    use crate::statement::parse_query;

    #[derive(Default)]
    struct Topics {
        scopes: Scopes,
        names: Vec<String>,
    }

    impl Visitor for Topics {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.scopes.enter(query);
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.scopes.leave();
            ControlFlow::Continue(())
        }

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            let name = relation.to_string();
            if !self.scopes.holds(&name) {
                self.names.push(name);
            }
            ControlFlow::Continue(())
        }
    }

    /// What a query reads that no `WITH` names.
    fn topics(sql: &str) -> Vec<String> {
        let mut topics = Topics::default();
        let _: ControlFlow<()> = parse_query(sql).unwrap().visit(&mut topics);
        topics.names
    }

    #[test]
    fn a_name_holds_behind_its_own_query_and_within_the_query_of_its_with() {
        assert_eq!(topics("WITH t AS (SELECT * FROM t) SELECT * FROM t"), ["t"]);
        assert_eq!(
            topics("WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM a, b, c"),
            ["b", "c"]
        );
        assert_eq!(
            topics("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) AS x, a"),
            ["a"]
        );
        assert_eq!(
            topics(
                "WITH a AS (WITH b AS (SELECT 1) SELECT * FROM b, a) SELECT * FROM a, b WHERE n IN (SELECT n FROM a)"
            ),
            ["a", "b"]
        );
        assert_eq!(
            topics("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM r) SELECT * FROM r"),
            Vec::<String>::new()
        );
    }
}
