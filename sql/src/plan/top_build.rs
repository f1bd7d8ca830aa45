//! Row numbers that a condition above holds to their first values: the first rows of each group.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator as Sign};

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::top::{Numbers, TopSpec};
use crate::plan::aggregate_build::passed_times;
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge, named, nullable, passed, told};
use crate::plan::over_build::{numbers_of, window_function};

impl Builder<'_> {
    /// Notes that a condition holds a row number to its first values.
    pub(super) fn note_most(&mut self, condition: &Expr, input: &LogicalPlan) {
        let Some((column, most)) = at_most(condition) else {
            return;
        };
        if let Some(window) = numbering(input, column) {
            let least = self.most.entry(std::ptr::from_ref(window)).or_insert(most);
            *least = most.min(*least);
        }
    }

    /// `ROW_NUMBER()`, `RANK()` or `DENSE_RANK() OVER (…)` that a condition above holds to its first values.
    pub(super) fn top(
        &mut self,
        window: &datafusion::logical_expr::Window,
    ) -> Result<Edge, SqlError> {
        let function = window.window_expr.first().and_then(window_function);
        let most = self.most.get(&std::ptr::from_ref(window));
        let (function, count) = function.zip(most.copied()).ok_or_else(unbounded)?;
        let numbers = numbers_of(window).ok_or_else(unbounded)?;
        let number = window.schema.field(window.schema.fields().len() - 1).name();
        let below = self.relation(&window.input)?;
        let input = Arc::clone(&self.nodes[below.node].schema);
        let params = &function.params;
        let dfschema = window.input.schema();
        let partition = params.partition_by.iter();
        let partition = partition.map(|expr| self.physical(expr, dfschema));
        let partition = partition.collect::<Result<Vec<_>, _>>()?;
        let partition_columns: Option<Vec<usize>> = params
            .partition_by
            .iter()
            .map(|expr| passed(expr, dfschema))
            .collect();
        let mut order = Vec::new();
        for sort in &params.order_by {
            let options = SortOptions {
                descending: !sort.asc,
                nulls_first: sort.nulls_first,
            };
            order.push((self.physical(&sort.expr, dfschema)?, options));
        }
        let numbered = (number.clone(), DataType::UInt64);
        let schema = nullable(named(&input).into_iter().chain([numbered]));
        let at = input.fields().len();
        let unique = match (partition_columns, below.unique) {
            // Any number of rows may have one rank.
            (_, unique) if numbers != Numbers::Rows => unique,
            (Some(columns), _) if count == 1 => Some(columns),
            (_, Some(columns)) => Some(columns),
            (Some(columns), None) => Some(columns.into_iter().chain([at]).collect()),
            (None, None) => None,
        };
        let times = passed_times(&params.partition_by, dfschema, &below.times);
        let (ending, times) = self.group_ending(times);
        let told = told(ending.as_ref());
        let places = params.partition_by.iter();
        let places: Vec<Option<usize>> = places.map(|expr| passed(expr, dfschema)).collect();
        let times = times.into_iter().filter_map(|time| {
            let column = places.get(time.column).copied().flatten()?;
            Some(Time { column, ..time })
        });
        let times = times.collect();
        let spec = TopSpec {
            partition,
            order,
            count,
            numbers,
            is_append: below.mode == Mode::Append,
            input,
            schema: Arc::clone(&schema),
            ending,
        };
        let edge = Edge {
            node: self.push(Kind::Top(spec), vec![below.node], schema),
            mode: Mode::Retract,
            unique,
            times,
        };
        let what = match numbers {
            Numbers::Rows => "",
            Numbers::Rank | Numbers::DenseRank => " ranks",
        };
        self.tell(&format!("first {count}{what} of each group{told}"), &edge);
        Ok(edge)
    }
}

fn unbounded() -> SqlError {
    SqlError::Bug {
        cause: "a row number without a bound".to_owned(),
    }
}

/// The column that a condition compares with a constant, and the greatest value that it leaves it.
fn at_most(condition: &Expr) -> Option<(&Column, u64)> {
    let binary = match condition {
        Expr::BinaryExpr(binary) => binary,
        Expr::Between(between) if !between.negated => {
            return Some((column_of(&between.expr)?, constant(&between.high)?.floor));
        }
        Expr::InList(list) if !list.negated => {
            let values = list.list.iter().map(|value| Some(constant(value)?.floor));
            let values = values.collect::<Option<Vec<u64>>>()?;
            return Some((column_of(&list.expr)?, values.into_iter().max()?));
        }
        _ => return None,
    };
    let (sign, column, value) = match (column_of(&binary.left), column_of(&binary.right)) {
        (Some(column), None) => (binary.op, column, constant(&binary.right)?),
        (None, Some(column)) => (binary.op.swap()?, column, constant(&binary.left)?),
        _ => return None,
    };
    match sign {
        Sign::Lt if value.is_whole => Some((column, value.floor.checked_sub(1)?)),
        Sign::LtEq | Sign::Eq | Sign::Lt => Some((column, value.floor)),
        _ => None,
    }
}

/// The column that is compared, as it is or as another kind of number: texts have another order.
fn column_of(mut expr: &Expr) -> Option<&Column> {
    while let Expr::Cast(cast) = expr
        && cast.field.data_type().is_numeric()
    {
        expr = &cast.expr;
    }
    match expr {
        Expr::Column(column) => Some(column),
        _ => None,
    }
}

/// A number that is written out.
struct Constant {
    floor: u64,
    is_whole: bool,
}

fn constant(mut expr: &Expr) -> Option<Constant> {
    while let Expr::Cast(cast) = expr {
        expr = &cast.expr;
    }
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    let whole = value.cast_to(&DataType::UInt64).ok()?;
    let ScalarValue::UInt64(Some(floor)) = whole else {
        return None;
    };
    let is_whole = whole.cast_to(&value.data_type()).ok()? == *value;
    Some(Constant { floor, is_whole })
}

/// The window function whose last column a column of a plan is.
fn numbering<'p>(
    plan: &'p LogicalPlan,
    column: &Column,
) -> Option<&'p datafusion::logical_expr::Window> {
    let index = plan.schema().index_of_column(column).ok()?;
    match plan {
        LogicalPlan::Window(window) => {
            (index + 1 == window.schema.fields().len()).then_some(window)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = alias.input.schema().qualified_field(index);
            numbering(&alias.input, &(below.0, below.1).into())
        }
        LogicalPlan::Filter(filter) => numbering(&filter.input, column),
        LogicalPlan::Projection(projection) => {
            let mut expr = projection.expr.get(index)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            match expr {
                Expr::Column(column) => numbering(&projection.input, column),
                _ => None,
            }
        }
        _ => None,
    }
}
