//! Statements over a tail that is kept against statements over the log.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
use millpond_connectors::format::json::encode_rows;
use millpond_proto::task::Runtimes;
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use object_store::memory::InMemory;

use super::*;
use crate::continuous::NoJobs;
use crate::sql::{Sql, SqlParts};
use crate::testing::{MemoryTopics, StoredMessage};
use crate::topic::Topics;
use millpond_storage::tier::cold::typed::Reads;

/// The first column, of bodies that were parsed.
fn of_first() -> Columns {
    Columns {
        projection: vec![0],
        are_parsed: true,
    }
}

async fn ask(sql: &Sql, query: &str) -> Vec<String> {
    let finished = sql.execute(query).await.unwrap().finish().await.unwrap();
    let bodies = finished
        .batches
        .iter()
        .flat_map(|batch| encode_rows(batch).unwrap());
    bodies
        .map(|body| String::from_utf8_lossy(&body).into_owned())
        .collect()
}

fn over(topics: &Arc<MemoryTopics>, clock: &Arc<dyn Clock>) -> Sql {
    Sql::with_partitions(
        SqlParts {
            topics: Arc::clone(topics) as Arc<dyn Topics>,
            clock: Arc::clone(clock),
            spawn: Arc::new(Runtimes::single()),
            export: Arc::new(InMemory::new()),
            state: Arc::new(InMemory::new()),
            jobs: Arc::new(NoJobs),
        },
        1,
    )
    .unwrap()
}

fn send(topics: &MemoryTopics, rows: Range<u64>, bad: Option<u64>) {
    let id = topics.topic("t").unwrap().id;
    for n in rows {
        let body = match bad == Some(n) {
            true => "{".to_owned(),
            false => format!("{{\"n\":{n},\"s\":\"row {}\"}}", n % 7),
        };
        let message = StoredMessage {
            body: Some(Bytes::from(body)),
            ..StoredMessage::default()
        };
        topics.store(id, QueueId(0), message);
    }
}

async fn world() -> (Arc<MemoryTopics>, Arc<dyn Clock>) {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(Timestamp(1_000_000)));
    let topics = MemoryTopics::with_batch_rows(Arc::clone(&clock), 3000);
    let create = "CREATE TOPIC t (n BIGINT, s VARCHAR) WITH (queues = 1)";
    over(&topics, &clock).execute(create).await.unwrap();
    (topics, clock)
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_answers_as_the_log_does() {
    let (topics, clock) = world().await;
    send(&topics, 0..3 * CHUNK_ROWS + 100, None);
    let sql = over(&topics, &clock);
    for query in [
        "SELECT n, _offset FROM t",
        "SELECT s, n FROM t WHERE _offset >= 5000 AND _offset < 20000",
        "SELECT n FROM t LIMIT 9000",
        "SELECT s FROM t WHERE _offset > 8000 LIMIT 300",
        "SELECT count(*) AS rows FROM t",
        "SELECT s, count(*) AS rows FROM t GROUP BY s ORDER BY s",
    ] {
        let fresh = ask(&over(&topics, &clock), query).await;
        for _ in 0..2 {
            assert_eq!(ask(&sql, query).await, fresh, "{query}");
        }
    }
    // Rows that came since are answered as well, and so is a column that was added.
    send(&topics, 0..CHUNK_ROWS, None);
    sql.execute("ALTER TOPIC t ADD COLUMN more BIGINT")
        .await
        .unwrap();
    let query = "SELECT n, _offset, more, _queue FROM t";
    let fresh = ask(&over(&topics, &clock), query).await;
    assert_eq!(fresh.len() as u64, 4 * CHUNK_ROWS + 100);
    assert_eq!(ask(&sql, query).await, fresh);
    assert_eq!(ask(&sql, query).await, fresh);
}

#[tokio::test(start_paused = true)]
async fn rows_are_counted_without_the_log_once_they_are_known_to_parse() {
    let (topics, clock) = world().await;
    send(&topics, 0..3 * CHUNK_ROWS, Some(CHUNK_ROWS + 1000));
    let sql = over(&topics, &clock);
    let query = "SELECT count(*) AS rows FROM t";
    let all_but_one = format!("{{\"rows\":{}}}", 3 * CHUNK_ROWS - 1);
    assert_eq!(ask(&sql, query).await, [all_but_one.as_str()]);
    let scanned = topics.rows_scanned();
    assert_eq!(ask(&sql, query).await, [all_but_one.as_str()]);
    let again = topics.rows_scanned() - scanned;
    assert_eq!(again, CHUNK_ROWS, "only the chunk with a bad body is read");
    // Keys that were read without a look at the bodies say nothing of these.
    let sql = over(&topics, &clock);
    let keys = "SELECT count(_offset) AS rows FROM t";
    let all = format!("{{\"rows\":{}}}", 3 * CHUNK_ROWS);
    assert_eq!(ask(&sql, keys).await, [all.as_str()]);
    assert_eq!(ask(&sql, query).await, [all_but_one.as_str()]);
}

