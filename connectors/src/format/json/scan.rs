//! JSON text as tokens: what a column asks for is handed out, the rest is checked and skipped.
//!
//! Texts are passed over eight bytes at a time, and what most bodies hold (the name that is expected next, a short
//! whole number, a text without escapes) is taken by a quick way that answers `None` and takes nothing when
//! something else comes; the slow way then says what is wrong, if anything is.
//!
//! **Invariant.** Takes exactly the texts of RFC 8259 whose nesting is at most [`DEPTH_MAX`]: a body that is
//! accepted here is JSON for every other reader as well. Escapes that are half a character (`\ud83d` alone), which the
//! grammar lets pass, are refused: no text can hold them. Input is untrusted; nothing is indexed.

#![deny(clippy::indexing_slicing)]

use std::borrow::Cow;

/// How deep objects and arrays may nest.
pub(crate) const DEPTH_MAX: usize = 128;
/// Most digits of a number that is read while it is passed over.
const DIGITS_MAX: usize = 18;

/// A value, as far as a column of a table can hold one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Null,
    Boolean(bool),
    /// A number as it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An object as it is written.
    Object(&'a str),
    /// An array as it is written.
    Array(&'a str),
}

/// What is wrong with a text.
pub(crate) type Bad = Cow<'static, str>;

/// Reads one text from the front: [`begin`](Self::begin), then a name and a value each while there are
/// [`more`](Self::more), then [`end`](Self::end).
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Result<Self, Bad> {
        match std::str::from_utf8(body) {
            Ok(text) => Ok(Self { text, at: 0 }),
            Err(_) => Err("body is not UTF-8".into()),
        }
    }

    /// What was not read yet.
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Goes into the one object that the text must be; answers whether it has a member.
    pub(crate) fn begin(&mut self) -> Result<bool, Bad> {
        self.blanks();
        match self.peek() {
            Some(b'{') => {}
            Some(_) => return Err("body is not a JSON object".into()),
            None => return Err("body is empty".into()),
        }
        Ok(self.enter())
    }

    /// Takes the brace of an object; answers whether it has a member.
    fn enter(&mut self) -> bool {
        self.at += 1;
        self.blanks();
        !self.take(b'}')
    }

    /// Behind a member: whether another follows.
    pub(crate) fn more(&mut self) -> Result<bool, Bad> {
        self.blanks();
        if self.take(b',') {
            self.blanks();
            return Ok(true);
        }
        if self.take(b'}') {
            return Ok(false);
        }
        Err(self.unexpected("a comma or the end of the object"))
    }

    /// Nothing may follow the object.
    pub(crate) fn end(&mut self) -> Result<(), Bad> {
        self.blanks();
        match self.peek() {
            None => Ok(()),
            Some(b'{') => Err("body holds more than one JSON object".into()),
            Some(_) => Err("body goes on behind its JSON object".into()),
        }
    }

    /// Takes this name and its colon, written as [`quoted`] writes them, if exactly that comes next.
    pub(crate) fn take_name(&mut self, quoted: &[u8]) -> bool {
        let found = !quoted.is_empty() && self.rest().starts_with(quoted);
        if found {
            self.at += quoted.len();
            self.blanks();
        }
        found
    }

    /// The name of a member and its colon.
    pub(crate) fn name(&mut self) -> Result<Cow<'a, str>, Bad> {
        self.blanks();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a name"));
        }
        let name = self.string()?;
        self.blanks();
        if !self.take(b':') {
            return Err(self.unexpected("a colon"));
        }
        self.blanks();
        Ok(name)
    }

    /// The value of a member.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Bad> {
        self.value(1)
    }

    /// A whole number of few digits, if one between the bounds comes next.
    pub(crate) fn quick_integer(&mut self, min: i64, max: i64) -> Option<i64> {
        let rest = self.rest();
        let is_negative = rest.first() == Some(&b'-');
        let digits = rest.get(usize::from(is_negative)..)?;
        let mut value = 0_i64;
        let mut count = 0;
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            if count == DIGITS_MAX {
                return None;
            }
            value = value * 10 + i64::from(digit);
            count += 1;
        }
        if count == 0 || (count > 1 && digits.first() == Some(&b'0')) {
            return None;
        }
        if matches!(digits.get(count), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        let value = if is_negative { -value } else { value };
        if !(min..=max).contains(&value) {
            return None;
        }
        self.at += usize::from(is_negative) + count;
        Some(value)
    }

    /// A text without escapes, if one comes next.
    pub(crate) fn quick_text(&mut self) -> Option<&'a str> {
        let text = self.peek_text()?;
        self.at += text.len() + 2;
        Some(text)
    }

    /// As [`Self::quick_text`], and takes it only if something can be made of it.
    pub(crate) fn quick_text_as<T>(&mut self, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.peek_text()?;
        let value = read(text)?;
        self.at += text.len() + 2;
        Some(value)
    }

    fn peek_text(&self) -> Option<&'a str> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let start = self.at + 1;
        let end = start + plain_length(self.text.as_bytes().get(start..)?);
        if self.text.as_bytes().get(end) != Some(&b'"') {
            return None;
        }
        self.text.get(start..end)
    }

    fn value(&mut self, depth: usize) -> Result<Token<'a>, Bad> {
        self.blanks();
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string().map(Token::Text),
            Some(b'-' | b'0'..=b'9') => self.number().map(Token::Number),
            Some(b't') => self.word("true", Token::Boolean(true)),
            Some(b'f') => self.word("false", Token::Boolean(false)),
            Some(b'n') => self.word("null", Token::Null),
            Some(b'{' | b'[') if depth >= DEPTH_MAX => {
                Err(format!("JSON nests deeper than {DEPTH_MAX} levels").into())
            }
            Some(b'{') => {
                let mut more = self.enter();
                while more {
                    self.name()?;
                    self.value(depth + 1)?;
                    more = self.more()?;
                }
                Ok(Token::Object(self.since(start)))
            }
            Some(b'[') => {
                self.elements(depth + 1)?;
                Ok(Token::Array(self.since(start)))
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    /// What was read from a place on.
    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn elements(&mut self, depth: usize) -> Result<(), Bad> {
        self.at += 1;
        self.blanks();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.blanks();
            if self.take(b']') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(self.unexpected("a comma or the end of the array"));
            }
        }
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, Bad> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(token)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<&'a str, Bad> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(self.unexpected("a digit"));
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(self.unexpected("a digit"));
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        Ok(self.since(start))
    }

    /// A text in quotes; borrowed unless it has escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, Bad> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_length(self.rest());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => return Err("a text holds a control character".into()),
                None => return Err("JSON ends within a text".into()),
            }
        }
        self.at += 1;
        if escaped {
            let quoted = self.since(start);
            return serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| {
                "a text holds an escape that JSON does not have, or half a character".into()
            });
        }
        let inner = self.text.get(start + 1..self.at - 1);
        Ok(Cow::Borrowed(inner.unwrap_or_default()))
    }

    fn unexpected(&self, expected: &str) -> Bad {
        let rest = self.text.get(self.at..).unwrap_or_default();
        match rest.chars().next() {
            Some(found) => {
                format!("expected {expected}, found {found:?} at byte {}", self.at).into()
            }
            None => "JSON ends within an object".into(),
        }
    }
}

