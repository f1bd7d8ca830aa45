//! What a continuous query reads: its topics, the columns that are decoded, the analysed plan.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{TableReference, not_impl_err};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility, create_udf};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Statement as SyntaxTree, Visit, Visitor};
use millpond_proto::limits;

use crate::batch::view::view;
use crate::catalog;
use crate::error::SqlError;
use crate::plan::as_of;
use crate::plan::constant::bound;
use crate::plan::distinct_on;
use crate::plan::exact::{self, Beside};
use crate::plan::in_lists::apart;
use crate::plan::in_query::{self, Alone};
use crate::plan::list_rows;
use crate::plan::marked_rows;
use crate::plan::marks;
use crate::plan::moments::in_milliseconds;
use crate::plan::negated;
use crate::plan::not_in;
use crate::plan::refuse::refused;
use crate::plan::scopes::Scopes;
use crate::plan::times;
use crate::plan::unnest;
use crate::plan::window::{end_mark, start_mark};
use crate::runtime;
use crate::statement::Numbers;
use crate::topic::{TopicInfo, Topics};

/// What is read and decoded of one topic.
#[derive(Clone, Debug)]
pub struct Input {
    /// The topic.
    pub source: TopicInfo,
    /// Positions in that topic's table that are decoded: first those that the query reads.
    pub decoded: Vec<usize>,
    /// How many of those the query reads.
    pub query_columns: usize,
    /// Where the event time is among the decoded columns, if the topic declares it.
    pub time_column: Option<usize>,
    /// What becomes of rows whose body does not parse.
    pub undecodable: Undecodable,
}

/// What becomes of rows whose body does not parse, which are counted in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// The query itself deals with them.
    Shown,
    /// They are left out.
    LeftOut,
    /// The key of such a row has none from then on, as if it had been deleted: of a topic with a key the last row decides.
    Deletes,
}

impl Input {
    /// The columns of a chain's one topic that its plan reads.
    pub(crate) fn of(
        source: &TopicInfo,
        schema: &Schema,
        plan: &LogicalPlan,
    ) -> Result<Self, SqlError> {
        let mut read = None;
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                read.clone_from(&scan.projection);
            }
            Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
        })?;
        let read = read.unwrap_or_else(|| (0..schema.fields().len()).collect());
        Self::reading(source, schema, read)
    }

    /// A topic of whose table these columns are read.
    pub(crate) fn reading(
        source: &TopicInfo,
        schema: &Schema,
        columns: Vec<usize>,
    ) -> Result<Self, SqlError> {
        let mut decoded = columns;
        let query_columns = decoded.len();
        let error = schema.index_of(catalog::DECODE_ERROR)?;
        let undecodable = match catalog::shows_undecodable(schema, source.columns.len(), &decoded) {
            true => Undecodable::Shown,
            false => Undecodable::LeftOut,
        };
        let mut place = |column: usize| match decoded.iter().position(|at| *at == column) {
            Some(at) => at,
            None => {
                decoded.push(column);
                decoded.len() - 1
            }
        };
        place(error);
        let time_column = match &source.watermark {
            Some(spec) => Some(place(schema.index_of(&spec.column)?)),
            None => None,
        };
        Ok(Self {
            source: source.clone(),
            decoded,
            query_columns,
            time_column,
            undecodable,
        })
    }
}

/// The topics that a query reads, by name.
pub(crate) fn sources_of(query: &Query, topics: &dyn Topics) -> Result<Vec<Source>, SqlError> {
    struct Tables {
        names: BTreeSet<String>,
        scopes: Scopes,
    }
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.scopes.enter(query);
            ControlFlow::Continue(())
        }
        fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.scopes.leave();
            ControlFlow::Continue(())
        }
        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            let parts: Vec<String> = relation
                .0
                .iter()
                .map(|part| match part.as_ident() {
                    Some(ident) => crate::statement::name_of(ident),
                    None => part.to_string(),
                })
                .collect();
            let name = parts.join(".");
            if !self.scopes.holds(&name) {
                self.names.insert(name);
            }
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables {
        names: BTreeSet::new(),
        scopes: Scopes::default(),
    };
    let _ = query.visit(&mut tables);
    let mut sources = Vec::new();
    for name in &tables.names {
        let topic = topics.topic(name).ok_or_else(|| {
            if view(topics, name).is_some() {
                return refused(
                    &format!("versions of rows of view {name}"),
                    "write FOR SYSTEM_TIME AS OF over the topic, within the view if you like",
                );
            }
            let known = topics.topics().into_iter().map(|topic| topic.name);
            SqlError::unknown("topic", name, None, known)
        })?;
        sources.push(Source {
            schema: catalog::table_schema(&topic)?,
            topic,
        });
    }
    if sources.is_empty() {
        return Err(refused(
            "a query without a topic",
            "read a topic: SELECT … FROM topic",
        ));
    }
    Ok(sources)
}

