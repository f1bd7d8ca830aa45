//! Rewrites between the parsed statement and the query engine's plan, one a file.
//!
//! On the syntax tree, in this order:
//!
//! - [`limited`]: `ORDER BY … LIMIT` of a continuous query as places
//! - [`views`]: plain views, written out
//! - [`recursive`]: names of the columns of `WITH RECURSIVE`
//! - [`unnest_written`]: lists in `FROM` as `UNNEST` with names
//! - [`star`]: what `*` means, by [`joined`] (what `FROM` has) and [`scopes`] (what `WITH` names)
//! - [`window`] after [`window_groups`] (windows in `GROUP BY`), with [`window_bounds`] (rows that have some already)
//! - [`as_of`]: as-of joins as joins with a mark
//! - [`named`]: what columns are called
//! - [`exact`]: numbers beside a DECIMAL
//!
//! On the engine's plan:
//!
//! - [`unnest`]: lists beside the rows that they are of; then [`list_rows`]: subqueries over lists as functions of the row
//! - [`moments`] (times as numbers), [`times`] (times that are written), [`negated`] (`-x`)
//! - [`in_query`] (`IN` as a value), [`marks`] (`EXISTS` as a value), [`distinct_on`]
//! - what the engine would make wrong: [`constant`] and [`in_lists`], both by [`unseen`]
//!
//! A whole query that never ends is planned by [`continuous`], of what it reads ([`source`], [`store_time`]):
//!
//! - [`as_of_node`], [`session_filter`] and [`session_node`] keep the engine's rules from what they would break
//! - [`not_in`] and [`marked_rows`] know of NULL where the engine's joins do not
//! - [`chain`] walks from one topic up to one aggregate
//! - [`graph`] is for anything else; [`bounds`] tells when its state ends, and its nodes are planned by [`scan_build`],
//!   [`constant_build`], [`session_build`], [`aggregate_build`] with [`grouping_sets`], [`join_build`], [`as_of_build`], [`top_build`],
//!   [`over_build`] and [`close_build`]
//! - [`closed_times`]: the event time of rows that leave when their windows end
//! - [`output`] and [`target`]: what it writes; [`lanes`]: side by side; [`fingerprint`]: what saved state must be of
//!
//! [`refuse`] has the words for what is not taken, [`located`] the place of a name that is not there.

pub(crate) mod aggregate_build;
pub(crate) mod as_of;
pub(crate) mod as_of_build;
pub(crate) mod as_of_node;
pub(crate) mod bounds;
pub(crate) mod chain;
pub(crate) mod close_build;
pub(crate) mod closed_times;
pub(crate) mod constant;
pub(crate) mod constant_build;
pub mod continuous;
pub(crate) mod distinct_on;
pub(crate) mod exact;
pub mod fingerprint;
pub(crate) mod graph;
pub(crate) mod grouping_sets;
pub(crate) mod in_lists;
pub(crate) mod in_query;
pub(crate) mod join_build;
pub(crate) mod joined;
pub(crate) mod lanes;
pub(crate) mod limited;
pub(crate) mod list_rows;
pub(crate) mod located;
pub(crate) mod marked_rows;
pub(crate) mod marks;
pub(crate) mod moments;
pub(crate) mod named;
pub(crate) mod negated;
pub(crate) mod not_in;
pub(crate) mod output;
pub(crate) mod over_build;
pub(crate) mod recursive;
pub(crate) mod refuse;
pub(crate) mod scan_build;
pub(crate) mod scopes;
pub(crate) mod session_build;
pub(crate) mod session_filter;
pub(crate) mod session_node;
pub mod source;
pub(crate) mod star;
pub(crate) mod store_time;
pub mod target;
pub(crate) mod times;
pub(crate) mod top_build;
pub(crate) mod unnest;
pub(crate) mod unnest_written;
pub(crate) mod unseen;
pub(crate) mod views;
pub mod window;
pub(crate) mod window_bounds;
pub(crate) mod window_groups;
