//! Which lane computes a row: by the key group of its key, by a hash of ours.
//!
//! Keys fall into [`JOB_KEY_GROUPS`] groups, for ever the same; of `n` lanes each owns a stretch of them.
//! So rows of one key meet in one lane, and saved state finds its lane again when there are more or
//! fewer of them. What has no key, such as an aggregate without GROUP BY, is one group and so one lane.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use millpond_proto::limits::JOB_KEY_GROUPS;
use millpond_proto::message::stable_hash;

use crate::operator::OperatorError;
use crate::operator::graph::Kind;
use crate::operator::key::Keys;

/// The lane that owns a key, among `lanes`.
pub(crate) fn lane_of(key: &[u8], lanes: usize) -> usize {
    let group = stable_hash(key) % JOB_KEY_GROUPS;
    let lane = group * lanes as u64 / JOB_KEY_GROUPS;
    usize::try_from(lane).expect("a lane is less than their number")
}

/// For each lane, the rows that it owns, in order.
pub(crate) fn by_lane(owners: impl Iterator<Item = usize>, lanes: usize) -> Vec<Vec<u32>> {
    let mut rows = vec![Vec::new(); lanes];
    for (row, lane) in (0_u32..).zip(owners) {
        rows[lane].push(row);
    }
    rows
}

/// Finds the lane of rows.
#[derive(Debug)]
pub(crate) struct Router {
    key: Key,
}

#[derive(Debug)]
enum Key {
    /// A column of texts, as they are.
    Text(usize),
    Columns(Vec<Arc<dyn PhysicalExpr>>, Keys),
}

impl Router {
    /// By the values of expressions of these types; by none: all rows are one lane's.
    pub(crate) fn by(
        key: Vec<Arc<dyn PhysicalExpr>>,
        types: &[DataType],
    ) -> Result<Self, OperatorError> {
        Ok(Self {
            key: Key::Columns(key, Keys::new(types.iter())?),
        })
    }

    /// By some columns of rows of a schema.
    pub(crate) fn by_columns(
        columns: impl IntoIterator<Item = usize>,
        schema: &arrow::datatypes::Schema,
    ) -> Result<Self, OperatorError> {
        let (mut key, mut types): (Vec<Arc<dyn PhysicalExpr>>, Vec<_>) = (Vec::new(), Vec::new());
        for column in columns {
            let field = schema.field(column);
            key.push(Arc::new(Column::new(field.name(), column)));
            types.push(field.data_type().clone());
        }
        Self::by(key, &types)
    }

    /// How the rows of a node's inputs find the lane whose state they meet; `None` for a node without state.
    pub(crate) fn of(kind: &Kind) -> Result<Option<Vec<Self>>, OperatorError> {
        let over = |key: &[Arc<dyn PhysicalExpr>], schema: &arrow::datatypes::Schema| {
            let types = key.iter().map(|key| key.data_type(schema));
            Self::by(key.to_vec(), &types.collect::<Result<Vec<_>, _>>()?)
        };
        Ok(Some(match kind {
            Kind::Scan { .. } | Kind::Transform(_) | Kind::Union => return Ok(None),
            Kind::SessionRows(spec) => {
                vec![Self::by_columns(spec.keys.iter().copied(), &spec.input)?]
            }
            Kind::Constant(_) => vec![Self::by(Vec::new(), &[])?],
            Kind::Latest(spec) => vec![Self {
                key: Key::Text(spec.key),
            }],
            Kind::Aggregate(spec) => {
                let fields = spec.schema.fields().iter().take(spec.groups.len());
                let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
                vec![Self::by(spec.groups.clone(), &types)?]
            }
            Kind::Join(spec) => vec![
                over(&spec.on[0], &spec.inputs[0])?,
                over(&spec.on[1], &spec.inputs[1])?,
            ],
            Kind::Top(spec) => vec![over(&spec.partition, &spec.input)?],
            // A version may move to another key, and a tombstone does not tell which it had.
            Kind::AsOf(spec) if spec.versions.is_some() => {
                vec![Self::by(Vec::new(), &[])?, Self::by(Vec::new(), &[])?]
            }
            Kind::AsOf(spec) => vec![
                over(&spec.on[0], &spec.inputs[0])?,
                over(&spec.on[1], &spec.inputs[1])?,
            ],
            Kind::Close(spec) => {
                vec![Self::by_columns(
                    0..spec.schema.fields().len(),
                    &spec.schema,
                )?]
            }
            Kind::Over(spec) => vec![over(&spec.partition, &spec.input)?],
        }))
    }

    /// Whether there is anything to tell rows apart by.
    pub(crate) fn spreads(&self) -> bool {
        !matches!(&self.key, Key::Columns(key, _) if key.is_empty())
    }

    /// For each lane the rows that it owns, in order.
    pub(crate) fn split(
        &self,
        rows: &RecordBatch,
        lanes: usize,
    ) -> Result<Vec<Vec<u32>>, OperatorError> {
        let count = rows.num_rows();
        Ok(match &self.key {
            Key::Text(column) => {
                let texts: &StringArray = rows.column(*column).as_string();
                let owners = texts
                    .iter()
                    .map(|text| lane_of(text.unwrap_or_default().as_bytes(), lanes));
                by_lane(owners, lanes)
            }
            Key::Columns(key, keys) => {
                let columns = key
                    .iter()
                    .map(|key| key.evaluate(rows)?.into_array(count))
                    .collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
                let keys = keys.encode(&columns)?;
                by_lane((0..count).map(|row| lane_of(keys.row(row), lanes)), lanes)
            }
        })
    }

    /// The lane of saved state with this key.
    pub(crate) fn lane_of_state(&self, key: &[u8], lanes: usize) -> usize {
        lane_of(if self.spreads() { key } else { &[] }, lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_group_for_ever_and_lanes_own_stretches_of_groups() {
        let groups = |key: &[u8]| lane_of(key, usize::try_from(JOB_KEY_GROUPS).unwrap());
        // These are where saved state lies: a change would lose it.
        assert_eq!(
            [groups(b""), groups(b"a"), groups(b"N14228")],
            [3711, 3953, 2401]
        );
        for key in 0..2000_u32 {
            let key = key.to_be_bytes();
            assert_eq!(lane_of(&key, 1), 0);
            for lanes in [2, 3, 64] {
                let lane = lane_of(&key, lanes);
                assert!(lane < lanes);
                assert_eq!(lane, groups(&key) * lanes / 4096);
            }
        }
    }
}
