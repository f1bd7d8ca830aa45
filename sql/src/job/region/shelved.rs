//! What a region does with state that rests on a shelf; see [`crate::job::parts`].

use arrow::array::RecordBatch;
use millpond_connectors::format::body::Encoding;

use crate::error::SqlError;
use crate::job::crew::Crew;
use crate::job::error::JobError;
use crate::job::parts::{Parts, Shelf, more_stretches};
use crate::job::region::Region;
use crate::operator::OperatorError;
use crate::plan::continuous::ContinuousPlan;
use crate::state::checkpoint::PartAt;

impl Region {
    /// A region whose state may rest on a shelf.
    ///
    /// # Errors
    /// As [`Region::new`].
    pub(crate) fn on_shelf(
        plan: ContinuousPlan,
        output: &Encoding,
        crew: Crew,
        state_bytes_max: usize,
        shelf: Shelf,
    ) -> Result<Self, SqlError> {
        let lanes = match shelf.stretches {
            0 => crew.lanes(),
            stretches => stretches,
        };
        let mut region = Self::in_lanes(plan, output, crew, state_bytes_max, lanes)?;
        region.rests_above = region.lanes.rests().then_some(shelf.budget);
        if shelf.stretches > 0 {
            region.parts = region.lanes.parts(shelf);
        }
        Ok(region)
    }

    /// Looks after a step whether the state has room.
    pub(super) fn check_room(&self) -> Result<(), JobError> {
        let size_bytes = self.lanes.state_bytes();
        let hands = self.crew.lanes();
        let crowded = match (&self.parts, self.rests_above) {
            (Some(parts), _) => parts.wants(hands, self.state_bytes_max),
            (None, Some(above)) if size_bytes > above => more_stretches(0),
            _ => None,
        };
        match crowded {
            Some(stretches) => Err(JobError::Crowded { stretches }),
            None if size_bytes > self.state_bytes_max => Err(self.too_large(size_bytes)),
            None => Ok(()),
        }
    }

    /// A step had no room: it may have in more stretches.
    pub(super) fn no_room(&self, size_bytes: usize) -> JobError {
        let stretches = self.parts.as_ref().map_or(0, Parts::stretches);
        match more_stretches(stretches).filter(|_| self.rests_above.is_some()) {
            Some(stretches) => JobError::Crowded { stretches },
            None => self.too_large(size_bytes),
        }
    }

    fn too_large(&self, size_bytes: usize) -> JobError {
        JobError::from(OperatorError::StateTooLarge {
            size_bytes,
            limit_bytes: self.state_bytes_max,
        })
    }

    /// What goes to rest from now on is written under this epoch.
    pub(crate) fn begin(&mut self, epoch: u64) {
        if let Some(parts) = &mut self.parts {
            parts.begin(epoch);
        }
    }

    /// How many stretches its state is cut into; 0: it is in memory as a whole.
    pub(crate) fn stretches(&self) -> usize {
        self.parts.as_ref().map_or(0, |parts| parts.stretches())
    }

    /// Goes on from parts that were saved in as many stretches: they are read when they are needed.
    ///
    /// # Errors
    /// When they are another query's, or what must be in memory can not be read.
    pub(crate) async fn resume(&mut self, at: Vec<PartAt>) -> Result<(), JobError> {
        let watermark = self.watermark();
        match &mut self.parts {
            Some(parts) => self.lanes.resume(parts, at, watermark).await,
            None => Ok(()),
        }
    }

    /// Takes rows of a state that was cut otherwise, and puts to rest what has no room.
    ///
    /// # Errors
    /// When they are another query's, or can not be written.
    pub(crate) async fn take_over(&mut self, rows: &RecordBatch) -> Result<(), JobError> {
        let watermark = self.watermark();
        self.lanes.restore(rows, watermark)?;
        match &mut self.parts {
            Some(parts) => self.lanes.take_over(parts).await,
            None => Ok(()),
        }
    }

    /// Writes the parts that changed; `None` if the state is no parts.
    ///
    /// # Errors
    /// When the store does not take them.
    pub(crate) async fn save_parts(&mut self) -> Result<Option<Vec<PartAt>>, JobError> {
        match &mut self.parts {
            Some(parts) => Ok(Some(self.lanes.save_parts(parts).await?)),
            None => Ok(None),
        }
    }

    /// All of the state as rows, wherever it lies; `None` for a query without.
    ///
    /// # Errors
    /// When it is larger than a savepoint may be, or can not be read.
    pub(crate) async fn whole(&mut self) -> Result<Option<RecordBatch>, JobError> {
        match &mut self.parts {
            Some(parts) => self.lanes.whole(parts).await,
            None => Ok(self.save()?),
        }
    }

    /// The objects that its parts lie in.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &str> {
        let parts = self.parts.iter().flat_map(|parts| parts.objects());
        parts.map(|layer| layer.key.as_str())
    }
}
