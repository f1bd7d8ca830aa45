//! What a scan reads of files that have typed columns, instead of bodies.
//!
//! **Invariants.** Rows come in the order of offsets, as in any scan. A batch has either the columns asked for of
//! the envelope, or those asked for of a typed file and then [`ERROR`] among them, so that a reader tells one from the
//! other. Rows that a [`Skip`] passes over are whole row groups in which every body parses: what is
//! said of bodies that do not is the same whether or not rows are passed over.

use std::fmt;
use std::sync::Arc;

use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::file::statistics::Statistics;

use crate::tier::columns::{ERROR, stored_name};

/// How much a scan reads of each row: columns of the envelope, or the declared columns where files have them.
#[derive(Clone, Debug)]
pub struct Reads {
    /// Names of columns of [`crate::format::envelope::schema`], in the order of the answer.
    pub envelope: Vec<String>,
    /// What is read of files that have the declared columns; `None`: the same.
    pub typed: Option<Typed>,
}

/// What is read of files that have typed columns.
#[derive(Clone, Debug)]
pub struct Typed {
    /// The declaration; files of another one are read by their bodies.
    pub declaration: u64,
    /// Columns of the envelope.
    pub envelope: Vec<String>,
    /// Declared columns, by their declared names.
    pub columns: Vec<String>,
    /// What need not be read.
    pub skip: Option<Arc<dyn Skip>>,
}

/// Says which row groups of a file can not hold a row that is looked for.
pub trait Skip: fmt::Debug + Send + Sync {
    /// One answer per row group of the file: whether it may be passed over.
    fn skipped(&self, footer: &ArrowReaderMetadata) -> Vec<bool>;
}

impl Reads {
    /// Reads columns of the envelope, of any file.
    #[must_use]
    pub fn of(envelope: &[&str]) -> Self {
        Self {
            envelope: envelope.iter().map(|&name| name.to_owned()).collect(),
            typed: None,
        }
    }

    /// What is read of a file whose columns have this declaration, if it is read by them.
    pub(super) fn typed_of(&self, declaration: u64) -> Option<&Typed> {
        let typed = self.typed.as_ref();
        typed.filter(|typed| typed.declaration == declaration)
    }
}

impl Typed {
    /// Names of the columns in a typed file, in the order of the answer.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.envelope.clone();
        names.push(ERROR.to_owned());
        names.extend(self.columns.iter().map(|name| stored_name(name)));
        names
    }

    /// Which row groups of a typed file need not be read; none is told when there is nothing to tell.
    pub(super) fn skipped(&self, footer: &ArrowReaderMetadata) -> Vec<bool> {
        let Some(skip) = &self.skip else {
            return Vec::new();
        };
        let groups = skip.skipped(footer).into_iter().enumerate();
        groups
            .map(|(group, is_skipped)| is_skipped && is_all_null(footer, group))
            .collect()
    }
}

/// Whether every body of a row group parses, by what the footer counts.
fn is_all_null(footer: &ArrowReaderMetadata, group: usize) -> bool {
    let group = footer.metadata().row_groups().get(group);
    group.is_some_and(|group| {
        let mut columns = group.columns().iter();
        let errors = columns.find(|column| column.column_path().parts() == [ERROR]);
        let nulls = errors
            .and_then(|column| column.statistics())
            .and_then(Statistics::null_count_opt);
        nulls.is_some() && nulls == u64::try_from(group.num_rows()).ok()
    })
}
