//! Numbers with a point, exact where a DOUBLE would lose digits of them.
//!
//! The engine reads `0.01` as a DOUBLE, and what meets it becomes one: money would lose its digits. As in PostgreSQL and Flink a
//! number is exact here where that can be told from it:
//!
//! - `CAST(1.005 AS DECIMAL(10, 2))` is cast as it is written, and not by way of a DOUBLE.
//! - A number of more than 15 digits is a DECIMAL of its own digits, of which it has 38 at most.
//! - A number that is computed or compared with a DECIMAL is one ([`Beside`], [`compared`]). A DOUBLE that has come of a number of
//!   up to 15 digits tells them, so that nothing is lost on the way.
//!
//! Beside a DOUBLE all of them are DOUBLEs. So are the arguments of functions and the results of `CASE`, by themselves, since many
//! functions take nothing else, and a number with an exponent that meets no DECIMAL. Other numbers stay DOUBLEs too, where PostgreSQL and
//! Flink have decimals: the quotients and powers of the engine's decimals keep four digits more than their operands and no more.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, DollarQuotedString, ExactNumberInfo, Expr as Written,
    FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator, Value, VisitMut,
    visit_expressions_mut,
};

/// Most digits that a DECIMAL has.
const DIGITS_MAX: usize = 38;
/// As many digits of any number a DOUBLE keeps.
const DOUBLE_DIGITS: usize = 15;
/// Marks the text of a number that was made exact, which nobody else writes.
const MARK: &str = "exact";

