//! DataFusion's accumulators over a state that rests as plain values.
//!
//! Accumulators do not retract, and their `state` and `evaluate` use them up. So the state of a group
//! rests as plain values between ticks; for each tick fresh accumulators take first the rested state of
//! the groups that the tick touches, then the tick's rows in log order. The tick being the unit, sums of
//! floats come out the same to the last bit, however epochs were cut. What nearly all queries compute takes a way without them
//! ([`crate::operator::quick`]).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};

use crate::operator::quick::Quick;

/// One aggregate of the query.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The function with its arguments.
    pub function: Arc<AggregateFunctionExpr>,
    /// Its FILTER clause.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        let (this, that) = (&self.function, &other.function);
        let order = |function: &AggregateFunctionExpr| function.order_bys().to_vec();
        this == that
            && this.is_distinct() == that.is_distinct()
            && this.ignore_nulls() == that.ignore_nulls()
            && order(this) == order(that)
            && self.filter == other.filter
    }
}

/// The rested state of a group: the state columns of all its aggregates in a line.
pub(crate) type State = Vec<ScalarValue>;

/// Names and types of the state columns of all aggregates.
pub(crate) fn state_fields(kernels: &[Kernel]) -> Result<Vec<FieldRef>, DataFusionError> {
    let mut fields: Vec<FieldRef> = Vec::new();
    for (index, kernel) in kernels.iter().enumerate() {
        for (part, field) in kernel.function.state_fields()?.iter().enumerate() {
            let name = format!("state_{index}_{part}");
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        }
    }
    Ok(fields)
}

/// Adds rows to groups; answers the new state of each group.
///
/// `rested` are states of groups in the order in which they are merged; `indices` tells the group of
/// each row. Every group has a state or a row.
pub(crate) fn accumulate(
    kernels: &[Kernel],
    rested: &[(usize, &State)],
    rows: &RecordBatch,
    indices: &[usize],
    groups: usize,
) -> Result<Vec<State>, DataFusionError> {
    // An accumulator that meets values without NULL takes every group so far for seen. So the groups
    // that have a state come first, and the others are told with their rows.
    let mut places: Vec<Option<usize>> = vec![None; groups];
    let mut count = 0;
    let mut place = |group: usize| {
        *places[group].get_or_insert_with(|| {
            count += 1;
            count - 1
        })
    };
    let rested: Vec<(usize, &State)> = rested
        .iter()
        .map(|(group, state)| (place(*group), *state))
        .collect();
    let with_state = rested.iter().map(|(place, _)| place + 1).max().unwrap_or(0);
    let indices: Vec<usize> = indices.iter().map(|group| place(*group)).collect();

    let mut states: Vec<State> = vec![Vec::new(); count];
    let mut first_column = 0;
    for kernel in kernels {
        let (arguments, filter) = arguments(kernel, rows)?;
        let filter = filter.as_ref();
        let quick = Quick::of(&kernel.function)?;
        let totals = quick.and_then(|quick| {
            let mut totals = quick.rested(&rested, first_column, count);
            let is_added = totals.add(arguments.first()?, filter, &indices);
            is_added.then_some(totals)
        });
        let width = kernel.function.state_fields()?.len();
        if let Some(totals) = totals {
            totals.into_states(&mut states);
        } else {
            let mut accumulator = accumulator(&kernel.function)?;
            merge(
                accumulator.as_mut(),
                &rested,
                first_column,
                width,
                with_state,
            )?;
            accumulator.update_batch(&arguments, &indices, filter, count)?;
            for column in accumulator.state(EmitTo::All)? {
                for (index, state) in states.iter_mut().enumerate() {
                    state.push(ScalarValue::try_from_array(&column, index)?.compacted());
                }
            }
        }
        first_column += width;
    }
    let states = places.into_iter().map(|place| {
        let place = place.expect("every group has a state or a row");
        std::mem::take(&mut states[place])
    });
    Ok(states.collect())
}

/// One column per aggregate, of groups that are the sum of rested states.
pub(crate) fn evaluate(
    kernels: &[Kernel],
    rested: &[(usize, &State)],
    groups: usize,
) -> Result<Vec<ArrayRef>, DataFusionError> {
    let mut columns = Vec::with_capacity(kernels.len());
    let mut first_column = 0;
    for kernel in kernels {
        let width = kernel.function.state_fields()?.len();
        columns.push(match Quick::of(&kernel.function)? {
            Some(quick) => quick.rested(rested, first_column, groups).into_column(),
            None => {
                let mut accumulator = accumulator(&kernel.function)?;
                merge(accumulator.as_mut(), rested, first_column, width, groups)?;
                accumulator.evaluate(EmitTo::All)?
            }
        });
        first_column += width;
    }
    Ok(columns)
}

/// States as columns, one row each.
pub(crate) fn state_columns<'a>(
    states: impl Iterator<Item = &'a State> + Clone,
    fields: &[FieldRef],
) -> Result<Vec<ArrayRef>, DataFusionError> {
    (0..fields.len())
        .map(|column| {
            let values = states.clone().map(|state| state[column].clone());
            ScalarValue::iter_to_array(values)
        })
        .collect()
}

/// The state in a row of state columns.
pub(crate) fn state_at(columns: &[ArrayRef], row: usize) -> Result<State, DataFusionError> {
    columns
        .iter()
        .map(|column| Ok(ScalarValue::try_from_array(column, row)?.compacted()))
        .collect()
}

/// Memory that a state takes, about.
pub(crate) fn state_bytes(state: &State) -> usize {
    state.iter().map(ScalarValue::size).sum()
}

pub(crate) fn accumulator(
    function: &Arc<AggregateFunctionExpr>,
) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
        function.create_accumulator()
    })))
}

fn merge(
    accumulator: &mut dyn GroupsAccumulator,
    rested: &[(usize, &State)],
    first_column: usize,
    width: usize,
    groups: usize,
) -> Result<(), DataFusionError> {
    if rested.is_empty() {
        return Ok(());
    }
    let indices: Vec<usize> = rested.iter().map(|(index, _)| *index).collect();
    let columns = (first_column..first_column + width)
        .map(|column| {
            let values = rested.iter().map(|(_, state)| state[column].clone());
            ScalarValue::iter_to_array(values)
        })
        .collect::<Result<Vec<_>, _>>()?;
    accumulator.merge_batch(&columns, &indices, None, groups)
}

/// The arguments of an aggregate for some rows, and which of them count.
fn arguments(
    kernel: &Kernel,
    rows: &RecordBatch,
) -> Result<(Vec<ArrayRef>, Option<BooleanArray>), DataFusionError> {
    let count = rows.num_rows();
    let order = kernel.function.order_bys().iter();
    let arguments = kernel
        .function
        .expressions()
        .into_iter()
        .chain(order.map(|sort| Arc::clone(&sort.expr)))
        .map(|argument| argument.evaluate(rows)?.into_array(count))
        .collect::<Result<Vec<_>, _>>()?;
    let filter = match &kernel.filter {
        Some(filter) => Some(filter.evaluate(rows)?.into_array(count)?),
        None => None,
    };
    let filter = filter.as_ref().map(|mask| as_boolean_array(mask));
    Ok((arguments, filter.transpose()?.cloned()))
}
