//! `SHOW CREATE`: the statements that make again what is there, a row each.
//!
//! A view or job is its statement, and what was set of it since. A topic is written out of what it is now: each name without quotes
//! where it means itself, what is as usual left out.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use millpond_connectors::format::base64;
use millpond_connectors::format::body::{Compatibility, Encoding, Format};

use crate::answer::Answer;
use crate::batch::notices::Notices;
use crate::error::SqlError;
use crate::sql::Sql;
use crate::statement::{Statement, parse, quoted};
use crate::topic::{Changelog, ColumnSpec, JobSettings, JobSpec, Keep, NewTopic};

impl Sql {
    /// The statements that make what has a name, of a job first where one is asked for.
    pub(super) fn show_create(&self, name: &str, is_job: bool) -> Result<Answer, SqlError> {
        let topics = self.parts.topics.as_ref();
        let topic = topics.topic(name).filter(|_| !is_job);
        // The topic of a view is made by it, and so is that of late rows.
        let maker = topic.as_ref().and_then(|topic| topic.written_by.as_deref());
        let statements = match topic.is_some() && maker.is_none() {
            true => vec![create_topic(&topics.topic_as_made(name)?)],
            false => {
                let maker = maker.unwrap_or(name);
                let jobs = topics.jobs();
                let job = jobs.iter().find(|job| job.name == maker);
                create_job(job.ok_or_else(|| self.not_made(name, is_job))?)
            }
        };
        let names: ArrayRef = Arc::new(StringArray::from(vec![name; statements.len()]));
        let schema = Schema::new(vec![
            Field::new("name", DataType::Utf8, false),
            Field::new("statement", DataType::Utf8, false),
        ]);
        let statements: ArrayRef = Arc::new(StringArray::from(statements));
        let batch = RecordBatch::try_new(Arc::new(schema), vec![names, statements])?;
        Ok(Answer::ready(batch, "SHOW", Notices::default()))
    }

    fn not_made(&self, name: &str, is_job: bool) -> SqlError {
        let topics = self.parts.topics.as_ref();
        let jobs = topics.jobs().into_iter().map(|job| job.name);
        match is_job {
            true => SqlError::unknown("job", name, None, jobs),
            false => {
                let known = topics.topics().into_iter().map(|topic| topic.name);
                SqlError::unknown("topic or view", name, None, known.chain(jobs))
            }
        }
    }
}

