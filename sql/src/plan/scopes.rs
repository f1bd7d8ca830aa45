//! Which names `WITH` has given to queries, at each place of a syntax tree.
//!
//! A name holds from the query behind it on to the end of the query that the `WITH` belongs to: in `WITH t AS (SELECT * FROM t) …` the
//! inner `t` is a topic. Behind `RECURSIVE` it holds within its own query, too. Whoever walks a tree tells each query that it
//! enters and leaves.

use datafusion::sql::sqlparser::ast::{Cte, Query};

use crate::statement::name_of;

/// The queries around the place that a walk has come to, the outermost first; `T` is what is known of a query that a `WITH` names.
#[derive(Debug)]
pub(crate) struct Scopes<T = ()> {
    around: Vec<Scope<T>>,
}

/// A query on the way.
#[derive(Debug)]
struct Scope<T> {
    /// Names of its `WITH` in their order, whose queries are walked before anything else of it; each holds once something is known.
    names: Vec<(String, Option<T>)>,
    /// How many queries within it were entered.
    entered: usize,
}

impl<T> Default for Scopes<T> {
    fn default() -> Self {
        Self { around: Vec::new() }
    }
}

impl<T: Clone> Scopes<T> {
    /// The walk enters a query; of what is named behind `RECURSIVE` so much is known beforehand.
    pub(crate) fn enter_knowing(&mut self, query: &Query, beforehand: T) {
        if let Some(around) = self.around.last_mut() {
            around.entered += 1;
        }
        let with = query.with.as_ref();
        let parts: &[Cte] = with.map_or(&[], |with| &with.cte_tables);
        let is_recursive = with.is_some_and(|with| with.recursive);
        let known = is_recursive.then_some(beforehand);
        let names = parts.iter().map(|part| name_of(&part.alias.name));
        self.around.push(Scope {
            names: names.map(|name| (name, known.clone())).collect(),
            entered: 0,
        });
    }

    /// The walk leaves the query that it entered last, of which this is known now; answers that if no `WITH` names the query.
    pub(crate) fn leave_knowing(&mut self, known: T) -> Option<T> {
        self.around.pop();
        let named = self.around.last_mut().and_then(|around| {
            let at = around.entered.checked_sub(1)?;
            around.names.get_mut(at)
        });
        match named {
            Some((_, place)) => {
                *place = Some(known);
                None
            }
            None => Some(known),
        }
    }

    /// What is known of the query that has this name here, if one has.
    pub(crate) fn known(&self, name: &str) -> Option<&T> {
        let scopes = self.around.iter().rev();
        let mut named = scopes.flat_map(|scope| scope.names.iter().rev());
        named.find_map(|(known, of)| of.as_ref().filter(|_| known == name))
    }

    /// Whether a name is that of a query here.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.known(name).is_some()
    }

    /// All names of queries here.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let named = self.around.iter().flat_map(|scope| &scope.names);
        named.filter_map(|(name, of)| of.as_ref().map(|_| name.as_str()))
    }
}

impl Scopes {
    /// The walk enters a query.
    pub(crate) fn enter(&mut self, query: &Query) {
        self.enter_knowing(query, ());
    }

    /// The walk leaves the query that it entered last.
    pub(crate) fn leave(&mut self) {
        self.leave_knowing(());
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
