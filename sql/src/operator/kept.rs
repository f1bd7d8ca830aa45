//! What an aggregate keeps of a group whose rows come and go, so that its value is at hand at every tick.
//!
//! Accumulators do not take rows back, and giving one all of a group's rows again costs by the size of the group.
//! So each function keeps the least from which its value follows whatever came and went:
//!
//! | Function | Kept | Cost of a row |
//! |---|---|---|
//! | `count`, `sum` and `avg` of whole numbers | the exact total and how many | constant |
//! | `count(DISTINCT x)` | each value and how often, or which of several aggregates count it ([`crate::operator::aggregate`]) | constant |
//! | `min`, `max` of rows that only come | the one that counts | constant |
//! | `min`, `max` | the values in order | logarithm |
//! | any other | the values in order; its accumulator takes them all, from the smallest up | the group |
//!
//! With `ORDER BY` within the call a value is kept behind the columns that it is ordered by, so that the accumulator takes all in that order,
//! and of `first_value` and `last_value` the one at that end counts, as with `min` and `max`. Equals are taken by their values.
//!
//! A value is a function of the rows that are there, never of the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, RecordBatch,
};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::row::SortField;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::CastExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Row, other_state};
use crate::operator::hash::Fixed;
use crate::operator::kernel::{Kernel, accumulator};
use crate::operator::key::{Encoded, Keys};
use crate::operator::ordered::{depends_on_order, without_order};

/// What a value that is kept takes besides its bytes, about.
const ENTRY_BYTES: usize = 80;
/// What a whole number and how often it is there take, about.
pub(crate) const NUMBER_BYTES: usize = 32;

/// How an aggregate keeps its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Count,
    /// Of whole numbers.
    Sum,
    /// Of whole numbers.
    Mean,
    /// Of whole numbers.
    DistinctNumbers,
    Distinct,
    Least {
        is_append: bool,
    },
    Most {
        is_append: bool,
    },
    Bag,
}

/// What one aggregate keeps of a group.
#[derive(Debug)]
pub(crate) enum Kept {
    /// How many arguments, and their sum where there is one; it may pass through values that do not fit the result.
    Total { total: i128, count: i64 },
    /// The one argument that counts.
    One(Option<Row>),
    /// Whole numbers and how often each is there.
    Numbers(HashMap<i64, i64, Fixed>),
    /// Arguments and how often each is there.
    Set(HashMap<Row, i64, Fixed>),
    /// The same, in order.
    Bag(BTreeMap<Row, i64>),
}

/// An entry of a saved state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) count: i64,
    /// Whether it is a total; else a value and how often.
    pub(crate) is_total: bool,
}

/// One aggregate of a query, and how it keeps its groups.
#[derive(Debug)]
pub(crate) struct Keeper {
    kernel: Kernel,
    way: Way,
    /// Which of the expressions are its arguments, behind those that they are ordered by.
    arguments: Vec<usize>,
    /// How many these are.
    orders: usize,
    is_distinct: bool,
    /// Which of them tells the rows that count.
    filter: Option<usize>,
    keys: Keys,
}

/// The different expressions of some aggregates: each is computed once for all of them.
#[derive(Debug, Default)]
pub(crate) struct Expressions(Vec<Arc<dyn PhysicalExpr>>);

impl Expressions {
    fn place(&mut self, expression: &Arc<dyn PhysicalExpr>) -> usize {
        let known = self.0.iter().position(|known| known == expression);
        known.unwrap_or_else(|| {
            self.0.push(Arc::clone(expression));
            self.0.len() - 1
        })
    }

    /// Their values for some rows.
    ///
    /// # Errors
    /// What an expression fails with.
    pub(crate) fn evaluate(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, OperatorError> {
        let count = rows.num_rows();
        let columns = self.0.iter();
        let columns = columns.map(|expression| expression.evaluate(rows)?.into_array(count));
        Ok(columns.collect::<Result<Vec<_>, DataFusionError>>()?)
    }
}

/// The arguments of some rows.
pub(crate) struct Arguments {
    /// Rows that count; `None`: all.
    counts: Option<BooleanBuffer>,
    numbers: Option<Int64Array>,
    encoded: Option<Encoded>,
}

impl Arguments {
    /// The rows that count; `None`: all.
    pub(crate) fn counts(&self) -> Option<&BooleanBuffer> {
        self.counts.as_ref()
    }

