//! Times of one unit where times meet.
//!
//! The engine takes a time that is written, and a date beside a time, for nanoseconds, and casts what they are compared with. Of these an `i64` has
//! room for the years 1677 to 2262 only: a row whose time is `9999-12-31`, as "never" is often written, ended the query that asked
//! whether it lies behind `TIMESTAMP '2013-01-01 00:00:00'`. Here, before types are settled:
//!
//! - a time that is written is one of microseconds, as in PostgreSQL and Flink, unless more digits are written;
//! - a text that is compared with a time is a time that is written;
//! - a date beside a time, or in the place of one, is a time of milliseconds, as those of columns are, or of the time's own unit;
//! - `now()` is of microseconds.
//!
//! Both units have room for all dates that can be written. For questions that end, for those that go on, and for computed columns.

use std::sync::{Arc, LazyLock};

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr::{Between, Case, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable as _, LogicalPlan, LogicalPlanBuilder, Operator, Values,
};

/// Functions whose arguments are of one type, which is that of the answer.
const OF_ONE_TYPE: [&str; 6] = ["coalesce", "greatest", "least", "nullif", "nvl", "ifnull"];

/// Functions that take a date for the time at which it begins.
const OF_A_TIME: [&str; 2] = ["date_trunc", "date_bin"];

/// Settles the units in all of a plan.
pub(crate) fn plain(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let mut is_other = false;
    let plain = plan.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Values(values) = node {
            let listed = listed(values)?;
            is_other |= listed.transformed;
            return Ok(listed);
        }
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let settled = settled(expr, &schema)?;
            Ok(settled.update_data(|expr| name.restore(expr)))
        })?;
        is_other |= node.transformed;
        match is_other {
            // Columns that are read further up have another type now.
            true => Ok(Transformed::yes(node.data.recompute_schema()?)),
            false => Ok(node),
        }
    })?;
    Ok(plain.data)
}

/// Rows that are written out, whose columns have one type each.
fn listed(listed: Values) -> EngineResult<Transformed<LogicalPlan>> {
    let mut is_other = false;
    let rows = listed.values.iter().map(|row| {
        let row = row.iter().map(|expr| {
            let settled = settled(expr.clone(), &listed.schema)?;
            is_other |= settled.transformed;
            Ok(match settled.data {
                // So is a NULL that was made one of them.
                Expr::Cast(cast) if is_null_time(&cast) => {
                    Expr::Literal(ScalarValue::TimestampMicrosecond(None, None), None)
                }
                other => other,
            })
        });
        row.collect()
    });
    let rows = rows.collect::<EngineResult<Vec<Vec<Expr>>>>()?;
    match is_other {
        true => Ok(Transformed::yes(LogicalPlanBuilder::values(rows)?.build()?)),
        false => Ok(Transformed::no(LogicalPlan::Values(listed))),
    }
}

fn is_null_time(cast: &Cast) -> bool {
    let is_time = matches!(
        cast.field.data_type(),
        DataType::Timestamp(TimeUnit::Nanosecond, None)
    );
    is_time && matches!(cast.expr.as_ref(), Expr::Literal(value, _) if value.is_null())
}

/// Settles the units in an expression over rows of a schema.
pub(crate) fn settled(expr: Expr, schema: &DFSchema) -> EngineResult<Transformed<Expr>> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::Cast(cast) => match written(&cast) {
                Some(time) => Transformed::yes(time),
                None => Transformed::no(Expr::Cast(cast)),
            },
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
                let mut sides = [*left, *right];
                let is_other = meet(sides.iter_mut(), schema, true);
                let [left, right] = sides.map(Box::new);
                told(Expr::BinaryExpr(BinaryExpr { left, op, right }), is_other)
            }
            Expr::Between(mut between) => {
                let Between {
                    expr, low, high, ..
                } = &mut between;
                let all = [expr.as_mut(), low.as_mut(), high.as_mut()];
                let is_other = meet(all.into_iter(), schema, true);
                told(Expr::Between(between), is_other)
            }
            Expr::InList(mut list) => {
                let InList { expr, list: of, .. } = &mut list;
                let all = std::iter::once(expr.as_mut()).chain(of);
                let is_other = meet(all, schema, true);
                told(Expr::InList(list), is_other)
            }
            Expr::Case(mut case) => {
                let is_other = meet_in_case(&mut case, schema);
                told(Expr::Case(case), is_other)
            }
            Expr::ScalarFunction(function) => in_function(function, schema),
            other => Transformed::no(other),
        })
    })
}

