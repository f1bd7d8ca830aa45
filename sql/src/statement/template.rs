//! Expressions by a text with places for others: what is put there stays the tree that it is.
//!
//! Nothing that was parsed is written and parsed again for it, since a literal may read otherwise the second time: the parser's
//! own text of one does not tell whether its quotes are doubled already.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Value, VisitMut as _, VisitorMut};

use crate::error::SqlError;
use crate::statement::parser::parse_plain_expression;

/// A template with arguments in its places, `$1` and so on.
///
/// # Errors
/// What the parser says of the template.
pub(crate) fn filled(template: &str, arguments: &[&Expr]) -> Result<Expr, SqlError> {
    let mut written = parse_plain_expression(template)?;
    let _: ControlFlow<()> = written.visit(&mut Places { arguments });
    Ok(written)
}

/// Puts arguments where a template names them.
struct Places<'a> {
    arguments: &'a [&'a Expr],
}

impl VisitorMut for Places<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(place) = &value.value
            && let Some(number) = place
                .strip_prefix('$')
                .and_then(|at| at.parse::<usize>().ok())
            && let Some(argument) = number.checked_sub(1).and_then(|at| self.arguments.get(at))
        {
            *expr = match argument {
                // As it was written, it may bind less than what is around it in the template.
                Expr::BinaryOp { .. } | Expr::UnaryOp { .. } => {
                    Expr::Nested(Box::new((*argument).clone()))
                }
                argument => (*argument).clone(),
            };
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_keeps_its_quotes_and_an_operation_its_brackets() {
        let text = parse_plain_expression("'a''''b'").unwrap();
        let sum = parse_plain_expression("1 + 2").unwrap();
        let Expr::Function(of) = filled("f($1, $2 * 3)", &[&text, &sum]).unwrap() else {
            unreachable!("it is a call")
        };
        let told = format!("{:?}", of.args);
        assert!(told.contains("SingleQuotedString(\"a''b\")"), "{told}");
        assert!(of.to_string().ends_with("(1 + 2) * 3)"), "{of}");
    }
}