/// A topic that a query reads, and its table.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topic: TopicInfo,
    pub(crate) schema: SchemaRef,
}

/// The query with names resolved and types checked, and what it is optimised with.
pub(crate) async fn analyse(
    mut query: Query,
    sources: &[Source],
    windows: usize,
    numbers: Numbers,
) -> Result<(LogicalPlan, SessionState), SqlError> {
    let mut config = runtime::config(1).with_create_default_catalog_and_schema(true);
    // A subquery of one row is joined to each row, and so is what becomes of it when it changes.
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let runtime = runtime::locked_runtime(limits::QUERY_MEMORY_BYTES)?;
    let context = SessionContext::new_with_state(runtime::session_state(config, runtime));
    for source in sources {
        context.register_table(
            TableReference::bare(source.topic.name.as_str()),
            Arc::new(EmptyTable::new(Arc::clone(&source.schema))),
        )?;
    }
    for mark in as_of::marks() {
        context.register_udf(mark);
    }
    for window in 0..windows {
        for mark in [start_mark(window), end_mark(window)] {
            // Volatile, so that no rule moves it away from the rows that it stands for.
            context.register_udf(create_udf(
                &mark,
                vec![catalog::timestamp()],
                catalog::timestamp(),
                Volatility::Volatile,
                Arc::new(|_| {
                    not_impl_err!("windows are given by the operators of a continuous query")
                }),
            ));
        }
    }
    let is_exact = numbers == Numbers::Exact;
    let mut state = context.state();
    if is_exact {
        exact::written(&mut query);
        state.register_expr_planner(Arc::new(Beside))?;
    }
    let statement = EngineStatement::Statement(Box::new(SyntaxTree::Query(Box::new(query))));
    let mut plan = unnest::beside(state.statement_to_plan(statement).await?)?;
    if is_exact {
        plan = in_milliseconds(exact::compared(plan)?)?;
    }
    let plan = list_rows::plain(negated::plain(times::plain(plan)?)?, &state)?;
    unnest::check_left(&plan)?;
    let analysed = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})?;
    check_subqueries(&analysed)?;
    let meant = in_query::plain(marks::by_exists(analysed, &state)?, Alone::Kept)?;
    let meant = marks::joined(meant, &state)?;
    Ok((apart(distinct_on::plain(meant)?)?, state))
}

/// Whether a query is `SELECT` without `FROM`, of which the engine knows no number of rows.
fn is_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_one_row(&alias.input),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        _ => false,
    }
}

/// Refuses a subquery in the place of a value that may answer more than one: as a join it would answer all of them.
fn check_subqueries(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut is_open = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarSubquery(query) = expr {
                    let plan = query.subquery.as_ref();
                    let is_one = plan.max_rows() == Some(1) || is_one_row(plan);
                    is_open |= query.outer_ref_columns.is_empty() && !is_one;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match is_open {
        true => Err(refused(
            "a subquery in the place of a value that may answer more than one row",
            "aggregate in it, for example (SELECT max(x) FROM …), or join with it",
        )),
        false => Ok(()),
    }
}

/// Of all optimisations only this one: do not decode what the query does not read.
pub(crate) fn for_chain(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan, SqlError> {
    let optimizer = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    Ok(optimizer.optimize(plan, state, |_, _| {})?)
}

/// Subqueries become joins, joins get their keys, filters come before what they filter.
pub(crate) fn for_graph(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan, SqlError> {
    let joined = Optimizer::with_rules(vec![
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
    ]);
    let plan = not_in::plain(joined.optimize(plan, state, |_, _| {})?)?;
    let plan = marked_rows::plain(plan)?;
    let optimizer = Optimizer::with_rules(vec![
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ]);
    Ok(optimizer.optimize(bound(plan)?, state, |_, _| {})?)
}
