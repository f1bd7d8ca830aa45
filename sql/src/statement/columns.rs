//! `name (a, b) AS SELECT …`: names for the columns of a query, as they stand behind the name of a view or of the topic that a job writes.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, SelectItem, SetExpr, TableFactor, Value,
};
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::SqlError;
use crate::statement::name::{name_of, quoted};
use crate::statement::parser::{StatementParser, parse_query};
use crate::statement::refusal::at_token;

impl StatementParser<'_> {
    /// `(a, b)`, if it is there.
    pub(super) fn column_names(&mut self) -> Result<Vec<String>, SqlError> {
        let at = self.parser.peek_token();
        if at.token != Token::LParen {
            return Ok(Vec::new());
        }
        let names = self.names_in_parentheses()?;
        let mut rest = names.as_slice();
        while let [name, after @ ..] = rest {
            if after.contains(name) {
                return Err(at_token(
                    &at,
                    &format!("column {name} is named twice"),
                    "name each column once",
                ));
            }
            rest = after;
        }
        Ok(names)
    }
}

/// A query whose columns have these names; without any it is as it was.
///
/// # Errors
/// [`SqlError::Invalid`] when there are more names than columns, or less.
pub(crate) fn named(mut query: Query, relation: &str, names: &[String]) -> Result<Query, SqlError> {
    if names.is_empty() {
        return Ok(query);
    }
    let relation = quoted(relation);
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let Some(columns) = answered(&mut query.body) else {
        return over(query, &format!("{relation} ({})", names.join(", ")), "*");
    };
    if columns.len() != names.len() {
        let counted = |count: usize| match count {
            1 => "1 column".to_owned(),
            count => format!("{count} columns"),
        };
        return Err(SqlError::invalid(
            format!(
                "names are given to {}, and the query has {}",
                counted(names.len()),
                counted(columns.len())
            ),
            "name each of them",
        ));
    }
    let columns = columns.iter().zip(&names);
    let selected = columns.map(|(column, name)| format!("{} AS {name}", quoted(column)));
    over(query, &relation, &selected.collect::<Vec<_>>().join(", "))
}

/// A query that selects from the rows of another; both are texts of SQL.
///
/// # Errors
/// [`SqlError::Syntax`] for what is none.
pub(crate) fn over(query: Query, relation: &str, selected: &str) -> Result<Query, SqlError> {
    let sql = format!("SELECT {selected} FROM (SELECT 1) AS {relation}");
    let mut outer = parse_query(&sql)?;
    if let SetExpr::Select(select) = outer.body.as_mut()
        && let [from] = select.from.as_mut_slice()
        && let TableFactor::Derived { subquery, .. } = &mut from.relation
    {
        **subquery = query;
        return Ok(*outer);
    }
    Err(SqlError::Bug {
        cause: "a query in FROM was read as something else".to_owned(),
    })
}

/// The columns that a query answers, those without a name under one that nobody else has; `None` where they are not written out.
fn answered(body: &mut SetExpr) -> Option<Vec<String>> {
    let select = match body {
        SetExpr::Query(query) => return answered(&mut query.body),
        SetExpr::SetOperation { left, .. } => return answered(left),
        SetExpr::Select(select) => select,
        _ => return None,
    };
    let mut names = Vec::with_capacity(select.projection.len());
    for (place, item) in select.projection.iter_mut().enumerate() {
        names.push(match item {
            SelectItem::ExprWithAlias { alias, .. } => name_of(alias),
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => name_of(column),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => name_of(parts.last()?),
            SelectItem::UnnamedExpr(expr) => {
                let name = format!("__{place}");
                let expr = std::mem::replace(expr, Expr::value(Value::Null));
                let alias = Ident::with_quote('"', name.clone());
                *item = SelectItem::ExprWithAlias { expr, alias };
                name
            }
            _ => return None,
        });
    }
    Some(names)
}
