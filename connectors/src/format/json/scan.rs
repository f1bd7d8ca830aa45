//! JSON text as tokens, one look per byte: what a column asks for is handed out, the rest is checked and skipped.
//!
//! **Invariant.** Takes exactly the texts of RFC 8259 whose nesting is at most [`DEPTH_MAX`]: a body that is
//! accepted here is JSON for every other reader as well. Input is untrusted; nothing is indexed.

#![deny(clippy::indexing_slicing)]

use std::borrow::Cow;

/// How deep objects and arrays may nest.
pub(crate) const DEPTH_MAX: usize = 128;

/// A value, as far as a column of a table can hold one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Null,
    Boolean(bool),
    /// A number as it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    /// An object, skipped.
    Object,
    /// An array, skipped.
    Array,
}

/// What is wrong with a text.
pub(crate) type Bad = Cow<'static, str>;

/// Reads one text from the front.
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

    /// Reads the one object that the text must be, member by member.
    pub(crate) fn object(
        &mut self,
        mut member: impl FnMut(&str, Token<'a>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        self.blanks();
        match self.peek() {
            Some(b'{') => {}
            Some(_) => return Err("body is not a JSON object".into()),
            None => return Err("body is empty".into()),
        }
        self.members(1, &mut member)?;
        self.blanks();
        match self.peek() {
            None => Ok(()),
            Some(b'{') => Err("body holds more than one JSON object".into()),
            Some(_) => Err("body goes on behind its JSON object".into()),
        }
    }

    fn members(
        &mut self,
        depth: usize,
        member: &mut dyn FnMut(&str, Token<'a>) -> Result<(), Bad>,
    ) -> Result<(), Bad> {
        self.at += 1;
        self.blanks();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a name"));
            }
            let name = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err(self.unexpected("a colon"));
            }
            let value = self.value(depth)?;
            member(&name, value)?;
            self.blanks();
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(self.unexpected("a comma or the end of the object"));
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Token<'a>, Bad> {
        self.blanks();
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
                self.members(depth + 1, &mut |_, _| Ok(()))?;
                Ok(Token::Object)
            }
            Some(b'[') => self.elements(depth + 1),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn elements(&mut self, depth: usize) -> Result<Token<'a>, Bad> {
        self.at += 1;
        self.blanks();
        if self.take(b']') {
            return Ok(Token::Array);
        }
        loop {
            self.value(depth)?;
            self.blanks();
            if self.take(b']') {
                return Ok(Token::Array);
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
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    /// A text in quotes; borrowed unless it has escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, Bad> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return Err("a text holds a control character".into()),
                Some(_) => self.at += 1,
                None => return Err("JSON ends within a text".into()),
            }
        }
        self.at += 1;
        if escaped {
            let quoted = self.text.get(start..self.at).unwrap_or_default();
            return serde_json::from_str(quoted)
                .map(Cow::Owned)
                .map_err(|_| "a text holds an escape that JSON does not have".into());
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(body: &[u8]) -> bool {
        Scanner::new(body)
            .and_then(|mut scanner| scanner.object(|_, _| Ok(())))
            .is_ok()
    }

    #[test]
    fn members_are_handed_out_in_order_and_nested_ones_are_skipped() {
        let body = r#" { "a" : 1.50e+2 , "b\u0031":"x\n", "c":[{"d":1},[]], "e":{"a":2}, "f":null, "g":true } "#;
        let mut found = Vec::new();
        let mut scanner = Scanner::new(body.as_bytes()).unwrap();
        scanner
            .object(|name, token| {
                found.push((name.to_owned(), format!("{token:?}")));
                Ok(())
            })
            .unwrap();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b1", "c", "e", "f", "g"]);
        let tokens: Vec<&str> = found.iter().map(|(_, token)| token.as_str()).collect();
        assert_eq!(
            tokens.get(..3),
            Some(&["Number(\"1.50e+2\")", "Text(\"x\\n\")", "Array"][..])
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
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            accepts(&bytes);
        }
    }
}
