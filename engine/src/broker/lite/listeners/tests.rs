//! What consumers say, and what they are then told to look at.

use super::*;

const TOPIC: u64 = 7;

fn who(consumer: &str) -> Who {
    Who {
        group: 1,
        consumer: consumer.to_owned(),
    }
}

fn say(listeners: &Listeners, consumer: &str, action: Action, names: &[&str]) -> Heard {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let said = (action, names.as_slice(), None);
    let heard = listeners.hear(&who(consumer), TOPIC, false, said, Timestamp(0));
    heard.unwrap()
}

/// Takes what is ready and looks at it.
fn look(listeners: &Listeners, consumer: &str, now: i64, due: Option<i64>) -> Vec<String> {
    let who = who(consumer);
    let mut taken = listeners.take(&who, Timestamp(now), 100);
    let all: Vec<usize> = taken.names().map(|(index, _)| index).collect();
    let looked = all.into_iter().filter_map(|index| taken.looked(index, due));
    looked.map(|name| name.to_string()).collect()
}

#[test]
fn a_consumer_looks_at_what_is_new_to_it_and_at_what_was_rung() {
    let listeners = Listeners::default();
    assert_eq!(
        say(&listeners, "a", Action::Add, &["x", "y"]).new,
        ["x", "y"]
    );
    assert_eq!(look(&listeners, "a", 0, None), ["x", "y"]);
    assert!(look(&listeners, "a", 0, None).is_empty());
    listeners.arrived(TOPIC, None, "y");
    listeners.arrived(TOPIC, None, "y");
    listeners.arrived(TOPIC, None, "nobody's");
    listeners.arrived(TOPIC, Some(2), "x");
    listeners.arrived(8, None, "x");
    assert_eq!(look(&listeners, "a", 0, None), ["y"]);
    say(&listeners, "a", Action::Set, &["y", "z"]);
    listeners.arrived(TOPIC, None, "x");
    assert_eq!(look(&listeners, "a", 0, None), ["z"]);
    assert_eq!(
        listeners.of_group(1),
        [("a".to_owned(), vec!["y".into(), "z".into()])]
    );
    say(&listeners, "a", Action::Clear, &[]);
    assert_eq!(listeners.lock().subscriptions, 0);
    assert!(listeners.lock().by_name.is_empty());
}

#[test]
fn what_is_held_is_looked_at_again_when_it_is_due_or_given_back() {
    let listeners = Listeners::default();
    say(&listeners, "a", Action::Add, &["x", "y"]);
    look(&listeners, "a", 0, Some(50));
    assert_eq!(listeners.next_due(&who("a")), Some(50));
    assert!(look(&listeners, "a", 49, None).is_empty());
    listeners.arrived(TOPIC, Some(1), "x");
    assert_eq!(look(&listeners, "a", 49, None), ["x"]);
    assert_eq!(look(&listeners, "a", 50, None), ["y"]);
    assert_eq!(listeners.next_due(&who("a")), None);
}

#[test]
fn a_hint_that_was_taken_and_not_looked_at_comes_first_again() {
    let listeners = Listeners::default();
    say(&listeners, "a", Action::Add, &["x", "y", "z"]);
    let a = who("a");
    let mut taken = listeners.take(&a, Timestamp(0), 2);
    taken.looked(0, None);
    drop(taken);
    assert_eq!(look(&listeners, "a", 0, None), ["y", "z"]);
}

#[test]
fn an_attempt_may_hold_what_it_was_given_or_anything_that_was_given_before_a_restart() {
    let listeners = Listeners::default();
    say(&listeners, "a", Action::Add, &["x", "y"]);
    let a = who("a");
    let held = |attempt| -> Vec<String> {
        let names = listeners.maybe_held(&a, attempt).into_iter();
        names.map(|name| name.to_string()).collect()
    };
    assert_eq!(held(1), ["x", "y"], "nobody knows");
    assert!(held(0).is_empty(), "a poll without an attempt id");
    listeners.gave(&a, 1, vec!["x".into()]);
    let last = ATTEMPTS_KEPT as u64;
    for attempt in 2..=last {
        assert_eq!(held(attempt), ["x", "y"], "it too may be asked again");
        listeners.gave(&a, attempt, Vec::new());
    }
    assert_eq!((held(1), held(2)), (vec!["x".into()], vec![]));
    assert!(held(last + 1).is_empty(), "it is new");
    listeners.gave(&a, last + 1, vec!["y".into()]);
    assert_eq!((held(1), held(last + 1)), (vec![], vec!["y".into()]));
}

#[test]
fn the_last_consumer_of_an_exclusive_group_gets_the_lite_topic() {
    let listeners = Listeners::default();
    let names = ["x".to_owned()];
    let hear = |consumer: &str| {
        let said = (Action::Add, names.as_slice(), None);
        listeners
            .hear(&who(consumer), TOPIC, true, said, Timestamp(0))
            .unwrap()
    };
    assert!(hear("a").taken.is_empty());
    assert_eq!(hear("b").taken, [("a".to_owned(), "x".to_owned())]);
    assert!(hear("b").taken.is_empty());
    listeners.arrived(TOPIC, None, "x");
    assert!(look(&listeners, "a", 0, None).is_empty());
    assert_eq!(look(&listeners, "b", 0, None), ["x"]);
}

#[test]
fn an_older_word_is_passed_over() {
    let listeners = Listeners::default();
    let names = ["x".to_owned()];
    let hear = |action, version| {
        let said = (action, names.as_slice(), Some(version));
        listeners
            .hear(&who("a"), TOPIC, false, said, Timestamp(0))
            .unwrap()
    };
    assert_eq!(hear(Action::Add, 2).new, ["x"]);
    hear(Action::Clear, 1);
    assert_eq!(listeners.lock().subscriptions, 1);
    hear(Action::Clear, 2);
    assert_eq!(listeners.lock().subscriptions, 0);
}

#[test]
fn a_consumer_over_its_quota_keeps_what_it_had() {
    let listeners = Listeners::default();
    let many: Vec<String> = (0..=limits::LITE_SUBSCRIPTIONS_MAX)
        .map(|n| n.to_string())
        .collect();
    let hear = |names: &[String], now| {
        let said = (Action::Set, names, None);
        listeners.hear(&who("a"), TOPIC, false, said, Timestamp(now))
    };
    assert_eq!(
        hear(&many[1..], 0).unwrap().new.len(),
        limits::LITE_SUBSCRIPTIONS_MAX
    );
    assert_eq!(hear(&many, 1).unwrap_err(), OverQuota::Consumer);
    assert_eq!(
        listeners.lock().subscriptions,
        limits::LITE_SUBSCRIPTIONS_MAX
    );
    // Silent for long, it is let go of when somebody else speaks.
    let late = Timestamp(1 + limits::CLIENT_EXPIRY_MS + 1);
    let said = (Action::Add, &many[..1], None);
    listeners.hear(&who("b"), TOPIC, false, said, late).unwrap();
    assert_eq!(listeners.lock().subscriptions, 1);
}

#[test]
fn what_a_consumer_leaves_others_look_at() {
    let listeners = Listeners::default();
    say(&listeners, "a", Action::Add, &["x"]);
    say(&listeners, "b", Action::Add, &["x"]);
    look(&listeners, "a", 0, None);
    look(&listeners, "b", 0, None);
    listeners.forget("a");
    assert_eq!(look(&listeners, "b", 0, None), ["x"]);
    listeners.forget_topic(TOPIC);
    assert!(listeners.lock().listeners.is_empty());
}
