//! Operators that the engine has not, or that it does not compute as SQL says.

use std::fmt::Write as _;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};

/// What stands for an operator, as a template and what its places hold; `None` if it is the engine's.
pub(super) fn meaning<'e>(
    left: &'e Expr,
    operator: &BinaryOperator,
    right: &'e Expr,
) -> Option<(String, Vec<&'e Expr>)> {
    match (operator, left, right) {
        (BinaryOperator::PGExp, left, right) => Some((
            "power(CAST($1 AS DOUBLE), $2)".to_owned(),
            vec![left, right],
        )),
        (
            BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq,
            Expr::Tuple(left),
            Expr::Tuple(right),
        ) if left.len() == right.len() && left.len() > 1 => Some((
            in_order(operator, left.len()),
            left.iter().chain(right).collect(),
        )),
        (BinaryOperator::Eq | BinaryOperator::NotEq, Expr::Tuple(left), Expr::Tuple(right))
            if left.len() == right.len() && left.len() > 1 =>
        {
            Some((
                equal(operator, left.len()),
                left.iter().chain(right).collect(),
            ))
        }
        _ => None,
    }
}

/// `(a, b) = (c, d)` as `a = c AND b = d`, which is unknown where a NULL decides.
fn equal(operator: &BinaryOperator, columns: usize) -> String {
    let pairs = (1..=columns).map(|column| format!("${column} = ${}", column + columns));
    let equal = format!("({})", pairs.collect::<Vec<_>>().join(" AND "));
    match operator {
        BinaryOperator::NotEq => format!("(NOT {equal})"),
        _ => equal,
    }
}

/// `(a, b) < (c, d)` as `a < c OR a = c AND b < d`: unknown where a NULL decides, which the engine takes for a value.
fn in_order(operator: &BinaryOperator, columns: usize) -> String {
    let strict = match operator {
        BinaryOperator::Lt | BinaryOperator::LtEq => "<",
        _ => ">",
    };
    let mut template = "(".to_owned();
    for column in 1..columns {
        let other = column + columns;
        let _ = write!(
            template,
            "${column} {strict} ${other} OR (${column} = ${other} AND ("
        );
    }
    let _ = write!(template, "${columns} {operator} ${}", 2 * columns);
    template + &"))".repeat(columns - 1) + ")"
}
