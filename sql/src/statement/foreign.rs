//! Statements of other systems, and what does their work here.
//!
//! Whoever comes from Flink, ksqlDB or PostgreSQL writes what worked there. It is refused like everything that is not on
//! the list, but by what was wanted: a list of all statements would leave the reader to find out which one it is.

use datafusion::sql::sqlparser::tokenizer::Token;

/// First words, and what to write instead.
const STATEMENTS: [(&str, &str); 25] = [
    (
        "ADD",
        "functions in Rust are built into the server, see sql/src/function",
    ),
    ("ANALYZE", "leave it out: statistics are kept as data comes"),
    (
        "BEGIN",
        "leave it out: each statement stands for itself; a query writes its rows exactly once without it",
    ),
    (
        "CALL",
        "there are no procedures; write the statements themselves",
    ),
    (
        "COMMIT",
        "leave it out: each statement stands for itself; a query writes its rows exactly once without it",
    ),
    ("DECLARE", "read rows as they come with SUBSCRIBE name"),
    (
        "DELETE",
        "delete the row of a key with INSERT INTO topic (_key, _body) VALUES ('key', NULL), where the key is '[7]' for PRIMARY KEY (id) and the text itself for one VARCHAR; other rows end with the retention of their topic",
    ),
    (
        "EXECUTE",
        "write each statement by itself: CREATE JOB name AS INSERT INTO topic SELECT …",
    ),
    ("FETCH", "read rows as they come with SUBSCRIBE name"),
    ("LIST", "write SHOW TOPICS, SHOW JOBS or SHOW VIEWS"),
    (
        "LOAD",
        "functions in Rust are built into the server, see sql/src/function",
    ),
    (
        "MERGE",
        "write INSERT INTO a topic with a primary key: the last row of a key counts",
    ),
    (
        "OPTIMIZE",
        "leave it out: files are merged in the background",
    ),
    (
        "PRINT",
        "write SELECT * FROM topic for what is there, or SUBSCRIBE topic for what comes as well",
    ),
    (
        "REFRESH",
        "leave it out: a materialized view is kept up to date as rows come",
    ),
    (
        "RELEASE",
        "to end a savepoint of a job write DROP SAVEPOINT name",
    ),
    (
        "REPLACE",
        "write INSERT INTO a topic with a primary key: the last row of a key counts",
    ),
    (
        "RESET",
        "there are no settings of a session; options stand in WITH (…) of what they are for",
    ),
    (
        "ROLLBACK",
        "leave it out: each statement stands for itself; a query writes its rows exactly once without it",
    ),
    (
        "SET",
        "there are no settings of a session; options stand in WITH (…) of what they are for, those of a running query in ALTER JOB name SET (…)",
    ),
    (
        "TERMINATE",
        "write DROP JOB name, or PAUSE JOB name to go on later",
    ),
    (
        "TRUNCATE",
        "write DROP TOPIC name and create it again, or end old rows with ALTER TOPIC name SET (retention = '7 days')",
    ),
    (
        "UPDATE",
        "write the row anew with INSERT INTO a topic with a primary key: the last row of a key counts",
    ),
    (
        "USE",
        "leave it out: topics are named without a schema, system tables as millpond.name",
    ),
    ("VACUUM", "leave it out: files are merged in the background"),
];

/// What can not be created, and what can.
const CREATED: [(&str, &str); 11] = [
    (
        "TABLE",
        "tables are topics here: write CREATE TOPIC name (column TYPE, …)",
    ),
    (
        "STREAM",
        "streams are topics here: write CREATE TOPIC name (column TYPE, …), or CREATE MATERIALIZED VIEW name AS SELECT … for one that is computed",
    ),
    (
        "SOURCE",
        "write CREATE TOPIC name (column TYPE, …), to which producers send",
    ),
    (
        "INDEX",
        "leave it out: rows are found by the primary key of their topic or view",
    ),
    (
        "FUNCTION",
        "functions in Rust are built into the server, see sql/src/function",
    ),
    ("DATABASE", "leave it out: there is one catalog of topics"),
    ("CATALOG", "leave it out: there is one catalog of topics"),
    (
        "SCHEMA",
        "leave it out: there is one catalog of topics; schemas of bodies are options of a topic",
    ),
    (
        "TEMPORARY",
        "write CREATE VIEW name AS SELECT …, and DROP VIEW name when it is not needed any more",
    ),
    (
        "CONNECTOR",
        "write CREATE TOPIC name (column TYPE, …), to which producers send, or CREATE SINK name INTO topic AS SELECT …",
    ),
    (
        "TYPE",
        "write the type where a column has it; what is nested is VARCHAR with JSON",
    ),
];

/// What `SHOW` does not list, and what tells it.
const SHOWN: [(&str, &str); 7] = [
    ("STREAMS", "write SHOW TOPICS"),
    ("QUERIES", "write SHOW JOBS"),
    ("SINKS", "write SHOW JOBS"),
    ("SOURCES", "write SHOW TOPICS"),
    (
        "DATABASES",
        "there is one catalog of topics: write SHOW TOPICS",
    ),
    (
        "CATALOGS",
        "there is one catalog of topics: write SHOW TOPICS",
    ),
    ("MATERIALIZED", "write SHOW JOBS"),
];

