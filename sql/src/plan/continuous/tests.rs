//! What bounds the state of a query.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, TimestampMillisecondArray};
use arrow::record_batch::RecordBatch;
use millpond_proto::remedy::Remedy;
use millpond_proto::time::{SimulatedClock, Timestamp};

use super::*;
use crate::catalog;
use crate::operator::assign::Windows;
use crate::operator::graph::{Graph, GraphStep, Kind};
use crate::operator::moment::{Clock, Ending, Horizon, Marks};
use crate::operator::origin::Came;
use crate::operator::session::Session;
use crate::operator::{Operator, OperatorError, Output, window};
use crate::statement::{Numbers, parse_query};
use crate::testing::MemoryTopics;
use crate::topic::{NewTopic, WatermarkSpec};

async fn topics() -> Arc<MemoryTopics> {
    let clock = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
    let topics = MemoryTopics::new(clock);
    let column = |name: &str, sql_type: &str| ColumnSpec {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        expression: None,
    };
    let topic = NewTopic {
        name: "t".to_owned(),
        queues: Some(1),
        columns: vec![column("k", "VARCHAR"), column("at", "TIMESTAMP")],
        watermark: Some(WatermarkSpec {
            column: "at".to_owned(),
            delay_ms: 0,
            behind: Vec::new(),
        }),
        primary_key: Vec::new(),
        written_by: None,
        ..NewTopic::default()
    };
    topics.create_topic(topic).await.unwrap();
    topics
}

#[tokio::test]
async fn a_relation_that_a_query_names_twice_is_computed_once() {
    let topics = topics().await;
    let query = "SELECT a.k, a.n FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS a \
                 JOIN (SELECT max(n) AS most FROM (SELECT k, count(*) AS n FROM t GROUP BY k)) AS b ON a.n = b.most";
    let query = parse_query(query).unwrap();
    let planned = plan(&query, Emit::Changes, topics.as_ref()).await.unwrap();
    let told = &planned.explained;
    assert!(
        told.iter().any(|line| line.ends_with("as computed below")),
        "{told:?}"
    );
    let Shape::Graph(graph) = planned.shape else {
        panic!("two aggregates are a graph");
    };
    let count = |is: fn(&Kind) -> bool| graph.nodes.iter().filter(|node| is(&node.kind)).count();
    assert_eq!(count(|kind| matches!(kind, Kind::Scan { .. })), 1);
    assert_eq!(count(|kind| matches!(kind, Kind::Aggregate(_))), 2);
    assert!(graph.is_told_at_the_end());
}

#[tokio::test]
async fn columns_without_a_name_are_called_as_written_unless_the_query_is_older() {
    let topics = topics().await;
    let query = parse_query("SELECT k, max(at) FROM t GROUP BY k").unwrap();
    for (names_of_old, name) in [(false, "max(at)"), (true, "aggregate_0")] {
        let options = QueryOptions {
            names_of_old,
            ..QueryOptions::default()
        };
        let planned = plan_with(&query, Emit::Changes, options, topics.as_ref()).await;
        assert_eq!(planned.unwrap().columns[1].name, name);
    }
}

#[tokio::test]
async fn a_time_that_is_moved_to_another_zone_is_over_later() {
    let topics = topics().await;
    let hours = |hours: i64| Horizon::of(Clock::Input(0)).lagging(hours * 3_600_000);
    for (group, horizon) in [
        ("date_trunc('hour', at)", hours(1)),
        // The clocks of a zone are up to 16 hours from those of UTC, and an hour is longer where they are set back.
        (
            "date_trunc('hour', at AT TIME ZONE 'Europe/Berlin')",
            hours(18),
        ),
        (
            "CAST((at AT TIME ZONE 'UTC') AT TIME ZONE 'America/New_York' AS TIMESTAMP)",
            hours(32),
        ),
    ] {
        let query = format!("SELECT {group} AS h, count(*) AS n FROM t GROUP BY 1");
        let query = parse_query(&query).unwrap();
        let planned = plan(&query, Emit::OnWindowClose, topics.as_ref()).await;
        let Shape::Graph(graph) = planned.unwrap().shape else {
            panic!("groups without windows that close are a graph");
        };
        let endings = graph.nodes.iter().filter_map(|node| match &node.kind {
            Kind::Aggregate(spec) => spec.ending.clone(),
            _ => None,
        });
        let expected = Ending::Time {
            column: 0,
            horizon: Some(horizon.clone()),
            late: horizon,
        };
        assert_eq!(endings.collect::<Vec<_>>(), [expected], "{group}");
    }
}

