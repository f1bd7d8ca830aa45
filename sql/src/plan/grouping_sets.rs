//! `GROUPING SETS`, `ROLLUP` and `CUBE`: each row once for every set, with NULL in the columns left out.
//!
//! A column more, `__grouping_id`, tells the sets apart, with the bits that the engine gives it: one for each
//! group column, the last one lowest, set where the column is left out; above them how often the same set
//! came before.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Expr, GroupingSet};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, lit};

use crate::error::SqlError;
use crate::operator::graph::Kind;
use crate::operator::project::{Step, Transform};
use crate::plan::graph::{Builder, named, nullable};
use crate::plan::refuse::refused;

/// Most sets of one `GROUP BY`.
const SETS_MAX: usize = 64;

/// The sets of a `GROUP BY`.
pub(super) struct Sets {
    /// All group expressions.
    pub(super) exprs: Vec<Expr>,
    /// For each set, whether it has each of them.
    sets: Vec<Vec<bool>>,
}

impl Sets {
    /// The sets, if there are any.
    pub(super) fn of(group_expr: &[Expr]) -> Result<Option<Self>, SqlError> {
        let [Expr::GroupingSet(grouping)] = group_expr else {
            return Ok(None);
        };
        let exprs: Vec<Expr> = grouping_set_to_exprlist(group_expr)?
            .into_iter()
            .cloned()
            .collect();
        let has = |set: &[Expr]| exprs.iter().map(|expr| set.contains(expr)).collect();
        let too_many = || {
            refused(
                &format!("more than {SETS_MAX} grouping sets"),
                "write fewer, or several queries",
            )
        };
        let sets: Vec<Vec<bool>> = match grouping {
            GroupingSet::GroupingSets(sets) => sets.iter().map(|set| has(set)).collect(),
            GroupingSet::Rollup(of) => (0..=of.len()).rev().map(|to| has(&of[..to])).collect(),
            GroupingSet::Cube(of) => {
                let count = u32::try_from(of.len()).ok();
                let count = count.and_then(|bits| 1_usize.checked_shl(bits));
                let count = count
                    .filter(|count| *count <= SETS_MAX)
                    .ok_or_else(too_many)?;
                let each = (0..count).map(|bits| {
                    let set = of.iter().enumerate();
                    let set = set.filter(|(at, _)| bits >> at & 1 == 1);
                    has(&set.map(|(_, expr)| expr.clone()).collect::<Vec<_>>())
                });
                each.collect()
            }
        };
        if sets.len() > SETS_MAX {
            return Err(too_many());
        }
        Ok(Some(Self { exprs, sets }))
    }

    /// What tells each set apart, in the type that the plan has for it.
    fn ids(&self, kind: &DataType) -> Result<Vec<ScalarValue>, SqlError> {
        let mut ids = Vec::new();
        for (index, set) in self.sets.iter().enumerate() {
            let bits = set
                .iter()
                .fold(0_u64, |bits, has| bits << 1 | u64::from(!has));
            let before = self.sets[..index].iter().filter(|other| *other == set);
            let before = before.count() as u64;
            let id = before << set.len() | bits;
            ids.push(ScalarValue::UInt64(Some(id)).cast_to(kind)?);
        }
        Ok(ids)
    }
}

impl Builder<'_> {
    /// Repeats the rows of a node for each set; its columns, then the group columns and the id.
    pub(super) fn expand(
        &mut self,
        node: usize,
        sets: &Sets,
        input: &DFSchema,
        id: &DataType,
    ) -> Result<usize, SqlError> {
        let rows = Arc::clone(&self.nodes[node].schema);
        let groups = sets.exprs.iter().map(|expr| self.physical(expr, input));
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        let mut fields = named(&rows);
        for (index, group) in groups.iter().enumerate() {
            fields.push((format!("group_{index}"), group.data_type(&rows)?));
        }
        fields.push(("grouping_id".to_owned(), id.clone()));
        let schema = nullable(fields);
        let mut nodes = Vec::new();
        for (set, id) in sets.sets.iter().zip(sets.ids(id)?) {
            let columns = rows.fields().iter().enumerate();
            let mut expressions: Vec<Arc<dyn PhysicalExpr>> = columns
                .map(|(at, field)| -> Arc<dyn PhysicalExpr> {
                    Arc::new(Column::new(field.name(), at))
                })
                .collect();
            for (has, group) in set.iter().zip(&groups) {
                expressions.push(match has {
                    true => Arc::clone(group),
                    false => lit(ScalarValue::try_from(&group.data_type(&rows)?)?),
                });
            }
            expressions.push(lit(id));
            let mut transform = Transform::over(Arc::clone(&rows));
            transform.push(Step::Project {
                expressions,
                schema: Arc::clone(&schema),
            });
            let kind = Kind::Transform(transform);
            nodes.push(self.push(kind, vec![node], Arc::clone(&schema)));
        }
        Ok(self.push(Kind::Union, nodes, schema))
    }
}
