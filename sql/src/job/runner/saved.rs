//! What a query saves and goes on from: its state as a whole, in parts, or of a savepoint.
//!
//! **Invariant.** What the recorded checkpoint names is there until the next one is recorded. Which form a state has is told by the facts;
//! a query goes on from any of them, in as many stretches as it has room for.

use arrow::compute::concat_batches;
use futures::StreamExt;
use millpond_proto::message::Epoch;
use millpond_proto::time::Timestamp;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::error::SqlError;
use crate::job::error::JobError;
use crate::job::inputs::Offsets;
use crate::job::runner::{Runner, Saved, Turns};
use crate::job::savepoint::{Ask, Written, check_inputs};
use crate::operator::OperatorError;
use crate::savepoint::Savepoint;
use crate::state::checkpoint::{Checkpoint, CheckpointError, Facts, folder_of, key_of, object_at};
use crate::state::layers::rows_at;
use crate::statement::{Statement, parse};

/// A checkpoint that was read.
pub(super) struct Loaded {
    key: String,
    checkpoint: Checkpoint,
}

impl Loaded {
    /// Reads what was recorded of an epoch.
    pub(super) async fn read(runner: &Runner, epoch: u64, key: String) -> Result<Self, JobError> {
        let checkpoint = read_checkpoint(runner.state.as_ref(), &key).await?;
        let facts = &checkpoint.facts;
        if facts.job != runner.spec.id || facts.cut.epoch != epoch {
            return Err(CheckpointError::Damaged {
                key,
                detail: "it belongs to another job or epoch".to_owned(),
            }
            .into());
        }
        Ok(Self { key, checkpoint })
    }

    /// In how many stretches its state is best kept: as it is, unless it fits into memory again by far.
    pub(super) fn stretches(&self, budget: usize) -> usize {
        let facts = &self.checkpoint.facts;
        let memory: u64 = facts.parts.iter().map(|part| part.memory_bytes).sum();
        match memory <= budget as u64 / 2 {
            true => 0,
            false => facts.stretches,
        }
    }
}

