//! Changes as Debezium writes them in JSON: `before`, `after` and `op`, alone or as the `payload` beside a `schema`.
//!
//! `c`, `r` and `u` make a row what `after` says, `d` deletes it and leaves `before`. What else is in a change (`source`, `ts_ms`, `transaction`) is passed
//! over; `t` (truncate) and `m` (message) tell of no row and are errors. Only the span of a row is found here; the JSON reader
//! reads and checks it.

use crate::format::fit::Bad;

/// What a message says of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The row's JSON: as it is now, or as it was when it was deleted (then it may be missing).
    pub row: Option<&'a [u8]>,
    /// Whether the row is no more.
    pub deleted: bool,
}

/// Deepest nesting of objects and arrays that is passed over.
const DEPTH_MAX: usize = 128;

/// Reads a message.
///
/// # Errors
/// Why it is none of Debezium's.
pub fn read(body: &[u8]) -> Result<Change<'_>, Bad> {
    let members = members(body)?;
    let of = |name: &str| {
        let mut found = members.iter().rev();
        found
            .find(|(key, _)| *key == name.as_bytes())
            .map(|(_, value)| *value)
    };
    // A change may have a member of that name as well.
    if let Some(payload) = of("payload").filter(|_| of("op").is_none()) {
        if payload.starts_with(b"{") {
            return read(payload);
        }
        return Err("the payload of the change is no object".into());
    }
    let row = |name: &str| of(name).filter(|value| *value != b"null");
    match of("op") {
        Some(b"\"c\"" | b"\"r\"" | b"\"u\"") => match row("after") {
            Some(after) => Ok(Change {
                row: Some(after),
                deleted: false,
            }),
            None => Err("the change has no after".into()),
        },
        Some(b"\"d\"") => Ok(Change {
            row: row("before"),
            deleted: true,
        }),
        Some(other) => Err(format!(
            "op {} tells of no row; c, r, u and d do",
            String::from_utf8_lossy(other)
        )
        .into()),
        None => Err("the body has no op, so it is no change as Debezium writes them".into()),
    }
}

/// Name and value as they are written.
type Member<'a> = (&'a [u8], &'a [u8]);

/// The members of an object.
fn members(body: &[u8]) -> Result<Vec<Member<'_>>, Bad> {
    let mut text = Text { body, at: 0 };
    text.space();
    text.expect(b'{')?;
    let mut members = Vec::new();
    text.space();
    if text.peek() == Some(b'}') {
        text.at += 1;
    } else {
        loop {
            text.space();
            let name = text.value(0)?;
            let name = name
                .strip_prefix(b"\"")
                .and_then(|name| name.strip_suffix(b"\""));
            let name = name.ok_or("a member of the object has no name")?;
            text.space();
            text.expect(b':')?;
            text.space();
            members.push((name, text.value(0)?));
            text.space();
            match text.peek() {
                Some(b',') => text.at += 1,
                _ => break,
            }
        }
        text.expect(b'}')?;
    }
    text.space();
    match text.peek() {
        None => Ok(members),
        Some(_) => Err("something follows the object".into()),
    }
}

struct Text<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Bad> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(format!("{} is missing at byte {}", char::from(byte), self.at).into())
    }

    /// Passes over a value and answers its span.
    fn value(&mut self, depth: usize) -> Result<&'a [u8], Bad> {
        if depth > DEPTH_MAX {
            return Err("the body is nested too deep".into());
        }
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.text()?,
            Some(open @ (b'{' | b'[')) => {
                let close = if open == b'{' { b'}' } else { b']' };
                self.at += 1;
                loop {
                    match self.peek() {
                        Some(byte) if byte == close => {
                            self.at += 1;
                            break;
                        }
                        Some(b' ' | b'\n' | b'\r' | b'\t' | b',' | b':') => self.at += 1,
                        Some(_) => {
                            self.value(depth + 1)?;
                        }
                        None => return Err("the body ends within an object or array".into()),
                    }
                }
            }
            _ => {
                while matches!(self.peek(), Some(byte) if byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
                {
                    self.at += 1;
                }
                if self.at == start {
                    return Err(format!("a value is missing at byte {start}").into());
                }
            }
        }
        Ok(self.body.get(start..self.at).unwrap_or_default())
    }

    fn text(&mut self) -> Result<(), Bad> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err("the body ends within a text".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_tells_its_row_with_and_without_a_schema() {
        let plain = br#"{"before":{"id":1,"t":"}\""},"after":{"id":1,"a":[{}]},"source":{"db":"x"},"op":"u","ts_ms":5}"#;
        let row = &br#"{"id":1,"a":[{}]}"#[..];
        let expected = Change {
            row: Some(row),
            deleted: false,
        };
        assert_eq!(read(plain), Ok(expected));
        let mut wrapped = br#"{"schema":{"type":"struct"}, "payload" : "#.to_vec();
        wrapped.extend_from_slice(plain);
        wrapped.push(b'}');
        assert_eq!(read(&wrapped), Ok(expected));
        let deleted = read(br#"{"before":{"id":1},"after":null,"op":"d"}"#).unwrap();
        assert_eq!(
            (deleted.row, deleted.deleted),
            (Some(&b"{\"id\":1}"[..]), true)
        );
        let bare = read(br#"{"before":null,"op":"d"}"#).unwrap();
        assert_eq!((bare.row, bare.deleted), (None, true));
        let beside = read(br#"{"payload":1,"after":{"id":1},"op":"c"}"#).unwrap();
        assert_eq!(beside.row, Some(&b"{\"id\":1}"[..]));
    }

    #[test]
    fn what_is_no_change_says_why() {
        for (body, reason) in [
            ("", "{ is missing"),
            ("{}", "no op"),
            (r#"{"op":"t"}"#, "tells of no row"),
            (r#"{"op":"c"}"#, "no after"),
            (r#"{"payload":null}"#, "payload"),
            (r#"{"op":"c","after":{"a":1}"#, "} is missing"),
            (r#"{"op":"c","after":{"a":1}} x"#, "follows"),
            (r#"{"op":"c","after":{"a"#, "ends within"),
        ] {
            let error = read(body.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{body}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in "[{}\\[\\]\",:opaftercd\\\\ 0-9]{0,60}") {
            let _ = read(body.as_bytes());
        }
    }
}
