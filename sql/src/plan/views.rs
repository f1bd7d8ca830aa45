//! Plain views in a continuous query: each is written out where it is named.
//!
//! Input and output are syntax trees; what comes out names topics alone. A bounded query needs none of this: there a view is
//! a table that plans its own query.
//!
//! **Invariant.** A name means what it means in the view's own statement: a `WITH` around it that would give it another meaning
//! is refused. What a continuous query was made of can not be replaced under it, see [`crate::batch::dependents`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, TableAlias,
    TableFactor, VisitMut, VisitorMut,
};

use crate::batch::names::{check_tables, names_of};
use crate::batch::view::{VIEWS_DEEP_MAX, View, view};
use crate::error::SqlError;
use crate::plan::named;
use crate::plan::scopes::Scopes;
use crate::statement::name_of;
use crate::topic::Topics;

/// Writes out every view that a query reads; answers whether there was one, whose text has other places than the query's.
///
/// # Errors
/// [`SqlError::Limit`] for views on views without end, [`SqlError::Invalid`] for names that would mean something else.
pub(crate) fn expand(query: &mut Query, topics: &dyn Topics) -> Result<bool, SqlError> {
    check_tables(query, topics)?;
    expand_at(query, topics, 0)
}

fn expand_at(query: &mut Query, topics: &dyn Topics, depth: usize) -> Result<bool, SqlError> {
    let mut views = Views {
        topics,
        depth,
        scopes: Scopes::default(),
        found: false,
    };
    match query.visit(&mut views) {
        ControlFlow::Continue(()) => Ok(views.found),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Views<'a> {
    topics: &'a dyn Topics,
    /// How many views stand around the query.
    depth: usize,
    /// Names that `WITH` gives to queries.
    scopes: Scopes,
    found: bool,
}

impl VisitorMut for Views<'_> {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        self.scopes.enter(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Self::Break> {
        self.scopes.leave();
        ControlFlow::Continue(())
    }

    // Behind the children, so that what is written out is not looked at again.
    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let (name, alias) = match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                version: None,
                ..
            } => (name, alias),
            TableFactor::Table {
                alias,
                args: Some(args),
                ..
            } => return self.window(args.args.first_mut(), alias),
            TableFactor::TableFunction {
                expr: Expr::Function(function),
                alias,
            } => match &mut function.args {
                FunctionArguments::List(list) => return self.window(list.args.first_mut(), alias),
                _ => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        let Some(found) = self.view(name) else {
            return ControlFlow::Continue(());
        };
        let called = Ident::with_quote('"', &found.name);
        match self.written_out(found) {
            Ok(query) => {
                let alias = alias.take().unwrap_or_else(|| named_as(called));
                *factor = TableFactor::Derived {
                    lateral: false,
                    subquery: Box::new(query),
                    alias: Some(alias),
                    sample: None,
                };
                self.found = true;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn named_as(name: Ident) -> TableAlias {
    TableAlias {
        explicit: true,
        name,
        columns: Vec::new(),
        at: None,
    }
}

impl Views<'_> {
    /// Writes out the view that a window is over.
    fn window(
        &mut self,
        arg: Option<&mut FunctionArg>,
        alias: &mut Option<TableAlias>,
    ) -> ControlFlow<Box<SqlError>> {
        let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))) = arg else {
            return ControlFlow::Continue(());
        };
        let rows = match arg {
            Expr::Tuple(parts) => match parts.first_mut() {
                Some(rows) => rows,
                None => return ControlFlow::Continue(()),
            },
            rows => rows,
        };
        let Expr::Identifier(name) = rows else {
            return ControlFlow::Continue(());
        };
        let Some(found) = self.view(&ObjectName::from(vec![name.clone()])) else {
            return ControlFlow::Continue(());
        };
        let called = Ident::with_quote('"', &found.name);
        match self.written_out(found) {
            Ok(query) => {
                *rows = Expr::Subquery(Box::new(query));
                alias.get_or_insert_with(|| named_as(called));
                self.found = true;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }

    fn view(&self, name: &ObjectName) -> Option<View> {
        let [part] = name.0.as_slice() else {
            return None;
        };
        let name = name_of(part.as_ident()?);
        match self.scopes.holds(&name) || self.topics.topic(&name).is_some() {
            true => None,
            false => view(self.topics, &name),
        }
    }

    fn written_out(&self, view: View) -> Result<Query, SqlError> {
        if self.depth >= VIEWS_DEEP_MAX {
            return Err(SqlError::Limit {
                limit: "VIEWS_DEEP_MAX",
                value: format!("{VIEWS_DEEP_MAX} views on views"),
                advice: "write the innermost query out",
            });
        }
        let names = names_of(&view.query);
        if let Some(name) = self.scopes.names().find(|name| names.read.contains(*name)) {
            return Err(SqlError::invalid(
                format!(
                    "WITH names a query {name}, and so does view {} name what it reads",
                    view.name
                ),
                "choose another name behind WITH",
            ));
        }
        let mut query = view.query;
        expand_at(&mut query, self.topics, self.depth + 1)?;
        named::as_written(&mut query);
        Ok(query)
    }
}
