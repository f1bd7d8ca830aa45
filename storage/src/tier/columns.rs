//! Typed columns beside the raw body: what a file shows of a topic's declared columns.
//!
//! Storage does not know what a body means. Whoever does implements [`Columns`] and hands it in through
//! [`Tables`]; here its arrays get their place in the file.
//!
//! **Invariants.** A typed column is called [`PREFIX`] and its declared name, and its field id is
//! [`FIRST_ID`] and its place in the declaration, so both stay when columns are added. A row whose body does not
//! parse is null in all of them and says why in [`ERROR`]. The body itself stays as it came.
//!
//! Bytes: `storage/FORMAT.md`, Typed columns.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BinaryArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use millpond_proto::message::TopicId;

use crate::format::columns::{FIELD_ID, schema};

/// What the names of typed columns begin with: no column of the envelope will ever.
pub const PREFIX: &str = "v_";
/// The column that says why a body does not parse.
pub const ERROR: &str = "decode_error";
/// Field id of [`ERROR`].
pub const ERROR_ID: u32 = 1000;
/// Field id of the first declared column.
pub const FIRST_ID: u32 = 1001;

/// One declared column that is read from the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its place in the declaration; never changes.
    pub place: u32,
    /// Its declared name.
    pub name: String,
    /// Its type; integers below 32 bits are stored in 32.
    pub data_type: DataType,
}

impl Column {
    /// Its name in a file.
    #[must_use]
    pub fn stored_name(&self) -> String {
        stored_name(&self.name)
    }

    /// Its field id.
    #[must_use]
    pub fn id(&self) -> u32 {
        FIRST_ID.saturating_add(self.place)
    }

    /// Its type in a file.
    #[must_use]
    pub fn stored_type(&self) -> DataType {
        match &self.data_type {
            DataType::Int8 | DataType::Int16 => DataType::Int32,
            other => other.clone(),
        }
    }
}

/// The name of a declared column in a file.
#[must_use]
pub fn stored_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Bodies as declared columns.
#[derive(Clone, Debug)]
pub struct Projected {
    /// One array per column, in their order, one row per body.
    pub columns: Vec<ArrayRef>,
    /// Rows whose body does not parse, and why, in order; they are null in every column.
    pub errors: Vec<(usize, String)>,
}

/// How bodies of a topic become declared columns. Implemented by those who know what a body means.
pub trait Columns: fmt::Debug + Send + Sync {
    /// Tells one declaration and its way of reading bodies from any other; never 0.
    fn id(&self) -> u64;

    /// The declared columns that are read from the body.
    fn columns(&self) -> &[Column];

    /// Reads bodies.
    ///
    /// # Errors
    /// Whatever keeps all of them from being read; a single body that does not parse is no error.
    fn project(&self, bodies: &BinaryArray) -> Result<Projected, ArrowError>;
}

/// A topic as outsiders see it.
#[derive(Clone, Debug)]
pub struct Table {
    /// The topic's name.
    pub name: String,
    /// Its declared columns, when it has some that are read from the body.
    pub columns: Option<Arc<dyn Columns>>,
}

/// What the topics in the cold tier are called and which columns they have. Implemented above.
pub trait Tables: fmt::Debug + Send + Sync {
    /// Changes whenever an answer of [`Tables::table`] may have.
    fn revision(&self) -> u64;

    /// A topic; none when it is not known (any more).
    fn table(&self, topic: TopicId) -> Option<Table>;

    /// What a topic is called.
    fn name(&self, topic: TopicId) -> Option<String> {
        self.table(topic).map(|table| table.name)
    }

    /// The family that a topic was declared to be of; it is shown as a table by its own id, its topics are not.
    fn family(&self, topic: TopicId) -> Option<TopicId> {
        let _ = topic;
        None
    }
}

fn typed_fields(columns: &dyn Columns) -> Vec<Field> {
    let field = |name: String, data_type, id: u32| {
        Field::new(name, data_type, true)
            .with_metadata(HashMap::from([(FIELD_ID.to_owned(), id.to_string())]))
    };
    let error = field(ERROR.to_owned(), DataType::Utf8, ERROR_ID);
    let declared = columns.columns().iter();
    std::iter::once(error)
        .chain(declared.map(|c| field(c.stored_name(), c.stored_type(), c.id())))
        .collect()
}

/// The columns of a file: the envelope's, then why a body does not parse, then the declared ones.
pub(crate) fn file_schema(columns: Option<&dyn Columns>) -> SchemaRef {
    let Some(columns) = columns else {
        return schema();
    };
    let mut fields: Vec<Arc<Field>> = schema().fields().iter().map(Arc::clone).collect();
    fields.extend(typed_fields(columns).into_iter().map(Arc::new));
    Arc::new(Schema::new(fields))
}

/// Names of the typed columns of a file, in order.
pub(crate) fn typed_names(columns: &dyn Columns) -> Vec<String> {
    let fields = typed_fields(columns);
    fields.into_iter().map(|f| f.name().clone()).collect()
}

/// A batch with all columns of the envelope, and the typed columns made of its bodies.
pub(crate) fn with_typed(
    batch: &RecordBatch,
    columns: &dyn Columns,
) -> Result<RecordBatch, ArrowError> {
    let bodies = batch
        .column_by_name("body")
        .ok_or_else(|| ArrowError::SchemaError("a batch has no bodies".to_owned()))?;
    let bodies = cast(bodies, &DataType::Binary)?;
    let projected = columns.project(bodies.as_binary())?;
    let mut reasons: Vec<Option<&str>> = vec![None; batch.num_rows()];
    for (row, why) in &projected.errors {
        if let Some(reason) = reasons.get_mut(*row) {
            *reason = Some(why);
        }
    }
    let mut arrays = batch.columns().to_vec();
    arrays.push(Arc::new(StringArray::from(reasons)));
    for (column, array) in columns.columns().iter().zip(&projected.columns) {
        arrays.push(cast(array, &column.stored_type())?);
    }
    RecordBatch::try_new(file_schema(Some(columns)), arrays)
}
