//! As-of joins: the one row of the right that counted at a time of the left.
//!
//! Two ways to write them, `a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.k = b.k` (also `LEFT JOIN`) and
//! `a ASOF JOIN b MATCH_CONDITION (a.time >= b.time) ON a.k = b.k`, which keeps every left row. Neither has
//! a place in the engine's planner. So the syntax tree gets a plain join whose condition holds a mark, a
//! function that nothing computes; in the plan the marked join ([`Marked`]) is replaced, here by plain
//! windows for a query that ends, in [`crate::plan::graph`] by an operator.
//!
//! After `FOR SYSTEM_TIME AS OF`, a right topic with a primary key stands for the versions of its rows, not
//! for the last ones; the time of a version is the topic's watermark column, or `_stored_at` if the left
//! says `_stored_at`: then a row meets what the log held when it was stored. Right rows of equal time count
//! in the order of the log, also through a query that filters and projects them.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, JoinType, not_impl_err};
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::utils::{find_valid_equijoin_key_pair, split_conjunction};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, Filter, Join, LogicalPlan, LogicalPlanBuilder, Operator as Sign,
    Projection, ScalarUDF, SubqueryAlias, Volatility, WindowFunctionDefinition, create_udf, lit,
};
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select,
    TableAlias, TableFactor, TableVersion, TableWithJoins, VisitMut, VisitorMut,
};

use crate::catalog::{DECODE_ERROR, timestamp};
use crate::error::SqlError;
use crate::plan::refuse::refused;
use crate::runtime;
use crate::statement::{filled, name_of, quoted};
use crate::topic::{TopicInfo, Topics};

const MARK: &str = "millpond_as_of";
/// Behind the name of a topic: all versions of its rows.
const VERSIONS: &str = "$versions";

/// Which right row a left row meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Hash)]
pub(crate) enum Seek {
    /// The last one before the left's time, or at it.
    Back { or_at: bool },
    /// The first one after the left's time, or at it.
    Ahead { or_at: bool },
}

const SEEKS: [(&str, Seek); 4] = [
    ("ge", Seek::Back { or_at: true }),
    ("gt", Seek::Back { or_at: false }),
    ("le", Seek::Ahead { or_at: true }),
    ("lt", Seek::Ahead { or_at: false }),
];

/// What is known of a topic that a rewritten query reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// A query that ends: versions are a table of their own.
    Bounded,
    /// A continuous one: its planner reads versions by itself.
    Continuous,
}

