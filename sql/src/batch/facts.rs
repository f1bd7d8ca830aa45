//! System tables that the broker fills, asked when a statement is planned: for the rows of one group or topic alone, where a
//! condition says which.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::Column;
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{
    BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::ExecutionPlan;

use crate::batch::latest::external;
use crate::batch::notices::Notices;
use crate::topic::{FactsAsked, Topics};

/// One of [`crate::topic::FACTS`].
#[derive(Debug)]
pub(crate) struct FactsTable {
    name: String,
    schema: SchemaRef,
    topics: Arc<dyn Topics>,
    notices: Notices,
}

impl FactsTable {
    /// The table; when not all of its rows are there, `notices` tells.
    pub(crate) fn new(name: &str, topics: Arc<dyn Topics>, notices: Notices) -> Self {
        Self {
            name: name.to_owned(),
            schema: topics.facts_schema(name),
            topics,
            notices,
        }
    }
}

#[async_trait]
impl TableProvider for FactsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> EngineResult<Vec<TableProviderFilterPushDown>> {
        // The broker may answer more, so the engine still filters.
        let support = |filter: &&Expr| match equals(filter) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
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
        let mut asked = FactsAsked::default();
        for (column, value) in filters.iter().filter_map(equals) {
            match column {
                "group" => asked.group = Some(value.to_owned()),
                _ => asked.topic = Some(value.to_owned()),
            }
        }
        let facts = self.topics.ask_facts(&self.name, &asked).await;
        let facts = facts.map_err(external)?;
        if facts.is_cut {
            self.notices.add(format!(
                "millpond.{} has more rows than the first {} that were looked at (FACT_ROWS_MAX); ask for one topic or group",
                self.name,
                facts.rows.num_rows()
            ));
        }
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![vec![facts.rows]])?;
        table.scan(state, projection, &[], limit).await
    }
}

/// The column `group` or `topic` and the text that it is to be.
fn equals(filter: &Expr) -> Option<(&str, &str)> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = filter
    else {
        return None;
    };
    let of = |column: &'_ Column| {
        ["group", "topic"]
            .into_iter()
            .find(|name| column.name == *name)
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _))
        | (Expr::Literal(value, _), Expr::Column(column)) => {
            Some((of(column)?, value.try_as_str()??))
        }
        _ => None,
    }
}
