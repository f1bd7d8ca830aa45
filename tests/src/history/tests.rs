use millpond_proto::task::{Lane, Runtimes, Spawn as _};

use super::*;

const GROUP: &str = "g";

fn at(offset: u64) -> Place {
    Place {
        topic: 1,
        queue: 0,
        offset,
    }
}

fn see(history: &History, ms: i64, event: Event) {
    history.record(Timestamp(ms), &Arc::from("someone"), event);
}

fn sent(history: &History, message: &str, place: Place) {
    let message: Message = Arc::from(message);
    let called = Event::SendCalled {
        message: Arc::clone(&message),
    };
    see(history, 0, called);
    see(history, 0, Event::Sent { message, place });
}

fn received(history: &History, ms: i64, call: u64, place: Place, message: &str, attempt: u32) {
    let called = Event::ReceiveCalled {
        call,
        group: GROUP,
        invisible_ms: 10,
    };
    see(history, ms, called);
    let came = Event::Received {
        call,
        place,
        message: Arc::from(message),
        attempt,
    };
    see(history, ms, came);
}

fn acked(history: &History, ms: i64, place: Place, stale: bool) {
    let group = GROUP;
    see(history, ms, Event::AckCalled { group, place });
    see(
        history,
        ms,
        Event::Acked {
            group,
            place,
            stale,
        },
    );
}

fn nothing(history: &History, from_ms: i64, to_ms: i64, call: u64) {
    let called = Event::ReceiveCalled {
        call,
        group: GROUP,
        invisible_ms: 10,
    };
    see(history, from_ms, called);
    let nothing_of = Some(1);
    see(history, to_ms, Event::ReceiveAnswered { call, nothing_of });
}

fn healed(history: &History, places: &[(Place, &str)]) -> Vec<String> {
    see(history, 99, Event::TopicIs { id: 1, name: "t" });
    see(history, 99, Event::Healing);
    for (place, message) in places {
        let read = Event::Read {
            place: *place,
            message: Arc::from(*message),
        };
        see(history, 99, read);
    }
    history.broken_promises(&[Reader {
        topic: "t",
        group: GROUP,
        wants: |message| message != "unwanted",
        attempts_max: Some(2),
    }])
}

#[test]
fn a_run_that_kept_its_promises_passes() {
    let history = History::default();
    sent(&history, "a", at(0));
    received(&history, 0, 1, at(0), "a", 1);
    received(&history, 10, 2, at(0), "a", 2);
    acked(&history, 11, at(0), false);
    nothing(&history, 20, 5000, 3);
    assert_eq!(healed(&history, &[(at(0), "a")]), Vec::<String>::new());
}

/// A message is dead in the group, and so many answers to its polls were lost.
fn buried(answers_lost: u64) -> Vec<String> {
    let history = History::default();
    sent(&history, "a", at(0));
    for call in 0..answers_lost {
        let called = Event::ReceiveCalled {
            call,
            group: GROUP,
            invisible_ms: 10,
        };
        see(&history, 0, called);
        see(&history, 0, Event::ReceiveLost { call });
    }
    let message = Arc::from("a");
    see(
        &history,
        50,
        Event::Dead {
            group: GROUP,
            message,
        },
    );
    healed(&history, &[(at(0), "a")])
}

#[test]
fn a_message_may_be_dead_unseen_if_every_answer_with_it_was_lost() {
    assert_eq!(buried(2), Vec::<String>::new());
    assert!(buried(1)[0].contains("never came"));
}