/// Rewrites every as-of join of a query to a plain one with a mark; answers whether there are any.
pub(crate) fn rewrite(
    query: &mut Query,
    topics: &dyn Topics,
    reading: Reading,
) -> Result<bool, SqlError> {
    let mut rewriter = Rewriter {
        topics,
        reading,
        found: false,
    };
    match VisitMut::visit(query, &mut rewriter) {
        ControlFlow::Continue(()) => Ok(rewriter.found),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter<'a> {
    topics: &'a dyn Topics,
    reading: Reading,
    found: bool,
}

impl VisitorMut for Rewriter<'_> {
    type Break = Box<SqlError>;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        for table in &mut select.from {
            if let Err(error) = self.joins(table) {
                return ControlFlow::Break(Box::new(error));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::NestedJoin {
            table_with_joins, ..
        } = factor
            && let Err(error) = self.joins(table_with_joins)
        {
            return ControlFlow::Break(Box::new(error));
        }
        match factor {
            TableFactor::Table {
                version: Some(version),
                ..
            } => ControlFlow::Break(Box::new(SqlError::invalid(
                format!("{version} is not behind a table that is joined"),
                "write a JOIN b FOR SYSTEM_TIME AS OF a.time ON a.key = b.key, or LEFT JOIN",
            ))),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Rewriter<'_> {
    fn joins(&mut self, table: &mut TableWithJoins) -> Result<(), SqlError> {
        for join in &mut table.joins {
            if let JoinOperator::AsOf {
                match_condition,
                constraint,
            } = &join.join_operator
            {
                let mark = matched(match_condition)?;
                let on = conjunction(constraint, mark, "ASOF JOIN")?;
                if let TableFactor::Table { name, alias, .. } = &mut join.relation
                    && let Some(topic) = self.topic(name)
                {
                    self.read_versions(&topic, name, alias);
                }
                join.join_operator = JoinOperator::LeftOuter(JoinConstraint::On(on));
                self.found = true;
            } else if let TableFactor::Table {
                name,
                alias,
                version,
                ..
            } = &mut join.relation
                && let Some(TableVersion::ForSystemTimeAsOf(time)) = version.clone()
            {
                *version = None;
                let mark = self.version(name, alias, &time)?;
                let constraint = match &mut join.join_operator {
                    JoinOperator::Join(constraint)
                    | JoinOperator::Inner(constraint)
                    | JoinOperator::Left(constraint)
                    | JoinOperator::LeftOuter(constraint) => constraint,
                    _ => {
                        return Err(SqlError::invalid(
                            "FOR SYSTEM_TIME AS OF in a join that is neither JOIN nor LEFT JOIN",
                            "write JOIN or LEFT JOIN, with the versions on the right",
                        ));
                    }
                };
                *constraint =
                    JoinConstraint::On(conjunction(constraint, mark, "FOR SYSTEM_TIME AS OF")?);
                self.found = true;
            }
        }
        Ok(())
    }

    /// The mark of `name FOR SYSTEM_TIME AS OF time`.
    fn version(
        &self,
        name: &mut ObjectName,
        alias: &mut Option<TableAlias>,
        time: &ast::Expr,
    ) -> Result<ast::Expr, SqlError> {
        let Some(topic) = self.topic(name) else {
            return Err(SqlError::invalid(
                format!(
                    "FOR SYSTEM_TIME AS OF reads the versions of a topic or materialized view, and {name} is none"
                ),
                "write a ASOF JOIN (SELECT …) b MATCH_CONDITION (a.time >= b.time) ON a.key = b.key",
            ));
        };
        let column = version_time(&topic, time)?;
        let alias = self.read_versions(&topic, name, alias);
        let right = format!("{}.{}", quoted(&alias), quoted(&column));
        filled(&format!("{MARK}_ge($1, {right})"), &[time])
    }
}

impl Rewriter<'_> {
    fn topic(&self, name: &ObjectName) -> Option<TopicInfo> {
        match name.0.as_slice() {
            [part] => self.topics.topic(&name_of(part.as_ident()?)),
            _ => None,
        }
    }

    /// Lets a table name stand for the versions of a topic with a primary key; answers what it goes by.
    fn read_versions(
        &self,
        topic: &TopicInfo,
        name: &mut ObjectName,
        alias: &mut Option<TableAlias>,
    ) -> String {
        let alias = alias.get_or_insert_with(|| TableAlias {
            explicit: true,
            name: Ident::with_quote('"', topic.name.clone()),
            columns: Vec::new(),
            at: None,
        });
        if self.reading == Reading::Bounded && !topic.primary_key.is_empty() {
            let versions = format!("{}{VERSIONS}", topic.name);
            *name = ObjectName::from(vec![Ident::with_quote('"', versions)]);
        }
        name_of(&alias.name)
    }
}

/// The column that says when a version of a topic's row began to count.
fn version_time(topic: &TopicInfo, time: &ast::Expr) -> Result<String, SqlError> {
    const STORED_AT: &str = "_stored_at";
    let last = match time {
        ast::Expr::Identifier(ident) => Some(name_of(ident)),
        ast::Expr::CompoundIdentifier(parts) => parts.last().map(name_of),
        _ => None,
    };
    if last.as_deref() == Some(STORED_AT) {
        return Ok(STORED_AT.to_owned());
    }
    match &topic.watermark {
        Some(watermark) => Ok(watermark.column.clone()),
        None => Err(SqlError::invalid(
            format!(
                "FOR SYSTEM_TIME AS OF {time} needs to know when rows of topic {} began to count, and it declares no watermark",
                topic.name
            ),
            "make the topic with WATERMARK FOR its time column, or look up what the log held: FOR SYSTEM_TIME AS OF a._stored_at",
        )),
    }
}

/// The mark of `MATCH_CONDITION (…)`.
fn matched(condition: &ast::Expr) -> Result<ast::Expr, SqlError> {
    let mut inner = condition;
    while let ast::Expr::Nested(nested) = inner {
        inner = nested;
    }
    if let ast::Expr::BinaryOp { left, op, right } = inner {
        let word = match op {
            BinaryOperator::GtEq => Some("ge"),
            BinaryOperator::Gt => Some("gt"),
            BinaryOperator::LtEq => Some("le"),
            BinaryOperator::Lt => Some("lt"),
            _ => None,
        };
        if let Some(word) = word {
            return filled(&format!("{MARK}_{word}($1, $2)"), &[left, right]);
        }
    }
    Err(SqlError::invalid(
        format!("MATCH_CONDITION compares two times, and {condition} does not"),
        "write MATCH_CONDITION (a.time >= b.time), or with >, <=, <",
    ))
}

fn conjunction(
    constraint: &JoinConstraint,
    mark: ast::Expr,
    what: &str,
) -> Result<ast::Expr, SqlError> {
    match constraint {
        JoinConstraint::On(on) => Ok(ast::Expr::BinaryOp {
            left: Box::new(ast::Expr::Nested(Box::new(on.clone()))),
            op: BinaryOperator::And,
            right: Box::new(mark),
        }),
        _ => Err(SqlError::invalid(
            format!("{what} without ON"),
            "say which columns are equal: ON a.key = b.key",
        )),
    }
}

/// The topic whose versions a table name stands for.
pub(crate) fn versions_of(name: &str, topics: &dyn Topics) -> Option<TopicInfo> {
    let topic = topics.topic(name.strip_suffix(VERSIONS)?)?;
    Some(TopicInfo {
        // Every row counts.
        primary_key: Vec::new(),
        ..topic
    })
}

/// The functions that mark as-of joins.
pub(crate) fn marks() -> impl Iterator<Item = ScalarUDF> {
    SEEKS.into_iter().map(|(word, _)| {
        create_udf(
            &format!("{MARK}_{word}"),
            vec![timestamp(), timestamp()],
            DataType::Boolean,
            // So that no rule moves it away from its join.
            Volatility::Volatile,
            Arc::new(|_| not_impl_err!("an as-of join is computed by its operator")),
        )
    })
}

/// A join whose condition holds a mark, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Marked {
    /// Pairs that are equal, left and right.
    pub(crate) on: Vec<(Expr, Expr)>,
    /// When a row of the left, and one of the right, happened.
    pub(crate) times: [Expr; 2],
    pub(crate) seek: Seek,
    /// Whether left rows stay that meet nothing.
    pub(crate) is_outer: bool,
}

impl Marked {
    /// Takes a join apart; `None` without a mark.
    pub(crate) fn of(join: &Join) -> Result<Option<Self>, SqlError> {
        let conditions: Vec<&Expr> = join.filter.iter().flat_map(split_conjunction).collect();
        let Some((seek, first, second)) = conditions.iter().copied().find_map(mark) else {
            return Ok(None);
        };
        let (left, right) = (join.left.schema(), join.right.schema());
        let within = |expr: &Expr, schema: &DFSchema| {
            let columns = expr.column_refs();
            !columns.is_empty() && columns.iter().all(|column| schema.has_column(column))
        };
        let (times, seek) = if within(first, left) && within(second, right) {
            ([first.clone(), second.clone()], seek)
        } else if within(first, right) && within(second, left) {
            let seek = match seek {
                Seek::Back { or_at } => Seek::Ahead { or_at },
                Seek::Ahead { or_at } => Seek::Back { or_at },
            };
            ([second.clone(), first.clone()], seek)
        } else {
            return Err(SqlError::invalid(
                format!(
                    "an as-of join compares a time of its left with one of its right, not {first} with {second}"
                ),
                "write MATCH_CONDITION (a.time >= b.time)",
            ));
        };
        let mut on = join.on.clone();
        for condition in conditions {
            if mark(condition).is_some() {
                continue;
            }
            let pair = match condition {
                Expr::BinaryExpr(binary) if binary.op == Sign::Eq => {
                    find_valid_equijoin_key_pair(&binary.left, &binary.right, left, right)?
                }
                _ => None,
            };
            on.push(pair.ok_or_else(|| {
                SqlError::invalid(
                    format!("an as-of join takes equal columns in ON, not {condition}"),
                    "write the condition after WHERE",
                )
            })?);
        }
        if on.is_empty() {
            return Err(SqlError::invalid(
                "an as-of join without equal columns",
                "write ON a.key = b.key",
            ));
        }
        Ok(Some(Self {
            on,
            times,
            seek,
            is_outer: join.join_type == JoinType::Left,
        }))
    }
}

fn mark(condition: &Expr) -> Option<(Seek, &Expr, &Expr)> {
    let Expr::ScalarFunction(function) = condition else {
        return None;
    };
    let word = function.func.name().strip_prefix(MARK)?.strip_prefix('_')?;
    let (_, seek) = SEEKS.into_iter().find(|(known, _)| *known == word)?;
    match function.args.as_slice() {
        [first, second] => Some((seek, first, second)),
        _ => None,
    }
}

/// The topic of a relation that stands for the versions of its rows, if it does.
pub(crate) fn scanned(plan: &LogicalPlan) -> Option<&str> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => scanned(&alias.input),
        LogicalPlan::TableScan(scan) => Some(scan.table_name.table()),
        _ => None,
    }
}

