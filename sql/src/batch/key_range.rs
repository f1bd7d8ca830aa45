//! What conditions say of the primary key of a topic: which of its keys a query can be about.
//!
//! For each column of the key in turn, the values that it must be one of; at the first column that has none, the range
//! that it must lie in. Columns behind it say nothing more. The engine still checks every row.

use std::collections::BTreeSet;
use std::ops::Bound;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::error::SqlError;
use crate::topic::TopicInfo;

/// Most ranges of keys that one query is about; one that names more reads the topic.
const RANGES_MAX: usize = 1024;

/// Bytes of columns, which sort as the columns do.
pub(crate) type KeyBytes = Box<[u8]>;

/// Keys from some bytes on, up to others and without these; to the last one, if there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) from: KeyBytes,
    pub(crate) to: Option<KeyBytes>,
}

/// The columns of a topic's primary key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumns {
    names: Vec<String>,
    types: Vec<DataType>,
}

impl KeyColumns {
    /// Those of a topic with this table; `None` for one without a key, or with a key that is no good to look up.
    pub(crate) fn of(topic: &TopicInfo, table: &Schema) -> Option<Self> {
        if topic.primary_key.is_empty() {
            return None;
        }
        let names = topic.primary_key.clone();
        let types = names.iter().map(|name| {
            let kind = table.field_with_name(name).ok()?.data_type();
            // Equal numbers with a fraction may differ in their bytes.
            let is_plain = kind.is_integer()
                || matches!(
                    kind,
                    DataType::Utf8
                        | DataType::Boolean
                        | DataType::Date32
                        | DataType::Timestamp(..)
                        | DataType::Decimal128(..)
                );
            is_plain.then(|| kind.clone())
        });
        let types = types.collect::<Option<Vec<_>>>()?;
        Some(Self { names, types })
    }

    /// Where they stand in the topic's table.
    pub(crate) fn places(&self, table: &Schema) -> Result<Vec<usize>, SqlError> {
        let places = self.names.iter().map(|name| table.index_of(name));
        Ok(places.collect::<Result<_, _>>()?)
    }

    /// Turns all of them to bytes.
    pub(crate) fn converter(&self) -> Result<RowConverter, SqlError> {
        self.converter_of(self.types.len())
    }

    /// Turns the first columns to bytes; those of more columns begin with those of fewer.
    fn converter_of(&self, columns: usize) -> Result<RowConverter, SqlError> {
        let fields = self.types.iter().take(columns);
        let fields = fields.map(|kind| SortField::new(kind.clone()));
        Ok(RowConverter::new(fields.collect())?)
    }

    fn place(&self, expr: &Expr) -> Option<usize> {
        match expr {
            Expr::Column(column) => self.names.iter().position(|name| *name == column.name),
            _ => None,
        }
    }

    /// Whether a condition says something of a column of the key.
    pub(crate) fn knows(&self, filter: &Expr) -> bool {
        Condition::of(self, filter).is_some()
    }

    /// The keys that conditions leave; `None` when they say nothing of the first column, or leave too many ranges.
    pub(crate) fn ranges(&self, filters: &[Expr]) -> Result<Option<Vec<KeyRange>>, SqlError> {
        let conditions: Vec<Condition> = filters
            .iter()
            .flat_map(split_conjunction)
            .filter_map(|filter| Condition::of(self, filter))
            .collect();
        let mut prefixes: Vec<Vec<ScalarValue>> = vec![Vec::new()];
        let (mut low, mut high) = (Bound::Unbounded, Bound::Unbounded);
        for column in 0..self.names.len() {
            let mut values: Option<&Vec<ScalarValue>> = None;
            for condition in conditions.iter().filter(|of| of.column == column) {
                match &condition.what {
                    What::OneOf(these) => {
                        values = Some(values.filter(|v| v.len() < these.len()).unwrap_or(these));
                    }
                    What::From(from) => low = from.as_ref(),
                    What::To(to) => high = to.as_ref(),
                }
            }
            let Some(values) = values else { break };
            // What equals one of these needs no range.
            (low, high) = (Bound::Unbounded, Bound::Unbounded);
            if prefixes.len() * values.len() > RANGES_MAX {
                return Ok(None);
            }
            let longer = prefixes.iter().flat_map(|prefix| {
                values.iter().map(|value| {
                    let mut longer = prefix.clone();
                    longer.push(value.clone());
                    longer
                })
            });
            prefixes = longer.collect();
        }
        let is_about_all = prefixes.iter().any(Vec::is_empty)
            && matches!((low, high), (Bound::Unbounded, Bound::Unbounded));
        if is_about_all {
            return Ok(None);
        }
        let mut ranges = Vec::with_capacity(prefixes.len());
        for prefix in &prefixes {
            ranges.extend(self.range(prefix, low, high)?);
        }
        Ok(Some(ranges))
    }

