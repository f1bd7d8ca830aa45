//! Looks at the quotes of a CSV file while it is read (RFC 4180), and ends it where they do not pair.
//!
//! The reader behind makes do with anything: a quote that is never closed would make one value of all lines behind it, without a word.
//! What passes through is unchanged; a file that breaks the rule ends with a [`BrokenQuote`].

use std::fmt;
use std::io::{self, Read};

use crate::import::LINE_BYTES_MAX;

/// A value begins with a quote, and where it ends nobody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokenQuote {
    /// Line on which the value begins, counted from 1.
    pub(crate) line: u64,
    /// What is wrong with it.
    pub(crate) what: &'static str,
}

impl fmt::Display for BrokenQuote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: a quote {}", self.line, self.what)
    }
}

impl std::error::Error for BrokenQuote {}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a value.
    Start,
    /// In a value without quotes, where a quote is a character like others.
    Plain,
    /// Between quotes, so many bytes long by now.
    Quoted { bytes: usize },
    /// Behind a quote, which closes the value or is the first of two that mean one.
    Closing { bytes: usize },
}

/// Passes a file on as long as its quotes pair.
pub(crate) struct Quotes<R> {
    inner: R,
    delimiter: u8,
    place: Place,
    line: u64,
    opened: u64,
    broken: Option<BrokenQuote>,
}

impl<R: Read> Quotes<R> {
    pub(crate) fn new(inner: R, delimiter: u8) -> Self {
        Self {
            inner,
            delimiter,
            place: Place::Start,
            line: 1,
            opened: 1,
            broken: None,
        }
    }

    /// What ended the file, if something did.
    pub(crate) fn broken(&self) -> Option<BrokenQuote> {
        self.broken
    }

    fn look(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for byte in bytes {
            let ends = *byte == self.delimiter || matches!(byte, b'\n' | b'\r');
            self.place = match (self.place, byte) {
                (Place::Start, b'"') => {
                    self.opened = self.line;
                    Place::Quoted { bytes: 0 }
                }
                (Place::Quoted { bytes }, b'"') => Place::Closing { bytes },
                (Place::Quoted { bytes } | Place::Closing { bytes }, _)
                    if bytes > LINE_BYTES_MAX =>
                {
                    return Err("is not closed within the bytes that a message may have");
                }
                (Place::Quoted { bytes }, _) | (Place::Closing { bytes }, b'"') => {
                    Place::Quoted { bytes: bytes + 1 }
                }
                (Place::Closing { .. }, _) if !ends => {
                    return Err("goes on behind the one that closes it");
                }
                (Place::Start | Place::Plain | Place::Closing { .. }, _) if ends => Place::Start,
                (Place::Start | Place::Plain | Place::Closing { .. }, _) => Place::Plain,
            };
            self.line += u64::from(*byte == b'\n');
        }
        if bytes.is_empty() && matches!(self.place, Place::Quoted { .. }) {
            return Err("is never closed");
        }
        Ok(())
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Err(what) = self.look(buffer.get(..count).unwrap_or_default()) else {
            return Ok(count);
        };
        let line = self.opened;
        let broken = *self.broken.insert(BrokenQuote { line, what });
        Err(io::Error::new(io::ErrorKind::InvalidData, broken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &[u8]) -> Option<(u64, &'static str)> {
        // One byte at a time: what is known of a quote must not depend on how the file comes.
        let each = text.iter().map(std::slice::from_ref);
        let chain = each.fold(Box::new(io::empty()) as Box<dyn Read>, |front, byte| {
            Box::new(front.chain(byte))
        });
        let mut quotes = Quotes::new(chain, b',');
        let read = quotes.read_to_end(&mut Vec::new());
        assert_eq!(read.is_err(), quotes.broken().is_some());
        quotes.broken().map(|broken| (broken.line, broken.what))
    }

    #[test]
    fn quotes_that_pair_pass() {
        for text in [
            "a,b\n1,2\n",
            "\"a\",\"b\"\r\n\"\"\"1\"\"\",\"2\n3\"",
            "a\"b,5\" tall\n",
            "\"\"\n",
            "",
        ] {
            assert_eq!(broken(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_value_without_an_end_is_told_by_the_line_that_it_begins_on() {
        assert_eq!(broken(b"a\n1\n\"x\n2\n"), Some((3, "is never closed")));
        let text = b"a\n\"x\n\"y\"\n";
        assert_eq!(
            broken(text),
            Some((2, "goes on behind the one that closes it"))
        );
    }

    #[test]
    fn no_more_is_held_of_a_value_than_a_message_may_have() {
        let mut text = b"a\n\"".to_vec();
        text.extend(std::iter::repeat_n(b'x', LINE_BYTES_MAX + 2));
        let mut quotes = Quotes::new(&text[..], b',');
        assert!(quotes.read_to_end(&mut Vec::new()).is_err());
        assert_eq!(quotes.broken().map(|broken| broken.line), Some(2));
    }
}
