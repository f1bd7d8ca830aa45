//! One case a clause: what is refused is refused by its name and at its place.

use crate::statement::parse;

fn refused(sql: &str) -> String {
    parse(sql).map_or_else(|error| error.to_string(), |_| "taken".to_owned())
}

/// Statement, where it is refused, what it is called.
const REFUSED: [(&str, u64, &str); 40] = [
    // Around the whole query.
    ("SELECT a FROM t FOR UPDATE", 17, "FOR UPDATE"),
    ("SELECT a FROM t FOR SHARE", 17, "FOR SHARE"),
    ("SELECT a FROM t FOR UPDATE OF t NOWAIT", 17, "FOR UPDATE"),
    ("SELECT a FROM t FOR UPDATE SKIP LOCKED", 17, "FOR UPDATE"),
    (
        "SELECT * FROM (SELECT a FROM t FOR SHARE) x",
        32,
        "FOR SHARE",
    ),
    (
        "SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS WITH TIES",
        47,
        "WITH TIES",
    ),
    (
        "SELECT a FROM t FETCH FIRST 10 PERCENT ROWS ONLY",
        32,
        "PERCENT",
    ),
    (
        "SELECT a FROM t LIMIT 3 FETCH FIRST 3 ROWS ONLY",
        25,
        "FETCH",
    ),
    (
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r LIMIT 3) SELECT n FROM r",
        66,
        "LIMIT",
    ),
    (
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r ORDER BY 1) SELECT n FROM r",
        66,
        "ORDER BY",
    ),
    (
        "WITH x AS (INSERT INTO t VALUES (1)) SELECT a FROM t",
        12,
        "read and not write",
    ),
    (
        "WITH x AS (DELETE FROM t) SELECT a FROM t",
        12,
        "read and not write",
    ),
    (
        "WITH x AS (UPDATE t SET a = 1) SELECT a FROM t",
        12,
        "read and not write",
    ),
    // Within SELECT.
    ("SELECT a INTO u FROM t", 10, "INTO"),
    ("SELECT TOP 3 a FROM t", 8, "TOP"),
    (
        "SELECT a FROM t LATERAL VIEW explode(b) x AS c",
        17,
        "LATERAL VIEW",
    ),
    ("SELECT a FROM t CLUSTER BY a", 17, "CLUSTER BY"),
    ("SELECT a FROM t DISTRIBUTE BY a", 17, "DISTRIBUTE BY"),
    ("SELECT a FROM t SORT BY a", 17, "SORT BY"),
    ("SELECT /*+ STATE_TTL('t' = '1 d') */ a FROM t", 8, "hints"),
    // Within FROM.
    (
        "SELECT a FROM t TABLESAMPLE BERNOULLI (10)",
        17,
        "TABLESAMPLE",
    ),
    (
        "SELECT a FROM (SELECT a FROM t) x TABLESAMPLE SYSTEM (10)",
        35,
        "TABLESAMPLE",
    ),
    ("SELECT a FROM t WITH (NOLOCK)", 17, "WITH"),
    ("SELECT a FROM t WITH ORDINALITY", 17, "WITH ORDINALITY"),
    ("SELECT a FROM t AS x (a INT)", 23, "without types"),
    ("SELECT t.a FROM t JOIN u", 24, "belong together"),
    (
        "SELECT t.a FROM t LEFT JOIN u ON t.a = u.a JOIN v",
        49,
        "belong together",
    ),
    (
        "SELECT t.a FROM t SEMI JOIN u ON t.a = u.a",
        19,
        "SEMI JOIN",
    ),
    (
        "SELECT t.a FROM t ANTI JOIN u ON t.a = u.a",
        19,
        "ANTI JOIN",
    ),
    ("SELECT t.a FROM t CROSS APPLY u", 19, "CROSS APPLY"),
    (
        "SELECT * FROM t PIVOT (sum(a) FOR b IN (1, 2))",
        17,
        "PIVOT",
    ),
    ("SELECT * FROM t UNPIVOT (a FOR b IN (c, d))", 17, "UNPIVOT"),
    // Within expressions.
    ("SELECT a COLLATE \"C\" FROM t", 10, "COLLATE"),
    ("SELECT upper(DISTINCT a) FROM t", 8, "DISTINCT"),
    ("SELECT upper(a) FILTER (WHERE a > 'b') FROM t", 8, "FILTER"),
    ("SELECT abs(a) OVER (PARTITION BY b) FROM t", 8, "OVER"),
    ("SELECT endswith(DISTINCT a, 'x') FROM t", 8, "DISTINCT"),
    (
        "SELECT row_number() IGNORE NULLS OVER (ORDER BY a) FROM t",
        8,
        "NULLS",
    ),
    ("SELECT sum(a) OVER w FROM t", 20, "there is no window w"),
    ("SELECT ARRAY(SELECT 1)", 8, "query as its argument"),
];

#[test]
fn no_clause_that_the_parser_takes_is_left_out_in_silence() {
    let mut failures = Vec::new();
    for (sql, column, named) in REFUSED {
        let told = refused(sql);
        let is_placed = told.starts_with(&format!("line 1, column {column}: "));
        if !is_placed || !told.contains(named) || !told.contains("; ") {
            failures.push(format!("{sql}\n  {told}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_is_carried_out_is_taken() {
    for sql in [
        "SELECT a FROM t FETCH FIRST 3 ROWS ONLY",
        "SELECT a FROM t OFFSET 2 ROWS FETCH NEXT ROW ONLY",
        "TABLE t",
        "SELECT a FROM t AS x (a, b)",
        "WITH x AS MATERIALIZED (SELECT a FROM t) SELECT a FROM x",
        "SELECT sum(a) OVER w AS s FROM t WINDOW w AS (ORDER BY a) ORDER BY sum(a) OVER (w ROWS 1 PRECEDING)",
        "SELECT lag(a) IGNORE NULLS OVER (ORDER BY a) FROM t QUALIFY row_number() OVER (ORDER BY a) = 1",
        "SELECT t.a FROM t CROSS JOIN u, v NATURAL JOIN w",
        "SELECT array_agg(DISTINCT a ORDER BY a) FILTER (WHERE a > 1) FROM t",
        "SELECT a FROM t WHERE a LIKE '5!%' ESCAPE '!' AND a SIMILAR TO '(x|y)%'",
    ] {
        assert_eq!(refused(sql), "taken", "{sql}");
    }
}