/// A name as most bodies write it, with its colon; empty when it can not be written without escapes.
pub(crate) fn quoted(name: &str) -> Vec<u8> {
    if plain_length(name.as_bytes()) < name.len() {
        return Vec::new();
    }
    format!("\"{name}\":").into_bytes()
}

/// How many bytes come before the first that ends a plain run of text: a quote, a backslash or a control character.
fn plain_length(bytes: &[u8]) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let marks = special(u64::from_le_bytes(*word));
        if marks != 0 {
            return at * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    bytes.len() - tail.len() + tail.iter().position(special).unwrap_or(tail.len())
}

/// Marks the high bit of the bytes that end a plain run. The lowest mark is exact; a borrow may set others above it.
fn special(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, bound: u64| word.wrapping_sub(EACH * bound) & !word;
    let quote = below(word ^ (EACH * u64::from(b'"')), 1);
    let backslash = below(word ^ (EACH * u64::from(b'\\')), 1);
    (quote | backslash | below(word, 0x20)) & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The members of a body as they are handed out.
    fn members(body: &[u8]) -> Result<Vec<(String, String)>, Bad> {
        let mut scanner = Scanner::new(body)?;
        let mut members = Vec::new();
        let mut more = scanner.begin()?;
        while more {
            let name = scanner.name()?.into_owned();
            members.push((name, format!("{:?}", scanner.token()?)));
            more = scanner.more()?;
        }
        scanner.end()?;
        Ok(members)
    }

    fn accepts(body: &[u8]) -> bool {
        members(body).is_ok()
    }

    #[test]
    fn members_are_handed_out_in_order_and_nested_ones_as_they_are_written() {
        let body = r#" { "a" : 1.50e+2 , "b\u0031":"x\n", "c": [ {"d":1},[]] , "e":{"a":{}}, "f":null, "g":true } "#;
        let found = members(body.as_bytes()).unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b1", "c", "e", "f", "g"]);
        let tokens: Vec<&str> = found.iter().map(|(_, token)| token.as_str()).collect();
        assert_eq!(
            tokens.get(..4),
            Some(
                &[
                    r#"Number("1.50e+2")"#,
                    r#"Text("x\n")"#,
                    r#"Array("[ {\"d\":1},[]]")"#,
                    r#"Object("{\"a\":{}}")"#,
                ][..]
            )
        );
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(accepts(deep(100).as_bytes()));
        assert!(!accepts(deep(100_000).as_bytes()));
    }

    /// Bytes that often come near to JSON.
    fn near_json() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"b\\u00e9\"",
            "\"\\x\"",
            "\"\\",
            "1",
            "-0",
            "01",
            "1.",
            "2.5e-3",
            "1e",
            "true",
            "nul",
            "null",
            " ",
            "\n",
            "\u{e9}",
            "\"\u{1}\"",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| {
            let inner = pieces.concat();
            inner.into_bytes()
        })
    }

    proptest! {
        #[test]
        fn exactly_the_objects_of_another_reader_are_accepted(bytes in near_json(), whole in any::<bool>()) {
            let body = if whole {
                [b"{\"k\":".as_slice(), &bytes, b"}"].concat()
            } else {
                bytes
            };
            let other = match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body) {
                Ok(_) => true,
                // A number may be larger than that reader can hold and is JSON none the less.
                Err(error) if error.to_string().contains("out of range") => accepts(&body),
                Err(_) => false,
            };
            prop_assert_eq!(accepts(&body), other, "{}", String::from_utf8_lossy(&body));
        }

        #[test]
        fn a_plain_run_ends_where_a_look_at_each_byte_says(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), 0x1e_u8..0x24, 0x59_u8..0x5f], 0..40
        )) {
            let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let expected = bytes.iter().position(special).unwrap_or(bytes.len());
            prop_assert_eq!(plain_length(&bytes), expected);
        }

        #[test]
        fn the_quick_way_takes_what_the_slow_way_takes_or_nothing(bytes in near_json(), min in -3_i64..3) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let scanner = || Scanner { text: &text, at: 0 };
            let (mut quick, mut slow) = (scanner(), scanner());
            match quick.quick_integer(min, 1000) {
                None => prop_assert_eq!(quick.at, 0),
                Some(value) => {
                    let token = slow.token().unwrap();
                    prop_assert!(matches!(token, Token::Number(text) if text.parse() == Ok(value)));
                    prop_assert_eq!(quick.at, slow.at);
                    prop_assert!(value >= min);
                }
            }
            let (mut quick, mut slow) = (scanner(), scanner());
            match quick.quick_text() {
                None => prop_assert_eq!(quick.at, 0),
                Some(text) => {
                    prop_assert_eq!(slow.token(), Ok(Token::Text(Cow::Borrowed(text))));
                    prop_assert_eq!(quick.at, slow.at);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            accepts(&bytes);
        }
    }
}