    /// The whole numbers that they are, if they are.
    pub(crate) fn numbers(&self) -> Option<&Int64Array> {
        self.numbers.as_ref()
    }
}

impl Keeper {
    /// The way to keep `kernel`, over rows of `input`, which only come if `is_append`.
    ///
    /// # Errors
    /// When an argument's type can not be kept.
    pub(crate) fn new(
        kernel: &Kernel,
        input: &SchemaRef,
        is_append: bool,
        expressions: &mut Expressions,
    ) -> Result<Self, OperatorError> {
        let mut arguments = kernel.function.expressions();
        let is_whole = |argument: &Arc<dyn PhysicalExpr>| {
            Ok::<_, DataFusionError>(argument.data_type(input)?.is_signed_integer())
        };
        let is_distinct = kernel.function.is_distinct();
        let name = kernel.function.fun().name();
        let order = match depends_on_order(name) {
            true => kernel.function.order_bys(),
            false => &[],
        };
        let mut way = Way::Bag;
        if !order.is_empty() {
            way = match (name, is_distinct) {
                ("first_value", false) => Way::Least { is_append },
                ("last_value", false) => Way::Most { is_append },
                _ => Way::Bag,
            };
        } else if let [argument] = arguments.as_slice() {
            let inner = argument.downcast_ref::<CastExpr>();
            let inner = inner.map(|cast| Arc::clone(cast.expr()));
            way = match (name, is_distinct, is_whole(argument)?) {
                ("count", false, _) => Way::Count,
                ("count", true, true) => Way::DistinctNumbers,
                ("count", true, false) => Way::Distinct,
                ("sum", false, true) => Way::Sum,
                ("min", ..) => Way::Least { is_append },
                ("max", ..) => Way::Most { is_append },
                ("avg", false, false) if argument.data_type(input)? == DataType::Float64 => {
                    match inner {
                        Some(inner) if is_whole(&inner)? => {
                            arguments = vec![inner];
                            Way::Mean
                        }
                        _ => Way::Bag,
                    }
                }
                _ => Way::Bag,
            };
        } else if name == "count" {
            way = if is_distinct {
                Way::Distinct
            } else {
                Way::Count
            };
        }
        let mut fields = Vec::with_capacity(order.len() + arguments.len());
        for by in order {
            let kind = by.expr.data_type(input)?;
            fields.push(SortField::new_with_options(kind, by.options));
        }
        for argument in &arguments {
            fields.push(SortField::new(argument.data_type(input)?));
        }
        let ordered = order.iter().map(|by| &by.expr);
        Ok(Self {
            kernel: without_order(kernel, input)?,
            way,
            arguments: ordered
                .chain(&arguments)
                .map(|argument| expressions.place(argument))
                .collect(),
            orders: order.len(),
            is_distinct,
            filter: kernel
                .filter
                .as_ref()
                .map(|filter| expressions.place(filter)),
            keys: Keys::of(fields)?,
        })
    }

    /// Which of the expressions it counts the distinct whole numbers of, if it does.
    pub(crate) fn distinct_numbers(&self) -> Option<usize> {
        match (self.way, self.arguments.as_slice()) {
            (Way::DistinctNumbers, [argument]) => Some(*argument),
            _ => None,
        }
    }

    /// What is kept of a group that has no row yet.
    pub(crate) fn fresh(&self) -> Kept {
        match self.way {
            Way::Count | Way::Sum | Way::Mean => Kept::Total { total: 0, count: 0 },
            Way::Least { is_append: true } | Way::Most { is_append: true } => Kept::One(None),
            Way::DistinctNumbers => Kept::Numbers(HashMap::default()),
            Way::Distinct => Kept::Set(HashMap::default()),
            Way::Least { .. } | Way::Most { .. } | Way::Bag => Kept::Bag(BTreeMap::new()),
        }
    }

    /// The arguments of rows, as [`Self::add`] takes them; `values` are those of the expressions.
    ///
    /// # Errors
    /// What Arrow says when they are of other types.
    pub(crate) fn arguments(&self, values: &[ArrayRef]) -> Result<Arguments, OperatorError> {
        let columns = self
            .arguments
            .iter()
            .map(|place| Arc::clone(&values[*place]));
        let columns: Vec<ArrayRef> = columns.collect();
        let mut counts = None;
        let mut only = |buffer: BooleanBuffer| {
            counts = Some(match counts.take() {
                Some(before) => &before & &buffer,
                None => buffer,
            });
        };
        if let Some(filter) = self.filter {
            let mask = as_boolean_array(&values[filter])?;
            only(match mask.nulls() {
                Some(nulls) => mask.values() & nulls.inner(),
                None => mask.values().clone(),
            });
        }
        let passes_over_nulls = match self.orders {
            0 => self.way != Way::Bag,
            _ => self.kernel.function.ignore_nulls(),
        };
        if passes_over_nulls {
            let values = columns.iter().skip(self.orders);
            let nulls = values.filter_map(|column| column.logical_nulls());
            nulls.for_each(|nulls| only(nulls.into_inner()));
        }
        let (mut numbers, mut encoded) = (None, None);
        match self.way {
            Way::Count => {}
            Way::Sum | Way::Mean | Way::DistinctNumbers => {
                let whole = arrow::compute::cast(&columns[0], &DataType::Int64)?;
                numbers = Some(whole.as_primitive::<Int64Type>().clone());
            }
            Way::Distinct | Way::Least { .. } | Way::Most { .. } | Way::Bag => {
                encoded = Some(self.keys.encode(&columns)?);
            }
        }
        Ok(Arguments {
            counts,
            numbers,
            encoded,
        })
    }

