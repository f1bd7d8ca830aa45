//! Keys of messages that hold rows of a topic with a primary key: those that `INSERT` writes, so that a row that is sent again
//! replaces the one that is there.

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use millpond_connectors::format::json::JsonDecoder;
use millpond_proto::wire::admin::Topic;
use millpond_sql::catalog::check_columns;
use millpond_sql::row_key::{RowKeyError, can_be_key, row_keys};
use millpond_sql::topic::ColumnSpec;

use crate::cli::error::CliError;

/// What tells the rows of a topic apart.
#[derive(Clone, Debug)]
pub struct RowKeys {
    topic: String,
    /// The columns of the primary key, in its order.
    columns: SchemaRef,
    /// Reads them from bodies; none where bodies are not JSON rows.
    decoder: Option<JsonDecoder>,
}

/// The columns that a topic reads from bodies.
///
/// # Errors
/// [`CliError::Usage`] for a type that this version does not know.
pub fn stored_columns(topic: &Topic) -> Result<SchemaRef, CliError> {
    let stored = topic
        .columns
        .iter()
        .filter(|column| column.expression.is_empty());
    let columns: Vec<ColumnSpec> = stored
        .map(|column| ColumnSpec {
            name: column.name.clone(),
            sql_type: column.sql_type.clone(),
            expression: None,
        })
        .collect();
    let table = check_columns(&columns).map_err(|error| CliError::Usage {
        what: format!(
            "the columns of topic {} can not be read: {error}",
            topic.name
        ),
        help: "use the version of millpond that the server has".to_owned(),
    })?;
    let fields = table.fields().iter().take(columns.len()).cloned();
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

impl RowKeys {
    /// Those of a topic; `None` where messages are told by what their producers say: one without a primary key, or with changes that
    /// Debezium writes.
    ///
    /// # Errors
    /// As [`stored_columns`].
    pub fn of(topic: &Topic) -> Result<Option<Self>, CliError> {
        if topic.primary_key.is_empty() || topic.changelog == "debezium" {
            return Ok(None);
        }
        let stored = stored_columns(topic)?;
        let key = topic.primary_key.iter();
        let fields = key.filter_map(|name| stored.field_with_name(name).ok().cloned());
        let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        // A part of the key may be computed from the rest, which only the server can do.
        let is_whole = columns.fields().len() == topic.primary_key.len();
        let is_json = matches!(topic.format.as_str(), "" | "json");
        let decoder = (is_whole && is_json).then(|| JsonDecoder::new(Arc::clone(&columns)));
        Ok(Some(Self {
            topic: topic.name.clone(),
            columns,
            decoder,
        }))
    }

    /// Names of the columns, in the order of the key.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns
            .fields()
            .iter()
            .map(|field| field.name().as_str())
    }

    /// The key as it is declared.
    fn declared(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        format!("PRIMARY KEY ({})", names.join(", "))
    }

    /// The keys of bodies that are rows; none where the server alone can read them.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a body that does not tell its key.
    pub fn read(&self, bodies: &BinaryArray) -> Result<Option<Vec<String>>, CliError> {
        let Some(decoder) = &self.decoder else {
            return Ok(None);
        };
        let read = decoder.decode(bodies)?;
        let refused = match read.errors.into_iter().next() {
            Some((_, reason)) => reason,
            None => match texts(&read.batch) {
                Ok(keys) => return Ok(Some(keys)),
                Err(reason) => reason,
            },
        };
        Err(CliError::Usage {
            what: format!(
                "topic {} has {}, and a message does not tell it: {refused}",
                self.topic,
                self.declared()
            ),
            help: "send rows with each column of the key, or what is no row with --key".to_owned(),
        })
    }

    /// The key of a message with this body: the one that is `said`, which may not contradict the row.
    ///
    /// # Errors
    /// [`CliError::Usage`] when it does, or when nothing tells the key.
    pub fn of_message(&self, said: Option<&str>, body: &[u8]) -> Result<Option<String>, CliError> {
        let bodies = BinaryArray::from_iter_values([body]);
        let read = self
            .read(&bodies)
            .map(|keys| keys.and_then(|mut keys| keys.pop()));
        match (said, read) {
            (None, read) => read,
            (Some(said), Ok(Some(row))) if said != row => Err(CliError::Usage {
                what: format!(
                    "the key {said:?} is not that of the row: topic {} has {}, and the row's key is {row}",
                    self.topic,
                    self.declared()
                ),
                help: "leave --key out".to_owned(),
            }),
            // A body that is none of its rows is sent as its producer says.
            (Some(said), _) => Ok(Some(said.to_owned())),
        }
    }

    /// Refuses to delete a row by a key that none can have.
    ///
    /// # Errors
    /// [`CliError::Usage`] with a key as it could be.
    pub fn check_deletion(&self, key: &str) -> Result<(), CliError> {
        let fields = self.columns.fields();
        if can_be_key(key, fields) {
            return Ok(());
        }
        let values: Vec<&str> = match fields.len() {
            1 => vec![key],
            _ => self.names().collect(),
        };
        Err(CliError::Usage {
            what: format!(
                "no row has the key {key:?}: topic {} has {}, and keys are JSON arrays of its columns",
                self.topic,
                self.declared()
            ),
            help: format!("--key '[{}]'", values.join(",")),
        })
    }
}