impl Turns<'_> {
    /// Goes on from the saved state; answers the offsets that it ends at.
    pub(super) async fn load(&mut self, loaded: Loaded) -> Result<Offsets, JobError> {
        let Loaded { key, checkpoint } = loaded;
        let Checkpoint { facts, state } = checkpoint;
        self.check_steps(&facts.steps)?;
        self.epoch = facts.cut.epoch;
        self.saved.epoch = facts.cut.epoch;
        self.saved.key = Some(key);
        self.saved.objects = facts.objects().map(|layer| layer.key.clone()).collect();
        self.region.begin(self.epoch);
        let offsets = self.resume_clocks(&facts)?;
        let store = self.runner.state.as_ref();
        match (facts.stretches, self.region.stretches()) {
            (0, 0) => {
                let state = match facts.layers.is_empty() {
                    true => state,
                    false => self.layers.restore(store, facts.layers).await?,
                };
                if let Some(state) = state {
                    self.region.take_over(&state).await?;
                }
            }
            (0, _) => {
                let state = match facts.layers.is_empty() {
                    true => state,
                    false => rows_at(store, &facts.layers).await?,
                };
                if let Some(state) = state {
                    self.region.take_over(&state).await?;
                }
            }
            (before, now) if before == now => self.region.resume(facts.parts).await?,
            // Several that become one are taken over as one: state is taken over once.
            (before, now) if now < before => {
                let mut whole = Vec::new();
                for part in facts.parts {
                    whole.extend(rows_at(store, &part.layers).await?);
                }
                if let Some(first) = whole.first() {
                    let whole = concat_batches(first.schema_ref(), &whole)?;
                    self.region.take_over(&whole).await?;
                }
            }
            // What was one stretch is a few now, so a part is read once and cut.
            _ => {
                for part in facts.parts {
                    if let Some(rows) = rows_at(store, &part.layers).await? {
                        self.region.take_over(&rows).await?;
                    }
                }
            }
        }
        Ok(offsets)
    }

    /// State of other steps would be taken for these, since it is known by their numbers.
    fn check_steps(&self, saved: &[String]) -> Result<(), JobError> {
        let now = self.plan.steps();
        if saved.is_empty() || saved == now {
            return Ok(());
        }
        let mut places = 0..saved.len().max(now.len());
        let place = places.find(|place| saved.get(*place) != now.get(*place));
        let place = place.unwrap_or_default();
        let word = |steps: &[String]| {
            steps
                .get(place)
                .map_or("nothing", String::as_str)
                .to_owned()
        };
        Err(JobError::from(OperatorError::OtherState {
            detail: format!("step {place} was {}, now it is {}", word(saved), word(&now)),
        }))
    }

    /// Sets the clocks as they stood; answers the offsets that the state ends at.
    fn resume_clocks(&mut self, facts: &Facts) -> Result<Offsets, JobError> {
        let mut greatest_ms = vec![facts.greatest_ms];
        greatest_ms.extend(&facts.more_greatest_ms);
        let counts = facts.counts.clone();
        self.region.restore(&greatest_ms, counts, None)?;
        self.tick_ms = facts.cut.tick_ms;
        self.own_offsets(&facts.cut)
    }

    /// Loads the state of a savepoint; epochs begin anew.
    pub(super) async fn begin_with(&mut self, id: u64) -> Result<Offsets, JobError> {
        let savepoint = self.savepoint(id)?;
        let key = savepoint.key;
        let saved = read_checkpoint(self.runner.state.as_ref(), &key).await?;
        if saved.facts.cut != savepoint.cut {
            return Err(CheckpointError::Damaged {
                key,
                detail: "it belongs to another savepoint".to_owned(),
            }
            .into());
        }
        let offsets = self.resume_clocks(&saved.facts)?;
        if let Some(state) = saved.state {
            self.region.take_over(&state).await?;
        }
        Ok(offsets)
    }

    pub(super) fn check_savepoint(&self, id: u64) -> Result<(), JobError> {
        let topics = self.runner.topics.as_ref();
        Ok(check_inputs(&self.savepoint(id)?, &self.plan, topics)?)
    }

    fn savepoint(&self, id: u64) -> Result<Savepoint, JobError> {
        let known = self.runner.topics.savepoints();
        let found = known.into_iter().find(|savepoint| savepoint.id == id);
        found.ok_or(JobError::SavepointGone { id })
    }

    /// Answers who asked for the state; says whether to stop.
    pub(super) async fn answer(&mut self, ask: Ask) -> bool {
        let written = self.write_savepoint(&ask.key).await;
        let stops = ask.then_stops && written.is_ok();
        // Who asked may have gone; what was written is swept with the next savepoint then.
        ask.reply.send(written).is_ok() && stops
    }

    /// Writes the state as it stands under a key.
    pub(super) async fn write_savepoint(&mut self, key: &str) -> Result<Written, JobError> {
        let checkpoint = Checkpoint {
            facts: self.facts(),
            state: self.region.whole().await?,
        };
        let object = checkpoint.encode()?;
        let size_bytes = object.len() as u64;
        let location = Path::from(key);
        let put = self.runner.state.put(&location, object.into()).await;
        put.map_err(|source| store_error("write", key, source))?;
        let Ok(Statement::CreateJob(job)) = parse(&self.runner.spec.sql) else {
            return Err(SqlError::Bug {
                cause: "only a job has savepoints".to_owned(),
            }
            .into());
        };
        Ok(Written {
            cut: checkpoint.facts.cut,
            size_bytes,
            computes: self.plan.fingerprint(&job),
        })
    }

    /// Where it stands, without its state.
    fn facts(&self) -> Facts {
        let mut greatest_ms = self.region.greatest_ms().into_iter();
        Facts {
            job: self.runner.spec.id,
            cut: self.cut(self.epoch, self.tick_ms),
            greatest_ms: greatest_ms.next().flatten(),
            more_greatest_ms: greatest_ms.collect(),
            counts: self.region.counts().clone(),
            layers: Vec::new(),
            stretches: 0,
            parts: Vec::new(),
            steps: self.plan.steps(),
        }
    }

    pub(super) async fn save(&mut self, now: Timestamp) -> Result<(), JobError> {
        let mut facts = self.facts();
        if let Some(parts) = self.region.save_parts().await? {
            (facts.stretches, facts.parts) = (self.region.stretches(), parts);
        } else if let Some(state) = self.region.save()? {
            let store = self.runner.state.as_ref();
            self.layers.save(store, self.epoch, &state).await?;
            facts.layers = self.layers.at().to_vec();
        }
        let objects = facts.objects().map(|layer| layer.key.clone()).collect();
        let checkpoint = Checkpoint { facts, state: None };
        let key = key_of(self.runner.spec.id, self.epoch);
        let object = checkpoint.encode()?;
        let put = self
            .runner
            .state
            .put(&Path::from(key.as_str()), object.into())
            .await;
        put.map_err(|source| store_error("write", &key, source))?;
        let epoch = Epoch(self.epoch);
        self.runner
            .topics
            .checkpointed(self.runner.job(), epoch, &key)
            .await?;
        self.saved = Saved {
            epoch: self.epoch,
            key: Some(key),
            objects,
            at: now,
        };
        self.delete_other_checkpoints().await;
        Ok(())
    }

    /// Deletes what the last checkpoint does not need: older ones, layers that were merged, and what was written and not recorded.
    pub(super) async fn delete_other_checkpoints(&mut self) {
        // What lies at rest since then is needed before it is recorded.
        let layers = self.layers.at().iter().map(|layer| layer.key.as_str());
        let recorded = self.saved.objects.iter().map(String::as_str);
        let keep = self.saved.key.as_deref().into_iter().chain(recorded);
        let keep: Vec<&str> = keep.chain(layers).chain(self.region.objects()).collect();
        let (state, job) = (self.runner.state.as_ref(), self.runner.spec.id);
        if let Err(error) = delete_checkpoints(state, job, &keep).await {
            // They take space and do no harm; the next checkpoint tries again.
            tracing::warn!(job = %self.runner.spec.name, %error, "old state was not deleted");
        }
    }
}

/// Deletes the saved state of a job but the objects under `keep`.
///
/// # Errors
/// What the store says; some may be left then.
pub(crate) async fn delete_checkpoints(
    state: &dyn ObjectStore,
    job: u64,
    keep: &[&str],
) -> Result<(), object_store::Error> {
    let folder = Path::from(folder_of(job));
    let mut found = state.list(Some(&folder));
    let mut old = Vec::new();
    while let Some(object) = found.next().await {
        let location = object?.location;
        if !keep.contains(&location.as_ref()) {
            old.push(location);
        }
    }
    for location in old {
        state.delete(&location).await?;
    }
    Ok(())
}

async fn read_checkpoint(
    state: &dyn ObjectStore,
    key: &str,
) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::decode(key, &object_at(state, key).await?)
}

fn store_error(what: &str, key: &str, source: object_store::Error) -> CheckpointError {
    CheckpointError::Store {
        what: format!("{what} {key}"),
        source,
    }
}
