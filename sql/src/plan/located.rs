//! Where a query names what is not there.
//!
//! Tables are looked up by name, long after the text was read; the query's own syntax tree knows where each stands.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Query, visit_relations};

use crate::error::{Position, SqlError};
use crate::statement::name_of;

/// Gives an unknown table the place where the query names it.
pub(crate) fn located(error: SqlError, query: &Query) -> SqlError {
    let SqlError::Unknown(mut refusal) = error else {
        return error;
    };
    if refusal.position.is_none() {
        let _: ControlFlow<()> = visit_relations(query, |relation| {
            if let Some(ident) = relation.0.last().and_then(|part| part.as_ident())
                && refusal.cause.ends_with(&format!(" {}", name_of(ident)))
                && ident.span.start.line > 0
            {
                refusal.position = Some(Position {
                    line: ident.span.start.line,
                    column: ident.span.start.column,
                });
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
    }
    SqlError::Unknown(refusal)
}
