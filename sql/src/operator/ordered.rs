//! Aggregates whose value depends on the order of rows, and how they are computed of rows that are in order already.
//!
//! An accumulator with `ORDER BY` takes the columns that it orders by beside its arguments and sorts for itself. Here values lie in order
//! at rest ([`crate::operator::kept`]), so the accumulator is one without `ORDER BY`, which takes rows as they come.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;

use crate::operator::OperatorError;
use crate::operator::kernel::Kernel;

/// Whether the value of a function depends on the order of its rows.
pub(crate) fn depends_on_order(name: &str) -> bool {
    matches!(
        name,
        "array_agg" | "string_agg" | "first_value" | "last_value" | "nth_value"
    )
}

/// The function as it takes arguments that are in order already, each once if it takes them so.
pub(crate) fn without_order(kernel: &Kernel, input: &SchemaRef) -> Result<Kernel, OperatorError> {
    let function = &kernel.function;
    if function.order_bys().is_empty() {
        return Ok(kernel.clone());
    }
    let fun = Arc::new(function.fun().clone());
    let plain = AggregateExprBuilder::new(fun, function.expressions())
        .schema(Arc::clone(input))
        .alias(function.name())
        .with_ignore_nulls(function.ignore_nulls())
        .build()?;
    Ok(Kernel {
        function: Arc::new(plain),
        filter: kernel.filter.clone(),
    })
}