    /// Adds the arguments of a row so many times, or takes them back; `bytes` is what is kept takes, about.
    pub(crate) fn add(
        &self,
        kept: &mut Kept,
        arguments: &Arguments,
        row: usize,
        weight: i64,
        bytes: &mut usize,
    ) {
        let counts = arguments.counts.as_ref();
        if counts.is_some_and(|counts| !counts.value(row)) {
            return;
        }
        let number = || arguments.numbers.as_ref().map_or(0, |all| all.value(row));
        let encoded = arguments.encoded.as_ref();
        let value = encoded.map_or(&[][..], |encoded| encoded.row(row));
        match kept {
            Kept::Total { total, count } => {
                *count += weight;
                *total += i128::from(number()) * i128::from(weight);
            }
            Kept::Numbers(numbers) => {
                let number = number();
                let now = numbers.entry(number).or_insert_with(|| {
                    *bytes += NUMBER_BYTES;
                    0
                });
                *now += weight;
                if *now == 0 {
                    numbers.remove(&number);
                    *bytes -= NUMBER_BYTES;
                }
            }
            Kept::One(best) => {
                let counts = match best {
                    None => true,
                    Some(best) if matches!(self.way, Way::Least { .. }) => value < best.as_ref(),
                    Some(best) => value > best.as_ref(),
                };
                if counts {
                    *bytes += ENTRY_BYTES + value.len();
                    if let Some(before) = best.replace(Row::from(value)) {
                        *bytes -= ENTRY_BYTES + before.len();
                    }
                }
            }
            Kept::Set(values) => {
                let now = match values.get_mut(value) {
                    Some(now) => now,
                    None => {
                        *bytes += ENTRY_BYTES + value.len();
                        values.entry(Row::from(value)).or_insert(0)
                    }
                };
                *now += weight;
                if *now == 0 {
                    values.remove(value);
                    *bytes -= ENTRY_BYTES + value.len();
                }
            }
            Kept::Bag(values) => {
                let now = match values.get_mut(value) {
                    Some(now) => now,
                    None => {
                        *bytes += ENTRY_BYTES + value.len();
                        values.entry(Row::from(value)).or_insert(0)
                    }
                };
                *now += weight;
                if *now == 0 {
                    values.remove(value);
                    *bytes -= ENTRY_BYTES + value.len();
                }
            }
        }
    }

    /// The aggregate's value for some groups.
    ///
    /// # Errors
    /// [`OperatorError`] when an accumulator fails.
    pub(crate) fn column<'a>(
        &self,
        kept: impl ExactSizeIterator<Item = &'a Kept> + Clone,
    ) -> Result<ArrayRef, OperatorError> {
        let totals = kept.clone().map(|kept| match kept {
            Kept::Total { total, count } => (*total, *count),
            _ => (0, 0),
        });
        match self.way {
            Way::Count => Ok(Arc::new(Int64Array::from_iter_values(
                totals.map(|(_, count)| count),
            ))),
            Way::Sum => {
                // Above the greatest BIGINT it goes on with the least one, as that of a bounded query does.
                let sums = totals.map(|(total, count)| (count != 0).then(|| wrapped(total)));
                Ok(Arc::new(sums.collect::<Int64Array>()))
            }
            Way::Mean => {
                let means = totals.map(|(total, count)| match count {
                    0 => None,
                    _ => Some(total as f64 / count as f64),
                });
                Ok(Arc::new(means.collect::<Float64Array>()))
            }
            Way::DistinctNumbers | Way::Distinct => {
                let counts = kept.map(|kept| match kept {
                    Kept::Numbers(numbers) => numbers.len() as i64,
                    Kept::Total { count, .. } => *count,
                    Kept::Set(values) => values.len() as i64,
                    _ => 0,
                });
                Ok(Arc::new(Int64Array::from_iter_values(counts)))
            }
            Way::Least { .. } | Way::Most { .. } | Way::Bag => self.accumulated(kept),
        }
    }