#[tokio::test]
async fn a_number_beside_a_decimal_is_exact_unless_the_query_is_older() {
    let topics = topics().await;
    let query = parse_query("SELECT CAST(k AS DECIMAL(10, 2)) * 0.5 AS half FROM t").unwrap();
    for (numbers, kind) in [(Numbers::Exact, "DECIMAL"), (Numbers::Double, "DOUBLE")] {
        let options = QueryOptions {
            numbers,
            ..QueryOptions::default()
        };
        let planned = plan_with(&query, Emit::Changes, options, topics.as_ref()).await;
        let found = &planned.unwrap().columns[0].sql_type;
        assert!(found.starts_with(kind), "{found}");
    }
}

#[tokio::test]
async fn groups_that_do_not_end_with_their_windows_end_when_they_are_at_rest() {
    let topics = topics().await;
    let query = "SELECT k, max(window_end) AS last FROM TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1 minute') GROUP BY k";
    let query = parse_query(query).unwrap();
    let options = QueryOptions {
        state_ttl_ms: Some(1000),
        ..QueryOptions::default()
    };
    let planned = plan_with(&query, Emit::Changes, options, topics.as_ref()).await;
    let Shape::Graph(graph) = planned.unwrap().shape else {
        panic!("groups with a time to live are a graph");
    };
    assert!(graph.supersedes());
}

#[tokio::test]
async fn state_over_its_bound_is_an_error_that_says_what_to_do() {
    let topics = topics().await;
    for query in [
        "SELECT k, window_start, count(*) AS n FROM TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1 second') \
         GROUP BY k, window_start",
        "SELECT k, window_start, count(*) AS n FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(at), INTERVAL '1 second') \
         GROUP BY k, window_start",
        "SELECT a.k, b.at FROM t a JOIN t b ON a.k = b.k",
    ] {
        let query = parse_query(query).unwrap();
        let planned = plan(&query, Emit::Changes, topics.as_ref()).await.unwrap();
        let input = &planned.inputs[0];
        let schema = catalog::table_schema(&input.source).unwrap();
        let columns = &input.decoded[..input.query_columns];
        let schema = Arc::new(schema.project(columns).unwrap());
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..100).map(|n| format!("k{n}")),
        ));
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(0..100));
        let batch = RecordBatch::try_new(schema, vec![keys, times]).unwrap();
        let run = |bytes: usize| match planned.shape.clone() {
            Shape::Graph(graph) => {
                let graph = Graph::new(Arc::new(*graph)).unwrap();
                let mut graph = graph.with_state_bytes_max(bytes);
                let marks = Marks::default();
                let step = GraphStep {
                    before: marks.clone(),
                    after: marks,
                };
                graph.begin(
                    Arc::from([step]),
                    vec![[(0, Came::unknown(batch.clone()))].into()],
                );
                (0..graph.nodes()).try_for_each(|node| graph.run(node, None))
            }
            Shape::Groups(grouping) => {
                let mut operator: Box<dyn Operator> = match grouping.window.as_ref().unwrap().kind {
                    Windows::Session { gap_ms } => Box::new(
                        Session::new(*grouping, gap_ms)
                            .unwrap()
                            .with_state_bytes_max(bytes),
                    ),
                    _ => Box::new(
                        window::Window::new(*grouping)
                            .unwrap()
                            .with_state_bytes_max(bytes),
                    ),
                };
                operator.on_batch(&batch, None, &mut Output::default())
            }
            Shape::Rows(_) => panic!("it has state"),
        };
        run(1 << 20).unwrap();
        let error = run(2000).unwrap_err();
        assert!(
            matches!(error, OperatorError::StateTooLarge { .. }),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("limit 2000; use shorter windows"),
            "{error}"
        );
        assert_eq!(error.remedy(), Remedy::FixRequest);
    }
}
