//! A topic as a table of the query engine.
//!
//! A query reads what was durable when it was planned: the extents are taken then, and rows stored later
//! are not seen however long it runs. Queues are dealt out to as many partitions as the session has;
//! each queue is read in offset order. Only the columns that a query names are read and parsed, and
//! comparisons of `_queue` and `_offset` with constants cut the ranges that are read. Newest rows that an earlier
//! statement decoded come from [`crate::batch::tail`]. Files that have the declared columns are read by those and not
//! by their bodies, without the row groups that conditions rule out (`prune`).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt;
use millpond_proto::message::{Offset, QueueId};
use millpond_storage::tier::cold::typed::Typed;

use crate::batch::latest::{self, Latest, external};
use crate::batch::notices::Notices;
use crate::batch::prune::{self, Prune};
use crate::batch::tail::{Filler, Piece, QueueRange, Tail};
use crate::catalog::Table;
use crate::decode::{Decoded, TopicDecoder};
use crate::error::SqlError;
use crate::topic::{Changelog, Scan, TopicInfo, Topics};

/// A topic that a query may name.
#[derive(Debug)]
pub struct TopicTable {
    topics: Arc<dyn Topics>,
    topic: TopicInfo,
    table: Table,
    tail: Arc<Tail>,
    notices: Notices,
}

impl TopicTable {
    /// A table over `topic`; bodies that do not parse are told to `notices`.
    ///
    /// # Errors
    /// As [`crate::catalog::table_schema`].
    pub fn new(
        topics: Arc<dyn Topics>,
        topic: TopicInfo,
        tail: Arc<Tail>,
        notices: Notices,
    ) -> Result<Self, SqlError> {
        let table = Table::of(&topic.columns)?;
        Ok(Self {
            topics,
            topic,
            table,
            tail,
            notices,
        })
    }
}

#[async_trait]
impl TableProvider for TopicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> EngineResult<Vec<TableProviderFilterPushDown>> {
        // Ranges are cut, rows are not checked: the engine still filters.
        let support = |filter: &&Expr| {
            if comparison(filter).is_some() || prune::is_prunable(&self.table, filter) {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.table.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let decoder = TopicDecoder::new(&self.topic, projection).map_err(external)?;
        let latest = !self.topic.primary_key.is_empty();
        let mut queues: Vec<QueueRange> = self
            .topics
            .extents(self.topic.id)
            .into_iter()
            .map(|extent| QueueRange {
                queue: extent.queue,
                offsets: extent.first..extent.next,
                next: extent.next,
            })
            .collect();
        for filter in filters {
            if let Some(comparison) = comparison(filter) {
                queues.retain_mut(|queue| comparison.cut(queue, latest));
            }
        }
        queues.sort_by_key(|queue| queue.queue);
        let count = state
            .config()
            .target_partitions()
            .clamp(1, queues.len().max(1));
        let mut partitions = vec![Vec::new(); count];
        for (at, queue) in queues.into_iter().enumerate() {
            partitions[at % count].push(queue);
        }
        let typed = match decoder.typed() {
            Some(mut typed) => {
                typed.skip = Prune::skipping(state, &self.table, filters)?;
                Some(typed)
            }
            None => None,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(decoder.schema())),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(TopicScan {
            topics: Arc::clone(&self.topics),
            topic: self.topic.clone(),
            decoder: Arc::new(decoder),
            typed,
            partitions,
            // Which rows are no more is known when they are decoded, and only what is left counts.
            limit: limit.filter(|_| self.topic.changelog != Changelog::Debezium),
            tail: Arc::clone(&self.tail),
            notices: self.notices.clone(),
            properties: Arc::new(properties),
        }))
    }
}

/// `_queue` or `_offset` compared with a constant.
#[derive(Debug)]
struct Comparison {
    of_queue: bool,
    operator: Operator,
    value: i64,
}

