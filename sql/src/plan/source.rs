//! What a continuous query reads: its topic, the columns that are decoded, the analysed plan.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{TableReference, not_impl_err};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, Volatility, create_udf};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Statement as SyntaxTree, Visit, Visitor};
use millpond_proto::limits;

use crate::catalog;
use crate::error::SqlError;
use crate::plan::refuse::{joins, refused};
use crate::plan::window::{END, START};
use crate::runtime;
use crate::topic::{TopicInfo, Topics};

/// What is decoded of the source.
pub(crate) struct Input {
    pub(crate) source: TopicInfo,
    pub(crate) decoded: Vec<usize>,
    pub(crate) query_columns: usize,
    pub(crate) time_column: Option<usize>,
    pub(crate) reads_undecodable: bool,
}

impl Input {
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
        let mut decoded: Vec<usize> = read.unwrap_or_else(|| (0..schema.fields().len()).collect());
        let query_columns = decoded.len();
        let error = schema.index_of(catalog::DECODE_ERROR)?;
        let reads_undecodable = decoded.contains(&error);
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
            reads_undecodable,
        })
    }
}

/// The one topic that a query reads.
pub(crate) fn source_of(query: &Query, topics: &dyn Topics) -> Result<TopicInfo, SqlError> {
    struct Tables {
        names: BTreeSet<String>,
        local: BTreeSet<String>,
    }
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
                self.local
                    .insert(crate::statement::name_of(&cte.alias.name));
            }
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
            self.names.insert(parts.join("."));
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables {
        names: BTreeSet::new(),
        local: BTreeSet::new(),
    };
    let _ = query.visit(&mut tables);
    let names: Vec<&String> = tables.names.difference(&tables.local).collect();
    match names.as_slice() {
        [] => Err(refused(
            "a query without a topic",
            "read a topic: SELECT … FROM topic",
        )),
        [name] => topics.topic(name).ok_or_else(|| {
            let known = topics.topics().into_iter().map(|topic| topic.name);
            SqlError::unknown("topic", name, None, known)
        }),
        _ => Err(joins()),
    }
}

pub(crate) async fn analyse(
    query: Query,
    source: &TopicInfo,
    schema: &SchemaRef,
) -> Result<LogicalPlan, SqlError> {
    let config = runtime::config(1).with_create_default_catalog_and_schema(true);
    let runtime = runtime::locked_runtime(limits::QUERY_MEMORY_BYTES)?;
    let context = SessionContext::new_with_state(runtime::session_state(config, runtime));
    context.register_table(
        TableReference::bare(source.name.as_str()),
        Arc::new(EmptyTable::new(Arc::clone(schema))),
    )?;
    for mark in [START, END] {
        context.register_udf(create_udf(
            mark,
            vec![catalog::timestamp()],
            catalog::timestamp(),
            Volatility::Immutable,
            Arc::new(|_| not_impl_err!("windows are given by the operators of a continuous query")),
        ));
    }
    let state = context.state();
    let statement = EngineStatement::Statement(Box::new(SyntaxTree::Query(Box::new(query))));
    let plan = state.statement_to_plan(statement).await?;
    let analysed = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})?;
    // Of all optimisations only this one: do not decode what the query does not read.
    let optimizer = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    Ok(optimizer.optimize(analysed, &state, |_, _| {})?)
}