fn texts(columns: &RecordBatch) -> Result<Vec<String>, String> {
    let keys = row_keys(columns).map_err(|error| match error {
        RowKeyError::Null { column } => format!("it has no {column}"),
        RowKeyError::Write(error) => error.to_string(),
    })?;
    let texts = keys
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned());
    Ok(texts.collect())
}

#[cfg(test)]
mod tests {
    use millpond_proto::wire::admin::Column;

    use super::*;

    fn keys_of(primary_key: &[&str], format: &str, changelog: &str) -> Option<RowKeys> {
        let column = |name: &str, sql_type: &str| Column {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: String::new(),
        };
        let topic = Topic {
            name: "t".to_owned(),
            columns: vec![column("name", "VARCHAR"), column("id", "INT")],
            primary_key: primary_key.iter().map(|name| (*name).to_owned()).collect(),
            format: format.to_owned(),
            changelog: changelog.to_owned(),
            ..Topic::default()
        };
        RowKeys::of(&topic).unwrap()
    }

    #[test]
    fn a_row_tells_the_key_that_insert_gives_it() {
        for (primary_key, key) in [
            (&["id"][..], "[7]"),
            (&["name"], "ann"),
            (&["id", "name"], "[7,\"ann\"]"),
        ] {
            let keys = keys_of(primary_key, "json", "rows").unwrap();
            let body = br#"{"id":7,"name":"ann","more":1}"#;
            assert_eq!(keys.of_message(None, body).unwrap().as_deref(), Some(key));
            let same = keys.of_message(Some(key), body).unwrap();
            assert_eq!(same.as_deref(), Some(key));
        }
    }

    #[test]
    fn a_key_that_contradicts_the_row_is_refused_and_so_is_a_row_without_one() {
        let keys = keys_of(&["id"], "json", "upsert").unwrap();
        let error = keys.of_message(Some("7"), br#"{"id":7}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the key \"7\" is not that of the row: topic t has PRIMARY KEY (id), and the row's key is [7]"
        );
        for body in [&b"{\"name\":\"ann\"}"[..], b"{\"id\":\"x\"}", b"hello"] {
            let error = keys.of_message(None, body).unwrap_err().to_string();
            assert!(error.starts_with("topic t has PRIMARY KEY (id)"), "{error}");
            let said = keys.of_message(Some("[8]"), body).unwrap();
            assert_eq!(said.as_deref(), Some("[8]"));
        }
    }

    #[test]
    fn bodies_that_only_the_server_reads_go_as_they_are() {
        let avro = keys_of(&["id"], "avro", "rows").unwrap();
        assert_eq!(avro.of_message(None, b"\x02").unwrap(), None);
        assert_eq!(
            avro.of_message(Some("k"), b"\x02").unwrap().as_deref(),
            Some("k")
        );
        assert!(keys_of(&["id"], "json", "debezium").is_none());
        assert!(keys_of(&[], "json", "rows").is_none());
    }

    #[test]
    fn a_deletion_by_a_key_that_no_row_has_names_the_form_of_keys() {
        let keys = keys_of(&["id"], "avro", "rows").unwrap();
        let error = keys.check_deletion("14").unwrap_err();
        assert_eq!(error.help().unwrap(), "--key '[14]'");
        assert!(keys.check_deletion("[14]").is_ok());
        let two = keys_of(&["id", "name"], "json", "rows").unwrap();
        let error = two.check_deletion("14").unwrap_err();
        assert_eq!(error.help().unwrap(), "--key '[id,name]'");
        let text = keys_of(&["name"], "json", "rows").unwrap();
        assert!(text.check_deletion("14").is_ok());
    }
}
