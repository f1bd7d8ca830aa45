//! Statements: text in, one of an allow-list out.
//!
//! **Invariant.** What is not a variant of [`Statement`] does not exist: it is refused here, by name,
//! before anything is planned. So no statement reaches files, settings or the network.
//!
//! Unquoted names are folded to lower case, as in PostgreSQL. Queries are sqlparser's syntax trees;
//! the statements around them are parsed here.
//!
//! Reading order: [`kind`] (what may be asked), [`parser`] (the first word), then one file per statement:
//! [`create`], `columns` (names for those of a query), [`query_options`], [`alter`], [`job_settings`], [`savepoint`], [`remove`], [`write`](mod@write), [`show`], [`subscribe`]; their parts: [`name`], [`options`], `keep`, [`interval`], `spelling` (functions as other systems call them), `template` (expressions by a text), `pairs` (of `JSON_OBJECT`), `all_rows` (`TABLE t`), `clause` (what the parser takes and nobody would carry out); and [`refusal`] (what
//! is said when the text is none of it) with `foreign` (when it is another system's).

mod all_rows;
pub mod alter;
mod clause;
pub(crate) mod columns;
pub mod create;
pub(crate) mod foreign;
pub mod interval;
pub(crate) mod job_settings;
mod keep;
pub mod kind;
pub mod name;
pub mod options;
mod pairs;
pub mod parser;
pub mod query_options;
pub mod refusal;
pub mod remove;
pub mod savepoint;
pub mod show;
pub(crate) mod spelling;
pub mod subscribe;
mod template;
pub mod write;

pub use interval::interval_ms;
pub use kind::{
    AlterTopic, ContinuousJob, ContinuousView, CreateTopic, Emit, JobChange, LateRows, Numbers,
    PlainView, QueryOptions, Shown, Statement,
};
pub use name::{name_of, quoted};
pub use options::TopicOptions;
pub use parser::{DEPTH_MAX, parse, parse_expression, parse_query, parse_type};
pub use refusal::{CHAIN_TOKENS_MAX, SET_OPERATIONS_MAX};
pub use savepoint::SavepointChange;
pub use subscribe::Begin;
pub(crate) use template::filled;

#[cfg(test)]
mod tests;
