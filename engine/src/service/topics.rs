//! Administration of topics: between the wire's words and the broker's.
//!
//! Column types and event time are checked by SQL, names and bounds by the broker.

use millpond_proto::wire::admin as pb;
use millpond_sql::catalog::is_system_column;
use millpond_sql::topic::{ColumnSpec, WatermarkSpec};
use tonic::Status;

use crate::broker::{
    Bodies, Broker, NewRetention, NewTopic, Retention, Topic, TopicChange, TopicType,
};
use crate::service::code::grpc;
use crate::service::names::topic_name;
use crate::service::query::Statements;
use crate::service::upkeep;

/// Makes a topic.
pub(super) async fn create(
    broker: &Broker,
    request: pb::CreateTopicRequest,
) -> Result<pb::Topic, Status> {
    let topic = NewTopic {
        name: topic_name(&request.name)?,
        kind: topic_type(&request.r#type)?,
        queues: Some(request.queues).filter(|queues| *queues != 0),
        columns: columns(request.columns)?,
        watermark: request.watermark.map(watermark).transpose()?,
        primary_key: Vec::new(),
        written_by: None,
    };
    let retention = Retention {
        ms: retention_ms(request.retention_ms)?.filter(|ms| *ms != 0),
        bytes: Some(request.retention_bytes).filter(|bytes| *bytes != 0),
        compacts: request.compacts,
        tombstones_ms: retention_ms(request.tombstone_retention_ms)?.filter(|ms| *ms != 0),
        table_ms: some_retention_ms(request.table_retention_ms)?,
        table_bytes: request.table_retention_bytes,
        lite_ms: retention_ms(request.lite_expiry_ms)?.filter(|ms| *ms != 0),
    };
    let family = Some(request.family.as_str()).filter(|family| !family.is_empty());
    let made = broker
        .create_topic_in(family, topic, retention, Bodies::default())
        .await
        .map_err(|e| grpc(&e))?;
    Ok(to_wire(made))
}

/// Gives a topic more queues, more columns or another retention; all that the request says, or nothing.
pub(super) async fn alter(
    broker: &Broker,
    sql: &dyn Statements,
    request: pb::AlterTopicRequest,
) -> Result<pb::Topic, Status> {
    let name = topic_name(&request.name)?;
    let queues = Some(request.queues).filter(|queues| *queues != 0);
    let columns = columns(request.add_columns)?;
    if !columns.is_empty() {
        sql.check_columns_to_add(&request.name, &columns)?;
    }
    let retention = NewRetention {
        ms: some_retention_ms(request.retention_ms)?,
        bytes: request.retention_bytes,
        compacts: request.compacts,
        tombstones_ms: some_retention_ms(request.tombstone_retention_ms)?,
        table_ms: some_retention_ms(request.table_retention_ms)?,
        table_bytes: request.table_retention_bytes,
        table_as_log: request.table_as_log,
        lite_ms: some_retention_ms(request.lite_expiry_ms)?,
    };
    let change = TopicChange {
        queues,
        add_columns: columns,
        retention,
        ..TopicChange::default()
    };
    let altered = broker.alter_topic(&name, change).await;
    Ok(to_wire(altered.map_err(|e| grpc(&e))?))
}

/// A topic, how large it is and where each of its queues stands.
pub(super) fn describe(broker: &Broker, name: &str) -> Result<pb::DescribeTopicResponse, Status> {
    let topic = broker.topic(&topic_name(name)?).map_err(|e| grpc(&e))?;
    let ranges = broker
        .extents(&topic)
        .into_iter()
        .map(|(queue, extent)| pb::QueueRange {
            queue: queue.0,
            first: extent.first.0,
            next: extent.next.0,
            tiered: extent.tiered.0,
            superseded: broker.superseded(topic.id, queue),
        })
        .collect();
    let sizes = upkeep::topic_sizes(broker, &topic);
    Ok(pb::DescribeTopicResponse {
        topic: Some(to_wire(topic)),
        sizes: Some(sizes),
        ranges,
    })
}

fn topic_type(name: &str) -> Result<TopicType, Status> {
    TopicType::from_name(name).ok_or_else(|| {
        let known = TopicType::ALL.map(TopicType::as_str).join(", ");
        Status::invalid_argument(format!("topic type {name:?} is unknown; there are {known}"))
    })
}

fn columns(columns: Vec<pb::Column>) -> Result<Vec<ColumnSpec>, Status> {
    let columns: Vec<ColumnSpec> = columns.into_iter().map(column).collect();
    match columns.iter().find(|column| is_system_column(&column.name)) {
        Some(column) => Err(Status::invalid_argument(format!(
            "column {} would be called as a system column is; choose another name for it",
            column.name
        ))),
        None => Ok(columns),
    }
}

fn column(column: pb::Column) -> ColumnSpec {
    ColumnSpec {
        name: column.name,
        sql_type: column.sql_type,
        expression: Some(column.expression).filter(|text| !text.is_empty()),
    }
}

fn watermark(watermark: pb::Watermark) -> Result<WatermarkSpec, Status> {
    let delay_ms = i64::try_from(watermark.delay_ms).map_err(|_| {
        Status::invalid_argument(format!(
            "the watermark's delay of {} ms is too long; choose a shorter one",
            watermark.delay_ms
        ))
    })?;
    Ok(WatermarkSpec {
        column: watermark.column,
        delay_ms,
        behind: Vec::new(),
    })
}

/// A topic as the wire has it.
pub(super) fn to_wire(topic: Topic) -> pb::Topic {
    pb::Topic {
        name: topic.name.to_string(),
        id: topic.id.0,
        r#type: topic.kind.as_str().to_owned(),
        queues: topic.queues,
        columns: topic
            .columns
            .into_iter()
            .map(|column| pb::Column {
                name: column.name,
                sql_type: column.sql_type,
                expression: column.expression.unwrap_or_default(),
            })
            .collect(),
        watermark: topic.watermark.map(|watermark| pb::Watermark {
            column: watermark.column,
            delay_ms: u64::try_from(watermark.delay_ms).unwrap_or(0),
        }),
        written_by: topic.written_by.unwrap_or_default(),
        primary_key: topic.primary_key,
        retention_ms: topic
            .retention
            .ms
            .map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
        retention_bytes: topic.retention.bytes.unwrap_or(0),
        compacts: topic.retention.compacts,
        tombstone_retention_ms: topic
            .retention
            .tombstones_ms
            .map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
        table_retention_ms: topic
            .retention
            .table_ms
            .map(|ms| u64::try_from(ms).unwrap_or(0)),
        table_retention_bytes: topic.retention.table_bytes,
        lite_expiry_ms: topic
            .retention
            .lite_ms
            .map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
        family: topic.family.unwrap_or_default(),
        format: topic.bodies.encoding.format.name().to_owned(),
        changelog: topic.bodies.changelog.name().to_owned(),
    }
}

fn retention_ms(ms: u64) -> Result<Option<i64>, Status> {
    let too_long =
        |_| Status::invalid_argument(format!("{ms} ms is too long; choose a shorter time"));
    i64::try_from(ms).map(Some).map_err(too_long)
}

fn some_retention_ms(ms: Option<u64>) -> Result<Option<i64>, Status> {
    ms.map_or(Ok(None), retention_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_are_told_which_there_are() {
        assert_eq!(topic_type("").unwrap(), TopicType::Normal);
        assert_eq!(topic_type("FIFO").unwrap(), TopicType::Fifo);
        let unknown = topic_type("x").unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::InvalidArgument);
        assert!(unknown.message().contains("fifo"), "{unknown}");
    }

    #[test]
    fn columns_are_not_called_as_system_columns() {
        let wire = |name: &str| pb::Column {
            name: name.to_owned(),
            sql_type: "BIGINT".to_owned(),
            expression: String::new(),
        };
        assert_eq!(columns(vec![wire("b"), wire("_c")]).unwrap().len(), 2);
        let refused = columns(vec![wire("b"), wire("_key")]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("column _key"), "{refused}");
    }

    #[test]
    fn a_watermark_delay_must_be_a_time() {
        let wire = |delay_ms| pb::Watermark {
            column: "ts".to_owned(),
            delay_ms,
        };
        assert_eq!(watermark(wire(5)).unwrap().delay_ms, 5);
        assert!(watermark(wire(u64::MAX)).is_err());
    }
}