/// The statement of a job or view, and one more for what was set of it.
fn create_job(job: &JobSpec) -> Vec<String> {
    let JobSettings {
        parallelism,
        state_bytes_max,
        restarts_max,
    } = job.settings;
    let settings: Vec<String> = [
        parallelism.map(|lanes| format!("parallelism = {lanes}")),
        state_bytes_max.map(|bytes| format!("state_limit = '{bytes} B'")),
        restarts_max.map(|restarts| format!("restarts = {restarts}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut statements = vec![job.sql.clone()];
    if !settings.is_empty() {
        let name = written(&job.name);
        statements.push(format!("ALTER JOB {name} SET ({})", settings.join(", ")));
    }
    statements
}

/// `CREATE TOPIC`, a line for each column.
fn create_topic(topic: &NewTopic) -> String {
    let mut parts: Vec<String> = topic.columns.iter().map(column).collect();
    if !topic.primary_key.is_empty() {
        let key = topic.primary_key.iter().map(|name| written(name));
        let key: Vec<String> = key.collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    if let Some(watermark) = &topic.watermark {
        let name = written(&watermark.column);
        let delay = match watermark.delay_ms {
            0 => String::new(),
            delay_ms => format!(" - INTERVAL '{}'", length(delay_ms)),
        };
        parts.push(format!("WATERMARK FOR {name} AS {name}{delay}"));
    }
    let mut text = format!("CREATE TOPIC {}", written(&topic.name));
    if !parts.is_empty() {
        text.push_str(&format!(" (\n  {}\n)", parts.join(",\n  ")));
    }
    let options = options(topic);
    if !options.is_empty() {
        text.push_str(&format!(" WITH ({})", options.join(", ")));
    }
    text
}

fn column(column: &ColumnSpec) -> String {
    let mut text = written(&column.name);
    if !column.sql_type.is_empty() {
        text.push_str(&format!(" {}", column.sql_type));
    }
    if let Some(expression) = &column.expression {
        text.push_str(&format!(" AS ({expression})"));
    }
    text
}

fn options(topic: &NewTopic) -> Vec<String> {
    let mut options = Vec::new();
    let mut set = |name: &str, value: String| options.push(format!("{name} = {value}"));
    if let Some(queues) = topic.queues {
        set("queues", queues.to_string());
    }
    if let Some(family) = &topic.family {
        set("family", text(family));
    }
    let Encoding {
        format,
        message,
        compatibility,
        ..
    } = &topic.encoding;
    if *format != Format::default() {
        set("format", text(format.name()));
    }
    if let Some(schema) = topic.encoding.last() {
        set(
            "schema",
            text(&match format {
                Format::Protobuf => base64::encode(&schema.text),
                _ => String::from_utf8_lossy(&schema.text).into_owned(),
            }),
        );
    }
    if !message.is_empty() {
        set("message", text(message));
    }
    if *compatibility != Compatibility::default() {
        set("compatibility", text(compatibility.name()));
    }
    if topic.changelog != Changelog::default() {
        set("changelog", text(topic.changelog.name()));
    }
    let Keep {
        retention_ms,
        retention_bytes,
        compacts,
        tombstones_ms,
        table_ms,
        table_bytes,
        table_as_log: _,
    } = topic.keep;
    let time = |ms: i64| {
        text(&if ms == 0 {
            "none".to_owned()
        } else {
            length(ms)
        })
    };
    let bytes = |bytes: u64| match bytes {
        0 => text("none"),
        bytes => bytes.to_string(),
    };
    if compacts == Some(true) {
        set("cleanup", text("compact"));
    }
    for (name, ms) in [
        ("tombstone_retention", tombstones_ms),
        ("retention", retention_ms),
        ("table_retention", table_ms),
    ] {
        if let Some(ms) = ms {
            set(name, time(ms));
        }
    }
    for (name, most) in [
        ("retention_bytes", retention_bytes),
        ("table_retention_bytes", table_bytes),
    ] {
        if let Some(most) = most {
            set(name, bytes(most));
        }
    }
    options
}

/// A text as SQL has it.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A name without quotes where it means itself among columns and in expressions, else in quotes.
fn written(name: &str) -> String {
    let starts_as_name = |first: char| first == '_' || first.is_ascii_lowercase();
    let is_word = name.starts_with(starts_as_name)
        && name
            .chars()
            .all(|letter| starts_as_name(letter) || letter.is_ascii_digit());
    let is_itself = || {
        let declared = format!(
            "CREATE TOPIC {name} ({name} INT, PRIMARY KEY ({name}), WATERMARK FOR {name} AS {name} - INTERVAL '1 day')"
        );
        let read = parse(&declared);
        read.is_ok_and(|read| matches!(read, Statement::CreateTopic(topic) if topic.name == name))
    };
    match is_word && is_itself() {
        true => name.to_owned(),
        false => quoted(name),
    }
}

/// A length of time in the greatest unit that tells it in a whole number.
fn length(ms: i64) -> String {
    const UNITS: [(&str, i64); 4] = [
        ("day", 86_400_000),
        ("hour", 3_600_000),
        ("minute", 60_000),
        ("second", 1_000),
    ];
    let unit = UNITS.into_iter().find(|(_, unit)| ms % unit == 0);
    let (name, count) = unit.map_or(("millisecond", ms), |(name, unit)| (name, ms / unit));
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}

#[cfg(test)]
mod tests {
    use millpond_proto::limits;
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::declare;
    use crate::topic::WatermarkSpec;

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z_][a-z0-9_]{0,8}",
            prop::sample::select(vec![
                "user",
                "select",
                "order",
                "at",
                "check",
                "unique",
                "watermark",
                "primary",
                "Total",
                "with \"quotes\"",
                "é",
                "interval",
                "true",
                "1st",
                "table",
                "current_date",
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn keep() -> impl Strategy<Value = Keep> {
        let time = || {
            prop::option::of(prop_oneof![
                Just(0),
                limits::RETENTION_MS_MIN..9_000_000_000
            ])
        };
        let bytes = || prop::option::of(prop_oneof![Just(0), any::<u32>().prop_map(u64::from)]);
        (time(), bytes(), any::<bool>(), time(), time(), bytes()).prop_map(
            |(retention_ms, retention_bytes, compacts, tombstones_ms, table_ms, table_bytes)| {
                Keep {
                    retention_ms,
                    retention_bytes,
                    compacts: compacts.then_some(true),
                    tombstones_ms,
                    table_ms,
                    table_bytes,
                    table_as_log: false,
                }
            },
        )
    }

    fn topic() -> impl Strategy<Value = NewTopic> {
        let types = ["BIGINT", "VARCHAR", "DECIMAL(20,2)", "TIMESTAMP"];
        let columns =
            prop::collection::btree_map(name(), prop::sample::select(types.to_vec()), 1..6);
        let format = prop::sample::select(vec![Format::Json, Format::Avro, Format::Csv]);
        (
            name(),
            columns,
            1..9_u32,
            format,
            keep(),
            any::<i32>(),
            prop::option::of(name()),
        )
            .prop_map(|(topic, columns, queues, format, keep, delay, family)| {
                let names: Vec<String> = columns.keys().cloned().collect();
                let first = names[0].clone();
                let columns = columns
                    .into_iter()
                    .filter(|(name, _)| !crate::catalog::is_system_column(name));
                let mut columns: Vec<ColumnSpec> = columns
                    .map(|(name, sql_type)| ColumnSpec {
                        name,
                        sql_type: sql_type.to_owned(),
                        expression: None,
                    })
                    .collect();
                columns.push(ColumnSpec {
                    name: "computed at last".to_owned(),
                    sql_type: String::new(),
                    expression: Some(format!("{} IS NULL OR 'it''s' = ''", quoted(&first))),
                });
                let declared = crate::statement::CreateTopic {
                    name: topic.clone(),
                    if_not_exists: false,
                    columns: columns.clone(),
                    watermark: None,
                    primary_key: Vec::new(),
                    options: crate::statement::TopicOptions {
                        format: Some(format),
                        ..Default::default()
                    },
                };
                NewTopic {
                    name: topic,
                    queues: Some(queues),
                    watermark: Some(WatermarkSpec {
                        column: first.clone(),
                        delay_ms: i64::from(delay.unsigned_abs()),
                        behind: Vec::new(),
                    }),
                    primary_key: vec![first],
                    written_by: None,
                    encoding: declare(&declared)
                        .expect("columns of every format")
                        .encoding,
                    columns,
                    changelog: Changelog::Upsert,
                    keep,
                    family,
                }
            })
    }

    proptest! {
        #[test]
        fn what_is_shown_of_a_topic_makes_the_same_topic(topic in topic()) {
            let sql = create_topic(&topic);
            let Ok(Statement::CreateTopic(read)) = parse(&sql) else {
                return Err(TestCaseError::fail(sql));
            };
            let declared = declare(&read).expect("what was declared once can be declared again");
            let read = NewTopic {
                name: read.name.clone(),
                queues: read.options.queues,
                columns: declared.columns,
                watermark: read.watermark,
                primary_key: read.primary_key,
                written_by: None,
                encoding: declared.encoding,
                changelog: declared.changelog,
                keep: read.options.keep,
                family: read.options.family,
            };
            prop_assert_eq!(read, topic, "{}", sql);
        }
    }

    #[test]
    fn a_length_is_told_in_the_greatest_unit_that_fits() {
        let lengths = [86_400_000, 90 * 60_000, 1_000, 1_500];
        let told = lengths.map(length);
        assert_eq!(
            told,
            ["1 day", "90 minutes", "1 second", "1500 milliseconds"]
        );
    }
}
