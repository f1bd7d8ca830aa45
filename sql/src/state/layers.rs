//! The saved state of a query as layers: a base with all rows, and what changed since, in a few objects.
//!
//! A save writes the cells that changed since the one before; what did not change is shared with it. Layers that are no larger than
//! what comes over them are merged into it, so each is larger than the one over it and there are few; when all together
//! would be as large as the base, a new base is written. So a byte that changed is written a few times, and one that
//! did not is written again when about as much changed as there is.
//!
//! **Invariant.** An object is written once, under the epoch that it was written at, and is there as long as the recorded checkpoint
//! names it. What is named by none is what a crash left, or was merged, and is deleted by whoever holds the job.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::operator::OperatorError;
use crate::state::cells::{Cell, Cells, ids_of};
use crate::state::checkpoint::{CheckpointError, folder_of};
use crate::state::layer::Layer;

/// Most layers of a state.
const LAYERS_MAX: usize = 16;
/// Layers over a base are worth it only above this: a smaller state is written as a whole as quickly.
const LAYERS_BYTES_MIN: u64 = 16 * 1024;

/// A layer at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerAt {
    /// Its object.
    pub key: String,
    /// Size of the object.
    pub bytes: u64,
}

/// Why state could not be saved in layers, or read back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayersError {
    /// An object could not be written, or is not what was written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The rows are not those of a state.
    #[error(transparent)]
    Operator(#[from] OperatorError),
}

impl From<ArrowError> for LayersError {
    fn from(error: ArrowError) -> Self {
        Self::Operator(error.into())
    }
}

/// The layers of a query, and what it knows of the rows in them.
#[derive(Debug)]
pub(crate) struct Layers {
    job: u64,
    /// What the names of its objects end with, behind the epoch.
    name: String,
    /// Objects written, of those with a name.
    written: u64,
    cell: Cell,
    /// The lowest first.
    at: Vec<LayerAt>,
    cells: Cells,
}

impl Layers {
    /// No layers.
    pub(crate) fn new(job: u64, cell: Cell) -> Self {
        Self {
            job,
            name: String::new(),
            written: 0,
            cell,
            at: Vec::new(),
            cells: Cells::default(),
        }
    }

    /// No layers, of a part of a state; it may be written several times an epoch, under `name`.
    pub(crate) fn of_part(job: u64, cell: Cell, name: String) -> Self {
        Self {
            name,
            ..Self::new(job, cell)
        }
    }

    /// Takes for granted that its rows lie there.
    pub(crate) fn lie_at(&mut self, at: Vec<LayerAt>) {
        self.at = at;
    }

    /// Reads the rows back that lie where it says, as [`Layers::restore`].
    ///
    /// # Errors
    /// [`LayersError`] when an object is missing or not what was written.
    pub(crate) async fn wake(
        &mut self,
        store: &dyn ObjectStore,
    ) -> Result<Option<RecordBatch>, LayersError> {
        let at = self.at.clone();
        self.restore(store, at).await
    }

    /// The rows that lie there, only to be looked at.
    ///
    /// # Errors
    /// [`LayersError`] when an object is missing or not what was written.
    pub(crate) async fn rows(
        &self,
        store: &dyn ObjectStore,
    ) -> Result<Option<RecordBatch>, LayersError> {
        rows_at(store, &self.at).await
    }

    /// Forgets what it knows of the rows until they are read back.
    pub(crate) fn rest(&mut self) {
        self.cells = Cells::default();
    }

    /// Where they lie, the lowest first.
    pub(crate) fn at(&self) -> &[LayerAt] {
        &self.at
    }

    /// Reads the state back that lies in layers.
    ///
    /// # Errors
    /// [`LayersError`] when an object is missing or not what was written.
    pub(crate) async fn restore(
        &mut self,
        store: &dyn ObjectStore,
        at: Vec<LayerAt>,
    ) -> Result<Option<RecordBatch>, LayersError> {
        let Some(whole) = merged_at(store, &at).await? else {
            return Ok(None);
        };
        self.cells = match Cells::tell(&whole.rows) {
            true => Cells::of(&whole.rows, &whole.ids)?,
            false => Cells::default(),
        };
        self.at = at;
        Ok(Some(whole.rows))
    }