#[test]
fn each_broken_promise_is_found() {
    let lost = History::default();
    sent(&lost, "a", at(0));
    received(&lost, 0, 1, at(0), "a", 1);
    acked(&lost, 1, at(0), false);
    assert!(healed(&lost, &[])[0].contains("is gone"));

    let never_came = History::default();
    sent(&never_came, "a", at(0));
    assert!(healed(&never_came, &[(at(0), "a")])[0].contains("never came"));

    let returned = History::default();
    sent(&returned, "a", at(0));
    received(&returned, 0, 1, at(0), "a", 1);
    acked(&returned, 1, at(0), false);
    received(&returned, 20, 2, at(0), "a", 2);
    assert!(healed(&returned, &[(at(0), "a")])[0].contains("after its ack"));

    let early = History::default();
    sent(&early, "a", at(0));
    received(&early, 0, 1, at(0), "a", 1);
    received(&early, 9, 2, at(0), "a", 1);
    let broken = healed(&early, &[(at(0), "a")]);
    assert!(broken[0].contains("invisible") && broken[1].contains("attempt 1"));

    let gap = History::default();
    sent(&gap, "a", at(1));
    received(&gap, 0, 1, at(1), "a", 1);
    acked(&gap, 1, at(1), false);
    assert!(healed(&gap, &[(at(1), "a")])[0].contains("where 0 is expected"));

    let invented = History::default();
    assert!(healed(&invented, &[(at(0), "b")])[0].contains("never sent"));

    let silent = History::default();
    sent(&silent, "a", at(0));
    nothing(&silent, 1, 2000, 1);
    assert!(silent.broken_promises(&[]).len() == 1, "not long enough");
    nothing(&silent, 1, 2001, 2);
    let broken = silent.broken_promises(&[]);
    assert!(broken[0].contains("came back with nothing"), "{broken:?}");

    let stale = History::default();
    sent(&stale, "a", at(0));
    received(&stale, 0, 1, at(0), "a", 1);
    acked(&stale, 30, at(0), true);
    assert!(healed(&stale, &[(at(0), "a")])[0].contains("after its time"));

    let refused = History::default();
    let message: Message = Arc::from("a");
    for _ in 0..2 {
        let message = Arc::clone(&message);
        see(&refused, 0, Event::SendCalled { message });
    }
    let refuse = || Event::Refused {
        message: Arc::clone(&message),
    };
    see(&refused, 0, refuse());
    let broken = healed(&refused, &[(at(0), "a")]);
    assert_eq!(broken, Vec::<String>::new(), "one of two sends is open");
    see(&refused, 0, refuse());
    assert!(healed(&refused, &[(at(0), "a")])[0].contains("was refused and lies"));

    // Its ack was refused, and then it never came again.
    let kept = History::default();
    sent(&kept, "a", at(0));
    received(&kept, 0, 1, at(0), "a", 1);
    let (group, place) = (GROUP, at(0));
    see(&kept, 1, Event::AckCalled { group, place });
    see(&kept, 1, Event::AckRefused { group, place });
    assert!(healed(&kept, &[(at(0), "a")])[0].contains("was lost on its way"));

    let unwanted = History::default();
    sent(&unwanted, "unwanted", at(0));
    received(&unwanted, 0, 1, at(0), "unwanted", 1);
    acked(&unwanted, 1, at(0), false);
    assert!(healed(&unwanted, &[(at(0), "unwanted")])[0].contains("came to g unwanted"));

    let expired = History::default();
    sent(&expired, "a", at(0));
    let (place, kept_ms) = (at(1), 100);
    see(&expired, 99, Event::Begins { place, kept_ms });
    assert!(healed(&expired, &[])[0].contains("before its time"));

    // It went when the clock said so, and was missed when the clock had been set back.
    let missed = History::default();
    sent(&missed, "a", at(0));
    see(
        &missed,
        100,
        Event::Begins {
            place: at(0),
            kept_ms,
        },
    );
    see(&missed, 99, Event::Begins { place, kept_ms });
    let broken = healed(&missed, &[]);
    assert!(
        broken.iter().all(|one| !one.contains("before its time")),
        "{broken:?}"
    );
}

#[tokio::test]
async fn a_panic_of_a_task_that_nobody_asks_breaks_a_promise() {
    let history = History::default();
    panics::watch();
    let panicking = Box::pin(async { assert!(panics::taken().len() > 1, "as told") });
    let _unasked = Runtimes::single().spawn(Lane::Service, panicking);
    tokio::task::yield_now().await;
    history.record_panics(Timestamp(0));
    let broken = history.broken_promises(&[]);
    assert!(
        matches!(&broken[..], [one] if one.contains("as told")),
        "{broken:?}"
    );
}
