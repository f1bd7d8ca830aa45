use bytes::Bytes;
use millpond_storage::format::envelope::{Property, PropertyValue};
use proptest::prelude::*;

use super::*;

fn message(tag: Option<&str>, properties: &[(&str, &str)]) -> Envelope {
    let property = |(key, value): &(&str, &str)| Property {
        key: (*key).to_owned(),
        value: Some(PropertyValue::Text((*value).to_owned())),
    };
    Envelope {
        tag: tag.map(str::to_owned),
        properties: properties.iter().map(property).collect(),
        ..Envelope::default()
    }
}

fn sql(expression: &str) -> Filter {
    Filter::parse(FilterKind::Sql92, expression).unwrap()
}

fn wants(expression: &str, properties: &[(&str, &str)]) -> bool {
    sql(expression).matches(&message(None, properties))
}

fn refusal(expression: &str) -> String {
    let error = Filter::parse(FilterKind::Sql92, expression).unwrap_err();
    assert_eq!(error.remedy(), Remedy::FixRequest);
    error.to_string()
}

#[test]
fn a_tag_expression_is_a_set_of_tags_or_all() {
    let tag = |expression: &str| Filter::parse(FilterKind::Tag, expression).unwrap();
    for all in ["", "  ", "*", " * ", "a || *"] {
        assert!(tag(all).is_all(), "{all:?}");
        assert!(tag(all).matches(&message(None, &[])));
    }
    let two = tag(" a||b ");
    assert!(!two.is_all());
    assert!(two.matches(&message(Some("a"), &[])) && two.matches(&message(Some("b"), &[])));
    assert!(!two.matches(&message(Some("c"), &[])) && !two.matches(&message(None, &[])));
    assert!(!two.matches(&message(Some("ab"), &[])) && !two.matches(&message(Some("A"), &[])));
    for bad in ["||", "a | b", "|", " || || "] {
        let error = Filter::parse(FilterKind::Tag, bad).unwrap_err().to_string();
        assert!(error.contains("a || b"), "{error}");
    }
    let error = Filter::parse(FilterKind::Tag, "a || b|c").unwrap_err();
    let problem = "a single |";
    assert_eq!(
        error,
        FilterError::Tag {
            position: 5,
            problem
        }
    );
}

#[test]
fn a_condition_reads_properties_tags_and_keys() {
    let one = [("a", "3"), ("region", "eu-west"), ("ok", "true")];
    for wanted in [
        "a = 3",
        "a = '3'",
        "a <> 4",
        "a != 4",
        "a > 2.5 and A IS NULL",
        "a >= 3 AND a <= 3",
        "3 = a",
        "2 < a",
        "a BETWEEN 0 AND 3",
        "a NOT BETWEEN 4 AND 5",
        "a IN ('1', '3')",
        "a IN (1, 3)",
        "a NOT IN ('1', '2')",
        "region CONTAINS '-'",
        "region STARTSWITH 'eu'",
        "region ENDSWITH 'west'",
        "region NOT CONTAINS 'us'",
        "region NOT STARTSWITH 'us' AND region NOT ENDSWITH 'us'",
        "b IS NULL",
        "a IS NOT NULL",
        "NOT a = 4",
        "NOT (a = 4 OR a = 5)",
        "ok",
        "ok = TRUE",
        "ok <> FALSE",
        "a = 1 OR a = 2 OR a = 3",
        "a = 0x3 AND a = 3L AND a = 3.0 AND a = 30e-1 AND a > -1 AND a = +3",
        "(a) = (3)",
        "TRUE",
        "((((TRUE))))",
        "'x' = 'x'",
    ] {
        assert!(wants(wanted, &one), "{wanted}");
        assert!(!wants(&format!("NOT ({wanted})"), &one), "NOT ({wanted})");
    }
    let tagged = Envelope {
        keys: vec!["k1".to_owned(), "k2".to_owned()],
        ..message(Some("x"), &[])
    };
    assert!(sql("TAGS IS NOT NULL AND TAGS IN ('x', 'y')").matches(&tagged));
    assert!(sql("KEYS CONTAINS 'k2' AND KEYS = 'k1 k2'").matches(&tagged));
    assert!(wants("TAGS IS NULL AND KEYS IS NULL", &[]));
    assert!(wants("名 = 'it''s'", &[("名", "it's")]));
}

