//! Failures that were seen in another broker, each with a test that it can not happen here.
//!
//! The numbers are those of the list that the project keeps of such failures.
//!
//! | No. | Seen there | Here |
//! |---|---|---|
//! | 21 | unacknowledged messages vanish when a wrong time is compared at their revival | [`an_unacknowledged_message_comes_back_whatever_happens_around_it`] |
//! | 22 | revival of a message that is gone takes the next one, and delivers it twice | [`a_message_that_is_gone_is_absent_and_its_neighbour_is_not_taken_for_it`] |
//! | 23 | a message leaves before its copy has arrived | [`a_message_on_its_way_to_the_dead_letters_is_never_lost_and_never_doubled`] |
//! | 24 | more acks than deliveries stop the progress for ever | [`acks_may_come_as_often_as_they_like`] |
//! | 25 | a receipt of a deleted topic acts on the one made anew | `a_topic_made_anew_shares_nothing_with_the_one_before`, and at the wire |
//! | 26 | the same attempt id gets nothing, and its group stands still | `the_same_attempt_gets_the_same_batch_without_another_attempt` |
//! | 27 | progress of delays is saved at the end only, and they are delivered again | `what_was_delivered_before_an_end_or_a_crash_is_not_delivered_again` |
//! | 28 | one failure in a batch sends the whole batch again | [`one_bad_handle_in_a_batch_leaves_the_others_acknowledged`] |
//! | 29 | a delayed message is given up after so many failures | `a_message_that_can_not_be_read_for_a_day_is_delivered_once_when_it_can`, `a_delivery_whose_append_fails_happens_once_all_the_same` |
//! | 30 | a timer that its log does not give back, a tick early, a recall that misses | `a_timer_made_anew_delivers_each_in_time_and_none_early` |
//! | 31 | a checkpoint is ahead of the data, and a crash leaves a hole | [`a_crash_around_a_checkpoint_leaves_no_hole`] |
//! | 32 | one half message stops the questions about all of them | `a_half_message_that_can_not_be_read_keeps_no_other_from_being_asked_about` |
//! | 33 | a transaction is rolled back by the server and committed all the same | `what_was_rolled_back_is_never_committed_and_what_was_committed_never_rolled_back` |
//! | 34 | the next offset alternates between the log and the cold tier | [`the_log_and_the_cold_tier_are_one_view`] |
//! | 35 | an index outlives its data, and -1 is taken for an offset | `retention_skips_what_is_gone_for_every_group_and_after_a_restart` |
//! | 36 | an upload that fails is taken for an object of no size | [`whatever_goes_wrong_with_a_store_loses_and_doubles_nothing`] |

use futures::FutureExt as _;
use millpond_storage::tier::simulated::{Fault, SimulatedStore};

use super::*;
use crate::broker::transfer::Selection;

async fn one_queue(broker: &Broker) -> Topic {
    let topic = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap()
}

