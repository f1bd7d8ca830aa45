//! Rewrites between the parsed statement and the query engine's plan, one a file.
//!
//! Reading order: [`limited`] (`ORDER BY … LIMIT`), [`views`] (plain views, written out), [`star`] (what `*` means) by [`joined`] (what `FROM` has) and [`scopes`] (what `WITH` names), [`named`] (what columns are called), [`exact`] (numbers beside a DECIMAL), [`moments`] (times as numbers), [`times`] (times that are written), [`negated`] (`-x`), [`unnest`] after [`unnest_written`] (lists as rows), [`not_in`] (and NULL), [`marks`] (subqueries as values), [`distinct_on`], [`window`] after [`window_groups`] with [`window_bounds`], [`as_of`] with its [`as_of_node`] and [`as_of_build`], [`continuous`] (a whole query that
//! never ends), [`source`] (what it reads), [`chain`] (from there up), [`graph`] (joins and tables that change), [`bounds`]
//! (when state ends), whose nodes are planned by [`scan_build`], [`aggregate_build`], [`join_build`], [`top_build`],
//! [`over_build`] and [`close_build`], [`session_filter`], [`grouping_sets`], [`output`] and [`target`] (what it writes), [`lanes`] (side by side),
//! [`fingerprint`] (what saved state must be of), [`store_time`], [`refuse`], [`located`] (where a name stands that is not there); what the engine would make wrong: [`constant`], [`in_lists`], both by [`unseen`], [`times`], [`negated`].

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