#[tokio::test(start_paused = true)]
async fn whole_chunks_without_bad_bodies_are_kept_and_the_rest_is_read() {
    let (topics, clock) = world().await;
    send(&topics, 0..3 * CHUNK_ROWS + 100, Some(CHUNK_ROWS + 5));
    let sql = over(&topics, &clock);
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(64 * 1024 * 1024));
    let tail = Arc::new(Tail::new(&pool));
    let topic = topics.topic("t").unwrap();
    let decoder = TopicDecoder::new(&topic, &[1, 0]).unwrap();
    let next = Offset(3 * CHUNK_ROWS + 100);
    let range = QueueRange {
        queue: QueueId(0),
        offsets: Offset(10)..next,
        next,
        rewrites: 0,
    };
    assert_eq!(
        tail.pieces(&topic, &decoder, range.clone()),
        [Piece::Log(range.clone(), 1)]
    );
    let mut filler = Filler::new(&tail, &topic, &decoder, &range, 1);
    let mut scan = topics.scan(
        topic.id,
        QueueId(0),
        Offset(10)..next,
        &Reads::of(&["body", "offset"]),
    );
    while let Some(envelopes) = futures::StreamExt::next(&mut scan).await {
        let envelopes = envelopes.unwrap();
        let decoded = decoder.decode(&envelopes).unwrap();
        let is_clean = decoded.undecodable == 0;
        filler.push(&envelopes, is_clean.then_some(&decoded.batch));
    }
    let part = |offsets: Range<u64>| QueueRange {
        offsets: Offset(offsets.start)..Offset(offsets.end),
        ..range.clone()
    };
    let pieces = tail.pieces(&topic, &decoder, range.clone());
    let [
        Piece::Log(before, 1),
        Piece::Kept(batch),
        Piece::Log(after, 1),
    ] = pieces.as_slice()
    else {
        panic!("{pieces:?}");
    };
    assert_eq!(*before, part(10..2 * CHUNK_ROWS));
    assert_eq!(*after, part(3 * CHUNK_ROWS..next.0));
    assert_eq!(batch.num_rows() as u64, CHUNK_ROWS);
    assert_eq!(pool.reserved(), tail.chunks.lock().unwrap().bytes);
    assert!(pool.reserved() > 0);
    let other = TopicDecoder::new(&topic, &[1, 2]).unwrap();
    assert_eq!(
        tail.pieces(&topic, &other, range.clone()).len(),
        1,
        "a column is not kept"
    );
    // The bad body is told of each time.
    for _ in 0..2 {
        let answer = sql.execute("SELECT n FROM t").await.unwrap();
        let notices = answer.finish().await.unwrap().notices;
        assert_eq!(notices.len(), 1, "{notices:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_used_longest_ago_goes_first_and_memory_is_given_back() {
    let (topics, _) = world().await;
    let topic = topics.topic("t").unwrap();
    let decoder = TopicDecoder::new(&topic, &[0]).unwrap();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000));
    let tail = Tail::new(&pool);
    let place = |chunk| Place {
        topic: topic.id,
        declared: 2,
        queue: QueueId(0),
        chunk,
    };
    let numbers: ArrayRef = Arc::new((0..8192).map(Some).collect::<arrow::array::Int64Array>());
    let batch = RecordBatch::try_new(Arc::clone(decoder.schema()), vec![numbers]).unwrap();
    tail.keep(place(1), 0, &of_first(), &batch);
    tail.keep(place(2), 0, &of_first(), &batch);
    assert!(tail.find(place(1), 0, &decoder).is_some());
    let kept = |chunk| tail.find(place(chunk), 0, &decoder).is_some();
    assert!(kept(1) && !kept(2), "there is memory for one");
    {
        let mut chunks = tail.chunks.lock().unwrap();
        tail.remove(&mut chunks, place(1));
        assert_eq!((chunks.bytes, chunks.by_use.len()), (0, 0));
    }
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_erased_is_in_no_answer_whatever_was_kept() {
    let (topics, clock) = world().await;
    send(&topics, 0..2 * CHUNK_ROWS, None);
    let sql = over(&topics, &clock);
    let query = "SELECT s, n FROM t WHERE n = 77 OR n IS NULL";
    let before = ask(&sql, query).await;
    assert_eq!(before, ["{\"s\":\"row 0\",\"n\":77}"]);
    let scanned = topics.rows_scanned();
    assert_eq!(ask(&sql, query).await, before);
    assert_eq!(topics.rows_scanned(), scanned, "all of it was kept");
    let id = topics.topic("t").unwrap().id;
    topics.erase(id, QueueId(0), Offset(77));
    let fresh = ask(&over(&topics, &clock), query).await;
    for _ in 0..2 {
        let after = ask(&sql, query).await;
        assert!(!after.concat().contains("77"), "{after:?}");
        assert_eq!(after, fresh);
    }
    let scanned = topics.rows_scanned();
    assert_eq!(ask(&sql, query).await, fresh);
    assert_eq!(topics.rows_scanned(), scanned, "it is kept anew");
}

#[tokio::test(start_paused = true)]
async fn what_an_older_statement_read_takes_no_newer_ones_place() {
    let (topics, _) = world().await;
    let topic = topics.topic("t").unwrap();
    let decoder = TopicDecoder::new(&topic, &[0]).unwrap();
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1_000_000));
    let tail = Tail::new(&pool);
    let place = Place {
        topic: topic.id,
        declared: 2,
        queue: QueueId(0),
        chunk: 1,
    };
    let batch = |n: i64| {
        let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![n; 8192]));
        RecordBatch::try_new(Arc::clone(decoder.schema()), vec![numbers]).unwrap()
    };
    tail.keep(place, 4, &of_first(), &batch(4));
    tail.keep(place, 3, &of_first(), &batch(3));
    assert_eq!(tail.find(place, 4, &decoder), Some(batch(4)));
    assert_eq!(tail.find(place, 3, &decoder), None);
    tail.keep(place, 5, &of_first(), &batch(5));
    assert_eq!(tail.find(place, 5, &decoder), Some(batch(5)));
    assert_eq!(pool.reserved(), tail.chunks.lock().unwrap().bytes);
}