/// What the place of a row in the log is called where a query passes it on that does not name it.
const PLACE: [&str; 2] = ["__log_queue", "__log_offset"];

/// A right side and the columns that tell the place of its rows in the log; of filters and projections over a topic the place is
/// passed on, in columns behind the others.
pub(crate) fn with_place(right: &LogicalPlan) -> EngineResult<(LogicalPlan, Vec<Expr>)> {
    let found = placed(right)?.map(|(plan, place)| (plan, place.map(Expr::Column).to_vec()));
    Ok(found.unwrap_or_else(|| (right.clone(), Vec::new())))
}

fn placed(plan: &LogicalPlan) -> EngineResult<Option<(LogicalPlan, [Column; 2])>> {
    Ok(match plan {
        LogicalPlan::TableScan(_) => {
            let column = |name: &str| {
                let at = plan.schema().index_of_column_by_name(None, name)?;
                Some(Column::from(plan.schema().qualified_field(at)))
            };
            let place = column("_queue").zip(column("_offset"));
            place.map(|(queue, offset)| (plan.clone(), [queue, offset]))
        }
        LogicalPlan::Filter(filter) => match placed(&filter.input)? {
            Some((input, place)) => {
                let filter = Filter::try_new(filter.predicate.clone(), Arc::new(input))?;
                Some((LogicalPlan::Filter(filter), place))
            }
            None => None,
        },
        LogicalPlan::SubqueryAlias(alias) => match placed(&alias.input)? {
            Some((input, [queue, offset])) => {
                let queue = input.schema().index_of_column(&queue)?;
                let offset = input.schema().index_of_column(&offset)?;
                let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?;
                let place = [queue, offset];
                let place = place.map(|at| Column::from(alias.schema.qualified_field(at)));
                Some((LogicalPlan::SubqueryAlias(alias), place))
            }
            None => None,
        },
        LogicalPlan::Projection(projection) => match placed(&projection.input)? {
            Some((input, place)) => {
                let place = place.into_iter().zip(PLACE);
                let place = place.map(|(column, name)| Expr::Column(column).alias(name));
                let exprs = projection.expr.iter().cloned().chain(place);
                let projection = Projection::try_new(exprs.collect(), Arc::new(input))?;
                let place = PLACE.map(Column::new_unqualified);
                Some((LogicalPlan::Projection(projection), place))
            }
            None => None,
        },
        _ => None,
    })
}

