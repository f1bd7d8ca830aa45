//! A file that can be read once alone, as standard input, opened twice: the first reader keeps what it reads for the second.
//!
//! What is kept is what the types of columns are taken from, so its size is bounded as that is.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::import::Open;

/// The input, and what the first reader took of it.
struct Source {
    inner: Box<dyn Read + Send>,
    kept: Vec<u8>,
}

/// The reader that looks ahead.
struct First(Arc<Mutex<Source>>);

/// The reader that begins anew.
struct Second {
    source: Arc<Mutex<Source>>,
    at: usize,
}

/// Opens `input` as a file: the first time to look ahead, from then on for the rows.
pub(crate) fn opened(input: Box<dyn Read + Send>) -> Box<Open> {
    let source = Arc::new(Mutex::new(Source {
        inner: input,
        kept: Vec::new(),
    }));
    let is_first = Mutex::new(true);
    Box::new(move || {
        let mut is_first = is_first.lock().unwrap_or_else(PoisonError::into_inner);
        let source = Arc::clone(&source);
        Ok(match std::mem::take(&mut *is_first) {
            true => Box::new(First(source)) as Box<dyn Read + Send>,
            false => Box::new(Second { source, at: 0 }),
        })
    })
}

impl Read for First {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut source = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = source.inner.read(buffer)?;
        source.kept.extend(buffer.iter().take(count));
        Ok(count)
    }
}

impl Read for Second {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = source.kept.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            source.kept = Vec::new();
            self.at = 0;
            return source.inner.read(buffer);
        }
        let count = rest.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_second_reader_begins_where_the_first_began() {
        let open = opened(Box::new(Cursor::new("a,b\n1,2\n3,4\n")));
        let (mut first, mut second) = (open().unwrap(), open().unwrap());
        let mut ahead = [0; 6];
        first.read_exact(&mut ahead).unwrap();
        drop(first);
        let mut all = String::new();
        second.read_to_string(&mut all).unwrap();
        assert_eq!(all, "a,b\n1,2\n3,4\n");
    }
}
