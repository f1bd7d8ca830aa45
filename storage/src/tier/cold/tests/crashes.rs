//! Changes of the cold tier that end in the middle: by a crash, or by a call that fails.

use super::dying::{Dying, Handle};
use super::*;

#[tokio::test]
async fn a_crash_anywhere_in_a_write_leaves_the_old_state_or_the_new_one() {
    let cases = (0..5).flat_map(|at| [(at, false), (at, true)]);
    let seeds = 0..8;
    for (seed, (dies_at, happens)) in seeds.flat_map(|seed| cases.clone().map(move |c| (seed, c))) {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk).await;
        cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
        drop(cold);

        let dying = Handle::over(&disk, dies_at, happens);
        let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
            .await
            .unwrap();
        let written = cold.write(TOPIC, &messages(0, 10..20), &[]).await.is_ok();
        let disk = Arc::new(disk.crash(&Seeded::new(seed)));
        drop(cold);
        drop(dying);

        let cold = open(&disk).await;
        let end = cold.extent(TOPIC, QueueId(0)).unwrap().end.0;
        assert!(
            end == 20 || (end == 10 && !written),
            "seed {seed}, died at {dies_at}, {happens}"
        );
        assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..end));
        // The log still has them and moves them again.
        cold.write(TOPIC, &messages(0, 10..20), &[]).await.unwrap();
        cold.write(TOPIC, &messages(0, 20..30), &[]).await.unwrap();
        assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..30));
    }
}

#[tokio::test]
async fn a_swap_without_an_answer_is_found_out_by_the_next_write() {
    let disk = Arc::new(SimulatedDisk::default());
    let shared = Arc::clone(&disk) as Arc<dyn Disk>;
    let dying = Handle(Arc::new(Dying {
        objects: DiskObjectStore::new(Arc::clone(&shared), "cold"),
        meta: EmbeddedMeta::open(Arc::clone(&shared), "facts").unwrap(),
        calls: AtomicUsize::new(0),
        dies_at: 2,
        happens: true,
        revives: false,
    }));
    // Only the metadata store dies; the objects are asked apart.
    let objects = Arc::new(DiskObjectStore::new(shared, "cold"));
    dying.0.calls.store(2, Ordering::Relaxed);
    let cold = Cold::open(objects, Arc::new(dying), term()).await.unwrap();
    cold.write(TOPIC, &messages(0, 0..10), &[])
        .await
        .unwrap_err();
    assert_eq!(cold.extent(TOPIC, QueueId(0)), None);
    assert_eq!(
        cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap(),
        0
    );
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..10));
}

#[tokio::test]
async fn a_crash_anywhere_in_a_change_leaves_what_is_kept_readable_and_no_orphan_after_a_sweep() {
    for trims in [false, true] {
        for (dies_at, happens) in (0..8).flat_map(|at| [(at, false), (at, true)]) {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            for file in 0..4 {
                cold.write(TOPIC, &messages(0, file * 10..file * 10 + 10), &[])
                    .await
                    .unwrap();
            }
            drop(cold);
            let dying = Handle::over(&disk, dies_at, happens);
            let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
                .await
                .unwrap();
            let answered = if trims {
                let ages = cold.ages(TOPIC);
                let firsts = [(0, 25)].into();
                cold.trim(TOPIC, &ages[..2], &firsts).await.is_ok()
            } else {
                cold.compact(TOPIC, Compaction::default()).await.is_ok()
            };
            let disk = Arc::new(disk.crash(&Seeded::new(dies_at as u64)));
            drop(cold);
            drop(dying);
            let cold = open(&disk).await;
            let first = cold.extent(TOPIC, QueueId(0)).unwrap().start.0;
            if trims {
                assert!(first == 25 || (first == 0 && !answered));
            }
            assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
            cold.sweep().await.unwrap();
            let files = cold.ages(TOPIC).len();
            assert_eq!(paths(&disk, "cold/topics/").len(), files + 1);
            assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
            // What was begun can be done again.
            cold.compact(TOPIC, Compaction::default()).await.unwrap();
            assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
        }
    }
}

#[tokio::test]
async fn a_call_that_fails_anywhere_in_a_change_costs_no_file_that_is_still_named() {
    for trims in [false, true] {
        for (at, happens) in (0..8).flat_map(|at| [(at, false), (at, true)]) {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            for file in 0..4 {
                cold.write(TOPIC, &messages(0, file * 10..file * 10 + 10), &[])
                    .await
                    .unwrap();
            }
            drop(cold);
            let failing = Handle::failing_once(&disk, at, happens);
            let cold = Cold::open(Arc::new(failing.clone()), Arc::new(failing), term())
                .await
                .unwrap();
            for turn in 0..2 {
                let done = if trims {
                    cold.trim(TOPIC, &[], &[(0, 25)].into()).await.is_ok()
                } else {
                    cold.compact(TOPIC, Compaction::default()).await.is_ok()
                };
                assert!(done || turn == 0, "it fails once");
                // What a failed change has let go of would go now.
                cold.remove_garbage().await;
                let first = cold.extent(TOPIC, QueueId(0)).unwrap().start.0;
                assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
            }
            assert_eq!(cold.ages(TOPIC).len(), if trims { 2 } else { 1 });
            cold.sweep().await.unwrap();
            let files = cold.ages(TOPIC).len();
            assert_eq!(paths(&disk, "cold/topics/").len(), files + 1);
        }
    }
}
