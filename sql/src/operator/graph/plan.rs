//! What a graph consists of: its nodes, what can happen to the rows of an edge, and how rows leave.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::operator::aggregate::AggregateSpec;
use crate::operator::as_of::AsOfSpec;
use crate::operator::close::CloseSpec;
use crate::operator::join::JoinSpec;
use crate::operator::latest::LatestSpec;
use crate::operator::moment::{Ending, Marks};
use crate::operator::over::OverSpec;
use crate::operator::project::Transform;
use crate::operator::session_rows::SessionRowsSpec;
use crate::operator::top::TopSpec;
use crate::topic::KeyFormat;

/// What can happen to the rows of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They stay.
    Append,
    /// They come and go.
    Retract,
}

/// What a node does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Rows of an input of the query, some of its columns.
    Scan {
        input: usize,
        columns: Vec<usize>,
    },
    Latest(LatestSpec),
    Transform(Transform),
    Aggregate(AggregateSpec),
    Join(JoinSpec),
    Top(TopSpec),
    AsOf(Box<AsOfSpec>),
    Close(CloseSpec),
    Over(Box<OverSpec>),
    Union,
    SessionRows(Box<SessionRowsSpec>),
    /// Rows of the query itself.
    Constant(RecordBatch),
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Scan { .. } => "scan",
            Self::Latest(_) => "last row of each key",
            Self::Transform(_) => "filter and project",
            Self::Aggregate(_) => "aggregate",
            Self::Join(_) => "join",
            Self::Top(_) => "top",
            Self::AsOf(_) => "as-of join",
            Self::Over(_) => "over",
            Self::Close(_) => "close",
            Self::Union => "union",
            Self::Constant(_) => "constant rows",
            Self::SessionRows(_) => "sessions",
        }
    }
}

/// A node, as it is planned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// Nodes that it takes from, all before it.
    pub(crate) inputs: Vec<usize>,
    pub(crate) schema: SchemaRef,
}

/// How rows leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// As they come.
    Append,
    /// As they come, under a key made of these columns: the last row of a key counts.
    Keyed(Vec<usize>),
    /// The last per key, made of these columns.
    Upsert(Vec<usize>),
    /// Under a key made of all columns.
    Rows,
}

/// A graph, as it is planned.
#[derive(Clone, Debug)]
pub(crate) struct GraphPlan {
    pub(crate) nodes: Vec<Planned>,
    pub(crate) leaving: Leaving,
    /// Whether rows with a key leave as changes of Debezium.
    pub(crate) debezium: bool,
    /// Whether a key of one text is that text, whatever it is, as `INSERT` writes it.
    pub(crate) text_keys: bool,
    /// How keys are written else.
    pub(crate) key_format: KeyFormat,
    /// From beat to beat, if what changed leaves by these.
    pub(crate) every_ms: Option<i64>,
}

impl GraphPlan {
    /// Whether nothing is told before an epoch ends, and what is told then follows from the rows that are there, whenever in the
    /// epoch they came, as long as none came late: what is forgotten by its time in between meets none of the others. What is
    /// forgotten for resting does, and the last row of a key is another matter as well: lanes have the rows of several ticks in another
    /// order.
    pub(crate) fn is_told_at_the_end(&self) -> bool {
        let waits = matches!(self.leaving, Leaving::Upsert(_) | Leaving::Rows);
        waits && self.every_ms.is_none() && !self.supersedes()
    }

    fn keeps_last(&self) -> bool {
        let mut kinds = self.nodes.iter().map(|node| &node.kind);
        kinds.any(|kind| matches!(kind, Kind::Latest(_)))
    }

    /// Whether a step gives rows for what it has forgotten, as if they were the first. What is forgotten at once has met all that it
    /// ever will.
    fn begins_anew(&self) -> bool {
        let rests = |ending: &Option<Ending>| matches!(ending, Some(Ending::Idle { ttl_ms: 1.. }));
        self.nodes.iter().any(|node| match &node.kind {
            Kind::Join(spec) => spec.endings.iter().any(rests),
            Kind::Aggregate(spec) => rests(&spec.ending),
            Kind::Top(spec) => rests(&spec.ending),
            _ => false,
        })
    }

    /// Whether a key may get a row without its last one going: that was forgotten, or a producer gave rows of one primary key
    /// under several message keys, or under none.
    pub(crate) fn supersedes(&self) -> bool {
        self.keeps_last() || self.begins_anew()
    }

    /// Whether rows may come too late.
    pub(crate) fn judges_time(&self) -> bool {
        self.nodes.iter().any(|node| match &node.kind {
            Kind::Join(spec) => spec.endings.iter().flatten().any(Ending::judges),
            Kind::Aggregate(spec) => spec.ending.as_ref().is_some_and(Ending::judges),
            Kind::Top(spec) => spec.ending.as_ref().is_some_and(Ending::judges),
            Kind::AsOf(_) | Kind::Close(_) | Kind::Over(_) | Kind::SessionRows(_) => true,
            Kind::Scan { .. }
            | Kind::Latest(_)
            | Kind::Transform(_)
            | Kind::Union
            | Kind::Constant(_) => false,
        })
    }
}

/// What all nodes take at a time: the rows of a tick, or time alone.
#[derive(Clone, Debug)]
pub(crate) struct GraphStep {
    /// Where the clocks stand for its rows, and when they are taken.
    pub(crate) before: Marks,
    pub(crate) after: Marks,
}
