//! Lists into rows: each row once for each element of its lists, no state.
//!
//! Input: any columns, of which some are lists. Output: the same columns, with an element in the place of each list. Several
//! lists of a row are gone through side by side, and a shorter one gives NULL when it is at its end. A row
//! whose lists are all empty or NULL goes, or stays with NULL where that is asked for.

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::exec_err;
use datafusion::error::DataFusionError;
use millpond_proto::limits::UNNEST_ELEMENTS_MAX;

/// What becomes a row for each element.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// Where the lists are.
    pub columns: Vec<usize>,
    /// Whether a row without an element stays, with NULL.
    pub keeps_empty: bool,
    /// The columns of the input, with elements where the lists were.
    pub schema: SchemaRef,
}

impl Lists {
    /// A row for each element; and for each the index of its input row.
    ///
    /// # Errors
    /// When a row has more than [`UNNEST_ELEMENTS_MAX`] elements, or a column is no list.
    pub(crate) fn rows(
        &self,
        batch: &RecordBatch,
    ) -> Result<(RecordBatch, UInt32Array), DataFusionError> {
        let lists = self.columns.iter();
        let lists = lists.map(|column| as_list(batch.column(*column)));
        let lists = lists.collect::<Result<Vec<_>, _>>()?;
        let mut origin: Vec<u32> = Vec::new();
        let mut elements: Vec<Vec<Option<u32>>> = vec![Vec::new(); lists.len()];
        for (row, index) in (0..batch.num_rows()).zip(0_u32..) {
            let places = lists.iter().map(|list| {
                let list = list.as_list::<i32>();
                match list.is_null(row) {
                    true => 0..0,
                    false => list.value_offsets()[row]..list.value_offsets()[row + 1],
                }
            });
            let places: Vec<_> = places.collect();
            let longest = places.iter().map(|places| places.end - places.start).max();
            let longest = longest.unwrap_or(0).max(i32::from(self.keeps_empty));
            let longest = usize::try_from(longest).unwrap_or(0);
            if longest > UNNEST_ELEMENTS_MAX {
                return exec_err!(
                    "a list of {longest} elements is more than UNNEST makes rows of, which is {UNNEST_ELEMENTS_MAX}; \
                     shorten it: UNNEST(array_slice(list, 1, {UNNEST_ELEMENTS_MAX}))"
                );
            }
            origin.extend(std::iter::repeat_n(index, longest));
            for (elements, places) in elements.iter_mut().zip(places) {
                let places = places.filter_map(|place| u32::try_from(place).ok().map(Some));
                let padded = places.chain(std::iter::repeat(None));
                elements.extend(padded.take(longest));
            }
        }
        let origin = UInt32Array::from(origin);
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (at, column) in batch.columns().iter().enumerate() {
            columns.push(match self.columns.iter().position(|list| *list == at) {
                Some(list) => {
                    let places = UInt32Array::from(std::mem::take(&mut elements[list]));
                    take(lists[list].as_list::<i32>().values(), &places, None)?
                }
                None => take(column, &origin, None)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(origin.len()));
        let schema = SchemaRef::clone(&self.schema);
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok((rows, origin))
    }
}

/// A list of any kind as the usual one.
fn as_list(column: &ArrayRef) -> Result<ArrayRef, DataFusionError> {
    match column.data_type() {
        DataType::List(_) => Ok(ArrayRef::clone(column)),
        DataType::LargeList(element)
        | DataType::FixedSizeList(element, _)
        | DataType::ListView(element)
        | DataType::LargeListView(element) => {
            Ok(cast(column, &DataType::List(FieldRef::clone(element)))?)
        }
        other => exec_err!("UNNEST takes a list, and this is {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    type Items = Option<Vec<Option<i64>>>;

    fn of(lists: [Vec<Items>; 2], keeps_empty: bool) -> Vec<(u32, Option<i64>, Option<i64>)> {
        let list = DataType::new_list(DataType::Int64, true);
        let input = |kind: &DataType| {
            let fields = ["a", "b"].map(|name| Field::new(name, kind.clone(), true));
            Arc::new(Schema::new(fields.to_vec()))
        };
        let columns = lists.map(|rows| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows))
        });
        let batch = RecordBatch::try_new(input(&list), columns.to_vec()).unwrap();
        let lists = Lists {
            columns: vec![0, 1],
            keeps_empty,
            schema: input(&DataType::Int64),
        };
        let (rows, origin) = lists.rows(&batch).unwrap();
        let of = |column: usize| -> Vec<Option<i64>> {
            let column: &Int64Array = rows.column(column).as_primitive();
            column.iter().collect()
        };
        let each = origin.values().iter().copied().zip(of(0)).zip(of(1));
        each.map(|((row, a), b)| (row, a, b)).collect()
    }

    fn lists() -> [Vec<Items>; 2] {
        [
            vec![Some(vec![Some(1), None]), None, Some(vec![]), None],
            vec![Some(vec![Some(7)]), Some(vec![Some(8)]), None, Some(vec![])],
        ]
    }

    #[test]
    fn lists_are_gone_through_side_by_side_and_a_row_without_an_element_goes() {
        let expected = vec![(0, Some(1), Some(7)), (0, None, None), (1, None, Some(8))];
        assert_eq!(of(lists(), false), expected);
    }

    #[test]
    fn a_row_without_an_element_stays_where_that_is_asked_for() {
        let rows = of(lists(), true);
        assert_eq!(rows.len(), 5);
        assert_eq!(rows[3..], [(2, None, None), (3, None, None)]);
    }
}
