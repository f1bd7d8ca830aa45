//! Filters, projections and windows of rows: rows in, fewer, more or other rows out, no state.
//!
//! Input: any columns. Output: the columns of the last projection, or those of the input. The order of
//! rows is kept, and each row knows which input row it was made of, so that a late row finds its
//! message. A row for which a filter says false or NULL is not looked at by the steps after it.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter_record_batch, take, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::assign::Windows;
use crate::operator::key::{milliseconds, times};
use crate::operator::unnest::Lists;

/// One filter or projection.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Keeps the rows for which it is true.
    Filter(Arc<dyn PhysicalExpr>),
    /// Computes new columns.
    Project {
        /// One expression a column.
        expressions: Vec<Arc<dyn PhysicalExpr>>,
        /// The columns.
        schema: SchemaRef,
    },
    /// Repeats each row for each of its windows, with two more columns: start and end. A row without
    /// time goes.
    Windows {
        /// When a row happened.
        time: Arc<dyn PhysicalExpr>,
        /// Its windows.
        kind: Windows,
        /// Whether a row is kept once, with the bounds of its slice; an aggregate above puts windows
        /// together.
        slices: bool,
        /// The columns of the input, then start and end.
        schema: SchemaRef,
    },
    /// Repeats each row for each element of its lists.
    Unnest(Lists),
}

/// A chain of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    steps: Vec<Step>,
    schema: SchemaRef,
}

impl Transform {
    /// A chain that changes nothing yet, over rows of `input`.
    #[must_use]
    pub fn over(input: SchemaRef) -> Self {
        Self {
            steps: Vec::new(),
            schema: input,
        }
    }

    /// Adds a step at the end.
    pub fn push(&mut self, step: Step) {
        if let Step::Project { schema, .. }
        | Step::Windows { schema, .. }
        | Step::Unnest(Lists { schema, .. }) = &step
        {
            self.schema = Arc::clone(schema);
        }
        self.steps.push(step);
    }

    /// Adds the windows of the rows; their two columns come last.
    ///
    /// # Errors
    /// What DataFusion says when `time` is not over these rows.
    pub fn push_windows(
        &mut self,
        time: Arc<dyn PhysicalExpr>,
        kind: Windows,
        names: [String; 2],
    ) -> Result<(), DataFusionError> {
        let data_type = time.data_type(&self.schema)?;
        let mut fields: Vec<Field> = self
            .schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .collect();
        let names = names.into_iter();
        fields.extend(names.map(|name| Field::new(name, data_type.clone(), true)));
        self.push(Step::Windows {
            time,
            kind,
            slices: false,
            schema: Arc::new(Schema::new(fields)),
        });
        Ok(())
    }

    /// Leaves the windows to an aggregate above, see [`Step::Windows`].
    pub fn leave_slices(&mut self) {
        for step in &mut self.steps {
            if let Step::Windows { slices, .. } = step {
                *slices = true;
            }
        }
    }

    /// Whether rows may be left out.
    #[must_use]
    pub fn filters(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| matches!(step, Step::Filter(_)))
    }

    /// Columns of the rows that come out.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Runs the chain: the rows that are left, and for each the index of its input row.
    ///
    /// # Errors
    /// What DataFusion says when an expression fails on a row.
    ///
    /// # Panics
    /// When a batch has more rows than fit a `u32`.
    pub fn run(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<u32>), DataFusionError> {
        run_steps(&self.steps, batch)
    }

    /// Its steps before rows are repeated for windows that overlap, and from there on; `None` when they are not.
    pub(crate) fn at_overlap(&self) -> Option<(&[Step], &[Step])> {
        let mut steps = self.steps.iter();
        let at = steps.position(|step| {
            let kind = match step {
                Step::Windows { kind, slices, .. } if !slices => kind,
                _ => return false,
            };
            matches!(kind, Windows::Hop { .. } | Windows::Cumulate { .. })
        });
        at.map(|at| self.steps.split_at(at))
    }
}

