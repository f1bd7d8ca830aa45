//! The first rows of partitions against a model that sorts everything at every step.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray as _, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use datafusion::physical_expr::expressions::Column;
use proptest::prelude::*;

use super::*;
use crate::operator::moment::Marks;

/// Partition, what it is ordered by, and what else tells rows apart.
type Sent = (i64, i64, i64);

fn spec(count: u64, numbers: Numbers, is_append: bool) -> TopSpec {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let input = Arc::new(Schema::new(vec![field("p"), field("o"), field("x")]));
    let mut fields: Vec<Field> = input
        .fields()
        .iter()
        .map(|at| at.as_ref().clone())
        .collect();
    fields.push(Field::new("number", DataType::UInt64, true));
    TopSpec {
        partition: vec![Arc::new(Column::new("p", 0))],
        order: vec![(Arc::new(Column::new("o", 1)), SortOptions::default())],
        count,
        numbers,
        is_append,
        input,
        schema: Arc::new(Schema::new(fields)),
        ending: None,
    }
}

fn delta(spec: &TopSpec, sent: &[(Sent, i64)]) -> Delta {
    let column = |of: fn(&Sent) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            sent.iter().map(|(row, _)| of(row)),
        ))
    };
    let columns = vec![
        column(|row| row.0),
        column(|row| row.1),
        column(|row| row.2),
    ];
    Delta {
        rows: RecordBatch::try_new(Arc::clone(&spec.input), columns).unwrap(),
        weights: sent.iter().map(|(_, weight)| *weight).collect(),
    }
}

fn step(top: &mut Top, sent: &[(Sent, i64)], told: &mut BTreeMap<(Sent, u64), i64>) {
    let delta = delta(&top.spec, sent);
    let marks = Marks::default();
    let changes = top.step(&[&delta], &Moment::new(&marks, &marks)).unwrap();
    let numbers = |column: usize| {
        changes
            .rows
            .column(column)
            .as_primitive::<Int64Type>()
            .clone()
    };
    let (p, o, x) = (numbers(0), numbers(1), numbers(2));
    let places = changes.rows.column(3).as_primitive::<UInt64Type>().clone();
    for (row, weight) in changes.weights.iter().enumerate() {
        let key = (
            (p.value(row), o.value(row), x.value(row)),
            places.value(row),
        );
        *told.entry(key).or_default() += weight;
    }
    told.retain(|_, weight| *weight != 0);
}

/// The first rows of each partition, of all rows with how often each is there.
fn first(rows: &BTreeMap<Sent, i64>, numbers: Numbers, count: u64) -> BTreeMap<(Sent, u64), i64> {
    let mut first = BTreeMap::new();
    let before = |of: &Sent, is: fn(&Sent, &Sent) -> bool| {
        let of = *of;
        let before = rows.iter();
        let before = before.filter(move |(row, _)| row.0 == of.0 && is(row, &of));
        before.map(|(row, times)| (row.1, u64::try_from(*times).unwrap()))
    };
    for (row, times) in rows {
        for copy in 0..u64::try_from(*times).unwrap() {
            let number = match numbers {
                Numbers::Rows => {
                    let before = before(row, |row, of| row < of);
                    1 + copy + before.map(|(_, times)| times).sum::<u64>()
                }
                Numbers::Rank => {
                    let before = before(row, |row, of| row.1 < of.1);
                    1 + before.map(|(_, times)| times).sum::<u64>()
                }
                Numbers::DenseRank => {
                    let before = before(row, |row, of| row.1 < of.1);
                    let there = before.filter(|(_, times)| *times > 0);
                    let orders: BTreeSet<i64> = there.map(|(order, _)| order).collect();
                    1 + u64::try_from(orders.len()).unwrap()
                }
            };
            if number <= count {
                *first.entry((*row, number)).or_default() += 1;
            }
        }
    }
    first
}

/// What a saved state holds, taken back into another.
fn restored(top: &Top) -> Top {
    let mut entries = Entries::default();
    entries.begin(0);
    top.save(&mut entries);
    let mut other = Top::new(top.spec.clone()).unwrap();
    Entries::each(&entries.batch().unwrap(), |_, entry| other.restore(entry)).unwrap();
    assert_eq!(other.state_bytes, top.state_bytes);
    other
}

proptest! {
    #[test]
    fn the_first_rows_are_those_of_all_that_are_there(
        steps in prop::collection::vec(prop::collection::vec(((0_i64..3, 0_i64..6, 0_i64..3), any::<bool>()), 0..12), 1..9),
        count in 0_u64..4,
        numbers in prop::sample::select(vec![Numbers::Rows, Numbers::Rank, Numbers::DenseRank]),
        is_append in any::<bool>(),
    ) {
        let mut top = Top::new(spec(count, numbers, is_append)).unwrap();
        let mut rows: BTreeMap<Sent, i64> = BTreeMap::new();
        let mut told = BTreeMap::new();
        for sent in steps {
            let mut weighted = Vec::new();
            for (row, goes) in sent {
                let times = rows.entry(row).or_default();
                // Only what is there can go.
                let weight = if goes && !is_append && *times > 0 { -1 } else { 1 };
                *times += weight;
                weighted.push((row, weight));
            }
            step(&mut top, &weighted, &mut told);
            prop_assert_eq!(&told, &first(&rows, numbers, count));
            top = restored(&top);
        }
        if is_append && numbers == Numbers::Rows {
            let kept: i64 = top.partitions.values().map(|partition| partition.total).sum();
            prop_assert!(kept <= 3 * i64::try_from(count).unwrap(), "{} rows are kept", kept);
        }
        if is_append && numbers != Numbers::Rows {
            let kept: i64 = top.partitions.values().map(|partition| partition.total).sum();
            prop_assert_eq!(kept, told.values().sum::<i64>());
        }
    }
}