#[test]
fn what_can_not_be_said_is_unknown_and_so_is_its_opposite() {
    let one = [("a", "3"), ("word", "x")];
    for unknown in [
        "b = 1",
        "b > 1",
        "b",
        "b IN ('1')",
        "b CONTAINS '1'",
        "b BETWEEN 1 AND 2",
        "word > 1",
        "word = 1",
        "word",
        "a = TRUE",
        "word IN (1)",
        "a > word",
        "a = 3 AND b = 1",
        "a = 4 OR b = 1",
    ] {
        assert!(!wants(unknown, &one), "{unknown}");
        assert!(!wants(&format!("NOT ({unknown})"), &one), "NOT ({unknown})");
    }
    assert!(wants("a = 3 OR word > 1", &one));
    assert!(!wants("a = 4 AND word > 1", &one));
    assert!(wants("NOT (a = 4 AND word > 1)", &one));
    for text in ["inf", "NaN", "infinity", "1e999", "", "0x3", "1_0"] {
        assert!(
            !wants("a > -1 OR a <= -1", &[("a", text)]),
            "{text:?} is no number"
        );
    }
}

#[test]
fn whole_numbers_compare_exactly() {
    let big = [("id", "9007199254740993")];
    assert!(wants(
        "id = 9007199254740993 AND id > 9007199254740992",
        &big
    ));
    assert!(!wants("id = 9007199254740992", &big));
    let least = [("id", "-9223372036854775808")];
    assert!(wants("id = -9223372036854775808", &least));
}

#[test]
fn of_several_properties_with_one_name_the_last_counts_and_bytes_do_not() {
    let mut twice = message(None, &[("a", "1"), ("a", "2")]);
    assert!(sql("a = 2").matches(&twice));
    twice.properties.push(Property {
        key: "a".to_owned(),
        value: Some(PropertyValue::Binary(Bytes::from_static(b"3"))),
    });
    assert!(sql("a IS NULL").matches(&twice));
}

#[test]
fn a_refusal_names_the_place_and_what_to_write() {
    for (expression, place, advice) in [
        ("a >", "character 4: the end", "write a condition"),
        ("a = 1 b", "character 7: the name b", "join conditions"),
        ("a LIKE 'x%'", "character 3: LIKE", "CONTAINS 'x'"),
        ("a NOT LIKE 'x%'", "character 7: LIKE", "CONTAINS 'x'"),
        ("a = \"x\"", "character 5", "single quotes"),
        ("a = 'x", "character 5", "close it"),
        ("a = NULL", "character 5: NULL", "IS NULL"),
        ("a > 'x'", "character 5: 'x'", "only numbers have an order"),
        (
            "a > TRUE",
            "character 5: TRUE",
            "only numbers have an order",
        ),
        ("a BETWEEN 5 AND 1", "character 11: 5 AND 1", "swap"),
        ("a BETWEEN 5", "character 12: the end", "BETWEEN 1 AND 5"),
        ("a IN ()", "character 7: )", "IN ('x', 'y')"),
        ("a IN ('x' 'y')", "character 11", ", or )"),
        ("a IN b", "character 6", "IN ('x', 'y')"),
        ("'x' IN ('x')", "character 1", "property on the left"),
        ("a = 1 & b = 2", "character 7: '&'", "AND and OR"),
        ("a + 1 = 2", "character 3: '+'", "no arithmetic"),
        ("order.id = 1", "character 6: '.'", "without a point"),
        ("a = 12x", "character 5", "begin with a digit"),
        ("(a = 1", "character 7: the end", "parenthesis"),
        ("a = 1)", "character 6: )", "parenthesis"),
        ("a < b < c", "character 7", "a < b AND b < c"),
        ("(a = 1) = TRUE", "character 1: a condition", "not compared"),
        ("a IS 1", "character 6", "IS NOT NULL"),
        ("a NOT 1", "character 7", "write NOT before"),
        ("a CONTAINS b", "character 12", "CONTAINS 'x'"),
        ("名 = é'", "character 6", "close it"),
    ] {
        let error = refusal(expression);
        assert!(error.contains(place), "{expression}: {error}");
        assert!(error.contains(advice), "{expression}: {error}");
    }
    assert!(refusal(" ").contains("TRUE for all"));
}

