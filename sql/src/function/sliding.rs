//! `min` and `max` of frames of rows that move on: those of the engine, but NULL where a frame has no value.
//!
//! The engine's keep the last value that they had when the last row with a value has left the frame. Everything else is theirs.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result as EngineResult;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

/// The two.
pub(crate) fn functions() -> impl Iterator<Item = Arc<AggregateUDF>> {
    let functions = [min_udaf(), max_udaf()].into_iter();
    functions.map(|engines| Arc::new(AggregateUDF::new_from_impl(Extreme { engines })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    engines: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.engines.name()
    }

    fn signature(&self) -> &Signature {
        self.engines.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> EngineResult<DataType> {
        self.engines.return_type(arguments)
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> EngineResult<Box<dyn Accumulator>> {
        self.engines.accumulator(arguments)
    }

    fn state_fields(
        &self,
        arguments: StateFieldsArgs<'_>,
    ) -> EngineResult<Vec<arrow::datatypes::FieldRef>> {
        self.engines.state_fields(arguments)
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs<'_>) -> bool {
        self.engines.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> EngineResult<Box<dyn GroupsAccumulator>> {
        self.engines.create_groups_accumulator(arguments)
    }

    fn create_sliding_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> EngineResult<Box<dyn Accumulator>> {
        let none = ScalarValue::try_from(arguments.return_field.data_type())?;
        Ok(Box::new(Sliding {
            engines: self.engines.create_sliding_accumulator(arguments)?,
            none,
            values: 0,
        }))
    }

    fn is_descending(&self) -> Option<bool> {
        self.engines.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.engines.order_sensitivity()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> EngineResult<Vec<DataType>> {
        self.engines.coerce_types(arguments)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, arguments: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.engines.value_from_stats(arguments)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engines.documentation()
    }

    fn set_monotonicity(&self, kind: &DataType) -> SetMonotonicity {
        self.engines.inner().set_monotonicity(kind)
    }
}

/// The extreme of a frame, and of how many values it is.
#[derive(Debug)]
struct Sliding {
    engines: Box<dyn Accumulator>,
    none: ScalarValue,
    values: usize,
}

fn values_of(columns: &[ArrayRef]) -> usize {
    let column = columns.first();
    column.map_or(0, |column| column.len() - column.null_count())
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> EngineResult<()> {
        self.values += values_of(columns);
        self.engines.update_batch(columns)
    }

    fn retract_batch(&mut self, columns: &[ArrayRef]) -> EngineResult<()> {
        self.values = self.values.saturating_sub(values_of(columns));
        self.engines.retract_batch(columns)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> EngineResult<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> EngineResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> EngineResult<ScalarValue> {
        match self.values {
            0 => Ok(self.none.clone()),
            _ => self.engines.evaluate(),
        }
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.engines.size() + self.none.size()
    }
}
