//! What the rows that a row's lists give come to, as a function of that row: `(SELECT count(*) FROM UNNEST(t.list) AS u(x) WHERE x > t.n)`.
//!
//! The arguments are the columns that the subquery reads of the row; the value is its one aggregate, also of no rows at all.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use crate::operator::kernel::{Kernel, State, accumulate, evaluate};
use crate::operator::project::Transform;

/// The function of one aggregate.
#[derive(Debug)]
pub(crate) struct Folded {
    /// The subquery as a plan: what is equal in it computes the same.
    text: String,
    signature: Signature,
    columns: SchemaRef,
    rows: Transform,
    kernel: [Kernel; 1],
    of_none: ScalarValue,
}

impl Folded {
    /// Over rows of these columns.
    ///
    /// # Errors
    /// What the engine says of an aggregate that it can not make.
    pub(crate) fn new(
        text: String,
        columns: SchemaRef,
        rows: Transform,
        kernel: Kernel,
    ) -> EngineResult<Self> {
        let of_none = kernel.function.create_accumulator()?.evaluate()?;
        Ok(Self {
            text,
            signature: Signature::any(columns.fields().len(), Volatility::Immutable),
            columns,
            rows,
            of_none: of_none.cast_to(kernel.function.field().data_type())?,
            kernel: [kernel],
        })
    }
}

impl PartialEq for Folded {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Folded {}

impl Hash for Folded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl ScalarUDFImpl for Folded {
    fn name(&self) -> &'static str {
        "of_list"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> EngineResult<DataType> {
        Ok(self.kernel[0].function.field().data_type().clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let count = args.number_rows;
        let arguments = args.args.into_iter();
        let columns = arguments.map(|argument| argument.into_array(count));
        let columns = columns.collect::<EngineResult<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.columns);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let (rows, origin) = self.rows.run(&batch)?;
        // Rows come in the order of those that they are of; the ones that have some are the groups.
        let mut groups: Vec<u32> = Vec::new();
        let mut indices = Vec::with_capacity(origin.len());
        for row in origin {
            if groups.last() != Some(&row) {
                groups.push(row);
            }
            indices.push(groups.len() - 1);
        }
        let states = accumulate(&self.kernel, &[], &rows, &indices, groups.len())?;
        let rested: Vec<(usize, &State)> = states.iter().enumerate().collect();
        let none = self.of_none.to_array()?;
        let values = match groups.is_empty() {
            true => none,
            false => {
                let found = evaluate(&self.kernel, &rested, groups.len())?;
                concat(&[found[0].as_ref(), none.as_ref()])?
            }
        };
        let mut found = (0_u32..).zip(groups.iter().copied()).peekable();
        let of_none = u32::try_from(groups.len()).expect("a batch has fewer rows than a u32");
        let places = (0_u32..).take(count).map(|row| {
            let own = found.next_if(|(_, of)| *of == row);
            own.map_or(of_none, |(place, _)| place)
        });
        let places = UInt32Array::from_iter_values(places);
        Ok(ColumnarValue::Array(take(&values, &places, None)?))
    }
}
