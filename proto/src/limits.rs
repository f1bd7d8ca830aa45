//! Every bound that a user can meet, by name.
//!
//! Over a bound the answer is a defined refusal that names it. Sizes are in bytes, times in
//! milliseconds. Wire limits are RocketMQ's published ones.

/// Longest topic name, in characters.
pub const TOPIC_NAME_MAX: usize = 127;
/// Longest consumer group name, in characters.
pub const GROUP_NAME_MAX: usize = 120;
/// Largest message body.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most user properties of a message.
pub const PROPERTIES_MAX: usize = 128;
/// Largest sum of property keys and values, tag and keys.
pub const PROPERTIES_BYTES_MAX: usize = 16 * 1024;
/// Longest message group, in UTF-8 bytes.
pub const MESSAGE_GROUP_BYTES_MAX: usize = 63;
/// Longest name of a lite topic, in UTF-8 bytes.
pub const LITE_TOPIC_BYTES_MAX: usize = 64;
/// Lite topics in one queue of their parent.
pub const LITE_TOPICS_PER_QUEUE_MAX: usize = 1 << 20;
/// Messages kept of one lite topic; above it those go first that every group has worked off.
pub const LITE_MESSAGES_MAX: usize = 65_536;
/// A lite topic ends so long after its last message, unless its parent says otherwise (30 days).
pub const LITE_EXPIRY_MS_DEFAULT: i64 = LITE_EXPIRY_MS_MAX;
/// Shortest time after which a lite topic ends (a minute).
pub const LITE_EXPIRY_MS_MIN: i64 = 60_000;
/// Longest time after which a lite topic ends (30 days).
pub const LITE_EXPIRY_MS_MAX: i64 = 30 * 24 * 60 * 60 * 1000;
/// Lite topics that a client is told it may subscribe to.
pub const LITE_SUBSCRIPTIONS_TOLD: usize = 2000;
/// Lite topics that a client may subscribe to: what it is told and some slack.
pub const LITE_SUBSCRIPTIONS_MAX: usize = LITE_SUBSCRIPTIONS_TOLD + 300;
/// Subscriptions to lite topics that a server remembers, of all clients.
pub const LITE_SUBSCRIPTIONS_ALL_MAX: usize = 4_000_000;
/// Longest message id.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;
/// How many messages without a key go to one queue, of one send or of several, before the next queue has its turn.
pub const TURN_MESSAGES: u32 = 64;
/// Longest id of an idempotent producer.
pub const PRODUCER_ID_BYTES_MAX: usize = 64;
/// Messages of an idempotent producer that are remembered per queue: what is sent again later than that is
/// refused.
pub const PRODUCER_WINDOW: usize = 256;
/// Idempotent producers that a shard remembers, counted once per queue.
pub const PRODUCERS_PER_SHARD_MAX: usize = 1024;
/// An idempotent producer that was silent for so long may be forgotten.
pub const PRODUCER_EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;
/// Most messages in one send.
pub const SEND_BATCH_MAX: usize = 1024;
/// Largest gRPC request that is read: a full batch of messages with room for framing.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of messages that are on their way to the log at once.
pub const SENDING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most messages in one receive.
pub const RECEIVE_BATCH_MAX: usize = 32;
/// Largest sum of bodies in one receive; at least one message is always delivered.
pub const RECEIVE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bodies whose digests are remembered for their next delivery.
pub const DIGESTS_MAX: usize = 32 * 1024;
/// Longest filter expression of a consumer.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of parentheses and NOT in a filter.
pub const FILTER_DEPTH_MAX: usize = 64;
/// Shortest invisible time that a receive may ask for.
pub const INVISIBLE_MS_MIN: i64 = 10_000;
/// Longest invisible time.
pub const INVISIBLE_MS_MAX: i64 = 12 * 60 * 60 * 1000;
/// Invisible time when the consumer leaves it to the server.
pub const INVISIBLE_MS_DEFAULT: i64 = 60_000;
/// Longest long poll.
pub const POLL_MS_MAX: i64 = 20_000;
/// Time kept back from a client's deadline, so that the answer arrives before it.
pub const POLL_MARGIN_MS: i64 = 300;
/// Most polls parked at once in one broker.
pub const PARKED_POLLS_MAX: usize = 40_960;
/// Most polls of one group parked at once, so that none can take the places of all others.
pub const PARKED_POLLS_PER_GROUP_MAX: usize = 10_240;
/// Queues of a topic that does not say.
pub const QUEUES_DEFAULT: u32 = 8;
/// Most queues of a topic.
pub const QUEUES_MAX: u32 = 1024;
/// Most topics of a broker.
pub const TOPICS_MAX: usize = 10_000;
/// Most queues of all topics of a family: its manifest names each.
pub const FAMILY_QUEUES_MAX: u64 = 100_000;
/// Most consumer groups of a broker.
pub const GROUPS_MAX: usize = 10_000;
/// Most subscriptions that are open at a time.
pub const SUBSCRIPTIONS_MAX: usize = 100;
/// Largest sum of all versions of a topic's schema.
pub const SCHEMAS_BYTES_MAX: usize = 256 * 1024;
/// Most columns of a topic.
pub const COLUMNS_MAX: usize = 1000;
/// Shortest time that messages of a topic can be kept.
pub const RETENTION_MS_MIN: i64 = 1000;
/// Longest time that messages of a topic can be kept, unless for ever: a hundred years.
pub const RETENTION_MS_MAX: i64 = 100 * 365 * 24 * 60 * 60 * 1000;
/// How long files that were merged or let go of stay for readers of the tables, unless it is set.
pub const TABLE_GRACE_MS_DEFAULT: i64 = 60 * 60 * 1000;
/// Longest time for that: each of its minutes in which something changed is an entry of the manifest.
pub const TABLE_GRACE_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// Least bound of the log in bytes: room for segments that are let go one by one, and for acknowledgements, of which a
/// lone one takes a block of 4 KiB.
pub const LOG_BYTES_MAX_MIN: u64 = 256 * 1024 * 1024;
/// Shards of a broker; fixed when its data folder is made.
pub const SHARDS_DEFAULT: u16 = 64;
/// Requests that may wait for one shard.
pub const SHARD_QUEUE_MAX: usize = 1024;
/// Messages in flight per group and queue.
pub const IN_FLIGHT_MAX: usize = 1_000_000;
/// Messages per group and queue that were passed over: their message group is busy, or a greater priority
/// went first.
pub const PARKED_MESSAGES_MAX: usize = 16_384;
/// How many messages of a queue are looked at for the greatest priority.
pub const PRIORITY_WINDOW: usize = 1024;
/// Messages that one poll looks at for those that its filter accepts, before it answers what it has.
pub const SCAN_MESSAGES_MAX: usize = 8192;
/// Dead letters that one poll sets off per queue.
pub const DEAD_LETTERS_AT_ONCE: usize = 256;
/// Most deliveries that a group may allow before a message is dead.
pub const GROUP_ATTEMPTS_MAX: u32 = 1000;
/// Most steps of a group's back-off list.
pub const BACKOFF_STEPS_MAX: usize = 64;
/// Longest time for which the server renews a lease while its consumer lives.
pub const RENEWAL_MS_MAX: i64 = 3 * 60 * 60 * 1000;
/// Most messages in one administrative read.
pub const READ_MESSAGES_MAX: usize = 1024;
/// Most rows of a system table each of which costs a read: what waits, what is open, what is dead.
pub const FACT_ROWS_MAX: usize = 10_000;
/// Messages that one step of a search reads before it answers what it has; the search goes on from there.
pub const FIND_MESSAGES_MAX: u64 = 200_000;
/// Bytes that one step of a search reads.
pub const FIND_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of the log that a trace reads back at most.
pub const TRACE_LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Events of a trace that are kept: the last ones.
pub const TRACE_EVENTS_MAX: usize = 1024;
/// Most messages that one pull looks at before it answers, when its filter passes none of them.
pub const PULL_SCAN_MAX: usize = 10_000;
/// Deliveries before a consumer is told to give up (first delivery included).
pub const DELIVERY_ATTEMPTS_MAX: i32 = 17;
/// Longest SQL statement.
pub const SQL_BYTES_MAX: usize = 1024 * 1024;
/// Longest time a bounded statement may run.
pub const QUERY_MS_MAX: i64 = 10 * 60 * 1000;
/// Memory that all bounded statements share.
pub const QUERY_MEMORY_BYTES: usize = 2 * 1024 * 1024 * 1024;
/// Memory for decoded columns of the newest rows, of what all bounded statements share.
pub const TAIL_COLUMNS_BYTES: usize = 256 * 1024 * 1024;
/// Memory for the places of the last rows of topics with a key, of what all bounded statements share.
pub const KEY_INDEX_BYTES: usize = 256 * 1024 * 1024;
/// So many rows before the end of a queue are worth keeping decoded.
pub const TAIL_COLUMNS_ROWS: u64 = 256 * 1024;
/// An `INSERT` of up to so many bytes of messages is computed to its end before any of it is stored, so that a value that does not
/// fit leaves nothing behind; of a larger one so many bytes are held at a time.
pub const INSERT_HELD_BYTES: usize = 64 * 1024 * 1024;
/// Most elements that `generate_series` makes for the rows that are computed at a time.
pub const SERIES_ELEMENTS_MAX: u64 = 16 * 1024 * 1024;
/// Most rows that the lists of one row may become in a continuous query.
pub const UNNEST_ELEMENTS_MAX: usize = 64 * 1024;
/// Memory for the state of one continuous query.
pub const JOB_STATE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// What that may be set to for one query: less would not hold a window, more no checkpoint.
pub const JOB_STATE_BYTES_LIMIT_MIN: u64 = 1024 * 1024;
/// See [`JOB_STATE_BYTES_LIMIT_MIN`].
pub const JOB_STATE_BYTES_LIMIT_MAX: u64 = 1024 * 1024 * 1024;
/// How often an hour a continuous query is started over after trouble that passes, unless it is told otherwise: with the longest pause
/// in between, trouble may last about fifty minutes.
pub const JOB_RESTARTS_USUAL: u32 = 300;
/// Most that may be set.
pub const JOB_RESTARTS_MAX: u32 = 10_000;
/// Most continuous queries of a broker.
pub const JOBS_MAX: usize = 256;
/// Most savepoints of a broker: each holds the whole state of a query, and inputs that may not be compacted behind it.
pub const SAVEPOINTS_MAX: usize = 256;
/// Longest name of a savepoint.
pub const SAVEPOINT_NAME_BYTES_MAX: usize = 64;
/// Lanes that a continuous query computes in at most.
pub const JOB_PARALLELISM_MAX: usize = 64;
/// Lanes of a query that does not say how many, at most: more help few and cost each a little at every epoch.
pub const JOB_PARALLELISM_USUAL_MAX: usize = 8;
/// Stretches that the keys of a continuous query fall into at first when its state outgrows its memory and goes to rest.
pub const JOB_STRETCHES_MIN: usize = 16;
/// Most stretches: each costs a little at every epoch, and one must fit into memory.
pub const JOB_STRETCHES_MAX: usize = 256;
/// Largest savepoint of a state that lies at rest: it is put together in memory.
pub const JOB_SAVEPOINT_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Groups that the keys of a continuous query fall into; a lane owns a stretch of them. Part of the format: never changes.
pub const JOB_KEY_GROUPS: u64 = 4096;
/// Connections served at once on one port; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16 * 1024;
/// Calls at once on one connection: clients put all their polls on one.
pub const STREAMS_PER_CONNECTION: u32 = 4096;
/// Open files that are no connections: the log's, the cold tier's, those of queries. Where fewer may be open than all
/// connections take, fewer connections are served.
pub const FILES_RESERVED: u64 = 384;
/// Most topics that all clients together say they publish to, each counted once for every client.
pub const PUBLISHED_TOPICS_MAX: usize = 262_144;
/// Client settings that the server remembers; and streams of commands, and consumers with a filter.
pub const CLIENTS_MAX: usize = 100_000;
/// A client without heartbeat for so long is gone.
pub const CLIENT_EXPIRY_MS: i64 = 120_000;
/// The same for a client whose stream of commands has ended, as that of a killed process does: all clients beat more often.
pub const CLIENT_HUNG_UP_MS: i64 = 40_000;
/// How far ahead a message's delivery time may lie: ten years.
pub const DELAY_MS_MAX: i64 = 10 * 366 * 24 * 60 * 60 * 1000;
/// Most messages of one shard that are due in the same hour.
pub const DELAYED_PER_HOUR_MAX: usize = 1_000_000;
/// Bytes of delayed messages that are read before their time, over all shards.
pub const FIRE_AHEAD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most open transactions of one shard.
pub const TRANSACTIONS_OPEN_MAX: usize = 100_000;
/// When a producer is first asked about an open transaction, unless the message says otherwise.
pub const TRANSACTION_CHECK_FIRST_MS: i64 = 6_000;
/// Latest time for that which a message may ask for.
pub const TRANSACTION_CHECK_FIRST_MS_MAX: i64 = 60 * 60 * 1000;
/// Pause between two questions about an open transaction.
pub const TRANSACTION_CHECK_PAUSE_MS: i64 = 30_000;
/// Questions after which an open transaction is rolled back.
pub const TRANSACTION_CHECKS_MAX: u32 = 15;
/// Time after which an open transaction is rolled back when there is nobody to ask: three days.
pub const TRANSACTION_AGE_MS_MAX: i64 = 3 * 24 * 60 * 60 * 1000;
/// Transactions rolled back by the server that one shard keeps to be looked at.
pub const TRANSACTIONS_GIVEN_UP_KEPT: usize = 1000;

/// Bytes of keys that a key compaction remembers at once; more keys are looked at in several passes.
pub const COMPACTION_KEYS_BYTES: usize = 64 * 1024 * 1024;
/// Percent of a topic's bytes in Parquet that came since the last key compaction, from which on the next one is worth it.
pub const COMPACTION_DIRTY_PERCENT: u64 = 50;
/// How long a tombstone of a compacted topic is kept, ms, unless the topic says otherwise.
pub const TOMBSTONES_MS_DEFAULT: i64 = 24 * 60 * 60 * 1000;

/// Memory of the log's newest blocks is taken and given back in slabs of this size: what a reader that holds a single message
/// for long keeps from being used again. The tail cache's bound counts them.
pub const LOG_SLAB_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes that one read of the cold tier answers with; one message comes even above it.
pub const COLD_READ_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes that all reads of the cold tier on their way may answer with; further ones wait.
pub const COLD_READS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most bytes of decoded rows of the cold tier that are kept for the reads of their neighbours.
pub const COLD_WINDOWS_BYTES_MAX: usize = 64 * 1024 * 1024;
