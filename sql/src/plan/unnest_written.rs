//! Lists in `FROM` as they are written: what gives rows of a list becomes `UNNEST` with a name and columns.
//!
//! Done on the syntax tree: functions that give rows become `UNNEST` of a list, `WITH ORDINALITY` a second list that counts, and
//! `LEFT JOIN` takes an empty list for NULL. What the plan makes of them is in `unnest.rs`.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr as Written, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinOperator,
    ObjectName, Query, Select, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins,
    VisitMut, VisitorMut,
};

use crate::error::SqlError;
use crate::statement::{filled, name_of};

/// Functions that give rows in `FROM`, and the list whose elements these are; `$` is what they are called with.
const LISTS: [(&str, &str); 10] = [
    ("unnest", "$"),
    ("explode", "$"),
    ("generate_series", "generate_series($)"),
    ("range", "range($)"),
    ("string_to_table", "string_to_array($)"),
    ("json_items", "json_items($)"),
    ("json_array_elements", "json_items($)"),
    ("jsonb_array_elements", "json_items($)"),
    ("json_array_elements_text", "json_items_text($)"),
    ("jsonb_array_elements_text", "json_items_text($)"),
];

const FORM: &str =
    "write CROSS JOIN UNNEST(list) AS u(element), or WITH ORDINALITY AS u(element, place)";

/// Rewrites the lists in every `FROM` of a query to `UNNEST` with names.
///
/// # Errors
/// [`SqlError::Invalid`] for joins that a list has no place in, and names that do not fit.
pub(crate) fn named_lists(query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Rewriter) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Box<SqlError>;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        match select.from.iter_mut().try_for_each(of_from) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

fn of_from(from: &mut TableWithJoins) -> Result<(), SqlError> {
    of_factor(&mut from.relation, false)?;
    for join in &mut from.joins {
        let keeps = matches!(
            join.join_operator,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_)
        );
        of_factor(&mut join.relation, keeps)?;
        let takes = keeps
            || matches!(
                join.join_operator,
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
            );
        if matches!(join.relation, TableFactor::UNNEST { .. }) && !takes {
            return Err(SqlError::invalid(
                "UNNEST behind a join other than CROSS JOIN, JOIN and LEFT JOIN, since a list is of the row before it",
                FORM,
            ));
        }
    }
    Ok(())
}

/// Writes one table as `UNNEST` if it is a list; `keeps` says whether a row without an element stays.
fn of_factor(factor: &mut TableFactor, keeps: bool) -> Result<(), SqlError> {
    let (name, lists, alias, counts) = match factor {
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => return of_from(table_with_joins),
        TableFactor::UNNEST {
            alias,
            array_exprs,
            with_ordinality,
            ..
        } => (
            "unnest".to_owned(),
            std::mem::take(array_exprs),
            alias.take(),
            *with_ordinality,
        ),
        TableFactor::Table {
            name,
            alias,
            args: Some(args),
            with_ordinality,
            ..
        } => match listed(name, &args.args)? {
            Some((name, lists)) => (name, lists, alias.take(), *with_ordinality),
            None => return Ok(()),
        },
        TableFactor::Function {
            name,
            args,
            alias,
            with_ordinality,
            ..
        } => match listed(name, args)? {
            Some((name, lists)) => (name, lists, alias.take(), *with_ordinality),
            None => return Ok(()),
        },
        TableFactor::TableFunction {
            expr: Written::Function(function),
            alias,
        } => {
            let FunctionArguments::List(list) = &function.args else {
                return Ok(());
            };
            match listed(&function.name, &list.args)? {
                Some((name, lists)) => (name, lists, alias.take(), false),
                None => return Ok(()),
            }
        }
        _ => return Ok(()),
    };
    let count = lists.len();
    let mut lists = lists;
    if counts {
        lists.push(places(&lists)?);
    }
    if keeps {
        for list in &mut lists {
            *list = filled("CASE WHEN array_length($1) > 0 THEN $1 END", &[list])?;
        }
    }
    *factor = TableFactor::UNNEST {
        alias: Some(named(alias, &name, count, counts)?),
        array_exprs: lists,
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    };
    Ok(())
}