/// Checks that versions are met by what tells them apart.
pub(crate) fn check_key(marked: &Marked, topic: &TopicInfo) -> Result<(), SqlError> {
    let mut met: Vec<&str> = Vec::new();
    for (_, right) in &marked.on {
        if let Expr::Column(column) = right {
            met.push(&column.name);
        }
    }
    let key = &topic.primary_key;
    let is_key = met.len() == marked.on.len()
        && key.len() == met.len()
        && key.iter().all(|column| met.contains(&column.as_str()));
    if is_key {
        return Ok(());
    }
    let name = &topic.name;
    let equal: Vec<String> = key.iter().map(|key| format!("a.{key} = b.{key}")).collect();
    Err(SqlError::invalid(
        format!(
            "FOR SYSTEM_TIME AS OF meets versions by the primary key of topic {name}, which is ({})",
            key.join(", ")
        ),
        format!("write ON {}, with b for {name}", equal.join(" AND ")),
    ))
}

/// Replaces marked joins by what a query that ends computes: each right row counts from its time to that of
/// the next one of its key.
pub(crate) fn plain(plan: LogicalPlan, topics: &dyn Topics) -> Result<LogicalPlan, SqlError> {
    let mut failed = None;
    let replaced = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = &node else {
            return Ok(Transformed::no(node));
        };
        match Marked::of(join).and_then(|marked| match marked {
            Some(marked) => ranges(join, &marked, topics).map(Some),
            None => Ok(None),
        }) {
            Ok(Some(plan)) => Ok(Transformed::yes(plan)),
            Ok(None) => Ok(Transformed::no(node)),
            Err(error) => {
                failed = Some(error);
                Err(DataFusionError::Internal("an as-of join failed".to_owned()))
            }
        }
    });
    match (replaced, failed) {
        (_, Some(error)) => Err(error),
        (replaced, None) => Ok(replaced?.data),
    }
}