    /// Saves the state at the end of an epoch; what is not named any more by [`Layers::at`] may go when that is recorded.
    ///
    /// # Errors
    /// [`LayersError`]; nothing that was saved before is touched then.
    pub(crate) async fn save(
        &mut self,
        store: &dyn ObjectStore,
        epoch: u64,
        state: &RecordBatch,
    ) -> Result<(), LayersError> {
        let mut key = format!("{}/layers/{epoch:020}", folder_of(self.job));
        if !self.name.is_empty() {
            key = format!("{key}-{}-{}", self.name, self.written);
            self.written += 1;
        }
        if !Cells::tell(state) {
            // Nobody knows what changed.
            let base = Layer::base(state.clone(), vec![0; state.num_rows()]);
            return self.rebase(store, key, &base, Cells::default()).await;
        }
        let ids = ids_of(state, self.cell)?;
        let cells = Cells::of(state, &ids)?;
        let Some(base) = self.at.first() else {
            let base = Layer::base(state.clone(), ids);
            return self.rebase(store, key, &base, cells).await;
        };
        let limit = base.bytes.max(LAYERS_BYTES_MIN);
        let changed = self.cells.changed(&cells);
        if changed.is_empty() {
            return Ok(());
        }
        let (mut rows, mut set) = (Vec::new(), Vec::new());
        for (id, row) in ids.iter().zip(0_u32..) {
            if changed.set.contains(id) {
                rows.push(row);
                set.push(*id);
            }
        }
        let mut top = Layer {
            gone: changed.gone,
            ids: set,
            rows: take_record_batch(state, &UInt32Array::from(rows))?,
        };
        let mut object = top.encode()?;
        let mut below = self.at.clone();
        while let [_, .., last] = below.as_slice()
            && (last.bytes <= object.len() as u64 || below.len() >= LAYERS_MAX)
        {
            let under = read(store, &last.key).await?;
            below.pop();
            let merged = Layer::merged(&[under, top])?;
            top = merged.expect("two layers make one");
            object = top.encode()?;
        }
        let over: u64 = below.iter().skip(1).map(|layer| layer.bytes).sum();
        if over + object.len() as u64 >= limit {
            let base = Layer::base(state.clone(), ids);
            return self.rebase(store, key, &base, cells).await;
        }
        below.push(put(store, key, object).await?);
        (self.at, self.cells) = (below, cells);
        Ok(())
    }

    /// Writes all rows anew.
    async fn rebase(
        &mut self,
        store: &dyn ObjectStore,
        key: String,
        base: &Layer,
        cells: Cells,
    ) -> Result<(), LayersError> {
        let object = base.encode()?;
        self.at = vec![put(store, key, object).await?];
        self.cells = cells;
        Ok(())
    }
}

/// The rows of layers, the lowest first.
///
/// # Errors
/// [`LayersError`] when an object is missing or not what was written.
pub(crate) async fn rows_at(
    store: &dyn ObjectStore,
    at: &[LayerAt],
) -> Result<Option<RecordBatch>, LayersError> {
    let whole = merged_at(store, at).await?;
    Ok(whole.map(|whole| whole.rows))
}

async fn merged_at(store: &dyn ObjectStore, at: &[LayerAt]) -> Result<Option<Layer>, LayersError> {
    let mut layers = Vec::with_capacity(at.len());
    for layer in at {
        layers.push(read(store, &layer.key).await?);
    }
    Ok(Layer::merged(&layers)?)
}

async fn put(
    store: &dyn ObjectStore,
    key: String,
    object: bytes::Bytes,
) -> Result<LayerAt, CheckpointError> {
    let bytes = object.len() as u64;
    let done = store.put(&Path::from(key.as_str()), object.into()).await;
    match done {
        Ok(_) => Ok(LayerAt { key, bytes }),
        Err(source) => Err(CheckpointError::Store {
            what: format!("write {key}"),
            source,
        }),
    }
}

async fn read(store: &dyn ObjectStore, key: &str) -> Result<Layer, CheckpointError> {
    let object = crate::state::checkpoint::object_at(store, key).await?;
    Layer::decode(key, &object)
}

#[cfg(test)]
mod tests;
