//! One Parquet file of the cold tier: making it, and reading rows of it with every byte checked.
//!
//! **Invariants.** Rows keep the order of the messages. A row group holds at most
//! [`GROUP_BYTES_MAX`] of messages (or one larger message) and [`GROUP_ROWS_MAX`] rows. A reader gets
//! bytes only in whole blocks whose CRC32C is the manifest's, so a damaged file is an error and never
//! other data.
//!
//! Reading order: this file (what files are like, and reading rows), `make`, `merge`, `checked`.
//!
//! Bytes: `storage/FORMAT.md`, Parquet file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use millpond_proto::message::TopicId;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::format::columns::schema;
use crate::format::manifest::{BLOCK_BYTES, File, Run, block_checksums};
use crate::tier::columns::{Columns, file_schema};
pub(crate) use crate::tier::parquet::checked::{CheckedFile, damage, store_error};
pub(crate) use crate::tier::parquet::make::{BATCH_BYTES, BATCH_ROWS_MAX, make, size_of};
pub(crate) use crate::tier::parquet::merge::{Merge, WRITE_BATCH_UNKNOWN};

mod checked;
mod make;
mod merge;

/// Most bytes of messages in a row group: what a reader holds in memory at once.
pub(crate) const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most rows in a row group.
pub(crate) const GROUP_ROWS_MAX: usize = 65_536;
/// Size at which a page is closed: a reader of one message decompresses this much.
const PAGE_BYTES: usize = 128 * 1024;
/// Rows decoded at once.
const BATCH_ROWS: usize = 8192;

/// Columns with a Bloom filter per row group: messages are looked up by them.
pub(crate) const INDEXED: [&str; 2] = ["message_id", "keys.list.element"];
/// Share of values that a filter does not rule out although they are not there. Filters are made for a full
/// row group and folded to what the values need.
const FILTER_FALSE_SHARE: f64 = 0.02;

/// A file that was made and not put anywhere yet.
#[derive(Debug)]
pub(crate) struct Made {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// What a manifest says of it.
    pub(crate) file: File,
}

fn writer(
    topic: TopicId,
    typed: Option<&dyn Columns>,
    write_batch: usize,
) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    let properties = properties(topic, typed, write_batch)?;
    ArrowWriter::try_new(Vec::new(), file_schema(typed), Some(properties))
}

/// What a manifest says of a file beside its rows.
pub(crate) struct Bounds {
    pub(crate) stored_first_ms: Option<i64>,
    pub(crate) stored_last_ms: Option<i64>,
    pub(crate) columns: u64,
    pub(crate) bodiless: u64,
}

pub(crate) fn finish(
    writer: ArrowWriter<Vec<u8>>,
    key: String,
    runs: Vec<Run>,
    known: Bounds,
) -> Result<Made, ParquetError> {
    let bytes = writer.into_inner()?;
    let file = File {
        key,
        bytes: bytes.len() as u64,
        rows: runs.iter().map(|run| run.count).sum(),
        runs,
        blocks: block_checksums(&bytes),
        block_bytes: BLOCK_BYTES,
        stored_first_ms: known.stored_first_ms,
        stored_last_ms: known.stored_last_ms,
        added: 0,
        columns: known.columns,
        listed: 0,
        compacted: false,
        bodiless: Some(known.bodiless),
        hidden: false,
    };
    Ok(Made {
        bytes: bytes.into(),
        file,
    })
}

/// Every column of a file, in order.
pub(crate) fn column_names() -> Vec<&'static str> {
    static SCHEMA: std::sync::LazyLock<arrow::datatypes::SchemaRef> =
        std::sync::LazyLock::new(schema);
    SCHEMA.fields().iter().map(|f| f.name().as_str()).collect()
}

pub(crate) fn numbers(batch: &RecordBatch, column: &str) -> Option<Vec<i64>> {
    let values = batch.column_by_name(column)?;
    let values = arrow::compute::cast(values, &DataType::Int64).ok()?;
    let values = values.as_primitive_opt::<arrow::datatypes::Int64Type>()?;
    Some(values.values().to_vec())
}

/// The offsets of a batch's rows; none when it has no such column.
pub(crate) fn offsets_of(batch: &RecordBatch) -> Option<Vec<u64>> {
    let offsets = numbers(batch, "offset")?.into_iter();
    Some(offsets.map(i64::cast_unsigned).collect())
}