/// Name of the column that holds the time of the next, or of the last, right row.
const OTHER: &str = "__millpond_other_time";

fn ranges(join: &Join, marked: &Marked, topics: &dyn Topics) -> Result<LogicalPlan, SqlError> {
    let [left_time, right_time] = &marked.times;
    let (right, place) = with_place(&join.right)?;
    let schema = Arc::clone(right.schema());
    let column = |name: &str| -> Option<Expr> {
        let mut found = schema.iter().filter(|(_, field)| field.name() == name);
        let (qualifier, field) = found.next()?;
        Some(Expr::Column((qualifier, field).into()))
    };
    let versions = scanned(&join.right).and_then(|name| name.strip_suffix(VERSIONS));
    let versions = versions.and_then(|name| topics.topic(name));
    let mut right = LogicalPlanBuilder::from(right).filter(right_time.clone().is_not_null())?;
    let partition = match &versions {
        Some(topic) => {
            check_key(marked, topic)?;
            let key = column("_key").ok_or_else(|| SqlError::Bug {
                cause: format!("the versions of {} have no key", topic.name),
            })?;
            right = right.filter(key.clone().is_not_null())?;
            vec![key]
        }
        None => marked.on.iter().map(|(_, right)| right.clone()).collect(),
    };
    let order = std::iter::once(right_time.clone()).chain(place);
    let order = order.map(|by| by.sort(true, false)).collect();
    let (function, seeks_back) = match marked.seek {
        Seek::Back { .. } => ("lead", true),
        Seek::Ahead { .. } => ("lag", false),
    };
    let state = runtime::expressions();
    let function = state.window_functions().get(function).map(Arc::clone);
    let function = function.ok_or_else(|| SqlError::Bug {
        cause: "the window functions lag and lead are missing".to_owned(),
    })?;
    let function = WindowFunctionDefinition::WindowUDF(function);
    let other = Expr::from(datafusion::logical_expr::expr::WindowFunction::new(
        function,
        vec![right_time.clone()],
    ));
    let other = other.partition_by(partition).order_by(order).build()?;
    let name = other.schema_name().to_string();
    right = right.window([other])?;
    let columns = schema.iter().map(|column| Expr::Column(column.into()));
    let other = Expr::Column(Column::from_name(name)).alias(OTHER);
    right = right.project(columns.chain([other]))?;
    if versions.is_some()
        && let Some(body) = column("_body")
    {
        // A deletion ends the version before it and is none itself, and so does a row that does not parse.
        let is_good = column(DECODE_ERROR).map_or_else(|| lit(true), Expr::is_null);
        right = right.filter(body.is_not_null().and(is_good))?;
    }
    let other = Expr::Column(Column::from_name(OTHER));
    let (left, right_at) = (left_time.clone(), right_time.clone());
    let (meets, within) = match marked.seek {
        Seek::Back { or_at: true } => (left.clone().gt_eq(right_at), left.lt(other.clone())),
        Seek::Back { or_at: false } => (left.clone().gt(right_at), left.lt_eq(other.clone())),
        Seek::Ahead { or_at: true } => (left.clone().lt_eq(right_at), left.gt(other.clone())),
        Seek::Ahead { or_at: false } => (left.clone().lt(right_at), left.gt_eq(other.clone())),
    };
    debug_assert_eq!(seeks_back, matches!(marked.seek, Seek::Back { .. }));
    let filter = meets.and(within.or(other.is_null()));
    let keys: (Vec<Expr>, Vec<Expr>) = marked.on.iter().cloned().unzip();
    let kind = match marked.is_outer {
        true => JoinType::Left,
        false => JoinType::Inner,
    };
    let joined = LogicalPlanBuilder::from(join.left.as_ref().clone()).join_with_expr_keys(
        right.build()?,
        kind,
        keys,
        Some(filter),
    )?;
    let columns = join.schema.iter();
    let columns = columns.map(|column| Expr::Column(column.into()));
    Ok(joined.project(columns)?.build()?)
}

/// What a continuous as-of join refuses.
pub(crate) fn refuse_ahead() -> SqlError {
    refused(
        "an as-of join with a later row",
        "write MATCH_CONDITION (a.time >= b.time), or join the other way round",
    )
}