fn comparison(filter: &Expr) -> Option<Comparison> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let (column, operator, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let of_queue = match column.name.as_str() {
        "_queue" => true,
        "_offset" => false,
        _ => return None,
    };
    let value = match value {
        ScalarValue::Int32(Some(value)) => i64::from(*value),
        ScalarValue::Int64(Some(value)) => *value,
        _ => return None,
    };
    matches!(
        operator,
        Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    )
    .then_some(Comparison {
        of_queue,
        operator,
        value,
    })
}

impl Comparison {
    /// Cuts a range to what can satisfy the comparison; `false` when nothing of the queue can.
    fn cut(&self, queue: &mut QueueRange, latest: bool) -> bool {
        if self.of_queue {
            let id = i64::from(queue.queue.0);
            return match self.operator {
                Operator::Eq => id == self.value,
                Operator::Lt => id < self.value,
                Operator::LtEq => id <= self.value,
                Operator::Gt => id > self.value,
                Operator::GtEq => id >= self.value,
                _ => true,
            };
        }
        // Which row of a key is its last is decided over the whole queue.
        if latest {
            return true;
        }
        let from = |value: i64| Offset(u64::try_from(value).unwrap_or(0));
        let (first, next) = match self.operator {
            Operator::Eq => (Some(self.value), self.value.checked_add(1)),
            Operator::Lt => (None, Some(self.value)),
            Operator::LtEq => (None, self.value.checked_add(1)),
            Operator::Gt => (self.value.checked_add(1), None),
            Operator::GtEq => (Some(self.value), None),
            _ => (None, None),
        };
        let range = &mut queue.offsets;
        range.start = range.start.max(first.map_or(Offset(0), from));
        range.end = range.end.min(next.map_or(range.end, from));
        range.start < range.end
    }
}

