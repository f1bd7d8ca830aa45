//! JSON as a text of which parts are wanted: each part is answered as it is written, whitespace apart.
//!
//! So numbers keep all their digits, whatever a float could hold, and members their order. Nothing is built but what is asked
//! for, and nesting has no bound. Of members with one name the last one counts, as in PostgreSQL.

use serde::de::IgnoredAny;
use serde_json::Deserializer;

/// What stands between the parts of JSON.
const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// One value of JSON, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Json<'a>(&'a str);

/// What kinds of values there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Truth,
    Number,
    Text,
    Array,
    Object,
}

impl<'a> Json<'a> {
    /// A text that is JSON, and nothing but one value.
    pub(crate) fn of(text: &'a str) -> Option<Self> {
        let text = text.trim_matches(WHITESPACE);
        (end_of(text)? == text.len()).then_some(Self(text))
    }

    pub(crate) fn kind(self) -> Kind {
        match self.0.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::Text,
            Some(b't' | b'f') => Kind::Truth,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// The member of an object.
    pub(crate) fn member(self, name: &str) -> Option<Self> {
        let members = self.members()?;
        let named = members.filter(|(key, _)| key.is_text(name));
        named.last().map(|(_, value)| value)
    }

    /// The element of an array at a place, counted from 0.
    pub(crate) fn place(self, place: usize) -> Option<Self> {
        self.items()?.nth(place)
    }

    /// The elements of an array.
    pub(crate) fn items(self) -> Option<impl Iterator<Item = Self>> {
        let mut rest = self.0.strip_prefix('[')?;
        Some(std::iter::from_fn(move || next_value(&mut rest)))
    }

    /// The names and values of an object.
    pub(crate) fn members(self) -> Option<impl Iterator<Item = (Self, Self)>> {
        let mut rest = self.0.strip_prefix('{')?;
        Some(std::iter::from_fn(move || {
            Some((next_value(&mut rest)?, next_value(&mut rest)?))
        }))
    }

    /// The text that a text stands for.
    pub(crate) fn text(self) -> Option<String> {
        serde_json::from_str(self.0).ok()
    }

    /// Whether it is a text that stands for this one.
    fn is_text(self, wanted: &str) -> bool {
        match self.0.contains('\\') {
            true => self.text().is_some_and(|text| text == wanted),
            false => self.0.get(1..self.0.len() - 1) == Some(wanted),
        }
    }

    /// A whole number of 64 bits.
    pub(crate) fn whole(self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// The nearest float of a number, if one is near.
    pub(crate) fn float(self) -> Option<f64> {
        let number = (self.kind() == Kind::Number).then(|| self.0.parse::<f64>());
        number?.ok().filter(|number| number.is_finite())
    }

    pub(crate) fn truth(self) -> Option<bool> {
        self.0.parse().ok()
    }

    /// As it is written, without whitespace between its parts.
    pub(crate) fn written(self) -> String {
        if matches!(self.kind(), Kind::Text | Kind::Number) || !self.0.contains(WHITESPACE) {
            return self.0.to_owned();
        }
        let (mut in_text, mut is_escaped) = (false, false);
        let is_kept = |character: &char| {
            if in_text {
                in_text = is_escaped || *character != '"';
                is_escaped = !is_escaped && *character == '\\';
                return true;
            }
            in_text = *character == '"';
            !WHITESPACE.contains(character)
        };
        self.0.chars().filter(is_kept).collect()
    }

    /// A text as what it stands for, `null` as none, and anything else as it is written.
    pub(crate) fn shown(self) -> Option<String> {
        match self.kind() {
            Kind::Null => None,
            Kind::Text => self.text(),
            _ => Some(self.written()),
        }
    }
}

/// Where the value ends that a text begins with.
fn end_of(text: &str) -> Option<usize> {
    let mut values = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

/// The next value within an array or object that is known to be JSON; at its end there is none.
fn next_value<'a>(rest: &mut &'a str) -> Option<Json<'a>> {
    let is_between = |character: char| WHITESPACE.contains(&character) || ",:".contains(character);
    let from = rest.trim_start_matches(is_between);
    let (value, behind) = from.split_at(end_of(from)?);
    *rest = behind;
    Some(Json(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json<'_> {
        Json::of(text).unwrap_or_else(|| panic!("{text} is JSON"))
    }

    #[test]
    fn parts_are_answered_as_they_are_written() {
        let whole = json(
            r#" {"id": 12345678901234567890123, "p":19.90 ,"o":{"b":1, "a" : [ 2, "x y" ]}, "big":1e400} "#,
        );
        let member = |name: &str| whole.member(name).map(Json::written);
        assert_eq!(member("id").as_deref(), Some("12345678901234567890123"));
        assert_eq!(member("p").as_deref(), Some("19.90"));
        assert_eq!(member("o").as_deref(), Some(r#"{"b":1,"a":[2,"x y"]}"#));
        assert_eq!(member("big").as_deref(), Some("1e400"));
        assert_eq!(member("none"), None);
        assert_eq!(json("[1, 2]").member("a"), None);
        assert_eq!(json("[1, [2]]").place(1), Some(json("[2]")));
        assert_eq!(json("[1]").place(1), None);
        assert_eq!(json("{}").members().unwrap().count(), 0);
        assert_eq!(json("[ ]").items().unwrap().count(), 0);
    }

    #[test]
    fn names_and_texts_are_those_that_escapes_stand_for() {
        let whole = json(r#"{"a\"b":"\u00e4 \\ \" x", "k":1, "k" : 2}"#);
        assert_eq!(
            whole.member("a\"b").unwrap().text().as_deref(),
            Some("ä \\ \" x")
        );
        assert_eq!(whole.member("k"), Some(json("2")), "the last one counts");
        assert_eq!(
            json(r#"{"a" : "\" , {", "b": [ ] }"#).written(),
            r#"{"a":"\" , {","b":[]}"#
        );
    }

    #[test]
    fn values_are_told_by_their_kind() {
        assert_eq!((json("12").whole(), json("1.5").whole()), (Some(12), None));
        assert_eq!(
            (json("1.5").float(), json("1e400").float()),
            (Some(1.5), None)
        );
        assert_eq!(
            (json("true").truth(), json("\"true\"").truth()),
            (Some(true), None)
        );
        assert_eq!(
            (json("null").shown(), json("\"x\"").shown()),
            (None, Some("x".to_owned()))
        );
        assert_eq!(json("\"12\"").whole(), None);
    }

    #[test]
    fn what_is_no_json_is_none_however_deep_it_is() {
        for text in ["", " ", "{", "[1,]", "nul", "1 2", "{\"a\" 1}", "'a'"] {
            assert_eq!(Json::of(text), None, "{text}");
        }
        let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
        let mut at = json(&deep);
        for _ in 0..1000 {
            at = at.place(0).unwrap();
        }
        assert_eq!(at.whole(), Some(1));
    }

    proptest! {
        #[test]
        fn it_takes_what_a_parser_takes_and_keeps_what_it_means(text in "[\\[\\]{}\",:0-9a-c.eE \\\\-]{0,24}") {
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                let written = json(&text).written();
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
            }
            if let Some(found) = Json::of(&text) {
                prop_assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok());
                prop_assert_eq!(Json::of(&found.written()).map(Json::kind), Some(found.kind()));
            }
        }
    }
}