pub(crate) fn properties(
    topic: TopicId,
    typed: Option<&dyn Columns>,
    write_batch: usize,
) -> Result<WriterProperties, ParquetError> {
    let path = |name: &str| ColumnPath::new(name.split('.').map(str::to_owned).collect());
    let sorted = |column_idx| SortingColumn {
        column_idx,
        descending: false,
        nulls_first: false,
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("millpond ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS_MAX))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_write_batch_size(write_batch)
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled(path("tag"), true)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_sorting_columns(Some(vec![sorted(0), sorted(1)]))
        .set_key_value_metadata(Some(vec![
            KeyValue::new("millpond.format".to_owned(), "1".to_owned()),
            KeyValue::new("millpond.topic".to_owned(), topic.to_string()),
        ]));
    for name in ["queue", "offset", "stored_at", "born_at"] {
        builder = builder
            .set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED)
            .set_column_statistics_enabled(path(name), EnabledStatistics::Page);
    }
    for name in INDEXED {
        builder = builder
            .set_column_bloom_filter_enabled(path(name), true)
            .set_column_bloom_filter_fpp(path(name), FILTER_FALSE_SHARE);
    }
    for name in ["flags", "schema_id"] {
        builder = builder.set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
    }
    // Of what differs from row to row, or is the same in all, least and greatest rule out nothing.
    for name in [
        "message_id",
        "tag",
        "born_host",
        "body",
        "keys.list.element",
        "properties.list.element.key",
        "properties.list.element.text",
        "properties.list.element.binary",
    ] {
        builder = builder.set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    // Typed columns: few different texts are common, and a name may hold a dot.
    let texts = typed.into_iter().flat_map(Columns::columns);
    for column in texts.filter(|column| column.data_type == DataType::Utf8) {
        let path = ColumnPath::new(vec![column.stored_name()]);
        builder = builder.set_column_dictionary_enabled(path, true);
    }
    Ok(builder.build())
}

/// Reads and checks the footer of a file.
pub(crate) async fn footer(
    mut checked: CheckedFile,
    file: &File,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let footer = ArrowReaderMetadata::load_async(&mut checked, ArrowReaderOptions::new()).await?;
    if u64::try_from(footer.metadata().file_metadata().num_rows()) != Ok(file.rows) {
        return Err(damage("the footer counts other rows than the manifest"));
    }
    Ok(footer)
}

/// Batches of `rows` of a file, each with the columns named, in that order.
pub(crate) fn batches(
    checked: CheckedFile,
    footer: ArrowReaderMetadata,
    rows: Range<u64>,
    columns: &[&str],
) -> Result<ParquetRecordBatchStream<CheckedFile>, ParquetError> {
    let some = batches_of(checked, footer, rows, columns, |_| true)?;
    some.map(|(batches, _)| batches)
        .ok_or_else(|| damage("its rows end early"))
}

/// As [`batches`], of the row groups only that `is_kept` says; also how many rows they are. None when no
/// row group is left.
pub(crate) fn batches_of(
    checked: CheckedFile,
    footer: ArrowReaderMetadata,
    rows: Range<u64>,
    columns: &[&str],
    is_kept: impl Fn(usize) -> bool,
) -> Result<Option<(ParquetRecordBatchStream<CheckedFile>, u64)>, ParquetError> {
    let count = |rows: u64| usize::try_from(rows).map_err(|_| damage("too many rows"));
    let mask = ProjectionMask::columns(footer.parquet_schema(), columns.iter().copied());
    // Only the row groups that hold rows asked for: the others need no selectors then.
    let (mut groups, mut selectors, mut selected) = (Vec::new(), Vec::new(), 0);
    let mut start = 0;
    for (index, group) in footer.metadata().row_groups().iter().enumerate() {
        let end = start + u64::try_from(group.num_rows()).map_err(|_| damage("negative rows"))?;
        let wanted = start.max(rows.start)..end.min(rows.end);
        if wanted.start < wanted.end && is_kept(index) {
            groups.push(index);
            selectors.push(RowSelector::skip(count(wanted.start - start)?));
            selectors.push(RowSelector::select(count(wanted.end - wanted.start)?));
            selectors.push(RowSelector::skip(count(end - wanted.end)?));
            selected += wanted.end - wanted.start;
        }
        start = end;
    }
    if start < rows.end {
        return Err(damage("its rows end early"));
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let batches = ParquetRecordBatchStreamBuilder::new_with_metadata(checked, footer)
        .with_row_groups(groups)
        .with_row_selection(RowSelection::from(selectors))
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    Ok(Some((batches, selected)))
}

/// Brings the columns of a batch as read into the order asked for.
pub(crate) fn arrange(
    batch: &RecordBatch,
    columns: &[String],
) -> Result<RecordBatch, ParquetError> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays = Vec::with_capacity(columns.len());
    for name in columns {
        let column = batch.schema_ref().column_with_name(name);
        let (at, field) = column.ok_or_else(|| damage("a column is missing"))?;
        // The envelope's columns are as they are in the log, whatever a reader of files makes of their fields.
        let field = schema().field_with_name(name).unwrap_or(field).clone();
        fields.push(field);
        arrays.push(Arc::clone(batch.column(at)));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}

#[cfg(test)]
mod tests {
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

    use super::*;
    use crate::format::envelope::Envelope;

    fn message(queue: u32, offset: u64, body: usize) -> Envelope {
        Envelope {
            queue,
            offset,
            body: Some(vec![7; body].into()),
            ..Envelope::default()
        }
    }

    #[test]
    fn only_the_tag_has_a_dictionary_and_bodies_have_no_statistics() {
        let messages: Vec<_> = (0..1000).map(|offset| message(0, offset, 1000)).collect();
        let made = make("a".to_owned(), TopicId(0), &messages, None).unwrap();
        let read = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&made.bytes)
            .unwrap();
        let group = read.row_group(0);
        for column in group.columns() {
            let name = column.column_path().string();
            let dictionary = column.dictionary_page_offset().is_some();
            assert!(!dictionary || name == "tag", "{name}");
            if ["message_id", "tag", "born_host", "body"].contains(&name.as_str())
                || name.starts_with("properties")
                || name.starts_with("keys.")
            {
                assert!(column.statistics().is_none(), "{name}");
            }
        }
        let body = schema().index_of("body").unwrap();
        let leaf = group
            .columns()
            .iter()
            .position(|c| c.column_path().string() == "body");
        let pages = read.offset_index().unwrap()[0][leaf.unwrap()].page_locations();
        assert!(pages.len() >= 6, "{} pages of column {body}", pages.len());
    }
}