    fn range(
        &self,
        prefix: &[ScalarValue],
        low: Bound<&ScalarValue>,
        high: Bound<&ScalarValue>,
    ) -> Result<Option<KeyRange>, SqlError> {
        let with = |value: &ScalarValue| {
            let mut values = prefix.to_vec();
            values.push(value.clone());
            self.bytes(&values)
        };
        let from = match low {
            Bound::Unbounded => Some(self.bytes(prefix)?),
            Bound::Included(value) => Some(with(value)?),
            Bound::Excluded(value) => behind(with(value)?),
        };
        let to = match high {
            Bound::Unbounded => behind(self.bytes(prefix)?),
            Bound::Included(value) => behind(with(value)?),
            Bound::Excluded(value) => Some(with(value)?),
        };
        let range = from.map(|from| KeyRange { from, to });
        Ok(range.filter(|range| range.to.as_ref().is_none_or(|to| range.from < *to)))
    }

    fn bytes(&self, values: &[ScalarValue]) -> Result<KeyBytes, SqlError> {
        if values.is_empty() {
            return Ok(Box::from([]));
        }
        let columns = values.iter().map(|value| value.to_array_of_size(1));
        let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
        let rows = self.converter_of(values.len())?.convert_columns(&columns)?;
        Ok(Box::from(rows.row(0).data()))
    }
}

/// The first bytes behind all that begin with these; `None` when nothing is.
fn behind(bytes: KeyBytes) -> Option<KeyBytes> {
    let mut bytes = bytes.into_vec();
    while let Some(last) = bytes.pop() {
        if let Some(next) = last.checked_add(1) {
            bytes.push(next);
            return Some(bytes.into_boxed_slice());
        }
    }
    None
}

/// What a condition says of one column.
struct Condition {
    column: usize,
    what: What,
}

enum What {
    OneOf(Vec<ScalarValue>),
    From(Bound<ScalarValue>),
    To(Bound<ScalarValue>),
}

impl Condition {
    fn of(key: &KeyColumns, filter: &Expr) -> Option<Self> {
        match filter {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::Or,
                right,
            }) => {
                let (left, right) = (Self::of(key, left)?, Self::of(key, right)?);
                match (left.what, right.what) {
                    (What::OneOf(mut these), What::OneOf(those)) if left.column == right.column => {
                        these.extend(those);
                        Some(Self::one_of(left.column, these))
                    }
                    _ => None,
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let (column, op, value) = match (key.place(left), key.place(right)) {
                    (Some(column), None) => (column, *op, constant(key, column, right)?),
                    (None, Some(column)) => (column, op.swap()?, constant(key, column, left)?),
                    _ => return None,
                };
                let what = match op {
                    Operator::Eq => What::OneOf(vec![value]),
                    Operator::Gt => What::From(Bound::Excluded(value)),
                    Operator::GtEq => What::From(Bound::Included(value)),
                    Operator::Lt => What::To(Bound::Excluded(value)),
                    Operator::LtEq => What::To(Bound::Included(value)),
                    _ => return None,
                };
                Some(Self { column, what })
            }
            Expr::InList(list) if !list.negated => {
                let column = key.place(&list.expr)?;
                let values = list.list.iter().map(|value| constant(key, column, value));
                Some(Self::one_of(column, values.collect::<Option<Vec<_>>>()?))
            }
            _ => None,
        }
    }

    /// Each value once, so that no row is found twice.
    fn one_of(column: usize, mut values: Vec<ScalarValue>) -> Self {
        let mut seen = BTreeSet::new();
        values.retain(|value| seen.insert(value.to_string()));
        Self {
            column,
            what: What::OneOf(values),
        }
    }
}

/// A constant of the column's own type.
fn constant(key: &KeyColumns, column: usize, expr: &Expr) -> Option<ScalarValue> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    let is_same = value.data_type() == key.types[column];
    (is_same && !value.is_null()).then(|| value.clone())
}
