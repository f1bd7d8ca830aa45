//! A topic as a table of the query engine.
//!
//! A query reads what was durable when it was planned: the extents are taken then, and rows stored later
//! are not seen however long it runs. Queues are dealt out to as many partitions as the session has;
//! each queue is read in offset order. Only the columns that a query names are read and parsed, and
//! comparisons of `_queue` and `_offset` with constants cut the ranges that are read. Newest rows that an earlier
//! statement decoded come from [`crate::batch::tail`]. Of a topic with a primary key, conditions on it read the rows that
//! [`crate::batch::index`] finds and no others. Files that have the declared columns are read by those and not
//! by their bodies, without the row groups that conditions rule out (`prune`).

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::StreamExt;
use millpond_proto::message::{Offset, QueueId};
use millpond_storage::tier::cold::typed::{Reads, Typed};

use crate::batch::comparison::comparison;
use crate::batch::index::KeyIndexes;
use crate::batch::key_range::KeyColumns;
use crate::batch::latest::{self, Latest, external};
use crate::batch::notices::{Notices, Reading};
use crate::batch::picked::{self, Picked};
use crate::batch::prune::{self, Prune};
use crate::batch::tail::{Filler, Piece, QueueRange, Tail};
use crate::catalog::Table;
use crate::decode::{Decoded, TopicDecoder};
use crate::error::SqlError;
use crate::topic::{Scan, TopicInfo, Topics};

/// A topic that a query may name.
#[derive(Debug)]
pub struct TopicTable {
    topics: Arc<dyn Topics>,
    topic: TopicInfo,
    table: Table,
    tail: Arc<Tail>,
    indexes: Arc<KeyIndexes>,
    /// The columns of its primary key, if rows can be looked up by it.
    key: Option<KeyColumns>,
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
        indexes: Arc<KeyIndexes>,
        notices: Notices,
    ) -> Result<Self, SqlError> {
        let table = Table::of(&topic.columns)?;
        Ok(Self {
            key: KeyColumns::of(&topic, &table.schema),
            indexes,
            topics,
            topic,
            table,
            tail,
            notices,
        })
    }
}

