//! Exports: the rows of a query as one Parquet file below the export folder.
//!
//! **Invariant.** Nothing is written outside that folder: the store passed in is rooted there, and paths
//! are checked before it is asked. The file appears whole or not at all, and replaces an older one at once.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::ParquetObjectWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::error::SqlError;

/// Longest path of an export.
pub const PATH_BYTES_MAX: usize = 512;

/// Rows of one row group, which is what the writer holds in memory.
const ROW_GROUP_ROWS: usize = 128 * 1024;

/// A path that may be written: relative, below the export folder, ending in `.parquet`.
///
/// # Errors
/// [`SqlError::Invalid`] that says which rule the path breaks.
pub fn checked_path(path: &str) -> Result<Path, SqlError> {
    let refuse = |cause: &str| {
        Err(SqlError::invalid(
            format!("COPY can not write to '{path}': {cause}"),
            "write a relative path below the export folder, for example 'reports/flights.parquet'",
        ))
    };
    if path.len() > PATH_BYTES_MAX {
        return refuse("the path is too long");
    }
    if path.contains("://") || path.contains(':') {
        return refuse("it names a drive or another store");
    }
    if path.starts_with(['/', '\\', '~']) {
        return refuse("it is not relative");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return refuse("it holds characters that a file name should not");
    }
    for segment in path.split('/') {
        match segment {
            "" => return refuse("a part of it is empty"),
            "." | ".." => return refuse("it leaves or repeats its folder"),
            _ => {}
        }
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if name.strip_suffix(".parquet").is_none_or(str::is_empty) {
        return refuse("it does not end in .parquet");
    }
    match Path::parse(path) {
        Ok(parsed) => Ok(parsed),
        Err(_) => refuse("it holds characters that a file name should not"),
    }
}

/// Writes rows to `path` and answers how many they were.
///
/// # Errors
/// Those of the query, and [`SqlError::Export`] when the store can not be written.
pub async fn copy(
    mut rows: SendableRecordBatchStream,
    store: &Arc<dyn ObjectStore>,
    path: &Path,
) -> Result<u64, SqlError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let target = ParquetObjectWriter::new(Arc::clone(store), path.clone());
    let mut writer = AsyncArrowWriter::try_new(target, rows.schema(), Some(properties))
        .map_err(|error| export_error(error, path))?;
    let mut count = 0;
    while let Some(batch) = rows.try_next().await? {
        count += batch.num_rows() as u64;
        writer
            .write(&batch)
            .await
            .map_err(|error| export_error(error, path))?;
    }
    // Only now does the file appear; an error above drops the writer, and nothing is left.
    writer
        .close()
        .await
        .map_err(|error| export_error(error, path))?;
    Ok(count)
}

fn export_error(error: ParquetError, path: &Path) -> SqlError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
            Ok(source) => SqlError::Export {
                path: path.to_string(),
                source: Arc::new(*source),
            },
            Err(inner) => SqlError::Export {
                path: path.to_string(),
                source: Arc::new(object_store::Error::Generic {
                    store: "export",
                    source: inner,
                }),
            },
        },
        other => SqlError::invalid(
            format!("these columns can not be written as Parquet: {other}"),
            "cast or leave out the column in question",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_parquet_paths_below_the_folder_are_taken() {
        for good in [
            "a.parquet",
            "reports/2013/flights.parquet",
            "ünï code.parquet",
        ] {
            assert!(checked_path(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".parquet",
            "a.csv",
            "/etc/a.parquet",
            "../a.parquet",
            "a/../../b.parquet",
            "./a.parquet",
            "s3://bucket/a.parquet",
            "file:///a.parquet",
            "C:a.parquet",
            "C:\\a.parquet",
            "~/a.parquet",
            "a//b.parquet",
            "a\0.parquet",
            "a\n.parquet",
            "a.parquet/",
        ] {
            let error = checked_path(bad).unwrap_err().to_string();
            assert!(error.contains("export folder"), "{bad}: {error}");
        }
    }
}