    /// What the accumulator makes of the values that count, from the smallest up.
    fn accumulated<'a>(
        &self,
        kept: impl ExactSizeIterator<Item = &'a Kept>,
    ) -> Result<ArrayRef, OperatorError> {
        let groups = kept.len();
        let function = &self.kernel.function;
        let (mut indices, mut rows): (Vec<usize>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for (group, kept) in kept.enumerate() {
            let mut put = |row: &'a Row, count: i64| {
                for _ in 0..count {
                    indices.push(group);
                    rows.push(row.as_ref());
                }
            };
            match (kept, self.way) {
                (Kept::One(Some(best)), _) => put(best, 1),
                (Kept::Bag(values), Way::Bag) => {
                    for (row, count) in values.iter().filter(|(_, count)| **count > 0) {
                        put(row, if self.is_distinct { 1 } else { *count });
                    }
                }
                (Kept::Bag(values), way) => {
                    let best = match way {
                        Way::Least { .. } => values.first_key_value(),
                        _ => values.last_key_value(),
                    };
                    if let Some((row, _)) = best {
                        put(row, 1);
                    }
                }
                _ => {}
            }
        }
        let arguments = self.keys.decode(rows.iter().copied())?;
        let arguments = &arguments[self.orders..];
        let mut accumulator = accumulator(function)?;
        // A filter makes the accumulator note which groups it saw; some may have no argument.
        let all = BooleanArray::from(vec![true; rows.len()]);
        accumulator.update_batch(arguments, &indices, Some(&all), groups)?;
        Ok(accumulator.evaluate(EmitTo::All)?)
    }

    /// Takes an entry of a saved state back.
    ///
    /// # Errors
    /// When the entry is another aggregate's.
    pub(crate) fn restore(
        &self,
        kept: &mut Kept,
        saved: Saved<'_>,
        bytes: &mut usize,
    ) -> Result<(), OperatorError> {
        match (kept, saved.is_total) {
            (Kept::Total { total, count }, true) => {
                let saved_total = saved.value.try_into().map_err(|_| other_state())?;
                *total = i128::from_be_bytes(saved_total);
                *count = saved.count;
                return Ok(());
            }
            (Kept::Numbers(numbers), false) => {
                let number = saved.value.try_into().map_err(|_| other_state())?;
                numbers.insert(i64::from_be_bytes(number), saved.count);
                *bytes += NUMBER_BYTES;
                return Ok(());
            }
            (Kept::One(best), false) => *best = Some(Row::from(saved.value)),
            (Kept::Set(values), false) => {
                values.insert(Row::from(saved.value), saved.count);
            }
            (Kept::Bag(values), false) => {
                values.insert(Row::from(saved.value), saved.count);
            }
            _ => return Err(other_state()),
        }
        *bytes += ENTRY_BYTES + saved.value.len();
        Ok(())
    }
}

impl Kept {
    /// Counts one more argument in a total.
    pub(crate) fn count_one(&mut self) {
        if let Self::Total { count, .. } = self {
            *count += 1;
        }
    }

    /// Gives each entry of the state to `put`, in an order that follows from the values alone.
    pub(crate) fn save(&self, mut put: impl FnMut(Saved<'_>)) {
        fn value(value: &[u8], count: i64) -> Saved<'_> {
            Saved {
                value,
                count,
                is_total: false,
            }
        }
        match self {
            Self::Total { total: 0, count: 0 } | Self::One(None) => {}
            Self::Total { total, count } => put(Saved {
                value: &total.to_be_bytes(),
                count: *count,
                is_total: true,
            }),
            Self::One(Some(best)) => put(value(best, 1)),
            Self::Numbers(numbers) => {
                let mut numbers: Vec<(&i64, &i64)> = numbers.iter().collect();
                numbers.sort_unstable();
                for (number, count) in numbers {
                    put(value(&number.to_be_bytes(), *count));
                }
            }
            Self::Set(values) => {
                let mut values: Vec<(&Row, &i64)> = values.iter().collect();
                values.sort_unstable();
                for (row, count) in values {
                    put(value(row, *count));
                }
            }
            Self::Bag(values) => {
                for (row, count) in values {
                    put(value(row, *count));
                }
            }
        }
    }

    /// Memory that it takes beyond its group, about.
    pub(crate) fn bytes(&self) -> usize {
        let row = |row: &Row| ENTRY_BYTES + row.len();
        match self {
            Self::Total { .. } => 0,
            Self::One(best) => best.iter().map(row).sum(),
            Self::Numbers(numbers) => NUMBER_BYTES * numbers.len(),
            Self::Set(values) => values.keys().map(row).sum(),
            Self::Bag(values) => values.keys().map(row).sum(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "sums of integers wrap around"
)]
fn wrapped(total: i128) -> i64 {
    total as i64
}