/// Reads the durable rows of a topic.
#[derive(Debug)]
pub struct TopicScan {
    topics: Arc<dyn Topics>,
    topic: TopicInfo,
    decoder: Arc<TopicDecoder>,
    typed: Option<Typed>,
    partitions: Vec<Vec<QueueRange>>,
    limit: Option<usize>,
    tail: Arc<Tail>,
    notices: Notices,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for TopicScan {
    fn fmt_as(&self, _style: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self
            .decoder
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let queues: usize = self.partitions.iter().map(Vec::len).sum();
        write!(
            f,
            "TopicScan: topic={}, queues={queues}, columns=[{}]",
            self.topic.name,
            columns.join(", ")
        )?;
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for TopicScan {
    fn name(&self) -> &'static str {
        "TopicScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> EngineResult<SendableRecordBatchStream> {
        let queues = self.partitions.get(partition).cloned().ok_or_else(|| {
            DataFusionError::Internal(format!("topic scan has no partition {partition}"))
        })?;
        let pieces = queues.into_iter();
        let pieces = pieces.flat_map(|range| self.tail.pieces(&self.topic, &self.decoder, range));
        let reader = Reader {
            topics: Arc::clone(&self.topics),
            topic: self.topic.clone(),
            decoder: Arc::clone(&self.decoder),
            typed: self.typed.clone(),
            notices: self.notices.clone(),
            context,
            tail: Arc::clone(&self.tail),
            pieces: pieces.collect(),
            current: None,
            left: self.limit.unwrap_or(usize::MAX),
        };
        let schema = Arc::clone(self.decoder.schema());
        let batches = futures::stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|batch| (batch, reader)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// One partition being read, queue after queue.
struct Reader {
    topics: Arc<dyn Topics>,
    topic: TopicInfo,
    decoder: Arc<TopicDecoder>,
    typed: Option<Typed>,
    notices: Notices,
    context: Arc<TaskContext>,
    tail: Arc<Tail>,
    pieces: VecDeque<Piece>,
    current: Option<Current>,
    /// Rows that may still be answered.
    left: usize,
}

/// A part of a queue that is being read from the log.
struct Current {
    queue: QueueId,
    scan: Scan,
    latest: Option<Latest>,
    filler: Filler,
}

impl Reader {
    async fn next(&mut self) -> EngineResult<Option<RecordBatch>> {
        while self.left > 0 {
            let Some(current) = &mut self.current else {
                match self.pieces.pop_front() {
                    None => return Ok(None),
                    Some(Piece::Kept(batch)) => {
                        let batch = batch.slice(0, batch.num_rows().min(self.left));
                        self.left -= batch.num_rows();
                        return Ok(Some(batch));
                    }
                    Some(Piece::Log(range, keeps_from)) => {
                        self.current = Some(self.open(range, keeps_from).await?);
                    }
                }
                continue;
            };
            let Some(envelopes) = current.scan.next().await.transpose().map_err(external)? else {
                self.current = None;
                continue;
            };
            let mut envelopes = match &current.latest {
                Some(latest) => latest.keep(&envelopes).map_err(external)?,
                None => envelopes,
            };
            if envelopes.num_rows() > self.left {
                envelopes = envelopes.slice(0, self.left);
            }
            if envelopes.num_rows() == 0 {
                continue;
            }
            self.left -= envelopes.num_rows();
            let decoded = self.decoder.decode(&envelopes).map_err(external)?;
            let is_clean = decoded.undecodable == 0;
            current
                .filler
                .push(&envelopes, is_clean.then_some(&decoded.batch));
            let queue = current.queue;
            self.tell(queue, &envelopes, &decoded);
            return match decoded.deleted {
                Some(deleted) => Ok(Some(filter_record_batch(&decoded.batch, &not(&deleted)?)?)),
                None => Ok(Some(decoded.batch)),
            };
        }
        Ok(None)
    }

    async fn open(&mut self, range: QueueRange, keeps_from: u64) -> EngineResult<Current> {
        let QueueRange { queue, offsets, .. } = range;
        let mut columns = self.decoder.envelope_columns();
        // The place of a body that does not parse is told, and that of a row that is kept is known.
        let needs_offset = columns.contains(&"body") || keeps_from < u64::MAX;
        if needs_offset && !columns.contains(&"offset") {
            columns.push("offset");
        }
        let topic = self.topic.id;
        let mut latest = None;
        if !self.topic.primary_key.is_empty() {
            for needed in latest::COLUMNS {
                if !columns.contains(&needed) {
                    columns.push(needed);
                }
            }
            let memory = MemoryConsumer::new(format!("last rows of {}", self.topic.name))
                .register(self.context.memory_pool());
            let keys = self
                .topics
                .scan(topic, queue, offsets.clone(), &["key", "offset"]);
            latest = Some(Latest::read(keys, memory).await?);
        }
        let scan = match self.typed.clone() {
            // Of a topic with a key the body says whether a row deletes, and is read whatever is asked for.
            Some(mut typed) => {
                let is_read = |name: &&str| *name != "body" || latest.is_some();
                let known = typed.envelope.clone();
                let more = columns.iter().copied().filter(is_read);
                let more = more.filter(|name| !known.iter().any(|known| known == name));
                typed.envelope.extend(more.map(str::to_owned));
                self.topics
                    .scan_typed(topic, queue, offsets, &columns, typed)
            }
            None => self.topics.scan(topic, queue, offsets, &columns),
        };
        Ok(Current {
            queue,
            scan,
            latest,
            filler: Filler::new(&self.tail, &self.topic, &self.decoder, queue, keeps_from),
        })
    }

    /// Notes bodies that did not parse.
    fn tell(&self, queue: QueueId, envelopes: &RecordBatch, decoded: &Decoded) {
        let Some((row, reason)) = &decoded.first_error else {
            return;
        };
        let offset = envelopes
            .column_by_name("offset")
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .map_or(0, |offsets| offsets.value(*row));
        let offset = Offset(u64::try_from(offset).unwrap_or(0));
        let count = decoded.undecodable;
        self.notices
            .add_undecodable(&self.topic.name, count, queue, offset, reason.clone());
    }
}
