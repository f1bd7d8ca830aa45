//! From `OVER` of the plan to its node in the graph.
//!
//! The order must begin with a column whose times move on, since only then a row's place becomes final; and
//! a frame ends with the row itself, since rows to come are not known.

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
use datafusion::logical_expr::{
    Expr, Window, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::over::{Frame, Function, OverSpec};
use crate::operator::top::Numbers;
use crate::plan::bounds::{Time, interval_ms, time_of};
use crate::plan::chain::lower;
use crate::plan::graph::{Builder, Edge, named, nullable};
use crate::plan::refuse::refused;

/// The window function within an expression of `OVER`.
pub(super) fn window_function(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => window_function(&alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

/// How a window of the plan numbers rows, if it does so and nothing else.
pub(super) fn numbers_of(window: &Window) -> Option<Numbers> {
    let [function] = window.window_expr.as_slice() else {
        return None;
    };
    let WindowFunctionDefinition::WindowUDF(udf) = &window_function(function)?.fun else {
        return None;
    };
    match udf.name() {
        "row_number" => Some(Numbers::Rows),
        "rank" => Some(Numbers::Rank),
        "dense_rank" => Some(Numbers::DenseRank),
        _ => None,
    }
}

impl Builder<'_> {
    pub(super) fn over(&mut self, window: &Window) -> Result<Edge, SqlError> {
        let below = self.relation(&window.input)?;
        if below.mode == Mode::Retract {
            return Err(refused(
                "OVER a table that changes, unless it is ROW_NUMBER(), RANK() or DENSE_RANK() OVER (…) with a condition that it is at most a number",
                "compute it where the view is read",
            ));
        }
        let input = Arc::clone(&self.nodes[below.node].schema);
        let over = window.input.schema();
        let functions: Option<Vec<&WindowFunction>> =
            window.window_expr.iter().map(window_function).collect();
        let functions = functions.ok_or_else(|| SqlError::Bug {
            cause: "OVER without a function".to_owned(),
        })?;
        let params = match functions.first() {
            Some(first) => &first.params,
            None => return self.relation(&window.input),
        };
        let first = params.order_by.first();
        let time = first.filter(|first| first.asc).and_then(|first| {
            let time = time_of(&first.expr, over, &below.times)?;
            Some((time, &first.expr))
        });
        let Some((time, time_expr)) = time else {
            return Err(refused(
                "OVER unless its ORDER BY begins with the time column of a watermark, or _stored_at, ascending",
                "declare WATERMARK FOR the column and order by it, or compute it where the view is read",
            ));
        };
        let lateness_ms = self.options.allowed_lateness_ms.unwrap_or(0);
        let horizon = match time.is_strict {
            true => time.horizon.clone(),
            false => time.horizon.lagging(lateness_ms),
        };
        let mut order = Vec::new();
        for sort in &params.order_by {
            let options = SortOptions {
                descending: !sort.asc,
                nulls_first: sort.nulls_first,
            };
            order.push((self.physical(&sort.expr, over)?, options));
        }
        let partition = params.partition_by.iter();
        let partition = partition.map(|expr| self.physical(expr, over));
        let partition = partition.collect::<Result<Vec<_>, _>>()?;
        let mut computed = Vec::new();
        for function in functions {
            computed.push(self.window_function(function, &window.input, &input)?);
        }
        let added = window.schema.fields().iter().skip(input.fields().len());
        let added = added.map(|field| (field.name().clone(), field.data_type().clone()));
        let schema = nullable(named(&input).into_iter().chain(added));
        let spec = OverSpec {
            partition,
            time: self.physical(time_expr, over)?,
            horizon: horizon.clone(),
            order,
            functions: computed,
            input,
            schema: Arc::clone(&schema),
        };
        let edge = Edge {
            node: self.push(Kind::Over(Box::new(spec)), vec![below.node], schema),
            mode: Mode::Append,
            unique: below.unique,
            times: vec![Time {
                column: time.column,
                horizon,
                is_strict: true,
                is_padded: false,
            }],
        };
        self.tell("over, rows leave by time", &edge);
        Ok(edge)
    }

    fn window_function(
        &self,
        function: &WindowFunction,
        input: &datafusion::logical_expr::LogicalPlan,
        rows: &arrow::datatypes::Schema,
    ) -> Result<Function, SqlError> {
        let params = &function.params;
        match &function.fun {
            WindowFunctionDefinition::AggregateUDF(udf) => {
                let aggregate = Expr::AggregateFunction(AggregateFunction::new_udf(
                    Arc::clone(udf),
                    params.args.clone(),
                    params.distinct,
                    params.filter.clone(),
                    Vec::new(),
                    params.null_treatment,
                ));
                Ok(Function::Aggregate {
                    kernel: lower(&aggregate, input.schema(), rows)?,
                    frame: frame_of(&params.window_frame)?,
                })
            }
            WindowFunctionDefinition::WindowUDF(udf) => {
                match (udf.name(), params.args.as_slice()) {
                    ("row_number", _) => Ok(Function::Number),
                    ("lag", [value, rest @ ..]) if params.null_treatment.is_none() => {
                        let rows = match rest.first() {
                            None => Some(1),
                            Some(Expr::Literal(rows, _)) => count(rows),
                            Some(_) => None,
                        };
                        let otherwise = match rest.get(1) {
                            None => Some(ScalarValue::Null),
                            Some(Expr::Literal(value, _)) => Some(value.clone()),
                            Some(_) => None,
                        };
                        let (Some(rows), Some(otherwise)) = (rows, otherwise) else {
                            return Err(refused(
                                "LAG with a distance or default that is no constant",
                                "write lag(column, 1)",
                            ));
                        };
                        Ok(Function::Lag {
                            value: self.physical(value, input.schema())?,
                            rows,
                            otherwise,
                        })
                    }
                    (name, _) => Err(refused(
                        &format!("{name} OVER (…)"),
                        "use an aggregate, row_number() or lag(…), or compute it where the view is read",
                    )),
                }
            }
        }
    }
}

fn count(value: &ScalarValue) -> Option<u64> {
    match value.cast_to(&arrow::datatypes::DataType::UInt64).ok()? {
        ScalarValue::UInt64(count) => count,
        _ => None,
    }
}

fn frame_of(frame: &WindowFrame) -> Result<Frame, SqlError> {
    let refuse = || {
        refused(
            &format!("OVER (… {frame})"),
            "end the frame with the row itself: ROWS BETWEEN 9 PRECEDING AND CURRENT ROW, or RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW",
        )
    };
    let is_current = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => true,
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) => {
            count(value) == Some(0)
        }
    };
    match (&frame.units, &frame.start_bound, &frame.end_bound) {
        (WindowFrameUnits::Groups, ..) => Err(refuse()),
        (units, WindowFrameBound::Preceding(from), end) if from.is_null() && is_current(end) => {
            Ok(Frame::All {
                peers: *units == WindowFrameUnits::Range,
            })
        }
        (WindowFrameUnits::Rows, start, end) => {
            let back = |bound: &WindowFrameBound| match bound {
                WindowFrameBound::Preceding(rows) => count(rows),
                bound if is_current(bound) => Some(0),
                _ => None,
            };
            match (back(start), back(end)) {
                (Some(from), Some(to)) => Ok(Frame::Rows { from, to }),
                _ => Err(refuse()),
            }
        }
        (WindowFrameUnits::Range, WindowFrameBound::Preceding(length), end) if is_current(end) => {
            let length = Expr::Literal(length.clone(), None);
            let ms = interval_ms(&length).ok_or_else(refuse)?;
            Ok(Frame::Stretch { ms })
        }
        (WindowFrameUnits::Range, start, end) if is_current(start) && is_current(end) => {
            Ok(Frame::Stretch { ms: 0 })
        }
        _ => Err(refuse()),
    }
}
