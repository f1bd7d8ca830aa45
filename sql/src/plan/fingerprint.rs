//! What a query computes, as text: two jobs with the same text keep the same state.
//!
//! The text is strict: another condition, another column or another time to live is another query, because the state would be
//! that of rows which the new query never saw. How a query is run (lanes, limits) and where it writes are no part of it.
//!
//! **Invariant.** The words of this file are kept with savepoints, so they stay as they are; nothing that is written for people to
//! read, such as `EXPLAIN`, is a part of the text.

use arrow::datatypes::Schema;

use crate::operator::graph::Kind;
use crate::plan::continuous::{ContinuousPlan, Shape};
use crate::statement::{ContinuousJob, Emit, LateRows, QueryOptions};

impl ContinuousPlan {
    /// What it computes for a job, a line a fact.
    #[must_use]
    pub fn fingerprint(&self, job: &ContinuousJob) -> String {
        let mut lines = vec![format!("query {}", job.query), emit(job.emit)];
        lines.extend(options(&job.options));
        // A view may be replaced while the job rests.
        let views = self.written_out.iter();
        lines.extend(views.map(|query| format!("with views written out {query}")));
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
        // State lies by step, so the steps must be the same ones. These words are older than those of [`Self::steps`].
        match self.shape() {
            Shape::Rows(_) => lines.push("rows".to_owned()),
            Shape::Groups(_) => lines.push("groups".to_owned()),
            Shape::Graph(graph) => {
                lines.extend(graph.nodes.iter().enumerate().map(|(index, node)| {
                    format!("node {index} {} of {:?}", word(&node.kind), node.inputs)
                }))
            }
        }
        for column in &self.columns {
            lines.push(format!("output {} {}", column.name, column.sql_type));
        }
        lines.push(format!("output key ({})", self.primary_key.join(", ")));
        lines.join("\n")
    }

    /// The steps that its state belongs to, each with what it takes from and the types that it gives: kept with every saved
    /// state, so that a version which plans the query otherwise does not take it for that of other steps.
    pub(crate) fn steps(&self) -> Vec<String> {
        let types = |schema: &Schema| {
            let types = schema.fields().iter();
            let types: Vec<String> = types.map(|field| field.data_type().to_string()).collect();
            types.join(", ")
        };
        match self.shape() {
            Shape::Rows(_) => Vec::new(),
            Shape::Groups(grouping) => {
                let window = match grouping.window {
                    Some(_) => "windows",
                    None => "groups",
                };
                vec![format!("{window}: {}", types(&grouping.schema))]
            }
            Shape::Graph(graph) => {
                let nodes = graph.nodes.iter().map(|node| {
                    let (word, types) = (word(&node.kind), types(&node.schema));
                    format!("{word} of {:?}: {types}", node.inputs)
                });
                nodes.collect()
            }
        }
    }
}

fn emit(emit: Emit) -> String {
    match emit {
        Emit::Changes => "emit changes".to_owned(),
        Emit::OnWindowClose => "emit on window close".to_owned(),
        Emit::Every { every_ms, on_close } => {
            let closes = if on_close { " and on window close" } else { "" };
            format!("emit every {every_ms} ms{closes}")
        }
    }
}

/// What is said of state and time; whatever else is said changes nothing of what is kept.
fn options(options: &QueryOptions) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(ms) = options.state_ttl_ms {
        lines.push(format!("state_ttl {ms} ms"));
    }
    for (side, ms) in &options.side_ttls_ms {
        lines.push(format!("state_ttl of {side} {ms} ms"));
    }
    if let Some(ms) = options.allowed_lateness_ms {
        lines.push(format!("allowed_lateness {ms} ms"));
    }
    if let Some(late) = options.late {
        let becomes = match late {
            LateRows::Drop => "drop",
            LateRows::Topic => "topic",
            LateRows::Update => "update",
        };
        lines.push(format!("late {becomes}"));
    }
    lines
}

fn word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Scan { .. } => "scan",
        Kind::Latest(_) => "latest",
        Kind::Transform(_) => "transform",
        Kind::Aggregate(_) => "aggregate",
        Kind::Join(_) => "join",
        Kind::Top(_) => "top",
        Kind::AsOf(_) => "as of",
        Kind::Close(_) => "close",
        Kind::Over(_) => "over",
        Kind::Union => "union",
        Kind::Constant(_) => "constant",
        Kind::SessionRows(_) => "sessions",
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