/// Makes numbers exact that are cast to a DECIMAL, or that a DOUBLE can not hold, in a query or an expression.
pub(crate) fn written<V: VisitMut>(of: &mut V) {
    // From the innermost outwards, so the arguments of a function come before it.
    let _: ControlFlow<()> = visit_expressions_mut(of, |expr| {
        match expr {
            Written::Value(_) => made_exact(expr, Digits::is_too_long),
            Written::Cast {
                expr, data_type, ..
            } if is_decimal(data_type) => {
                if let Some(text) = signed(expr) {
                    **expr = Written::value(Value::SingleQuotedString(text));
                }
            }
            Written::Function(function) => {
                if let FunctionArguments::List(list) = &mut function.args {
                    list.args.iter_mut().for_each(argument_as_written);
                }
            }
            Written::Case {
                conditions,
                else_result,
                ..
            } => {
                let results = conditions.iter_mut().map(|when| &mut when.result);
                results
                    .chain(else_result.as_deref_mut())
                    .for_each(as_written);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
}

/// Makes a number with a point exact, whatever it meets: what an insert gives to a DECIMAL.
pub(crate) fn given(expr: &mut Written) {
    match expr {
        Written::Nested(inner) | Written::UnaryOp { expr: inner, .. } => given(inner),
        Written::Value(_) => made_exact(expr, |_| true),
        _ => {}
    }
}

/// Makes a number a DOUBLE, whatever its digits: what an insert gives to one.
pub(crate) fn rounded(expr: &mut Written) {
    match expr {
        Written::Nested(inner) | Written::UnaryOp { expr: inner, .. } => rounded(inner),
        Written::Value(value) => {
            if let Value::Number(text, _) = &mut value.value
                && Digits::of(text).is_some_and(Digits::is_too_long)
                && let Ok(number) = text.parse::<f64>()
            {
                *text = format!("{number:e}");
            }
        }
        _ => {}
    }
}

/// Puts a DECIMAL in the place of a number with such digits.
fn made_exact(expr: &mut Written, of: impl Fn(Digits) -> bool) {
    let Written::Value(value) = expr else {
        return;
    };
    let Value::Number(text, _) = &value.value else {
        return;
    };
    let Some(digits) = Digits::of(text) else {
        return;
    };
    if !of(digits) || text.parse::<u64>().is_ok() {
        return;
    }
    let text = DollarQuotedString {
        value: text.clone(),
        tag: Some(MARK.to_owned()),
    };
    *expr = Written::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Written::value(Value::DollarQuotedString(text))),
        data_type: ast::DataType::Decimal(ExactNumberInfo::PrecisionAndScale(
            u64::from(digits.precision),
            i64::from(digits.scale),
        )),
        array: false,
        format: None,
    };
}

fn argument_as_written(argument: &mut FunctionArg) {
    let (FunctionArg::Named { arg, .. }
    | FunctionArg::ExprNamed { arg, .. }
    | FunctionArg::Unnamed(arg)) = argument;
    if let FunctionArgExpr::Expr(expr) = arg {
        as_written(expr);
    }
}

/// Takes back what [`made_exact`] made of a number.
fn as_written(expr: &mut Written) {
    match expr {
        Written::Nested(inner) | Written::UnaryOp { expr: inner, .. } => as_written(inner),
        Written::Cast { expr: number, .. } => {
            if let Written::Value(value) = number.as_ref()
                && let Value::DollarQuotedString(text) = &value.value
                && text.tag.as_deref() == Some(MARK)
            {
                *expr = Written::value(Value::Number(text.value.clone(), false));
            }
        }
        _ => {}
    }
}

fn is_decimal(data_type: &ast::DataType) -> bool {
    use ast::DataType::{Dec, Decimal, Numeric};
    matches!(data_type, Decimal(_) | Numeric(_) | Dec(_))
}

/// The text of a number with a point, and its sign.
fn signed(expr: &Written) -> Option<String> {
    match expr {
        Written::Nested(inner) => signed(inner),
        Written::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match signed(expr)? {
            text if text.starts_with('-') => None,
            text => Some(format!("-{text}")),
        },
        Written::Value(value) => match &value.value {
            Value::Number(text, _) if text.contains('.') => Digits::of(text).map(|_| text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// How many digits a number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digits {
    precision: u8,
    scale: i8,
    /// Those between the first and the last that are not zero.
    significant: usize,
}

impl Digits {
    /// Those of a number without sign and exponent that a DECIMAL can hold.
    fn of(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let precision = (whole.len() + fraction.len()).max(1);
        if precision > DIGITS_MAX {
            return None;
        }
        let all = format!("{whole}{fraction}");
        Some(Self {
            precision: u8::try_from(precision).ok()?,
            scale: i8::try_from(fraction.len()).ok()?,
            significant: all.trim_matches('0').len(),
        })
    }

    /// Whether a DOUBLE may lose some of them.
    fn is_too_long(self) -> bool {
        self.significant > DOUBLE_DIGITS
    }
}

/// Makes a number a DECIMAL where it is computed or compared with one, and a DOUBLE beside a DOUBLE.
#[derive(Debug)]
pub(crate) struct Beside;

impl ExprPlanner for Beside {
    fn plan_binary_op(
        &self,
        mut expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>, DataFusionError> {
        use BinaryOperator::{
            Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Plus,
        };
        let numbers = [
            Plus, Minus, Multiply, Divide, Modulo, Eq, NotEq, Lt, LtEq, Gt, GtEq,
        ];
        let is_too_fine = expr.op == Multiply
            && scale_of(&expr.left, schema) + scale_of(&expr.right, schema) > DIGITS_MAX;
        if numbers.contains(&expr.op) && !is_too_fine {
            fitted(&mut [&mut expr.left, &mut expr.right], schema);
        }
        Ok(PlannerResult::Original(expr))
    }
}

/// The same for `BETWEEN` and `IN`, in all of a plan whose types are not yet made to fit each other.
pub(crate) fn compared(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = compared_in(expr, &schema)?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(plan.data)
}

/// The same for one expression over columns of a schema.
pub(crate) fn compared_in(
    expr: Expr,
    schema: &DFSchema,
) -> Result<Transformed<Expr>, DataFusionError> {
    expr.transform_up(|mut expr| {
        let is_changed = match &mut expr {
            Expr::Between(between) => fitted(
                &mut [
                    between.expr.as_mut(),
                    between.low.as_mut(),
                    between.high.as_mut(),
                ],
                schema,
            ),
            Expr::InList(list) => {
                let mut all = vec![list.expr.as_mut()];
                all.extend(&mut list.list);
                fitted(&mut all, schema)
            }
            _ => false,
        };
        Ok(Transformed::new_transformed(expr, is_changed))
    })
}

/// How many digits after its point a value has, as the DECIMAL that it is or would become.
fn scale_of(expr: &Expr, schema: &DFSchema) -> usize {
    let kind = match decimal_of(expr) {
        Some(decimal) => decimal.get_type(schema),
        None => expr.get_type(schema),
    };
    match kind {
        Ok(DataType::Decimal128(_, scale)) => usize::try_from(scale).unwrap_or(0),
        _ => 0,
    }
}

/// Fits the numbers among some values to the others; whether there was any to fit.
fn fitted(values: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types: Vec<Option<DataType>> = values
        .iter()
        .map(|value| value.get_type(schema).ok())
        .collect();
    let is_double =
        |kind: &Option<DataType>| matches!(kind, Some(DataType::Float64 | DataType::Float32));
    let is_decimal = |kind: &Option<DataType>| matches!(kind, Some(DataType::Decimal128(_, _)));
    let has_double = types
        .iter()
        .zip(values.iter())
        .any(|(kind, value)| is_double(kind) && !matches!(value, Expr::Literal(..)));
    if !has_double && !types.iter().any(is_decimal) {
        return false;
    }
    let mut is_changed = false;
    for value in values {
        let made = match has_double {
            true => double_of(value),
            false => decimal_of(value),
        };
        if let Some(made) = made {
            **value = made;
            is_changed = true;
        }
    }
    is_changed
}

/// The DECIMAL with the digits of a DOUBLE that was written as a number.
fn decimal_of(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Float64(Some(number)), _) = expr else {
        return None;
    };
    let text = number.to_string();
    let digits = Digits::of(text.trim_start_matches('-'))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text.as_str(), ""));
    let units: i128 = format!("{whole}{fraction}").parse().ok()?;
    let value = ScalarValue::Decimal128(Some(units), digits.precision, digits.scale);
    Some(Expr::Literal(value, None))
}

/// The DOUBLE nearest to a number that was made exact.
fn double_of(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Negative(inner) => match double_of(inner)? {
            Expr::Literal(ScalarValue::Float64(Some(number)), _) => {
                Some(Expr::Literal(ScalarValue::Float64(Some(-number)), None))
            }
            _ => None,
        },
        Expr::Cast(Cast { expr, field }) => {
            let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = expr.as_ref() else {
                return None;
            };
            let digits = Digits::of(text)?;
            let own = DataType::Decimal128(digits.precision, digits.scale);
            if *field.data_type() != own {
                return None;
            }
            let number = text.parse().ok()?;
            Some(Expr::Literal(ScalarValue::Float64(Some(number)), None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse_expression;

    #[track_caller]
    fn assert_written(sql: &str, exact: &str) {
        let mut expr = parse_expression(sql).unwrap();
        written(&mut expr);
        assert_eq!(expr.to_string(), exact);
    }

    #[test]
    fn a_number_is_cast_to_a_decimal_as_it_is_written() {
        assert_written(
            "CAST(-1.005 AS DECIMAL(10,2)) + 1.5::NUMERIC",
            "CAST('-1.005' AS DECIMAL(10,2)) + '1.5'::NUMERIC",
        );
        assert_written("CAST(1.5 AS INT)", "CAST(1.5 AS INT)");
        assert_written("CAST(1e2 AS DECIMAL(10,2))", "CAST(1e2 AS DECIMAL(10,2))");
    }

    #[test]
    fn a_number_of_more_digits_than_a_double_keeps_is_a_decimal() {
        assert_written("0.100000000000000", "0.100000000000000");
        assert_written("123456789012.345", "123456789012.345");
        assert_written(
            "1234567890123.456",
            "CAST($exact$1234567890123.456$exact$ AS DECIMAL(16,3))",
        );
        assert_written("18446744073709551615", "18446744073709551615");
        assert_written(
            "-18446744073709551616",
            "-CAST($exact$18446744073709551616$exact$ AS DECIMAL(20,0))",
        );
    }

    #[test]
    fn arguments_and_results_of_case_stay_doubles() {
        for sql in [
            "power(2.718281828459045235, -3.14159265358979323846)",
            "CASE WHEN a THEN x ELSE 3.14159265358979323846 END",
        ] {
            assert_written(sql, sql);
        }
    }

    #[test]
    fn a_double_tells_the_digits_it_was_written_with() {
        let decimal = |number: f64| match decimal_of(&datafusion::logical_expr::lit(number)) {
            Some(Expr::Literal(ScalarValue::Decimal128(Some(units), precision, scale), _)) => {
                Some((units, precision, scale))
            }
            _ => None,
        };
        assert_eq!(decimal(0.01), Some((1, 2, 2)));
        assert_eq!(decimal(-0.05), Some((-5, 2, 2)));
        assert_eq!(
            decimal(123_456_789_012.345),
            Some((123_456_789_012_345, 15, 3))
        );
        assert_eq!(decimal(1e3), Some((1000, 4, 0)));
        assert_eq!(decimal(0.0), Some((0, 1, 0)));
        for none in [1e300, 1e-300, f64::NAN, f64::INFINITY] {
            assert_eq!(decimal(none), None);
        }
    }
}
