//! The bytes of a file, as the Parquet crate asks for them.
//!
//! **Invariant.** They are read in whole blocks, and only those whose CRC32C is the manifest's are handed on. What the store
//! answers wrongly twice is damage.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use crate::format::checksum::crc32c;
use crate::format::manifest::File;

/// Bytes read at the end of a file in the hope that they hold its footer.
const FOOTER_HINT_BYTES: usize = 64 * 1024;
/// Parts of a file asked for at once.
const REQUESTS_MAX: usize = 16;

/// Bytes that are not those that were written.
#[derive(Debug, thiserror::Error)]
#[error("{what}; restore the file from a copy")]
struct Damage {
    what: &'static str,
}

pub(crate) fn damage(what: &'static str) -> ParquetError {
    ParquetError::External(Box::new(Damage { what }))
}

fn is_damage(error: &ParquetError) -> bool {
    matches!(error, ParquetError::External(source) if source.is::<Damage>())
}

/// What the object store said, when that is why a file could not be read; otherwise the file is damaged.
pub(crate) fn store_error(error: ParquetError) -> Result<object_store::Error, ParquetError> {
    match error {
        ParquetError::External(source) => match source.downcast() {
            Ok(source) => Ok(*source),
            Err(source) => Err(ParquetError::External(source)),
        },
        error => Err(error),
    }
}

/// Reads a file in blocks whose checksums hold.
#[derive(Clone, Debug)]
pub(crate) struct CheckedFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    blocks: Arc<[u32]>,
    block_bytes: u64,
}

impl CheckedFile {
    pub(crate) fn new(store: &Arc<dyn ObjectStore>, file: &File) -> Self {
        Self {
            store: Arc::clone(store),
            path: Path::from(file.key.as_str()),
            bytes: file.bytes,
            blocks: file.blocks.as_slice().into(),
            block_bytes: file.bytes_of_a_block(),
        }
    }

    /// The whole file.
    pub(crate) async fn all(&self) -> Result<Bytes, ParquetError> {
        let whole = 0..self.bytes;
        let mut bytes = self.fetch(Vec::from([whole])).await?;
        bytes.pop().ok_or_else(|| damage("nothing was read"))
    }

    async fn fetch(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        let spans = self.spans(&ranges)?;
        let fetched = match self.fetch_spans(&spans).await {
            // It may have happened on the way: what the store answers twice is what it holds.
            Err(error) if is_damage(&error) => self.fetch_spans(&spans).await?,
            fetched => fetched?,
        };
        let cut = |range: Range<u64>| {
            let (span, bytes) = spans
                .iter()
                .zip(&fetched)
                .find(|(span, _)| span.start <= range.start && range.end <= span.end)
                .ok_or_else(|| damage("a range lies outside the file"))?;
            let index = |at: u64| usize::try_from(at - span.start).map_err(|_| damage("too long"));
            Ok(bytes.slice(index(range.start)?..index(range.end)?))
        };
        ranges.into_iter().map(cut).collect()
    }

    /// Whole blocks, all asked for at once, each with its checksum checked.
    async fn fetch_spans(&self, spans: &[Range<u64>]) -> Result<Vec<Bytes>, ParquetError> {
        let request = |span: &Range<u64>| {
            let span = span.clone();
            async move {
                let bytes = self.store.get_range(&self.path, span.clone()).await;
                let bytes = bytes.map_err(|error| ParquetError::External(Box::new(error)))?;
                self.check(&span, &bytes)?;
                Ok(bytes)
            }
            .boxed()
        };
        let requests: Vec<BoxFuture<'_, _>> = spans.iter().map(request).collect();
        stream::iter(requests)
            .buffered(REQUESTS_MAX)
            .try_collect()
            .await
    }

    /// The whole blocks that cover the ranges, neighbours joined.
    fn spans(&self, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, ParquetError> {
        let mut blocks = BTreeSet::new();
        for range in ranges {
            if range.start > range.end || range.end > self.bytes {
                return Err(damage("a range lies outside the file"));
            }
            blocks.extend(range.start / self.block_bytes..range.end.div_ceil(self.block_bytes));
        }
        let mut spans: Vec<Range<u64>> = Vec::new();
        for block in blocks {
            let start = block * self.block_bytes;
            let end = (start + self.block_bytes).min(self.bytes);
            match spans.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => spans.push(start..end),
            }
        }
        Ok(spans)
    }

    fn check(&self, span: &Range<u64>, bytes: &Bytes) -> Result<(), ParquetError> {
        if bytes.len() as u64 != span.end - span.start {
            return Err(damage("the file is shorter than it was written"));
        }
        let block = usize::try_from(self.block_bytes).map_err(|_| damage("too long"))?;
        let first =
            usize::try_from(span.start / self.block_bytes).map_err(|_| damage("too long"))?;
        let expected = self.blocks.iter().skip(first);
        let mut chunks = bytes.chunks(block);
        // The checksums first: of two iterators the first one loses an item when the second one ends.
        for (expected, chunk) in expected.zip(chunks.by_ref()) {
            if crc32c(&[chunk]) != *expected {
                return Err(damage("a checksum differs"));
            }
        }
        match chunks.next() {
            None => Ok(()),
            Some(_) => Err(damage("a checksum is missing")),
        }
    }
}

impl AsyncFileReader for CheckedFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move {
            let mut bytes = self.fetch(vec![range]).await?;
            bytes.pop().ok_or_else(|| damage("nothing was read"))
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.fetch(ranges).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.bytes;
            let reader = ParquetMetaDataReader::new()
                .with_offset_index_policy(PageIndexPolicy::Required)
                .with_column_index_policy(PageIndexPolicy::Skip)
                .with_prefetch_hint(Some(FOOTER_HINT_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::message::TopicId;
    use object_store::memory::InMemory;

    use super::*;
    use crate::format::envelope::Envelope;
    use crate::tier::parquet::make;

    #[tokio::test]
    async fn bytes_are_handed_on_only_when_each_of_their_checksums_is_there_and_holds() {
        let body = Some(vec![7; 100].into());
        let message = Envelope {
            body,
            ..Envelope::default()
        };
        let made = make("a".to_owned(), TopicId(0), &[message], None).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        store
            .put(&Path::from("a"), made.bytes.clone().into())
            .await
            .unwrap();
        let mut file = made.file;
        assert_eq!(
            CheckedFile::new(&store, &file).all().await.unwrap(),
            made.bytes
        );
        let right = std::mem::take(&mut file.blocks);
        for blocks in [vec![], right.iter().map(|sum| sum ^ 1).collect()] {
            file.blocks = blocks;
            let read = CheckedFile::new(&store, &file).all().await;
            assert!(is_damage(&read.unwrap_err()));
        }
        file.blocks = right;
        file.bytes += 1;
        assert!(CheckedFile::new(&store, &file).all().await.is_err());
    }
}