/// Runs some steps, as [`Transform::run`] does.
pub(crate) fn run_steps(
    steps: &[Step],
    batch: &RecordBatch,
) -> Result<(RecordBatch, Vec<u32>), DataFusionError> {
    let count = u32::try_from(batch.num_rows()).expect("a tick has fewer rows than a u32");
    let mut kept = UInt32Array::from_iter_values(0..count);
    let mut batch = batch.clone();
    for step in steps {
        match step {
            Step::Filter(predicate) => {
                let rows = batch.num_rows();
                let mask = predicate.evaluate(&batch)?.into_array(rows)?;
                // A row whose predicate is NULL does not pass, as in any SQL.
                let mask = as_boolean_array(&mask)?;
                batch = filter_record_batch(&batch, mask)?;
                let left = arrow::compute::filter(&kept, mask)?;
                kept = UInt32Array::from(left.to_data());
            }
            Step::Project {
                expressions,
                schema,
            } => batch = project(&batch, expressions, schema)?,
            Step::Windows {
                time,
                kind,
                slices,
                schema,
            } => {
                let (rows, origin) = windows(&batch, time, *kind, *slices, schema)?;
                batch = rows;
                let repeated = take(&kept, &origin, None)?;
                kept = UInt32Array::from(repeated.to_data());
            }
            Step::Unnest(lists) => {
                let (rows, origin) = lists.rows(&batch)?;
                batch = rows;
                let repeated = take(&kept, &origin, None)?;
                kept = UInt32Array::from(repeated.to_data());
            }
        }
    }
    Ok((batch, kept.values().to_vec()))
}

/// Computes one column per expression. Types follow the expressions, names and order the schema.
fn project(
    batch: &RecordBatch,
    expressions: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
) -> Result<RecordBatch, DataFusionError> {
    let rows = batch.num_rows();
    let columns = expressions
        .iter()
        .map(|expression| expression.evaluate(batch)?.into_array(rows))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// Rows with their windows or slices; and for each the index of its input row.
fn windows(
    batch: &RecordBatch,
    time: &Arc<dyn PhysicalExpr>,
    kind: Windows,
    slices: bool,
    schema: &SchemaRef,
) -> Result<(RecordBatch, UInt32Array), DataFusionError> {
    let column = time.evaluate(batch)?.into_array(batch.num_rows())?;
    let at = milliseconds(&column)?;
    let (mut origin, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (row, at_ms) in (0_u32..).zip(at.iter()) {
        let Some(at_ms) = at_ms else { continue };
        let slice = kind.slice_of(at_ms);
        if slices {
            origin.push(row);
            starts.push(Some(slice));
            ends.push(Some(slice.saturating_add(kind.slice_ms())));
            continue;
        }
        for end in kind.ends_of(slice) {
            origin.push(row);
            starts.push(Some(kind.window_to(end).start));
            ends.push(Some(end));
        }
    }
    let origin = UInt32Array::from(origin);
    let mut columns = take_record_batch(batch, &origin)?.columns().to_vec();
    columns.push(times(starts.into_iter(), column.data_type())?);
    columns.push(times(ends.into_iter(), column.data_type())?);
    let options = RecordBatchOptions::new().with_row_count(Some(origin.len()));
    let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?;
    Ok((rows, origin))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, cast::AsArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::logical_expr::Operator as Sign;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;

    #[test]
    fn rows_know_their_input_row_after_filters_and_projections() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let numbers = Int64Array::from(vec![Some(5), None, Some(1), Some(7)]);
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers)]).unwrap();
        let n = col("n", &schema).unwrap();
        let above = binary(Arc::clone(&n), Sign::Gt, lit(2_i64), &schema).unwrap();
        let twice = binary(n, Sign::Plus, col("n", &schema).unwrap(), &schema).unwrap();
        let mut transform = Transform::over(Arc::clone(&schema));
        transform.push(Step::Filter(above));
        transform.push(Step::Project {
            expressions: vec![twice],
            schema: Arc::new(Schema::new(vec![Field::new(
                "twice",
                DataType::Int64,
                true,
            )])),
        });
        let (rows, kept) = transform.run(&batch).unwrap();
        assert_eq!(kept, vec![0, 3]);
        assert_eq!(
            rows.column(0).as_primitive::<Int64Type>().values(),
            &[10, 14]
        );
    }
}
