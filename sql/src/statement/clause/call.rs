//! Expressions and calls: which there are, and what a call may have around its arguments.
//!
//! The planner takes `upper(DISTINCT x)` and `abs(x) OVER (…)` and computes `upper(x)` and `abs(x)`: whether a clause means
//! something depends on what kind of function is called, so functions are looked up here by their names.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, Ident, Spanned, Value, WindowSpec, WindowType,
};

use crate::statement::clause::{Checked, Left, OTHER_DIALECT, at, left, of_order};
use crate::statement::name::name_of;

/// The planner's list: what is not on it is refused here by how it is written.
pub(super) fn of_expr(expr: &Expr) -> Checked {
    match expr {
        Expr::Function(function) => of_function(function),
        Expr::AtTimeZone {
            timestamp: _,
            time_zone,
        } => match time_zone.as_ref() {
            Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)) => Ok(()),
            other => Err(at(
                other.span(),
                format!("{other} is no constant time zone"),
                "write AT TIME ZONE 'Europe/Berlin'",
            )),
        },
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::CompoundFieldAccess { .. }
        | Expr::JsonAccess { .. }
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Between { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::SimilarTo { .. }
        | Expr::AnyOp { .. }
        | Expr::AllOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::Cast { .. }
        | Expr::Extract { .. }
        | Expr::Ceil { .. }
        | Expr::Floor { .. }
        | Expr::Position { .. }
        | Expr::Substring { .. }
        | Expr::Trim { .. }
        | Expr::Overlay { .. }
        | Expr::Nested(_)
        | Expr::Value(_)
        | Expr::TypedString(_)
        | Expr::Case { .. }
        | Expr::Exists { .. }
        | Expr::Subquery(_)
        | Expr::GroupingSets(_)
        | Expr::Cube(_)
        | Expr::Rollup(_)
        | Expr::Tuple(_)
        | Expr::Struct { .. }
        | Expr::Named { .. }
        | Expr::Dictionary(_)
        | Expr::Map(_)
        | Expr::Array(_)
        | Expr::Interval(_)
        | Expr::Wildcard(_)
        | Expr::QualifiedWildcard(..)
        | Expr::Lambda(_) => Ok(()),
        Expr::BinaryOp {
            op: BinaryOperator::Overlaps,
            ..
        } => Err(left(
            "OVERLAPS",
            "write a.start < b.end AND b.start < a.end",
        )),
        Expr::BinaryOp { .. } => Ok(()),
        Expr::Collate { expr, collation } => Err(Box::new(Left {
            cause: format!("{expr} COLLATE {collation} is not done here"),
            ..*left(
                "COLLATE",
                "texts are compared by their characters; without regard to case write lower(a) = lower(b)",
            )
        })),
        Expr::IsNormalized { .. } => Err(left("NORMALIZED", OTHER_DIALECT)),
        Expr::InUnnest { .. } => Err(left("UNNEST", "write array_has(list, value)")),
        Expr::RLike { .. } => Err(left("RLIKE", "write regexp_like(text, pattern)")),
        Expr::Convert { .. } => Err(left("CONVERT", "write CAST(x AS type)")),
        Expr::Prefixed { .. }
        | Expr::MatchAgainst { .. }
        | Expr::OuterJoin(_)
        | Expr::Prior(_)
        | Expr::MemberOf(_) => Err(at(
            expr.span(),
            format!("{expr} is not done here"),
            "SHOW FUNCTIONS lists what there is",
        )),
    }
}

/// What a call may have around its arguments, by what kind of function it calls.
fn of_function(function: &Function) -> Checked {
    let Function {
        name,
        // Another spelling of the same call.
        uses_odbc_syntax: _,
        parameters,
        args,
        filter,
        null_treatment,
        over,
        within_group,
    } = function;
    let refuse = |what: &str, instead: &str| {
        Err(at(
            name.span(),
            format!("function {name} takes no {what}"),
            instead,
        ))
    };
    if !matches!(parameters, FunctionArguments::None) {
        return refuse(
            "parameters before its arguments",
            "write all of them in one list",
        );
    }
    let (is_distinct, clauses) = match args {
        FunctionArguments::None => (false, [].as_slice()),
        FunctionArguments::Subquery(_) => {
            return refuse(
                "query as its argument",
                "write a subquery in parentheses of its own, or SELECT array_agg(x) FROM (…)",
            );
        }
        FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment,
            args: _,
            clauses,
        }) => (duplicate_treatment.is_some(), clauses.as_slice()),
    };
    of_order(within_group)?;
    for clause in clauses {
        match clause {
            FunctionArgumentClause::OrderBy(columns) => of_order(columns)?,
            FunctionArgumentClause::IgnoreOrRespectNulls(_) => {}
            other => return refuse(&other.to_string(), "leave it out"),
        }
    }
    if let Some(WindowType::WindowSpec(spec)) = over {
        let WindowSpec {
            // Named windows are written out before this.
            window_name,
            partition_by: _,
            order_by,
            window_frame: _,
        } = spec;
        of_order(order_by)?;
        window_name.as_ref().map_or(Ok(()), no_window)?;
    }
    if let Some(WindowType::NamedWindow(window)) = over {
        no_window(window)?;
    }
    let has_nulls = null_treatment.is_some()
        || clauses
            .iter()
            .any(|clause| matches!(clause, FunctionArgumentClause::IgnoreOrRespectNulls(_)));
    let has_order = clauses
        .iter()
        .any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)))
        || !within_group.is_empty();
    let state = crate::runtime::expressions();
    let called = match name.0.as_slice() {
        [part] => part.as_ident().map(name_of),
        _ => None,
    };
    let Some(called) = called else { return Ok(()) };
    let clauses = [
        (is_distinct, "DISTINCT or ALL"),
        (filter.is_some(), "FILTER"),
        (has_nulls, "IGNORE NULLS or RESPECT NULLS"),
        (has_order, "ORDER BY"),
    ];
    if state.scalar_functions().contains_key(&called) {
        let of_rows = [(over.is_some(), "OVER")];
        let taken = clauses
            .iter()
            .chain(&of_rows)
            .find(|(is_there, _)| *is_there);
        return taken.map_or(Ok(()), |(_, what)| {
            refuse(what, "it is computed of one row alone; leave it out")
        });
    }
    let is_aggregate = state.aggregate_functions().contains_key(&called);
    if over.is_some() && is_aggregate && has_nulls {
        let takes = state
            .aggregate_functions()
            .get(&called)
            .is_some_and(|function| function.supports_null_handling_clause());
        if !takes {
            return refuse(
                "IGNORE NULLS or RESPECT NULLS",
                "write FILTER (WHERE x IS NOT NULL)",
            );
        }
    }
    if over.is_some() && !is_aggregate && state.window_functions().contains_key(&called) {
        let skips = ["lag", "lead", "first_value", "last_value", "nth_value"];
        let refused = clauses
            .iter()
            .filter(|(_, what)| !(what.ends_with("NULLS") && skips.contains(&called.as_str())))
            .find(|(is_there, _)| *is_there);
        return refused.map_or(Ok(()), |(_, what)| {
            refuse(what, "choose the rows in a subquery, and number them there")
        });
    }
    Ok(())
}

fn no_window(window: &Ident) -> Checked {
    Err(at(
        window.span,
        format!("there is no window {window}"),
        "name it behind the query: WINDOW w AS (PARTITION BY … ORDER BY …)",
    ))
}
