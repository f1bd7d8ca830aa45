//! Rows of one slice that are equal in all that is read of them as one, before windows that overlap repeat them.
//!
//! A row of a window of an hour that moves on by a minute is repeated sixty times; of a thousand rows that are told apart by a key
//! and their minute alone, no more than one for each key need be. **Invariant.** What comes out is the same as without, with equal rows added up: a
//! delta may give the same row twice or once with both weights.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, rows_at};
use crate::operator::hash::Fixed;
use crate::operator::key::{Keys, milliseconds};
use crate::operator::project::{Step, Transform, run_steps};

/// What a transform that repeats rows makes of rows that came, equal ones of a slice as one; `None` when it does not repeat
/// them, when some went, or when their columns can not be compared.
pub(crate) fn folded(transform: &Transform, delta: &Delta) -> Result<Option<Delta>, OperatorError> {
    let Some((before, from)) = transform.at_overlap() else {
        return Ok(None);
    };
    let Some(Step::Windows { time, kind, .. }) = from.first() else {
        return Ok(None);
    };
    // What goes is looked for by what is there, row by row.
    if delta.weights.iter().any(|weight| *weight < 0) {
        return Ok(None);
    }
    let (rows, kept) = run_steps(before, &delta.rows)?;
    let columns: Vec<ArrayRef> = match read_of(from) {
        Some(read) => {
            let own = read.into_iter().filter(|at| *at < rows.num_columns());
            own.map(|at| Arc::clone(rows.column(at))).collect()
        }
        None => rows.columns().to_vec(),
    };
    let types = || columns.iter().map(|column| column.data_type());
    if !Keys::take(types()) {
        return Ok(None);
    }
    let keys = Keys::new(types())?.encode(&columns)?;
    let at = milliseconds(&time.evaluate(&rows)?.into_array(rows.num_rows())?)?;
    let mut places: HashMap<(&[u8], i64), usize, Fixed> = HashMap::default();
    let (mut first, mut weights): (Vec<u32>, Vec<i64>) = (Vec::new(), Vec::new());
    for ((row, index), (at_ms, origin)) in (0..).zip(0_u32..).zip(at.iter().zip(&kept)) {
        // A row without time belongs to no window.
        let Some(at_ms) = at_ms else { continue };
        let weight = delta.weights[*origin as usize];
        let slice = (keys.row(row), kind.slice_of(at_ms));
        let place = *places.entry(slice).or_insert(first.len());
        match weights.get_mut(place) {
            Some(sum) => *sum += weight,
            None => {
                first.push(index);
                weights.push(weight);
            }
        }
    }
    let (rows, kept) = run_steps(from, &rows_at(&rows, first)?)?;
    Ok(Some(Delta {
        weights: kept.iter().map(|row| weights[*row as usize]).collect(),
        rows,
    }))
}

/// The columns that steps read, up to the first that makes others; `None`: all.
fn read_of(steps: &[Step]) -> Option<BTreeSet<usize>> {
    let mut read = BTreeSet::new();
    let mut add = |expression: &Arc<dyn PhysicalExpr>| {
        read.extend(collect_columns(expression).iter().map(|at| at.index()));
    };
    for step in steps {
        match step {
            Step::Windows { .. } => {}
            Step::Unnest(_) => return None,
            Step::Filter(predicate) => add(predicate),
            Step::Project { expressions, .. } => {
                expressions.iter().for_each(&mut add);
                return Some(read);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{
        Array as _, AsArray as _, Int64Array, RecordBatch, TimestampMillisecondArray,
    };
    use arrow::datatypes::{
        DataType, Field, Int64Type, Schema, TimeUnit, TimestampMillisecondType,
    };
    use datafusion::physical_expr::expressions::Column;
    use proptest::prelude::*;

    use super::*;
    use crate::operator::assign::Windows;

    fn transform(kind: Windows, projects: bool) -> Transform {
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        let input = Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int64, true),
            Field::new("at", time.clone(), true),
        ]));
        let mut transform = Transform::over(input);
        let at: Arc<dyn PhysicalExpr> = Arc::new(Column::new("at", 1));
        let names = ["s".to_owned(), "e".to_owned()];
        transform.push_windows(at, kind, names).unwrap();
        if projects {
            let column = |name: &str, at| Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>;
            transform.push(Step::Project {
                expressions: vec![column("k", 0), column("s", 2), column("e", 3)],
                schema: Arc::new(Schema::new(vec![
                    Field::new("k", DataType::Int64, true),
                    Field::new("s", time.clone(), true),
                    Field::new("e", time, true),
                ])),
            });
        }
        transform
    }

    /// Rows by all their columns, with how often each is there.
    fn counted(rows: &RecordBatch, weights: &[i64]) -> BTreeMap<Vec<Option<i64>>, i64> {
        let mut counted = BTreeMap::new();
        for (row, weight) in weights.iter().enumerate() {
            let columns = rows.columns().iter().map(|column| {
                let value = match column.as_primitive_opt::<Int64Type>() {
                    Some(numbers) => numbers.value(row),
                    None => column.as_primitive::<TimestampMillisecondType>().value(row),
                };
                column.is_valid(row).then_some(value)
            });
            *counted.entry(columns.collect()).or_default() += weight;
        }
        counted
    }

    proptest! {
        #[test]
        fn equal_rows_of_a_slice_are_added_up_and_repeated_once(
            sent in prop::collection::vec((prop::option::of(0_i64..3), prop::option::of(-20_i64..40), 1_i64..4), 0..40),
            is_hop in any::<bool>(),
            projects in any::<bool>(),
        ) {
            let kind = match is_hop {
                true => Windows::Hop { slide_ms: 5, size_ms: 15 },
                false => Windows::Cumulate { step_ms: 5, size_ms: 15 },
            };
            let transform = transform(kind, projects);
            let keys: Int64Array = sent.iter().map(|(key, ..)| *key).collect();
            let times: TimestampMillisecondArray = sent.iter().map(|(_, at, _)| *at).collect();
            let schema = Arc::new(Schema::new(vec![
                Field::new("k", DataType::Int64, true),
                Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            ]));
            let rows = RecordBatch::try_new(schema, vec![Arc::new(keys), Arc::new(times)]).unwrap();
            let weights: Vec<i64> = sent.iter().map(|(.., weight)| *weight).collect();
            let (expected, kept) = transform.run(&rows).unwrap();
            let repeated: Vec<i64> = kept.iter().map(|row| weights[*row as usize]).collect();
            let delta = Delta { rows, weights };
            let found = folded(&transform, &delta).unwrap().unwrap();
            prop_assert_eq!(
                counted(&found.rows, &found.weights),
                counted(&expected, &repeated)
            );
            if projects {
                // Three keys or none, and so many slices, each in three windows at most.
                prop_assert!(found.rows.num_rows() <= 4 * 12 * 3);
            }
        }
    }
}
