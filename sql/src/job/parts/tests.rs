//! Parts of a lane that adds numbers up, against a map that has all of them in memory.

use std::collections::BTreeMap;

use millpond_proto::chance::Seeded;
use object_store::memory::InMemory;

use super::*;
use crate::operator::OperatorError;
use crate::operator::delta::{Entries, Entry};
use crate::testing::store::DyingStore;

/// Sums by key at two steps, of which the second stays in memory.
#[derive(Debug, Default)]
struct Sums([BTreeMap<u64, i64>; 2]);

impl Stepped for Sums {
    fn steps(&self) -> usize {
        2
    }

    fn rests(&self, step: usize) -> bool {
        step == 0
    }

    fn is_kept(&self, _step: usize) -> bool {
        true
    }

    fn bytes(&self, step: usize) -> usize {
        100 * self.0[step].len()
    }

    fn rows(&self, step: usize) -> Result<RecordBatch, OperatorError> {
        let mut entries = Entries::default();
        entries.begin(step);
        for (key, sum) in &self.0[step] {
            entries.push(Entry {
                part: 0,
                key: &key.to_be_bytes(),
                value: &[],
                count: *sum,
                other: 0,
            });
        }
        entries.batch()
    }

    fn put(
        &mut self,
        rows: &RecordBatch,
        lane: Range<usize>,
        _watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        let count = lane.end as u64;
        Entries::each(rows, |step, entry| {
            let key = u64::from_be_bytes(entry.key.try_into().unwrap());
            if key % count == lane.start as u64 {
                self.0[step].insert(key, entry.count);
            }
            Ok(())
        })
    }

    fn clear(&mut self, step: usize) {
        self.0[step].clear();
    }
}

const LANES: usize = 8;

fn fresh(store: &DyingStore, budget: usize) -> (Parts, Vec<Sums>) {
    let lanes: Vec<Sums> = (0..LANES).map(|_| Sums::default()).collect();
    let shelf = Shelf {
        store: Arc::new(store.clone()),
        job: 7,
        budget,
        stretches: LANES,
    };
    (
        Parts::of(shelf, Cell::ByColumns(Entries::CELL), &lanes),
        lanes,
    )
}

#[tokio::test]
async fn sums_are_right_whatever_rests_and_whenever_it_is_saved_or_restarted() {
    for seed in 0..8 {
        let chance = Seeded::new(seed);
        let store = DyingStore::counting(Arc::new(InMemory::new()));
        let budget = [0, 1500, 20_000][usize::try_from(seed % 3).unwrap()];
        let (mut parts, mut lanes) = fresh(&store, budget);
        let (mut model, mut saved_model) = (BTreeMap::new(), BTreeMap::new());
        let mut saved = Vec::new();
        for epoch in 1..40 {
            parts.begin(epoch);
            for step in 0..2 {
                let keys: Vec<u64> = (0..chance.below(6)).map(|_| chance.below(90)).collect();
                let takes: Vec<bool> = (0..LANES as u64)
                    .map(|lane| keys.iter().any(|key| key % LANES as u64 == lane))
                    .collect();
                for wave in parts.waves(step, &takes, 2) {
                    parts
                        .wake(&mut lanes, step, wave.clone(), None)
                        .await
                        .unwrap();
                    for key in &keys {
                        let lane = usize::try_from(key % LANES as u64).unwrap();
                        if wave.contains(&lane) {
                            *lanes[lane].0[step].entry(*key).or_default() += 1;
                        }
                    }
                    parts.settle(&mut lanes).await.unwrap();
                    let memory: usize = lanes.iter().map(|lane| lane.bytes(0)).sum();
                    let stays: usize = lanes.iter().map(|lane| lane.bytes(1)).sum();
                    assert!(memory == 0 || memory + stays <= budget, "seed {seed}");
                }
                for key in keys {
                    *model.entry((step, key)).or_default() += 1;
                }
            }
            match chance.below(4) {
                0 => {
                    saved = parts.save(&mut lanes).await.unwrap();
                    saved_model.clone_from(&model);
                }
                1 => {
                    (parts, lanes) = fresh(&store, budget);
                    let read = store.bytes_read();
                    parts.resume(&mut lanes, saved.clone(), None).await.unwrap();
                    let stays = saved.iter().all(|part| part.step == 0);
                    assert!(!stays || store.bytes_read() == read, "seed {seed}");
                    model.clone_from(&saved_model);
                }
                _ => {}
            }
            let mut found = BTreeMap::new();
            if let Some(whole) = parts.whole(&mut lanes).await.unwrap() {
                Entries::each(&whole, |step, entry| {
                    let key = u64::from_be_bytes(entry.key.try_into().unwrap());
                    found.insert((step, key), entry.count);
                    Ok(())
                })
                .unwrap();
            }
            assert_eq!(found, model, "seed {seed}, epoch {epoch}");
        }
    }
}

#[tokio::test]
async fn parts_that_nothing_touched_are_neither_read_nor_written_by_a_save() {
    let store = DyingStore::counting(Arc::new(InMemory::new()));
    let (mut parts, mut lanes) = fresh(&store, 0);
    parts.begin(1);
    let all = parts.waves(0, &[true; LANES], LANES);
    assert_eq!(all.len(), 1);
    parts.wake(&mut lanes, 0, 0..LANES, None).await.unwrap();
    for key in 0..800 {
        lanes[usize::try_from(key % 8).unwrap()].0[0].insert(key, 1);
    }
    parts.settle(&mut lanes).await.unwrap();
    let at = parts.save(&mut lanes).await.unwrap();
    assert_eq!((at.len(), parts.rest_bytes(0)), (LANES, 80_000));
    let wrote = store.bytes_written();
    let mut takes = [false; LANES];
    takes[3] = true;
    parts.begin(2);
    let waves = parts.waves(0, &takes, 1);
    assert_eq!(waves, Vec::from_iter(std::iter::once(0..LANES)));
    parts.wake(&mut lanes, 0, 0..LANES, None).await.unwrap();
    assert_eq!(lanes[3].0[0].len(), 100);
    lanes[3].0[0].insert(3, 2);
    parts.settle(&mut lanes).await.unwrap();
    assert_eq!(parts.save(&mut lanes).await.unwrap().len(), LANES);
    let read: u64 = at
        .iter()
        .filter(|part| part.stretch == 3)
        .map(|part| part.layers[0].bytes)
        .sum();
    assert_eq!(store.bytes_read(), read);
    assert!(store.bytes_written() - wrote < read / 2);
}

#[test]
fn stretches_become_more_until_there_are_enough() {
    let mut stretches = 0;
    let mut all = Vec::new();
    while let Some(more) = more_stretches(stretches) {
        stretches = more;
        all.push(more);
    }
    assert_eq!(all, [16, 64, 256]);
    assert!(all.iter().all(|stretches| 4096 % stretches == 0));
}
