//! What other systems write, and what becomes of it.

use super::*;
use crate::statement::parse_expression;
use crate::statement::parser::parse_plain_expression;

fn written(sql: &str) -> String {
    parse_expression(sql).map_or_else(|error| error.to_string(), |expr| expr.to_string())
}

#[test]
fn every_template_can_be_parsed_and_takes_the_arguments_that_it_says() {
    for (name, count, template) in WRITTEN {
        let parsed =
            parse_plain_expression(template).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = parsed.to_string();
        assert!(!text.contains(&format!("${}", count + 1)), "{name}: {text}");
        assert_eq!(count > 0, text.contains("$1"), "{name}: {text}");
    }
}

#[test]
fn calls_are_written_as_what_they_mean_and_arguments_keep_together() {
    assert_eq!(written("mod(a + 1, 2)"), "((a + 1) % 2)");
    assert_eq!(
        written("IF(a > 1, 'x', mod(a, 2))"),
        "CASE WHEN (a > 1) THEN 'x' ELSE (a % 2) END"
    );
    assert_eq!(written("floor(at TO DAY)"), "date_trunc('day', at)");
    assert_eq!(written("floor(x)"), "FLOOR(x)");
    assert_eq!(
        written("timestampadd(month, -2, at)"),
        "(at + INTERVAL '-2 month')"
    );
    assert_eq!(
        written("listagg(x) WITHIN GROUP (ORDER BY y)"),
        "string_agg(x, ',' ORDER BY y)"
    );
    assert_eq!(written("\"mod\"(a, 2)"), "\"mod\"(a, 2)");
}

#[test]
fn operators_are_written_as_what_they_mean() {
    assert_eq!(
        written("a + b ^ 2 > 1"),
        "a + power(CAST(b AS DOUBLE), 2) > 1"
    );
    assert_eq!(
        written("(a, b) < (c, d + 1)"),
        "(a < c OR (a = c AND (b < (d + 1))))"
    );
    assert_eq!(
        written("(a, b, c) >= (d, e, f)"),
        "(a > d OR (a = d AND (b > e OR (b = e AND (c >= f)))))"
    );
    assert_eq!(written("(a, b) = (c, d)"), "(a = c AND b = d)");
    assert_eq!(written("(a, b) <> (c, d)"), "(NOT (a = c AND b = d))");
}

#[test]
fn calls_with_other_arguments_are_refused_where_they_stand() {
    assert_eq!(
        written("1 + mod(a)"),
        "line 1, column 5: mod takes 2 plain arguments; write them by position"
    );
    assert_eq!(
        written("timestampdiff(fortnight, a, b)"),
        "line 1, column 1: fortnight is no unit of time; there are MILLISECOND, SECOND, MINUTE, HOUR, DAY, \
         WEEK, MONTH, QUARTER, YEAR; write TIMESTAMPDIFF(HOUR, from, to)"
    );
}

#[test]
fn calls_that_stand_for_copies_of_copies_are_bounded() {
    let nested = (0..12).fold("at".to_owned(), |inner, _| format!("ceil({inner} TO day)"));
    assert!(
        written(&nested).contains("NODES_MAX"),
        "{}",
        written(&nested)
    );
}
