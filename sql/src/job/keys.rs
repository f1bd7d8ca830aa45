//! How the keys of views' rows are written: as the view says, or as it was usual when it was made.

use super::equality::{TRIPS, world_of};
use super::tests::{World, create};

/// The keys of all messages of a view.
fn keys(world: &World, view: &str) -> Vec<String> {
    let messages = world.topics.messages(view).into_iter();
    let mut keys: Vec<String> = messages
        .map(|(_, message)| {
            let key = message.key.unwrap_or_default();
            String::from_utf8_lossy(&key).into_owned()
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

const VIEWS: [(&str, &str); 5] = [
    (
        "one",
        "AS SELECT carrier, count(*) AS rows FROM trips GROUP BY carrier",
    ),
    (
        "graph",
        "AS SELECT carrier, count(DISTINCT plane) AS planes FROM trips GROUP BY carrier",
    ),
    (
        "json",
        "WITH (key_format = 'json') AS SELECT carrier, count(*) AS rows FROM trips GROUP BY carrier",
    ),
    (
        "two",
        "AS SELECT carrier, plane, count(*) AS rows FROM trips GROUP BY carrier, plane",
    ),
    (
        "number",
        "AS SELECT plane, count(*) AS rows FROM trips GROUP BY plane",
    ),
];

async fn make(world: &World) {
    let jobs = world.jobs(None);
    for (name, query) in VIEWS {
        let sql = format!("CREATE MATERIALIZED VIEW {name} {query}");
        create(&jobs, &sql).await.unwrap();
    }
    jobs.stop().await;
}

async fn send(world: &World) {
    for carrier in ["\"AA\"", "null", "\"[null]\"", "\"\""] {
        let body = format!("{{\"carrier\":{carrier},\"plane\":7}}");
        world.topics.send("trips", None, Some(&body));
    }
    let jobs = world.jobs(None);
    world.wait_ms(2000).await;
    jobs.stop().await;
}

const AS_JSON: [&str; 4] = ["[\"\"]", "[\"AA\"]", "[\"[null]\"]", "[null]"];

#[tokio::test(start_paused = true)]
async fn a_single_text_is_the_key_and_no_two_rows_have_one() {
    let world = world_of(330, 7, &[TRIPS]).await;
    make(&world).await;
    send(&world).await;
    let raw = ["AA", "[\"\"]", "[\"[null]\"]", "[null]"];
    assert_eq!(keys(&world, "one"), raw);
    assert_eq!(keys(&world, "graph"), raw);
    assert_eq!(keys(&world, "json"), AS_JSON);
    assert_eq!(keys(&world, "number"), ["[7]"]);
    assert!(keys(&world, "two").contains(&"[\"AA\",7]".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn views_of_before_keep_the_form_of_their_keys() {
    let world = world_of(331, 7, &[TRIPS]).await;
    make(&world).await;
    world.topics.set_defaults(0);
    send(&world).await;
    assert_eq!(keys(&world, "one"), AS_JSON);
    assert_eq!(keys(&world, "graph"), AS_JSON);
}
