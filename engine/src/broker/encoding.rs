//! How a topic's bodies are written, as the catalog remembers it: numbers that are fixed for ever, and versions that only grow.

use millpond_connectors::format::body::{Compatibility, Encoding, Format, SchemaVersion};
use millpond_sql::topic::Changelog;
use millpond_storage::format::envelope::{Envelope, Property, PropertyValue};

use crate::broker::Bodies;
use crate::broker::record::{SchemaRecord, TopicRecord};

pub(super) fn format_number(format: Format) -> u32 {
    match format {
        Format::Json => 0,
        Format::Avro => 1,
        Format::Protobuf => 2,
        Format::Csv => 3,
        Format::Raw => 4,
    }
}

pub(super) fn compatibility_number(rule: Compatibility) -> u32 {
    match rule {
        Compatibility::Backward => 0,
        Compatibility::Forward => 1,
        Compatibility::Full => 2,
        Compatibility::None => 3,
    }
}

pub(super) fn changelog_number(changelog: Changelog) -> u32 {
    match changelog {
        Changelog::Rows => 0,
        Changelog::Upsert => 1,
        Changelog::Debezium => 2,
    }
}

/// A number that this version does not know is read as the default: bodies then fail to decode and say so.
pub(super) fn bodies_of(record: &TopicRecord) -> Bodies {
    let format = Format::ALL
        .into_iter()
        .find(|format| format_number(*format) == record.format);
    let mut rules = Compatibility::ALL.into_iter();
    let rule = rules.find(|rule| compatibility_number(*rule) == record.compatibility);
    let versions = record.schemas.iter();
    let encoding = Encoding {
        format: format.unwrap_or_default(),
        message: record.message.clone(),
        schemas: versions
            .map(|schema| SchemaVersion {
                version: schema.version,
                text: schema.text.clone(),
            })
            .collect(),
        compatibility: rule.unwrap_or_default(),
    };
    let mut kinds = Changelog::ALL.into_iter();
    let kind = kinds.find(|kind| changelog_number(*kind) == record.changelog);
    Bodies {
        encoding,
        changelog: kind.unwrap_or_default(),
    }
}

pub(super) fn schema_records(schemas: &[SchemaVersion]) -> Vec<SchemaRecord> {
    schemas.iter().map(schema_record).collect()
}

pub(super) fn schema_record(schema: &SchemaVersion) -> SchemaRecord {
    SchemaRecord {
        version: schema.version,
        text: schema.text.clone(),
    }
}

/// The property by which a producer deletes a key's row: RocketMQ's wire has no message without a body.
pub const DELETED: &str = "_deleted";

/// Gives a message that is stored what its topic says of bodies: the version of the schema, and whether it deletes its key.
pub(super) fn complete(topic: &TopicRecord, message: &mut Envelope) {
    if message.schema_id.is_none() {
        message.schema_id = topic.schemas.last().map(|schema| schema.version);
    }
    let deletes = |property: &Property| {
        property.key == DELETED
            && matches!(&property.value, Some(PropertyValue::Text(text)) if text == "true")
    };
    if topic.changelog != 0 && message.properties.iter().any(deletes) {
        message.body = None;
    }
}

/// Why a column is not added.
pub(super) fn column_exists(topic: &TopicRecord, column: &str) -> String {
    format!(
        "topic {:?} has a column {column:?} already; choose another name",
        topic.name
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn topic(versions: u32) -> TopicRecord {
        let version = |version| SchemaRecord {
            version,
            text: Bytes::new(),
        };
        TopicRecord {
            schemas: (1..=versions).map(version).collect(),
            ..TopicRecord::default()
        }
    }

    #[test]
    fn what_is_remembered_of_bodies_is_what_was_declared() {
        for format in Format::ALL {
            for changelog in Changelog::ALL {
                for compatibility in Compatibility::ALL {
                    let record = TopicRecord {
                        format: format_number(format),
                        compatibility: compatibility_number(compatibility),
                        changelog: changelog_number(changelog),
                        ..TopicRecord::default()
                    };
                    let bodies = bodies_of(&record);
                    assert_eq!(bodies.encoding.format, format);
                    assert_eq!(bodies.encoding.compatibility, compatibility);
                    assert_eq!(bodies.changelog, changelog);
                }
            }
        }
    }

    #[test]
    fn a_message_deletes_its_key_where_messages_are_changes_and_nowhere_else() {
        let message = || Envelope {
            body: Some(Bytes::from_static(b"-")),
            properties: vec![Property {
                key: DELETED.to_owned(),
                value: Some(PropertyValue::Text("true".to_owned())),
            }],
            ..Envelope::default()
        };
        for (changelog, is_there) in [(0, true), (1, false), (2, false)] {
            let topic = TopicRecord {
                changelog,
                ..TopicRecord::default()
            };
            let mut stored = message();
            complete(&topic, &mut stored);
            assert_eq!(stored.body.is_some(), is_there, "changelog {changelog}");
        }
        let mut stored = message();
        complete(&topic(3), &mut stored);
        assert_eq!(stored.schema_id, Some(3));
    }
}
