//! Opening the log, through as many crashes as that takes, and what must be there then.

use std::sync::Arc;

use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::task::Runtimes;
use millpond_storage::disk::Disk;
use millpond_storage::error::OpenError;
use millpond_storage::log::{Parts, Storage};
use millpond_storage::tier::objects::DiskObjectStore;
use object_store::ObjectStore;

use crate::logs::model::Sum;
use crate::logs::{Life, Named, OPENS_MAX, World};
use crate::power::MortalDisk;

impl World {
    pub(super) async fn try_open(
        &self,
        disk: &MortalDisk,
    ) -> Result<(Arc<Storage>, Vec<Sum>, u64), OpenError> {
        let on_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let objects: Arc<dyn ObjectStore> = match &self.store {
            Some(store) => Arc::new(store.clone()),
            None => Arc::new(DiskObjectStore::new(Arc::clone(&on_disk), "objects")),
        };
        let parts = Parts {
            disk: on_disk,
            objects,
            clock: Arc::clone(&self.clock),
            chance: Arc::new(Seeded::new(self.chance.next_u64())),
            spawn: Arc::new(Runtimes::single()),
        };
        let (storage, recovered) = Storage::open::<Sum>(parts, self.settings.clone()).await?;
        assert_eq!(
            recovered.damage,
            Vec::<String>::new(),
            "nothing was damaged"
        );
        let sums = recovered.shards.into_iter().map(|shard| shard.unwrap());
        Ok((storage, sums.collect(), recovered.term.0))
    }

    pub(super) fn power(&self) -> u64 {
        if !self.is_mortal {
            return u64::MAX;
        }
        let most = [80, 800, 8000][usize::try_from(self.chance.below(3)).unwrap()];
        self.chance.below(most) + 1
    }

    /// Opens the log, through as many crashes as that takes, and checks what is there.
    pub(super) async fn open(&mut self, mut power: u64) -> Life {
        self.misbehave(true);
        for _ in 0..OPENS_MAX {
            let disk = MortalDisk::new(self.disk.clone(), power);
            match self.try_open(&disk).await {
                Ok((storage, sums, term)) => {
                    assert!(term > self.term, "terms rise");
                    self.term = term;
                    // It was calm if it took more than one attempt.
                    self.misbehave(true);
                    storage.set_tables(Arc::new(Named));
                    let life = Life {
                        storage,
                        disk,
                        is_disturbed: false,
                    };
                    self.check_recovered(&life, &sums);
                    self.delete_again(&life).await;
                    return life;
                }
                Err(_) if disk.power.is_gone() => {
                    self.crash();
                    self.tally.crashes_at_opening += 1;
                    power = self.power();
                }
                Err(error) => {
                    // A store that fails, or a disk that is full: help, and it must go.
                    let is_excused = self.is_store_faulty() || self.disk_percent > 0;
                    assert!(is_excused, "the log opens: {error:?}");
                    self.misbehave(false);
                    self.disk.limit_room(None);
                    power = self.power();
                }
            }
        }
        panic!("not open after {OPENS_MAX} attempts");
    }

    pub(super) fn crash(&mut self) {
        self.tally.crashes += 1;
        self.disk.limit_room(None);
        self.disk = self.disk.crash(&self.chance);
    }

    pub(super) fn check_recovered(&mut self, life: &Life, sums: &[Sum]) {
        for (shard, sum) in self.shards.iter_mut().zip(sums) {
            let count = usize::try_from(sum.count).unwrap();
            assert!(
                count >= shard.acknowledged,
                "{} records were acknowledged, {count} are there",
                shard.acknowledged
            );
            assert_eq!(
                shard.sums.get(count),
                Some(sum),
                "a prefix of what was given"
            );
            for queue in shard.records.drain(count..).flatten() {
                self.queues[queue].nonces.pop();
            }
            shard.sums.truncate(count + 1);
            shard.acknowledged = count;
        }
        self.check_extents(life);
    }

    pub(super) fn check_extents(&mut self, life: &Life) {
        for queue in &mut self.queues {
            let Some(extent) = life.storage.extent(queue.topic, queue.id) else {
                assert!(
                    queue.nonces.is_empty(),
                    "a queue with messages has an extent"
                );
                continue;
            };
            assert_eq!(
                extent.next.0,
                queue.nonces.len() as u64,
                "no hole and no loss"
            );
            assert!(extent.first.0 >= queue.first, "no offset returns");
            assert!(
                extent.kept.0 >= queue.kept,
                "what the table let go of does not return"
            );
            let is_apart = self.apart.contains(&queue.topic);
            assert!(extent.kept == extent.first || is_apart && extent.kept < extent.first);
            // What waits to be moved for the table may lie below the log's beginning.
            assert!(extent.kept <= extent.tiered && extent.first <= extent.next);
            (queue.first, queue.kept) = (extent.first.0, extent.kept.0);
        }
        self.check_deleted(life);
    }
}
