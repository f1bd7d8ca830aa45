//! What every query runs in: an engine that can reach nothing but our tables.
//!
//! **Invariant.** The object store registry is empty and stays empty, there are no file formats, no table
//! factories and no table functions. So even a plan that named a file could not open it. The library's
//! own defaults register the local file system; they are not used.

use std::sync::{Arc, LazyLock};

use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, SessionStateDefaults};
use datafusion::optimizer::Optimizer;
use datafusion::prelude::SessionConfig;
use millpond_proto::limits;
use object_store::ObjectStore;

use crate::function::all::{aggregates, scalars};
use crate::function::calendar::in_their_unit;
use crate::function::json::Arrows;
use crate::function::pattern::patterned;
use crate::function::series::within_bounds;
use crate::plan::exact::Beside;

/// Knows no store and takes none.
#[derive(Debug)]
struct NoStores;

impl ObjectStoreRegistry for NoStores {
    fn register_store(
        &self,
        _url: &url::Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        // Handing it back unregistered keeps the registry empty.
        Some(store)
    }

    fn deregister_store(&self, url: &url::Url) -> EngineResult<Arc<dyn ObjectStore>> {
        self.get_store(url)
    }

    fn get_store(&self, url: &url::Url) -> EngineResult<Arc<dyn ObjectStore>> {
        Err(DataFusionError::Plan(format!(
            "queries read topics and no files: {url} can not be opened"
        )))
    }
}

/// Name of the one catalog.
pub const CATALOG: &str = "main";
/// Schema of the topics.
pub const TOPICS_SCHEMA: &str = "public";
/// Schema of the system tables.
pub const SYSTEM_SCHEMA: &str = "millpond";

/// A runtime with a memory limit and no way to files; queries that share it share the memory.
///
/// # Errors
/// When the engine can not be set up.
pub fn locked_runtime(memory_bytes: usize) -> EngineResult<Arc<RuntimeEnv>> {
    let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(memory_bytes));
    RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(NoStores))
        .with_memory_pool(pool)
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
        )
        .build_arc()
}

/// Settings of every query; `partitions` is how many cores one may use.
#[must_use]
pub fn config(partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, TOPICS_SCHEMA)
        .with_information_schema(true);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    options.sql_parser.recursion_limit = crate::statement::DEPTH_MAX;
    config
}

/// A rule of the engine that makes one group of all rows of groups by a constant: over no rows the one has a row and the others have none.
const WRONG_OVER_NO_ROWS: &str = "eliminate_group_by_constant";

/// A fresh session: all functions over values, the engine's and ours, none over files.
#[must_use]
pub fn session_state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut planners = SessionStateDefaults::default_expr_planners();
    planners.insert(0, Arc::new(Arrows));
    let mut functions = SessionStateDefaults::default_scalar_functions();
    functions.extend(scalars());
    // They take the place of the engine's, which know one language of formats, and times of nanoseconds, only.
    functions.extend(patterned(&functions));
    functions.extend(in_their_unit(&functions));
    functions.extend(within_bounds(&functions));
    let mut of_groups = SessionStateDefaults::default_aggregate_functions();
    of_groups.extend(aggregates());
    let mut rules = Optimizer::new().rules;
    rules.retain(|rule| rule.name() != WRONG_OVER_NO_ROWS);
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_optimizer_rules(rules)
        .with_expr_planners(planners)
        .with_scalar_functions(functions)
        .with_aggregate_functions(of_groups)
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .build()
}

/// A session without tables, which expressions are planned with.
static EXPRESSIONS: LazyLock<SessionState> = LazyLock::new(|| {
    let runtime = locked_runtime(limits::QUERY_MEMORY_BYTES)
        .expect("a runtime without files and stores needs nothing from outside");
    let mut state = session_state(config(1), runtime);
    state
        .register_expr_planner(Arc::new(Beside))
        .expect("a session takes any planner of expressions");
    state
});

/// Names of all functions, for suggestions.
pub(crate) fn function_names() -> Vec<String> {
    let state = expressions();
    let mut names: Vec<String> = state.scalar_functions().keys().cloned().collect();
    names.extend(state.aggregate_functions().keys().cloned());
    names.extend(state.window_functions().keys().cloned());
    names.extend(crate::statement::spelling::names().map(str::to_owned));
    names.sort();
    names.dedup();
    names
}

/// The session that expressions outside of queries are planned with.
pub(crate) fn expressions() -> &'static SessionState {
    &EXPRESSIONS
}