fn compares(sign: Operator) -> bool {
    matches!(
        sign,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn told(expr: Expr, is_other: bool) -> Transformed<Expr> {
    match is_other {
        true => Transformed::yes(expr),
        false => Transformed::no(expr),
    }
}

/// A time that is written out, or a text that is made one.
fn written(cast: &Cast) -> Option<Expr> {
    let DataType::Timestamp(TimeUnit::Nanosecond, None) = cast.field.data_type() else {
        return None;
    };
    match cast.expr.as_ref() {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => time_of(text),
        _ => None,
    }
}

/// The time that a text says, in the unit of its digits.
fn time_of(text: &str) -> Option<Expr> {
    static UTC: LazyLock<Option<Tz>> = LazyLock::new(|| "+00:00".parse().ok());
    let at = string_to_datetime(UTC.as_ref()?, text).ok()?.naive_utc();
    let at = at.and_utc();
    let value = match at.timestamp_subsec_nanos() % 1000 {
        0 => ScalarValue::TimestampMicrosecond(Some(at.timestamp_micros()), None),
        _ => ScalarValue::TimestampNanosecond(Some(at.timestamp_nanos_opt()?), None),
    };
    Some(Expr::Literal(value, None))
}

fn is_date(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::Date32))
}

/// Makes dates that meet a time times, and texts if they are `compared` with it; answers whether there was one.
fn meet<'a>(values: impl Iterator<Item = &'a mut Expr>, schema: &DFSchema, compared: bool) -> bool {
    let values: Vec<&mut Expr> = values.collect();
    let kinds = values.iter().map(|value| value.get_type(schema).ok());
    let kinds: Vec<Option<DataType>> = kinds.collect();
    let Some(kind) = kinds.iter().flatten().find_map(beside) else {
        return false;
    };
    let has_zone = matches!(kind, DataType::Timestamp(_, Some(_)));
    let mut is_other = false;
    for value in values {
        let is_date = is_date(value, schema);
        let meant = match &*value {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) if compared && !has_zone => {
                time_of(text)
            }
            _ if is_date => {
                let date = std::mem::take(value);
                Some(Expr::Cast(Cast::new(Box::new(date), kind.clone())))
            }
            _ => None,
        };
        if let Some(meant) = meant {
            *value = meant;
            is_other = true;
        }
    }
    is_other
}

/// The type of a date beside a time.
fn beside(time: &DataType) -> Option<DataType> {
    let DataType::Timestamp(unit, zone) = time else {
        return None;
    };
    let unit = match unit {
        TimeUnit::Second => TimeUnit::Millisecond,
        unit => *unit,
    };
    Some(DataType::Timestamp(unit, zone.as_ref().map(Arc::clone)))
}

fn meet_in_case(case: &mut Case, schema: &DFSchema) -> bool {
    let mut is_other = false;
    if let Some(operand) = &mut case.expr {
        let whens = case
            .when_then_expr
            .iter_mut()
            .map(|(when, _)| when.as_mut());
        is_other |= meet(std::iter::once(operand.as_mut()).chain(whens), schema, true);
    }
    let thens = case
        .when_then_expr
        .iter_mut()
        .map(|(_, then)| then.as_mut());
    let last = case.else_expr.iter_mut().map(AsMut::as_mut);
    is_other | meet(thens.chain(last), schema, false)
}

fn in_function(mut function: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    let name = function.func.name();
    if name == "now" {
        let now = Expr::ScalarFunction(function);
        let Ok(DataType::Timestamp(_, zone)) = now.get_type(schema) else {
            return Transformed::no(now);
        };
        let kind = DataType::Timestamp(TimeUnit::Microsecond, zone);
        return Transformed::yes(Expr::Cast(Cast::new(Box::new(now), kind)));
    }
    let mut is_other = false;
    if OF_ONE_TYPE.contains(&name) {
        is_other = meet(function.args.iter_mut(), schema, false);
    } else if OF_A_TIME.contains(&name) {
        let kind = DataType::Timestamp(TimeUnit::Millisecond, None);
        for date in &mut function.args {
            if is_date(date, schema) {
                let cast = Cast::new(Box::new(std::mem::take(date)), kind.clone());
                *date = Expr::Cast(cast);
                is_other = true;
            }
        }
    }
    told(Expr::ScalarFunction(function), is_other)
}