#[test]
fn length_and_depth_are_bounded() {
    let depth = limits::FILTER_DEPTH_MAX;
    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(wants(&nested(depth), &[("a", "1")]));
    let error = refusal(&nested(depth + 1));
    assert!(
        error.contains(&format!("character {}", depth + 1)),
        "{error}"
    );
    assert!(refusal(&"NOT ".repeat(depth + 1)).contains("nests more"));
    let chain = |count: usize| vec!["a = 1"; count].join(" OR ");
    assert!(wants(&chain(1000), &[("a", "1")]));
    let error = refusal(&chain(10_000));
    assert!(error.contains("89996 bytes, limit 16384"), "{error}");
}

#[test]
fn equal_filters_share_a_fingerprint_that_never_changes() {
    let tag = |text: &str| Filter::parse(FilterKind::Tag, text).unwrap();
    assert_eq!(tag("b||a").fingerprint(), tag(" a || b || a").fingerprint());
    assert_eq!(tag("*").fingerprint(), sql("true").fingerprint());
    assert_eq!(
        sql("a=1 and(b<>'X')").fingerprint(),
        sql(" a = 1  AND b != 'X' ").fingerprint()
    );
    assert_ne!(sql("a = 1").fingerprint(), sql("a = '1'").fingerprint());
    assert_ne!(sql("a = 'x'").fingerprint(), sql("a = 'X'").fingerprint());
    assert_ne!(tag("a").fingerprint(), tag("b").fingerprint());
    assert_eq!(Filter::all().fingerprint(), FINGERPRINT_OF_ALL);
    assert_eq!(tag("a || b").fingerprint(), FINGERPRINT_OF_TAGS);
    let text = "NOT (A > 1.5) AND (a IS NULL OR b IN ('x', 2)) AND t STARTSWITH 'it''s'";
    assert_eq!(sql(text).to_string(), format!("SQL92 {text}"));
}

/// Written down, because stored cursors compare with fingerprints of older versions.
const FINGERPRINT_OF_ALL: u64 = 1_030_113_957_915_216_652;
const FINGERPRINT_OF_TAGS: u64 = 6_597_089_028_883_501_478;

/// A condition as the naive model has it, which knows unknown as a number between false and true.
#[derive(Clone, Debug)]
enum Model {
    Leaf {
        name: &'static str,
        number: i64,
        shape: usize,
    },
    And(Vec<Model>),
    Or(Vec<Model>),
    Not(Box<Model>),
}

const FALSE: i8 = -1;
const UNKNOWN: i8 = 0;
const TRUE: i8 = 1;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Values of [`NAMES`].
type Row = [Option<String>; 3];

impl Model {
    fn text(&self) -> String {
        let join = |parts: &[Self], word: &str| {
            let parts: Vec<String> = parts.iter().map(|p| format!("({})", p.text())).collect();
            parts.join(word)
        };
        match self {
            Self::And(parts) => join(parts, " AND "),
            Self::Or(parts) => join(parts, "or\n"),
            Self::Not(part) => format!("not({})", part.text()),
            Self::Leaf {
                name,
                number,
                shape,
            } => match shape {
                0 => format!("{name} = '{number}'"),
                1 => format!("{name} <> '{number}'"),
                2 => format!("{name}>{number}"),
                3 => format!("{number} >= {name}"),
                4 => format!("{name} between {} AND {number}", number - 1),
                5 => format!("{name} NOT IN ('{number}', 'x')"),
                6 => format!("{name} is null"),
                _ => format!("{name} endswith '{number}'"),
            },
        }
    }

