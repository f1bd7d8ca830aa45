//! What a query's conditions say of row groups: those that can not hold a row it looks for are not read.
//!
//! Conditions on declared columns and on times are compared with the least and greatest values that a file's
//! footer has. Whatever is not known is read, so pruning changes no answer.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::PruningPredicate;
use millpond_storage::tier::cold::typed::Skip;
use millpond_storage::tier::columns::stored_name;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::RowGroupMetaData;

use crate::catalog::Table;

/// The conditions of one query on one topic.
pub(crate) struct Prune {
    predicate: PruningPredicate,
    schema: SchemaRef,
    body: SchemaRef,
}

impl fmt::Debug for Prune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.predicate.orig_expr())
    }
}

/// Whether footers can say anything of a condition.
pub(crate) fn is_prunable(table: &Table, filter: &Expr) -> bool {
    let columns = filter.column_refs();
    let is_stored = |column: &&Column| {
        table.body.column_with_name(&column.name).is_some() || envelope(&column.name).is_some()
    };
    !columns.is_empty() && columns.iter().all(is_stored)
}

impl Prune {
    /// Those of `filters` that footers can say something of; none when there is nothing to prune by.
    pub(crate) fn skipping(
        state: &dyn Session,
        table: &Table,
        filters: &[Expr],
    ) -> EngineResult<Option<Arc<dyn Skip>>> {
        let filters = filters.iter().filter(|filter| is_prunable(table, filter));
        let Some(all) = conjunction(filters.cloned()) else {
            return Ok(None);
        };
        let names = DFSchema::try_from(table.schema.as_ref().clone())?;
        let expression = state.create_physical_expr(all, &names)?;
        let predicate = PruningPredicate::try_new(expression, Arc::clone(&table.schema))?;
        if predicate.always_true() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            predicate,
            schema: Arc::clone(&table.schema),
            body: Arc::clone(&table.body),
        })))
    }
}

impl Skip for Prune {
    fn skipped(&self, footer: &ArrowReaderMetadata) -> Vec<bool> {
        let groups = RowGroups {
            prune: self,
            footer,
        };
        match self.predicate.prune(&groups) {
            Ok(kept) => kept.into_iter().map(|is_kept| !is_kept).collect(),
            Err(error) => {
                tracing::debug!(%error, "row groups are read unpruned");
                Vec::new()
            }
        }
    }
}

/// The envelope column that a time is stored in.
fn envelope(system: &str) -> Option<&'static str> {
    match system {
        "_stored_at" => Some("stored_at"),
        "_born_at" => Some("born_at"),
        _ => None,
    }
}

/// What a footer knows of its row groups.
struct RowGroups<'a> {
    prune: &'a Prune,
    footer: &'a ArrowReaderMetadata,
}

impl RowGroups<'_> {
    fn groups(&self) -> impl Iterator<Item = &RowGroupMetaData> {
        self.footer.metadata().row_groups().iter()
    }

    fn of(
        &self,
        column: &Column,
        values: impl Fn(&StatisticsConverter<'_>) -> parquet::errors::Result<ArrayRef>,
    ) -> Option<ArrayRef> {
        let name = match envelope(&column.name) {
            Some(name) => name.to_owned(),
            None if self.prune.body.column_with_name(&column.name).is_some() => {
                stored_name(&column.name)
            }
            None => return None,
        };
        let schema = self.footer.schema();
        let converter = StatisticsConverter::try_new(&name, schema, self.footer.parquet_schema());
        values(&converter.ok()?).ok()
    }

    fn typed(&self, column: &Column, values: Option<ArrayRef>) -> Option<ArrayRef> {
        let field = self.prune.schema.field_with_name(&column.name).ok()?;
        cast(&values?, field.data_type()).ok()
    }
}

impl PruningStatistics for RowGroups<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        let least = self.of(column, |of| of.row_group_mins(self.groups()));
        self.typed(column, least)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        let greatest = self.of(column, |of| of.row_group_maxes(self.groups()));
        // NaN is greater than all, and no footer tells of it.
        let greatest = greatest.filter(|values| !values.data_type().is_floating());
        self.typed(column, greatest)
    }

    fn num_containers(&self) -> usize {
        self.footer.metadata().num_row_groups()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |of| {
            let nulls = of.row_group_null_counts(self.groups())?;
            Ok(Arc::new(nulls))
        })
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self
            .groups()
            .map(|group| u64::try_from(group.num_rows()).ok());
        let rows: arrow::array::UInt64Array = rows.collect();
        Some(Arc::new(rows))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
