//! Aggregates that nearly all queries have, of whole numbers, added to states at rest without an accumulator in between.
//!
//! For a few rows a group, what an accumulator is handed and asks back costs far more than to add. **Invariant.** States and
//! values are those of DataFusion's accumulators to the last bit, so a saved state is taken up by either.

use std::iter;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::operator::kernel::State;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    Count,
    Sum,
    Least,
    Most,
    Mean,
}

/// What groups come to.
#[derive(Debug)]
pub(crate) enum Totals {
    /// `None` for a group without a value.
    Numbers(Quick, Vec<Option<i64>>),
    /// How many, and their sum.
    Means(Vec<(u64, f64)>),
}

impl Quick {
    /// The quick way of an aggregate, if it has one.
    pub(crate) fn of(function: &AggregateFunctionExpr) -> Result<Option<Self>, DataFusionError> {
        if function.is_distinct()
            || !function.order_bys().is_empty()
            || !function.groups_accumulator_supported()
            || function.expressions().len() != 1
        {
            return Ok(None);
        }
        let state = function.state_fields()?;
        let mut kinds = state.iter().map(|field| field.data_type());
        let kinds = (kinds.next(), kinds.next());
        Ok(match (function.fun().name(), kinds) {
            ("count", (Some(DataType::Int64), None)) => Some(Self::Count),
            ("sum", (Some(DataType::Int64), None)) => Some(Self::Sum),
            ("min", (Some(DataType::Int64), None)) => Some(Self::Least),
            ("max", (Some(DataType::Int64), None)) => Some(Self::Most),
            ("avg", (Some(DataType::UInt64), Some(DataType::Float64))) => Some(Self::Mean),
            _ => None,
        })
    }

    /// States put together, of so many groups; those of this aggregate begin at a column.
    pub(crate) fn rested(
        self,
        rested: &[(usize, &State)],
        first_column: usize,
        groups: usize,
    ) -> Totals {
        let columns = rested
            .iter()
            .map(|(group, state)| (*group, &state[first_column..]));
        if self == Self::Mean {
            let mut means = vec![(0, 0.0); groups];
            for (group, state) in columns {
                if let [
                    ScalarValue::UInt64(Some(count)),
                    ScalarValue::Float64(Some(sum)),
                    ..,
                ] = state
                {
                    means[group].0 += *count;
                    means[group].1 += *sum;
                }
            }
            return Totals::Means(means);
        }
        let mut numbers = vec![None; groups];
        for (group, state) in columns {
            if let Some(ScalarValue::Int64(Some(number))) = state.first() {
                self.take(&mut numbers[group], *number);
            }
        }
        Totals::Numbers(self, numbers)
    }

    fn take(self, known: &mut Option<i64>, number: i64) {
        *known = Some(match (self, *known) {
            (_, None) => number,
            (Self::Least, Some(known)) => known.min(number),
            (Self::Most, Some(known)) => known.max(number),
            (Self::Count | Self::Sum | Self::Mean, Some(known)) => known.wrapping_add(number),
        });
    }
}

impl Totals {
    /// Adds the argument of each row to the group of the row; answers whether the argument is of a type that it takes.
    pub(crate) fn add(
        &mut self,
        argument: &ArrayRef,
        filter: Option<&BooleanArray>,
        indices: &[usize],
    ) -> bool {
        let counts = counting(argument, filter);
        let rows: &mut dyn Iterator<Item = (usize, usize)> = match &counts {
            Some(counts) => &mut counts.set_indices().map(|row| (row, indices[row])),
            None => &mut indices.iter().copied().enumerate(),
        };
        match self {
            Self::Numbers(Quick::Count, numbers) => {
                for (_, group) in rows {
                    Quick::Count.take(&mut numbers[group], 1);
                }
            }
            Self::Numbers(quick, numbers) => {
                let Some(values) = argument.as_primitive_opt::<Int64Type>() else {
                    return false;
                };
                for (row, group) in rows {
                    quick.take(&mut numbers[group], values.value(row));
                }
            }
            Self::Means(means) => {
                let Some(values) = argument.as_primitive_opt::<Float64Type>() else {
                    return false;
                };
                for (row, group) in rows {
                    means[group].0 += 1;
                    means[group].1 += values.value(row);
                }
            }
        }
        true
    }

    /// Puts the state of each group behind what is there.
    pub(crate) fn into_states(self, states: &mut [State]) {
        match self {
            Self::Numbers(quick, numbers) => {
                for (state, number) in iter::zip(states, numbers) {
                    state.push(ScalarValue::Int64(quick.or_none(number)));
                }
            }
            Self::Means(means) => {
                for (state, (count, sum)) in iter::zip(states, means) {
                    let is_known = count > 0;
                    state.push(ScalarValue::UInt64(is_known.then_some(count)));
                    state.push(ScalarValue::Float64(is_known.then_some(sum)));
                }
            }
        }
    }

    /// The value of each group.
    pub(crate) fn into_column(self) -> ArrayRef {
        match self {
            Self::Numbers(quick, numbers) => {
                let numbers = numbers.into_iter().map(|number| quick.or_none(number));
                Arc::new(numbers.collect::<Int64Array>())
            }
            Self::Means(means) => {
                let means = means
                    .into_iter()
                    .map(|(count, sum)| (count > 0).then(|| sum / count as f64));
                Arc::new(means.collect::<Float64Array>())
            }
        }
    }
}

impl Quick {
    /// None of something is a number only where it is counted.
    fn or_none(self, number: Option<i64>) -> Option<i64> {
        match self {
            Self::Count => Some(number.unwrap_or(0)),
            _ => number,
        }
    }
}