    fn truth(&self, row: &Row) -> i8 {
        match self {
            Self::And(parts) => parts.iter().map(|part| part.truth(row)).min().unwrap(),
            Self::Or(parts) => parts.iter().map(|part| part.truth(row)).max().unwrap(),
            Self::Not(part) => -part.truth(row),
            Self::Leaf {
                name,
                number,
                shape,
            } => {
                let text = row[NAMES.iter().position(|one| one == name).unwrap()].as_deref();
                let found = text.and_then(|text| text.parse::<i64>().ok());
                let same = number.to_string();
                let truth = match shape {
                    0 => text.map(|text| text == same),
                    1 => text.map(|text| text != same),
                    2 => found.map(|found| found > *number),
                    3 => found.map(|found| found <= *number),
                    4 => found.map(|found| found == *number || found == number - 1),
                    5 => text.map(|text| text != same && text != "x"),
                    6 => Some(text.is_none()),
                    _ => text.map(|text| text.ends_with(&same)),
                };
                match truth {
                    Some(true) => TRUE,
                    Some(false) => FALSE,
                    None => UNKNOWN,
                }
            }
        }
    }
}

fn models() -> impl Strategy<Value = Model> {
    let leaf = (prop::sample::select(&NAMES[..]), -3_i64..4, 0_usize..8).prop_map(
        |(name, number, shape)| Model::Leaf {
            name,
            number,
            shape,
        },
    );
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Model::And),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Model::Or),
            inner.prop_map(|part| Model::Not(Box::new(part))),
        ]
    })
}

fn rows() -> impl Strategy<Value = Row> {
    let cell = prop::option::of(prop_oneof![
        (-4_i64..5).prop_map(|number| number.to_string()),
        Just("x".to_owned()),
    ]);
    [cell.clone(), cell.clone(), cell]
}

proptest! {
    #[test]
    fn evaluation_equals_a_naive_model(model in models(), row in rows()) {
        let present: Vec<(&str, &str)> = NAMES
            .iter()
            .zip(&row)
            .filter_map(|(name, cell)| cell.as_deref().map(|cell| (*name, cell)))
            .collect();
        let filter = sql(&model.text());
        prop_assert_eq!(
            filter.matches(&message(None, &present)),
            model.truth(&row) == TRUE,
            "{}",
            model.text()
        );
    }

    #[test]
    fn the_normalised_text_reads_as_the_same_filter(model in models()) {
        let filter = sql(&model.text());
        let text = filter.to_string();
        let again = sql(text.strip_prefix("SQL92 ").unwrap());
        prop_assert_eq!(filter.fingerprint(), again.fingerprint());
        prop_assert_eq!(filter, again);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", tag in "\\PC{0,40}") {
        for kind in [FilterKind::Tag, FilterKind::Sql92] {
            if let Ok(filter) = Filter::parse(kind, &text) {
                let _ = filter.matches(&message(Some(&tag), &[("a", &tag)]));
            }
        }
    }

    #[test]
    fn no_heap_of_tokens_makes_it_panic(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "a", "b", "TAGS", "'x'", "1", "-2.5", "1e5", "0xF", "AND", "OR", "NOT", "IN", "IS",
                "NULL", "TRUE", "FALSE", "BETWEEN", "CONTAINS", "ENDSWITH", "(", ")", ",", "=",
                "<>", "<", ">=", "'", "-", ".", "1e", "|",
            ]),
            0..40,
        ),
        value in "\\PC{0,8}",
    ) {
        if let Ok(filter) = Filter::parse(FilterKind::Sql92, &tokens.join(" ")) {
            let _ = filter.matches(&message(None, &[("a", &value)]));
        }
    }
}
