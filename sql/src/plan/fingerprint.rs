//! What a query computes, as text: two jobs with the same text keep the same state.
//!
//! The text is strict: another condition, another column or another time to live is another query, because the state would be
//! that of rows which the new query never saw. How a query is run (lanes, limits) and where it writes are no part of it.

use datafusion::sql::sqlparser::ast::Query;

use crate::plan::continuous::ContinuousPlan;
use crate::statement::Emit;

/// How the line of a plan begins that tells the topic it writes to.
const WRITES: &str = "write ";

impl ContinuousPlan {
    /// What it computes, a line a fact.
    #[must_use]
    pub fn fingerprint(&self, query: &Query, emit: Emit) -> String {
        let mut lines = vec![format!("query {query}"), format!("emit {emit:?}")];
        for input in &self.inputs {
            let source = &input.source;
            lines.push(format!("read {} with the id {}", source.name, source.id));
            for column in &source.columns {
                let expression = column.expression.as_deref().unwrap_or("");
                lines.push(format!(
                    "column {}.{} {} {expression}",
                    source.name, column.name, column.sql_type
                ));
            }
        }
        let steps = self.explained.iter();
        lines.extend(steps.filter(|step| !step.starts_with(WRITES)).cloned());
        for column in &self.columns {
            lines.push(format!("output {} {}", column.name, column.sql_type));
        }
        lines.push(format!("output key ({})", self.primary_key.join(", ")));
        lines.join("\n")
    }
}

/// The first line in which two fingerprints differ; `None`: they are equal.
#[must_use]
pub fn difference<'a>(before: &'a str, now: &'a str) -> Option<(&'a str, &'a str)> {
    if before == now {
        return None;
    }
    let (mut before, mut now) = (before.lines(), now.lines());
    loop {
        match (before.next(), now.next()) {
            (None, None) => return Some(("", "")),
            (a, b) if a == b => {}
            (a, b) => return Some((a.unwrap_or("nothing more"), b.unwrap_or("nothing more"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told_and_equal_texts_have_none() {
        assert_eq!(difference("a\nb", "a\nb"), None);
        assert_eq!(difference("a\nb\nc", "a\nd\nc"), Some(("b", "d")));
        assert_eq!(difference("a", "a\nb"), Some(("nothing more", "b")));
    }
}