/// Clauses, and what to write instead.
const CLAUSES: [(&str, &str); 7] = [
    (
        "MATCH_RECOGNIZE",
        "compare a row with those before it by lag(…) OVER (PARTITION BY … ORDER BY time), or join the topic with itself",
    ),
    (
        "CONFLICT",
        "leave ON CONFLICT out: of a topic with a primary key the last row of a key counts",
    ),
    ("RETURNING", "leave it out, and select the rows afterwards"),
    (
        "WINDOW",
        "write FROM TUMBLE(TABLE topic, DESCRIPTOR(time), INTERVAL '1 hour') GROUP BY …, window_start, window_end",
    ),
    (
        "PARTITION",
        "write INTO topic without it: the key of a row tells its queue",
    ),
    (
        "CHANGE",
        "write EMIT CHANGES, EMIT EVERY '10 seconds' or EMIT ON WINDOW CLOSE",
    ),
    (
        "PARTITIONED",
        "leave it out: the number of queues is an option, WITH (queues = 8)",
    ),
];

/// Functions that are not here, and what does their work.
const FUNCTIONS: [(&str, &str); 24] = [
    (
        "age",
        "subtract the times, or write timestampdiff(DAY, a, b)",
    ),
    ("collect", "write array_agg(x)"),
    (
        "current_watermark",
        "read it in millpond.jobs, or choose rows by _stored_at",
    ),
    ("date_add", "write time + n * INTERVAL '1 day'"),
    ("date_sub", "write time - n * INTERVAL '1 day'"),
    ("element", "write list[1]"),
    ("elt", "write make_array(a, b, c)[n]"),
    ("format", "put texts together with || or concat"),
    ("histogram", "group by the value, and count"),
    (
        "json_agg",
        "write '[' || string_agg(json_string(x), ',') || ']'",
    ),
    (
        "json_arrayagg",
        "write '[' || string_agg(json_string(x), ',') || ']'",
    ),
    (
        "json_object_agg",
        "write '{' || string_agg(json_string(k) || ':' || json_string(x), ',') || '}'",
    ),
    (
        "json_objectagg",
        "write '{' || string_agg(json_string(k) || ':' || json_string(x), ',') || '}'",
    ),
    (
        "mode",
        "group by the value, and keep the row with the greatest count",
    ),
    (
        "parse_json",
        "a text is JSON wherever a function reads it so: json_value(text, path)",
    ),
    ("printf", "put texts together with || or concat"),
    (
        "proctime",
        "_stored_at is the time at which a message was stored",
    ),
    (
        "regexp_extract_all",
        "regexp_match finds the first one, string_to_array splits a text",
    ),
    ("sha224", "write sha256(x)"),
    (
        "str_to_map",
        "read a part with split_part(text, separator, n)",
    ),
    ("to_bytes", "write CAST(text AS BYTES)"),
    (
        "topk",
        "write QUALIFY row_number() OVER (PARTITION BY … ORDER BY … DESC) <= k",
    ),
    (
        "topkdistinct",
        "write QUALIFY row_number() OVER (PARTITION BY … ORDER BY … DESC) <= k over SELECT DISTINCT",
    ),
    ("width_bucket", "write floor((x - low) / width)"),
];

fn found(known: &[(&str, &'static str)], token: &Token) -> Option<&'static str> {
    let Token::Word(word) = token else {
        return None;
    };
    let mut known = known.iter();
    let found = known.find(|(first, _)| word.value.eq_ignore_ascii_case(first));
    found.map(|(_, instead)| *instead)
}

/// What to write instead of a call of this function.
pub(crate) fn function(name: &str) -> Option<&'static str> {
    let mut known = FUNCTIONS.iter();
    let found = known.find(|(other, _)| name.eq_ignore_ascii_case(other));
    found.map(|(_, instead)| *instead)
}

/// What to write instead of a statement that begins so.
pub(super) fn statement(first: &Token) -> Option<&'static str> {
    if *first == Token::Backslash {
        return Some("write DESCRIBE name, SHOW TOPICS or SHOW JOBS");
    }
    found(&STATEMENTS, first)
}

/// What to write instead of a clause that begins so.
pub(super) fn clause(first: &Token) -> Option<&'static str> {
    found(&CLAUSES, first)
}

/// Whether a text has ksqlDB's clause of windows, of which the parser understands the first word only.
pub(super) fn has_window_clause(sql: &str) -> bool {
    let sql = sql.to_lowercase();
    ["tumbling", "hopping", "session"]
        .iter()
        .any(|kind| sql.contains(&format!("window {kind}")))
}

/// What to write instead of a constraint that other systems have among the columns of a table.
pub(super) fn constraint(first: &Token, second: &Token) -> Option<&'static str> {
    let of_columns = *second == Token::LParen;
    let is = |word: &str| crate::dialect::is_word(first, word);
    if is("UNIQUE") && of_columns {
        return Some(
            "declare what tells a row: PRIMARY KEY (column, …); the last row of a key counts",
        );
    }
    if is("CHECK") && of_columns {
        return Some(
            "leave it out: producers write bodies that no statement looks at; a query leaves rows out with WHERE",
        );
    }
    if is("FOREIGN") && crate::dialect::is_word(second, "KEY") {
        return Some(
            "leave it out: a topic holds what is sent to it; a query tells with a join what is there",
        );
    }
    None
}

/// What to create instead of this.
pub(super) fn created(what: &Token) -> Option<&'static str> {
    found(&CREATED, what)
}

/// What to show instead of this.
pub(super) fn shown(what: &Token) -> Option<&'static str> {
    found(&SHOWN, what)
}
