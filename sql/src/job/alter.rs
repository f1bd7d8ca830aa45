//! `ALTER MATERIALIZED VIEW`: another query for a view, built beside it from the log.
//!
//! The new query runs as a view of its own, `name_next`, from the first message kept. When it has caught up both stand still, and one change
//! in the catalog gives its topic and its statement the name and deletes what had it; then it goes on. Until then the old rows are served.
//!
//! **Invariant.** What is remembered says how far it is: a job whose statement is an `ALTER` is being built, and a restart goes on with it.
//! A crash before the change in the catalog leaves both views, after it the new one alone. No state of the old query is kept.

use std::sync::{Arc, Weak};
use std::time::Duration;

use millpond_proto::message::{JobId, TopicId};
use millpond_proto::task::Lane;

use crate::batch::dependents::check_not_running;
use crate::continuous::JobState;
use crate::error::SqlError;
use crate::job::runner::late_topic_of;
use crate::job::runner::saved::delete_checkpoints;
use crate::job::runtime::Jobs;
use crate::plan::continuous::{ContinuousPlan, plan_with};
use crate::statement::{ContinuousView, Statement, parse};
use crate::topic::{JobSpec, TopicInfo, ViewSwap};

/// Pause between two looks whether the new query has caught up.
const LOOK: Duration = Duration::from_millis(500);
/// Rows that it may lag behind and still take the view's place; under load there are always some.
const LAG_MAX: u64 = 4096;

/// The name that a view has while it is built.
#[must_use]
pub fn next_of(view: &str) -> String {
    format!("{view}_next")
}

/// Whether a remembered statement is a view that will take another's place.
pub(crate) fn is_building(spec: &JobSpec) -> bool {
    altered_view(spec).is_some()
}

fn altered_view(spec: &JobSpec) -> Option<Box<ContinuousView>> {
    match parse(&spec.sql) {
        Ok(Statement::AlterMaterializedView { view, .. }) => Some(view),
        _ => None,
    }
}

/// What an altered view keeps and what is made anew, a line each.
pub(crate) fn altered(before: &TopicInfo, plan: &ContinuousPlan) -> Vec<String> {
    let mut told = vec![format!(
        "view {}: served as it is until the new query has caught up; then its topic is replaced, offsets begin anew",
        before.name
    )];
    for input in &plan.inputs {
        told.push(format!(
            "state: rebuilt from the log of {}, from its first message kept",
            input.source.name
        ));
    }
    let names = |columns: Vec<&str>| columns.join(", ");
    let added = plan
        .columns
        .iter()
        .filter(|column| !before.columns.contains(column));
    let added: Vec<&str> = added.map(|column| column.name.as_str()).collect();
    let removed = before
        .columns
        .iter()
        .filter(|column| !plan.columns.contains(column));
    let removed: Vec<&str> = removed.map(|column| column.name.as_str()).collect();
    told.push(match (added.is_empty(), removed.is_empty()) {
        (true, true) => "columns: as they are".to_owned(),
        (false, true) => format!("columns: added {}", names(added)),
        (true, false) => format!("columns: removed {}", names(removed)),
        (false, false) => format!(
            "columns: removed {}; added {}",
            names(removed),
            names(added)
        ),
    });
    if before.primary_key != plan.primary_key {
        told.push(format!(
            "key: ({}) instead of ({})",
            plan.primary_key.join(", "),
            before.primary_key.join(", ")
        ));
    }
    told
}

