//! Operators: they move messages to the cold tier, set clocks, move and pause groups, redrive dead letters, delete
//! topics and make them anew; and the disk fails now and then.

use millpond_engine::broker::standing::ResetTo;
use millpond_engine::broker::transfer::Selection;
use millpond_engine::broker::{GroupChange, GroupStart};
use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::history::{Event, Message};
use crate::sim::client::{Client, group_name, topic_name};
use crate::sim::line::{ATTEMPTS_MAX, AUDIT, LINES, REMADE, WANDERERS};

/// How far the machine's clock is set forward or back at once.
const SET_MS: [u64; 4] = [1000, 20_000, 300_000, 7_200_000];
/// Messages of each queue that an operator looks at.
const LOOK_AT: u64 = 50;
const SETTLE_TURNS: usize = 20;

impl Client {
    /// Moves messages to the cold tier, sets the clock, and lets the disk fail, now and then.
    pub(super) async fn operate(self) {
        loop {
            self.pause(20_000).await;
            match self.chance.below(20) {
                0 => {
                    self.note(Event::DiskFails);
                    self.world.disk.inner.fail_next_sync();
                }
                1 => {
                    self.note(Event::DiskFails);
                    self.world.disk.inner.fail_next_write();
                }
                2..6 => self.set_clock(),
                6..14 => self.look().await,
                14..17 => self.redrive().await,
                _ => self.tier().await,
            }
        }
    }

    fn set_clock(&self) {
        let most = SET_MS[usize::try_from(self.chance.below(4)).unwrap()];
        let ms = i64::try_from(self.chance.below(most)).unwrap();
        let ms = if self.chance.percent(50) { ms } else { -ms };
        self.clocks.wall.set_by(ms);
        self.note(Event::ClockSet { ms });
    }

    async fn look(&self) {
        for line in &LINES {
            self.read(line, LOOK_AT).await;
        }
    }

    /// Everything reads the same before and after, wherever it lies.
    pub(super) async fn tier(&self) {
        if !self.world.is_last {
            self.look().await;
        }
        self.call(self.broker.care()).await;
        if !self.world.plan.tiers() {
            return;
        }
        if self.chance.percent(30)
            && let Some(Err(error)) = self.call(self.broker.compact(None)).await
        {
            self.note(Event::Note(format!("compact: {error}")));
        }
        match self.call(self.broker.tier()).await {
            None => {}
            Some(Ok(tiered)) => self.note(Event::Note(format!("tiered {}", tiered.messages))),
            Some(Err(error)) => self.note(Event::Note(format!("tier: {error}"))),
        }
        if self.world.is_last {
            self.read_lines().await;
        } else {
            self.look().await;
        }
    }

    async fn redrive(&self) {
        self.note(Event::RedriveCalled {
            group: AUDIT,
            attempts_max: ATTEMPTS_MAX,
        });
        let selection = Selection {
            limit: 20,
            ..Selection::default()
        };
        let group = group_name(AUDIT);
        let redriven = self.call(self.broker.redrive(&group, &selection)).await;
        self.note(Event::Note(format!("redriven: {redriven:?}")));
    }

    /// Puts a group elsewhere, or lets it rest for a while.
    pub(super) async fn move_groups(self) {
        let (group, topic) = (group_name(WANDERERS), topic_name(LINES[0].topic));
        loop {
            self.pause(20_000).await;
            self.note(Event::MoveCalled { group: WANDERERS });
            let to = match self.chance.below(6) {
                0 => ResetTo::Earliest,
                1 => ResetTo::Latest,
                2 => ResetTo::Skip(self.chance.below(50)),
                3 => ResetTo::Offset(Offset(self.chance.below(200))),
                4 => {
                    let ago = i64::try_from(self.chance.below(100_000)).unwrap();
                    ResetTo::Time(Timestamp(self.now().as_ms() - ago))
                }
                _ => {
                    self.rest().await;
                    continue;
                }
            };
            let moved = self.broker.reset_group(&group, &topic, None, to);
            let moved = self.call(moved).await;
            self.note(Event::Note(format!("moved {to:?}: {moved:?}")));
        }
    }

    async fn rest(&self) {
        let group = group_name(WANDERERS);
        let change = |paused| GroupChange {
            paused: Some(paused),
            ..GroupChange::default()
        };
        let paused = self.broker.alter_group(&group, change(true));
        let paused = self.call(paused).await;
        if matches!(paused, Some(Ok(_))) {
            self.note(Event::Paused { group: WANDERERS });
        }
        self.pause(20_000).await;
        self.note(Event::ResumeCalled { group: WANDERERS });
        let resumed = self.broker.alter_group(&group, change(false));
        let resumed = self.call(resumed).await;
        self.note(Event::Note(format!("resumed: {resumed:?}")));
    }

    /// Deletes a topic and makes it anew.
    pub(super) async fn remake(self) {
        let line = &LINES[REMADE];
        loop {
            self.pause(40_000).await;
            if let Ok(topic) = self.broker.topic(&topic_name(line.topic)) {
                let id = topic.id.0;
                self.note(Event::DeleteCalled { id });
                match self.call(self.broker.delete_topic(&topic.name)).await {
                    Some(Ok(())) => self.note(Event::Deleted { id }),
                    other => self.note(Event::Note(format!("delete: {other:?}"))),
                }
                self.pause(2000).await;
            }
            if let Err(how) = self.make_topic(line).await {
                self.note(Event::Note(how));
            }
        }
    }

    /// In the last life: groups that were moved begin anew, dead letters come back once more.
    pub(super) async fn settle_groups(&self) {
        self.note(Event::ResumeCalled { group: WANDERERS });
        self.note(Event::MoveCalled { group: WANDERERS });
        let (group, topic) = (group_name(WANDERERS), topic_name(LINES[0].topic));
        let fresh = GroupChange {
            start: Some(GroupStart::Earliest),
            paused: Some(false),
            ..GroupChange::default()
        };
        let resumed = self.broker.alter_group(&group, fresh).await;
        let moved = self
            .broker
            .reset_group(&group, &topic, None, ResetTo::Earliest);
        if let (Err(error), _) | (_, Err(error)) = (resumed.map(|_| ()), moved.await) {
            self.broken(format!("wanderers can not be moved: {error}"));
        }
        if self.chance.percent(50) {
            self.redrive().await;
        }
        // What is on its way to the dead letters, or back, arrives within a turn of the upkeep.
        self.sleep(30_000).await;
    }

    /// Notes who is dead of the group whose messages die.
    pub(super) async fn count_dead(&self) {
        let group = group_name(AUDIT);
        let mut selection = Selection {
            limit: 100,
            ..Selection::default()
        };
        for _ in 0..SETTLE_TURNS {
            match self.broker.dead_letters(&group, &selection).await {
                Err(error) => return self.broken(format!("dead letters: {error}")),
                Ok(found) => {
                    for letter in &found.letters {
                        self.note(Event::Dead {
                            group: AUDIT,
                            message: Message::from(letter.message_id.as_str()),
                        });
                    }
                    match found.next {
                        Some(next) => selection.from = next,
                        None => return,
                    }
                }
            }
        }
    }
}