impl TopicTable {
    /// The rows that conditions on the primary key are about, if they are and the topic has an index.
    async fn picked(&self, filters: &[Expr]) -> Result<Option<Picked>, SqlError> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let Some(ranges) = key.ranges(filters)? else {
            return Ok(None);
        };
        let topics = self.topics.as_ref();
        let table = self.table.schema.as_ref();
        let found = self.indexes.find(topics, &self.topic, table, key, &ranges);
        Ok(found.await?.map(Picked::of))
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
            let of_key = self.key.as_ref().is_some_and(|key| key.knows(filter));
            if of_key || comparison(filter).is_some() || prune::is_prunable(&self.table, filter) {
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
            .map_err(external)?
            .into_iter()
            .map(|extent| QueueRange {
                queue: extent.queue,
                offsets: extent.first..extent.next,
                next: extent.next,
                rewrites: extent.rewrites,
            })
            .collect();
        for filter in filters {
            if let Some(comparison) = comparison(filter) {
                queues.retain_mut(|queue| comparison.cut(queue, latest));
            }
        }
        queues.sort_by_key(|queue| queue.queue);
        let picked = self.picked(filters).await.map_err(external)?;
        let count = state
            .config()
            .target_partitions()
            .clamp(1, queues.len().max(1));
        let mut partitions = vec![Vec::new(); count];
        for (at, queue) in queues.into_iter().enumerate() {
            let partition = &mut partitions[at % count];
            match &picked {
                Some(picked) => partition.extend(picked.ranges(queue.queue)),
                None => partition.push(queue),
            }
        }
        let typed = match decoder.typed() {
            Some(mut typed) => {
                // Rows that an index found are counted when they are read, so none of them is passed over.
                if picked.is_none() {
                    typed.skip = Prune::skipping(state, &self.table, filters)?;
                }
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
            picked: picked.map(Arc::new),
            limit,
            tail: Arc::clone(&self.tail),
            notices: self.notices.clone(),
            reading: self.notices.reading(),
            properties: Arc::new(properties),
        }))
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
    /// The rows that are read, if an index told them; then each is the last of its key.
    picked: Option<Arc<Picked>>,
    limit: Option<usize>,
    tail: Arc<Tail>,
    notices: Notices,
    reading: Reading,
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
        let queues: BTreeSet<QueueId> = self
            .partitions
            .iter()
            .flatten()
            .map(|range| range.queue)
            .collect();
        let queues = queues.len();
        write!(
            f,
            "TopicScan: topic={}, queues={queues}, columns=[{}]",
            self.topic.name,
            columns.join(", ")
        )?;
        if let Some(picked) = &self.picked {
            write!(f, ", rows found by key={}", picked.rows())?;
        }
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
        let picked_left = self
            .picked
            .as_ref()
            .map_or(0, |picked| picked.within(&queues));
        let pieces = queues.into_iter();
        let pieces = pieces.flat_map(|range| self.tail.pieces(&self.topic, &self.decoder, range));
        let reader = Reader {
            topics: Arc::clone(&self.topics),
            topic: self.topic.clone(),
            decoder: Arc::clone(&self.decoder),
            typed: self.typed.clone(),
            picked: self.picked.clone(),
            picked_left,
            notices: self.notices.clone(),
            reading: self.reading,
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
    picked: Option<Arc<Picked>>,
    /// Picked rows that were not read yet.
    picked_left: usize,
    notices: Notices,
    reading: Reading,
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
    /// Envelopes that were read and not decoded, since enough rows may be there without them.
    rest: Option<RecordBatch>,
}

impl Reader {
    async fn next(&mut self) -> EngineResult<Option<RecordBatch>> {
        while self.left > 0 {
            let Some(current) = &mut self.current else {
                match self.pieces.pop_front() {
                    None if self.picked_left > 0 => {
                        return Err(external(picked::gone(&self.topic.name)));
                    }
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
            let mut envelopes = match current.rest.take() {
                Some(rest) => rest,
                None => {
                    let next = current.scan.next().await.transpose().map_err(external)?;
                    let Some(envelopes) = next else {
                        self.current = None;
                        continue;
                    };
                    match (&current.latest, &self.picked) {
                        (Some(latest), _) => latest.keep(&envelopes).map_err(external)?,
                        (None, Some(picked)) => {
                            let kept = picked.keep(current.queue, &envelopes).map_err(external)?;
                            self.picked_left = self.picked_left.saturating_sub(kept.num_rows());
                            kept
                        }
                        (None, None) => envelopes,
                    }
                }
            };
            if envelopes.num_rows() > self.left {
                let more = envelopes.num_rows() - self.left;
                current.rest = Some(envelopes.slice(self.left, more));
                envelopes = envelopes.slice(0, self.left);
            }
            if envelopes.num_rows() == 0 {
                continue;
            }
            let decoded = self.decoder.decode(&envelopes).map_err(external)?;
            let is_clean = decoded.undecodable == 0;
            current
                .filler
                .push(&envelopes, is_clean.then_some(&decoded.batch));
            let queue = current.queue;
            self.tell(queue, &envelopes, &decoded);
            // Which rows are left out is known when they are decoded, and only what is left counts.
            let batch = match decoded.left_out {
                Some(left_out) => filter_record_batch(&decoded.batch, &not(&left_out)?)?,
                None => decoded.batch,
            };
            self.left -= batch.num_rows();
            return Ok(Some(batch));
        }
        Ok(None)
    }

    async fn open(&mut self, range: QueueRange, keeps_from: u64) -> EngineResult<Current> {
        let filler = Filler::new(&self.tail, &self.topic, &self.decoder, &range, keeps_from);
        let QueueRange { queue, offsets, .. } = range;
        let mut columns = self.decoder.envelope_columns();
        // The place of a body that does not parse is told, and that of a row that is kept is known.
        let needs_offset =
            columns.contains(&"body") || keeps_from < u64::MAX || self.picked.is_some();
        if needs_offset && !columns.contains(&"offset") {
            columns.push("offset");
        }
        let topic = self.topic.id;
        let mut latest = None;
        if !self.topic.primary_key.is_empty() && self.picked.is_none() {
            for needed in latest::COLUMNS {
                if !columns.contains(&needed) {
                    columns.push(needed);
                }
            }
            let memory = MemoryConsumer::new(format!("last rows of {}", self.topic.name))
                .register(self.context.memory_pool());
            let keys = self.topics.scan(
                topic,
                queue,
                offsets.clone(),
                &Reads::of(&["key", "offset"]),
            );
            latest = Some(Latest::read(keys, memory).await?);
        }
        let mut reads = Reads::of(&columns);
        reads.typed = self.typed.clone().map(|mut typed| {
            // Of a topic with a key the body says whether a row deletes, and is read whatever is asked for.
            let is_read = |name: &&str| *name != "body" || latest.is_some();
            let known = typed.envelope.clone();
            let more = columns.iter().copied().filter(is_read);
            let more = more.filter(|name| !known.iter().any(|known| known == name));
            typed.envelope.extend(more.map(str::to_owned));
            typed
        });
        let scan = self.topics.scan(topic, queue, offsets, &reads);
        Ok(Current {
            queue,
            scan,
            latest,
            filler,
            rest: None,
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
        self.notices.add_undecodable(
            self.reading,
            &self.topic.name,
            count,
            queue,
            offset,
            reason.clone(),
        );
    }
}