impl Jobs {
    /// Starts the new query of a view.
    pub(super) async fn build_beside(
        &self,
        view: &ContinuousView,
        sql: &str,
    ) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        let (old, _) = self.found(&view.name)?;
        if !matches!(parse(&old.sql), Ok(Statement::CreateMaterializedView(_))) {
            return Err(SqlError::invalid(
                format!("{} is no materialized view", view.name),
                "drop it and create it again",
            ));
        }
        let topics = &self.parts.topics;
        let plan = plan_with(
            &view.query,
            view.emit,
            view.options.clone(),
            topics.as_ref(),
        )
        .await?;
        if plan
            .inputs
            .iter()
            .any(|input| input.source.name == view.name)
        {
            return Err(SqlError::invalid(
                format!(
                    "the new query of view {} would read the view itself",
                    view.name
                ),
                "read what the view reads",
            ));
        }
        check_not_running(&view.name, topics.as_ref())?;
        let next = next_of(&view.name);
        if self.found(&next).is_ok_and(|(spec, _)| is_building(&spec)) {
            return Err(SqlError::invalid(
                format!(
                    "view {} is being altered already: {next} is built beside it and takes its place when it has caught up",
                    view.name
                ),
                format!("wait for that, or give it up: DROP MATERIALIZED VIEW {next}"),
            ));
        }
        self.check_new(&next)?;
        let outputs = self.make_outputs(&next, &plan).await?;
        let mut spec = topics.create_job(&next, sql, &outputs).await?;
        if old.settings != spec.settings {
            topics.set_job(JobId(spec.id), old.settings).await?;
            spec.settings = old.settings;
        }
        self.run(spec);
        self.watch(&next);
        Ok(())
    }

    /// Looks from time to time whether a new query can take its view's place.
    pub(super) fn watch(&self, next: &str) {
        let (me, name) = (Weak::clone(&self.me), next.to_owned());
        let clock = Arc::clone(&self.parts.clock);
        let task = self.parts.spawn.spawn(
            Lane::Background,
            Box::pin(async move {
                loop {
                    clock.sleep(LOOK).await;
                    let Some(jobs) = me.upgrade() else { return };
                    match jobs.take_place(&name).await {
                        Ok(true) => return,
                        Ok(false) => {}
                        Err(error) => {
                            tracing::warn!(job = %name, %error, "a view can not take the place of another; trying again");
                        }
                    }
                }
            }),
        );
        self.building().insert(next.to_owned(), task);
    }

    /// Lets a new query take its view's place if it has caught up; answers whether there is nothing left to wait for.
    async fn take_place(&self, next: &str) -> Result<bool, SqlError> {
        let _changing = self.changing.lock().await;
        let Ok((new, state)) = self.found(next) else {
            return Ok(true);
        };
        let Some(view) = altered_view(&new) else {
            return Ok(true);
        };
        if state != JobState::Running || !self.has_caught_up(next) {
            return Ok(false);
        }
        let Ok((old, _)) = self.found(&view.name) else {
            tracing::warn!(view = %view.name, "the view was dropped while another was built for it");
            return Ok(true);
        };
        // Whoever reads it, at work or at rest, would stand on a topic that is no more.
        check_not_running(&view.name, self.parts.topics.as_ref())?;
        let stopped: Vec<_> = {
            let mut running = self.running();
            [next, view.name.as_str()]
                .map(|name| running.remove(name))
                .into_iter()
                .flatten()
                .collect()
        };
        for mut job in stopped {
            job.stop().await;
        }
        match self
            .parts
            .topics
            .swap_view(self.swap(&old, &new, &view))
            .await
        {
            Ok(spec) => {
                self.run(spec);
                self.forget(&old).await;
                Ok(true)
            }
            Err(error) => {
                let is_swapped = |job: &JobSpec| job.id == new.id && job.name == view.name;
                let swapped = self.parts.topics.jobs().into_iter().find(is_swapped);
                if let Some(swapped) = swapped {
                    tracing::warn!(view = %view.name, %error, "a view took the place of another, though the broker did not say so");
                    self.run(swapped);
                    self.forget(&old).await;
                    return Ok(true);
                }
                // Both go on where they stood.
                self.run(old);
                self.run(new);
                Err(error.into())
            }
        }
    }

    fn has_caught_up(&self, next: &str) -> bool {
        self.running().get(next).is_some_and(|job| {
            let shared = job.shared.lock().expect("no holder panics");
            // Before it is planned nobody knows what it reads.
            !shared.sources.is_empty() && self.lag(&shared) <= LAG_MAX
        })
    }

    fn swap(&self, old: &JobSpec, new: &JobSpec, view: &ContinuousView) -> ViewSwap {
        let topics = &self.parts.topics;
        let late = late_topic_of(&view.name);
        let found = |name: &str, writer: &str| -> Option<TopicId> {
            let found = topics.topic(name)?;
            (found.written_by.as_deref() == Some(writer)).then_some(found.id)
        };
        let mut dropped: Vec<TopicId> = old
            .outputs
            .first()
            .copied()
            .map(TopicId)
            .into_iter()
            .collect();
        dropped.extend(found(&late, &view.name));
        let output = new.outputs.first().copied().map(TopicId);
        let mut renamed: Vec<(TopicId, String)> = Vec::new();
        renamed.extend(output.map(|id| (id, view.name.clone())));
        renamed.extend(found(&late_topic_of(&new.name), &new.name).map(|id| (id, late)));
        ViewSwap {
            name: view.name.clone(),
            old: JobId(old.id),
            new: JobId(new.id),
            sql: view.sql.clone(),
            dropped,
            renamed,
        }
    }

    /// What is left of the old query after its name is gone; what fails here takes space and does no harm.
    async fn forget(&self, old: &JobSpec) {
        if let Err(error) = self.parts.topics.drop_job(JobId(old.id)).await {
            tracing::warn!(job = %old.name, %error, "the progress of a replaced query was not forgotten");
        }
        let deleted = delete_checkpoints(self.parts.state.as_ref(), old.id, &[]).await;
        if let Err(error) = deleted {
            tracing::warn!(job = %old.name, %error, "the state of a replaced query was not deleted");
        }
    }
}