/// The lists that a function in `FROM` stands for, and the name that it goes by.
fn listed(
    name: &ObjectName,
    args: &[FunctionArg],
) -> Result<Option<(String, Vec<Written>)>, SqlError> {
    let [part] = name.0.as_slice() else {
        return Ok(None);
    };
    let Some(called) = part.as_ident().map(name_of) else {
        return Ok(None);
    };
    let Some((_, list)) = LISTS.iter().find(|(known, _)| *known == called) else {
        return Ok(None);
    };
    let mut values = Vec::new();
    for arg in args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => values.push(value.clone()),
            other => {
                return Err(SqlError::invalid(
                    format!("{other} is no argument of {name} in FROM"),
                    FORM,
                ));
            }
        }
    }
    if values.is_empty() {
        return Err(SqlError::invalid(
            format!("{name} in FROM is of no list"),
            FORM,
        ));
    }
    if *list != "$" {
        let places: Vec<String> = (1..=values.len()).map(|at| format!("${at}")).collect();
        let arguments: Vec<&Written> = values.iter().collect();
        values = vec![filled(&list.replace('$', &places.join(", ")), &arguments)?];
    }
    Ok(Some((called, values)))
}

/// The places of the elements, from 1: as many as the longest list has.
fn places(lists: &[Written]) -> Result<Written, SqlError> {
    let lengths = 1..=lists.len();
    let lengths = lengths.map(|at| format!("coalesce(array_length(${at}), 0)"));
    let lengths: Vec<String> = lengths.collect();
    let lists: Vec<&Written> = lists.iter().collect();
    filled(
        &format!(
            "range(1, CAST(greatest({}) AS BIGINT) + 1)",
            lengths.join(", ")
        ),
        &lists,
    )
}

/// The name of the rows with one for each column; a list alone is called as its rows are.
fn named(
    alias: Option<TableAlias>,
    function: &str,
    count: usize,
    counts: bool,
) -> Result<TableAlias, SqlError> {
    let mut alias = alias.unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::new(function),
        columns: Vec::new(),
        at: None,
    });
    let column = |name: Ident| TableAliasColumnDef {
        name,
        data_type: None,
    };
    if alias.columns.is_empty() && count == 1 {
        alias.columns.push(column(alias.name.clone()));
    }
    if alias.columns.len() == count && counts {
        alias.columns.push(column(Ident::new("ordinality")));
    }
    let wanted = count + usize::from(counts);
    if alias.columns.len() != wanted {
        return Err(SqlError::invalid(
            format!(
                "{} has {} names for the {wanted} columns of UNNEST",
                alias.name,
                alias.columns.len()
            ),
            "name each: UNNEST(a, b) AS u(x, y), and one more for WITH ORDINALITY",
        ));
    }
    Ok(alias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse_query;

    #[track_caller]
    fn rewritten(from: &str) -> String {
        let mut query = parse_query(&format!("SELECT 1 FROM {from}")).unwrap();
        match named_lists(&mut query) {
            Ok(()) => query.to_string().replace("SELECT 1 FROM ", ""),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_list_alone_is_called_as_its_rows_are() {
        assert_eq!(rewritten("t, UNNEST(a) AS x"), "t, UNNEST(a) AS x (x)");
        assert_eq!(rewritten("t, UNNEST(a)"), "t, UNNEST(a) AS unnest (unnest)");
    }

    #[test]
    fn functions_that_give_rows_are_lists() {
        assert_eq!(
            rewritten("t CROSS JOIN LATERAL jsonb_array_elements_text(t.doc) AS u(x)"),
            "t CROSS JOIN UNNEST(json_items_text(t.doc)) AS u (x)"
        );
        assert_eq!(
            rewritten("generate_series(1, 3) AS n"),
            "UNNEST(generate_series(1, 3)) AS n (n)"
        );
    }

    #[test]
    fn places_are_a_second_list() {
        assert_eq!(
            rewritten("t, UNNEST(a) WITH ORDINALITY AS u(x)"),
            "t, UNNEST(a, range(1, CAST(greatest(coalesce(array_length(a), 0)) AS BIGINT) + 1)) AS u (x, ordinality)"
        );
    }

    #[test]
    fn names_that_do_not_fit_and_other_joins_are_refused() {
        let told = rewritten("t, UNNEST(a, b) AS u(x)");
        assert!(told.contains("u has 1 names for the 2 columns"), "{told}");
        let told = rewritten("t RIGHT JOIN UNNEST(a) AS u(x) ON TRUE");
        assert!(told.contains("a list is of the row before it"), "{told}");
    }
}