/// The rows whose argument counts; `None`: all.
fn counting(argument: &ArrayRef, filter: Option<&BooleanArray>) -> Option<BooleanBuffer> {
    let nulls = argument.logical_nulls().map(|nulls| nulls.into_inner());
    let passes = filter.map(|filter| match filter.nulls() {
        Some(nulls) => filter.values() & nulls.inner(),
        None => filter.values().clone(),
    });
    match (nulls, passes) {
        (Some(nulls), Some(passes)) => Some(&nulls & &passes),
        (nulls, passes) => nulls.or(passes),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion::functions_aggregate::average::avg_udaf;
    use datafusion::functions_aggregate::count::count_udaf;
    use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
    use datafusion::functions_aggregate::sum::sum_udaf;
    use datafusion::logical_expr::EmitTo;
    use datafusion::physical_expr::aggregate::AggregateExprBuilder;
    use datafusion::physical_expr::expressions::col;
    use proptest::prelude::*;

    use super::*;
    use crate::operator::kernel::accumulator;

    /// The group of a row, its argument, and whether it passes the filter.
    type Row = (usize, Option<i64>, Option<bool>);

    const GROUPS: usize = 4;

    fn row(groups: std::ops::Range<usize>) -> impl Strategy<Value = Row> {
        let number = prop_oneof![any::<i64>(), -3_i64..3];
        let passes = prop::option::of(any::<bool>());
        (groups, prop::option::of(number), passes)
    }

    /// Rows of which each group has one: an accumulator takes one without for seen.
    fn piece() -> impl Strategy<Value = Vec<Row>> {
        let each: Vec<_> = (0..GROUPS).map(|group| row(group..group + 1)).collect();
        let more = prop::collection::vec(row(0..GROUPS), 0..8);
        (each, more).prop_map(|(each, more)| [each, more].concat())
    }

    fn columns(rows: &[Row], is_float: bool) -> (Vec<usize>, ArrayRef, BooleanArray) {
        let numbers: Int64Array = rows.iter().map(|(_, number, _)| *number).collect();
        let numbers: ArrayRef = match is_float {
            true => arrow::compute::cast(&numbers, &DataType::Float64).unwrap(),
            false => Arc::new(numbers),
        };
        let passes = rows.iter().map(|(.., passes)| *passes).collect();
        (rows.iter().map(|row| row.0).collect(), numbers, passes)
    }

    proptest! {
        #[test]
        fn states_and_values_are_those_of_accumulators(
            pieces in prop::collection::vec(piece(), 1..4),
            is_filtered in any::<bool>(),
        ) {
            for (udaf, kind) in [
                (count_udaf(), DataType::Int64),
                (sum_udaf(), DataType::Int64),
                (min_udaf(), DataType::Int64),
                (max_udaf(), DataType::Int64),
                (avg_udaf(), DataType::Float64),
            ] {
                let schema = Arc::new(Schema::new(vec![Field::new("n", kind.clone(), true)]));
                let builder = AggregateExprBuilder::new(udaf, vec![col("n", &schema).unwrap()]);
                let function = Arc::new(builder.schema(schema).alias("a").build().unwrap());
                let quick = Quick::of(&function).unwrap().unwrap();
                let mut states: Vec<State> = vec![Vec::new(); GROUPS];
                for rows in &pieces {
                    let (indices, numbers, passes) = columns(rows, kind == DataType::Float64);
                    let filter = is_filtered.then_some(&passes);
                    let mut accumulator = accumulator(&function).unwrap();
                    let there = states.iter().enumerate().filter(|(_, state)| !state.is_empty());
                    let there: Vec<(usize, &State)> = there.collect();
                    if !there.is_empty() {
                        let width = there[0].1.len();
                        let column = |column: usize| {
                            ScalarValue::iter_to_array(there.iter().map(|(_, state)| state[column].clone()))
                        };
                        let merged: Vec<ArrayRef> = (0..width).map(|at| column(at).unwrap()).collect();
                        let groups: Vec<usize> = there.iter().map(|(group, _)| *group).collect();
                        accumulator.merge_batch(&merged, &groups, None, GROUPS).unwrap();
                    }
                    accumulator.update_batch(&[Arc::clone(&numbers)], &indices, filter, GROUPS).unwrap();
                    let expected = accumulator.state(EmitTo::All).unwrap();

                    let mut totals = quick.rested(&there, 0, GROUPS);
                    prop_assert!(totals.add(&numbers, filter, &indices));
                    let mut found: Vec<State> = vec![Vec::new(); GROUPS];
                    totals.into_states(&mut found);
                    for (group, state) in found.iter().enumerate() {
                        let expected = expected.iter().map(|column| ScalarValue::try_from_array(column, group));
                        let expected: State = expected.map(Result::unwrap).collect();
                        prop_assert_eq!(state, &expected, "{} of {:?}", function.name(), rows);
                    }
                    states = found;
                }
                let all: Vec<(usize, &State)> = states.iter().enumerate().collect();
                let column = |column: usize| {
                    ScalarValue::iter_to_array(states.iter().map(|state| state[column].clone())).unwrap()
                };
                let merged: Vec<ArrayRef> = (0..states[0].len()).map(column).collect();
                let mut accumulator = accumulator(&function).unwrap();
                let groups: Vec<usize> = (0..GROUPS).collect();
                accumulator.merge_batch(&merged, &groups, None, GROUPS).unwrap();
                let expected = accumulator.evaluate(EmitTo::All).unwrap();
                prop_assert_eq!(&quick.rested(&all, 0, GROUPS).into_column(), &expected);
            }
        }
    }
}