async fn sleep(broker: &Broker, s: u64) {
    broker.parts.clock.sleep(Duration::from_secs(s)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_message_comes_back_whatever_happens_around_it() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    one_queue(&broker).await;
    send(&broker, &["a", "b", "c", "d"]).await;
    let held = receive(&broker, 30, 0).await;
    ack(&broker, &held[1..2]).await;
    // Later messages are stored, delivered and done with, and all of it moves to the cold tier.
    for n in 0..20 {
        send(&broker, &[&n.to_string()]).await;
        let later = receive(&broker, 30, 0).await;
        ack(&broker, &later).await;
    }
    broker.tier().await.unwrap();
    let left = disk.crash(&Seeded::new(2));
    broker.close().await;
    let broker = open(&left).await;
    let again = receive(&broker, 30, 60).await;
    assert_eq!(bodies(&again), ["a", "c", "d"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 2));
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_gone_is_absent_and_its_neighbour_is_not_taken_for_it() {
    let broker = open(&SimulatedDisk::new()).await;
    let made = one_queue(&broker).await;
    send(&broker, &["a", "b"]).await;
    // Both are held; "a" may go, "b" is acknowledged.
    let held = receive(&broker, 7200, 0).await;
    ack(&broker, &held[1..]).await;
    broker.tier().await.unwrap();
    let hour = NewRetention {
        ms: Some(3_600_000),
        ..NewRetention::default()
    };
    broker.alter_topic(&topic(), hour.into()).await.unwrap();
    sleep(&broker, 4000).await;
    send(&broker, &["c"]).await;
    broker.care().await;
    assert_eq!(
        broker.extents(&made)[0].1.first,
        Offset(2),
        "a and b are gone"
    );
    // The lease of "a" ends, and "c" is kept still.
    sleep(&broker, 3300).await;
    let after = receive(&broker, 30, 0).await;
    assert_eq!(bodies(&after), ["c"], "neither b again, nor c twice");
    assert_eq!(after[0].attempt, 1);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_on_its_way_to_the_dead_letters_is_never_lost_and_never_doubled() {
    for steps in 0..12 {
        let disk = SimulatedDisk::new();
        let broker = open(&disk).await;
        one_queue(&broker).await;
        send(&broker, &["poison"]).await;
        let held = receive(&broker, 30, 0).await;
        let (group, topic) = (group(), topic());
        // The power goes after some steps of the way.
        {
            let forward = broker.forward_to_dead_letters(&group, &topic, held[0].handle.clone());
            let mut forward = std::pin::pin!(forward);
            for _ in 0..steps {
                if forward.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let left = disk.crash(&Seeded::new(steps));
        broker.close().await;
        let broker = open(&left).await;
        sleep(&broker, 60).await;
        let back = receive(&broker, 30, 0).await.len();
        let all = Selection {
            limit: 100,
            ..Selection::default()
        };
        let dead = broker.dead_letters(&group, &all).await.unwrap();
        assert_eq!(
            back + dead.letters.len(),
            1,
            "after {steps} steps: {back} came back"
        );
        broker.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn acks_may_come_as_often_as_they_like() {
    let broker = open(&SimulatedDisk::new()).await;
    one_queue(&broker).await;
    send(&broker, &["a", "b"]).await;
    let held = receive(&broker, 30, 0).await;
    for _ in 0..50 {
        let twice = [held[0].clone(), held[0].clone()];
        assert!(ack(&broker, &twice).await.iter().all(Result::is_ok));
    }
    let progress = broker.group_progress(&group()).await.unwrap();
    assert_eq!((progress[0].ack_floor, progress[0].lag), (Offset(1), 1));
    ack(&broker, &held[1..]).await;
    send(&broker, &["c"]).await;
    let next = receive(&broker, 30, 0).await;
    assert_eq!(bodies(&next), ["c"]);
    let progress = broker.group_progress(&group()).await.unwrap();
    assert_eq!((progress[0].ack_floor, progress[0].lag), (Offset(2), 1));
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_handle_in_a_batch_leaves_the_others_acknowledged() {
    let broker = open(&SimulatedDisk::new()).await;
    one_queue(&broker).await;
    send(&broker, &["a", "b", "c"]).await;
    let mut held = receive(&broker, 30, 0).await;
    held[1].handle.lease ^= 1;
    let acked = ack(&broker, &held).await;
    let fine: Vec<bool> = acked.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, false, true]);
    assert_eq!(bodies(&receive(&broker, 30, 60).await), ["b"]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_right_behind_a_snapshot_is_replayed_behind_it() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    one_queue(&broker).await;
    send(&broker, &["a", "b", "c"]).await;
    let held = receive(&broker, 30, 0).await;
    let incarnation = broker.incarnation().unwrap();
    // Both wait when the owner looks: it would decide on them together, and hand them down in one append.
    let (saved, acked) = tokio::join!(incarnation.checkpoint(), ack(&broker, &held));
    saved.unwrap();
    assert!(acked.iter().all(Result::is_ok));
    drop((incarnation, broker));
    let broker = open(&disk.crash(&Seeded::new(1))).await;
    assert_eq!(bodies(&receive(&broker, 30, 60).await), [""; 0]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_a_checkpoint_leaves_no_hole() {
    for steps in 0..24 {
        let disk = SimulatedDisk::new();
        let broker = open(&disk).await;
        let made = one_queue(&broker).await;
        send(&broker, &["a", "b", "c"]).await;
        let held = receive(&broker, 3600, 0).await;
        ack(&broker, &held[..1]).await;
        {
            let mut tier = std::pin::pin!(broker.tier());
            for _ in 0..steps * steps {
                if tier.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let left = disk.crash(&Seeded::new(steps));
        broker.close().await;
        let broker = open(&left).await;
        assert_eq!(broker.extents(&made)[0].1.next, Offset(3), "after {steps}");
        let (kept, _) = broker
            .read(&topic(), QueueId(0), Offset(0), 9)
            .await
            .unwrap();
        assert_eq!(kept.len(), 3, "after {steps}");
        let progress = broker.group_progress(&group()).await.unwrap();
        assert_eq!((progress[0].ack_floor, progress[0].lag), (Offset(1), 2));
        broker.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_and_the_cold_tier_are_one_view() {
    let broker = open(&SimulatedDisk::new()).await;
    let made = one_queue(&broker).await;
    let mut before = Vec::new();
    for round in 0..3_u64 {
        for n in 0..10 {
            send(&broker, &[&format!("{round}-{n}")]).await;
        }
        let whole = |from| {
            let broker = &broker;
            async move {
                broker
                    .read(&topic(), QueueId(0), Offset(from), 1024)
                    .await
                    .unwrap()
            }
        };
        let extent = broker.extents(&made)[0].1;
        assert_eq!(
            (extent.first, extent.next),
            (Offset(0), Offset((round + 1) * 10))
        );
        let mut seen = Vec::new();
        while (seen.len() as u64) < extent.next.0 {
            let (some, next) = whole(seen.len() as u64).await;
            assert!(!some.is_empty(), "a reader always gets on");
            seen.extend(some);
            assert_eq!(next.0, seen.len() as u64, "and never back");
        }
        assert_eq!(seen[..before.len()], before, "the same bytes, hot or cold");
        assert_eq!(whole(extent.next.0).await, (Vec::new(), extent.next));
        before = seen;
        broker.tier().await.unwrap();
    }
    broker.close().await;
}

/// Everything in the one queue of the topic.
async fn whole(broker: &Broker) -> Result<Vec<Envelope>, BrokerError> {
    let mut all = Vec::new();
    loop {
        let from = Offset(all.len() as u64);
        let (some, _) = broker.read(&topic(), QueueId(0), from, 1024).await?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_with_a_store_loses_and_doubles_nothing() {
    let mut refused = 0;
    for fault in Fault::ALL {
        for before in 0..12 {
            let disk = SimulatedDisk::new();
            let store = SimulatedStore::new(1);
            let parts = Parts {
                objects: Arc::new(store.clone()),
                ..parts(&disk)
            };
            let broker = Broker::start(parts, settings()).await.unwrap();
            let made = one_queue(&broker).await;
            let case = format!("{fault:?} after {before} calls");
            for round in 0..3_u64 {
                send(&broker, &[&format!("{round}-a"), &format!("{round}-b")]).await;
                let expected = whole(&broker).await.unwrap();
                assert_eq!(expected.len() as u64, (round + 1) * 2, "{case}");
                if round == 1 {
                    let faults = std::iter::repeat_n(Fault::None, before);
                    store.script(faults.chain([fault]));
                }
                let tiered = broker.tier().await;
                refused += usize::from(tiered.is_err());
                store.script(std::iter::empty());
                // Whether it was moved or not, there is one answer to what there is.
                let extent = broker.extents(&made)[0].1;
                let end = Offset((round + 1) * 2);
                assert_eq!((extent.first, extent.next), (Offset(0), end), "{case}");
                let found = match whole(&broker).await {
                    Ok(found) => found,
                    // The fault came to the reader, who asks again.
                    Err(_) => whole(&broker).await.unwrap(),
                };
                assert_eq!(found, expected, "{case}");
            }
            broker.tier().await.unwrap();
            let findings = broker.verify().await.unwrap();
            assert_eq!(findings.damage.len(), 0, "{case}: {findings:?}");
            broker.close().await;
        }
    }
    assert!(refused > 0, "no turn failed");
}
