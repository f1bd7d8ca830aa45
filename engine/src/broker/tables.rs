//! The topics of the catalog as storage shows them to outsiders: names and declared columns.
//!
//! Columns are made once per declaration, since storage asks with every file.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_proto::message::TopicId;
use millpond_sql::topic::ColumnSpec;
use millpond_sql::typed::{TypedColumns, has_typed_columns};
use millpond_storage::error::TierError;
use millpond_storage::tier::cold::TableMetadata;
use millpond_storage::tier::columns::{Columns, Table, Tables};
use tokio::sync::watch;

use crate::broker::catalog::Catalog;
use crate::broker::family;
use crate::broker::record::TopicRecord;
use crate::broker::{Broker, Topic};

/// The catalog as it is durable.
pub(super) struct CatalogTables {
    catalog: watch::Receiver<Arc<Catalog>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Topics by id, as of a revision of the catalog.
    revision: Option<u64>,
    topics: HashMap<u64, Arc<TopicRecord>>,
    /// Names of families by id.
    families: HashMap<u64, String>,
    /// Columns by topic, with the declaration that they are of.
    columns: HashMap<u64, Declared>,
}

/// A declaration, and the typed columns that it makes.
type Declared = (Vec<ColumnSpec>, Option<Arc<dyn Columns>>);

impl fmt::Debug for CatalogTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the topics of the catalog")
    }
}

impl CatalogTables {
    pub(super) fn new(catalog: watch::Receiver<Arc<Catalog>>) -> Self {
        Self {
            catalog,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let catalog = Arc::clone(&self.catalog.borrow());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.follow(&catalog);
        known
    }
}

impl Known {
    fn follow(&mut self, catalog: &Catalog) {
        if self.revision == Some(catalog.revision()) {
            return;
        }
        let topics = catalog.topics();
        self.topics = topics.map(|topic| (topic.id, Arc::clone(topic))).collect();
        let members = self.topics.values();
        let families = members.filter_map(|t| Some((family::of(t)?.0, t.family.clone())));
        self.families = families.collect();
        self.columns
            .retain(|topic, _| self.topics.contains_key(topic));
        self.revision = Some(catalog.revision());
    }

    fn columns(&mut self, topic: &TopicRecord) -> Option<Arc<dyn Columns>> {
        let Topic {
            columns: specs,
            bodies,
            ..
        } = Topic::of(topic);
        if !has_typed_columns(bodies.encoding.format, bodies.changelog) {
            return None;
        }
        let known = self.columns.get(&topic.id);
        if let Some((_, columns)) = known.filter(|(of, _)| *of == specs) {
            return columns.as_ref().map(Arc::clone);
        }
        let made = TypedColumns::of(&specs).unwrap_or_else(|error| {
            tracing::error!(topic = %topic.name, %error, "the topic gets no typed columns");
            None
        });
        let made = made.map(|columns| Arc::new(columns) as Arc<dyn Columns>);
        let columns = made.as_ref().map(Arc::clone);
        self.columns.insert(topic.id, (specs, columns));
        made
    }
}

impl Tables for CatalogTables {
    fn revision(&self) -> u64 {
        self.catalog.borrow().revision()
    }

    fn table(&self, topic: TopicId) -> Option<Table> {
        let mut known = self.known();
        if let Some(name) = known.families.get(&topic.0) {
            return Some(Table {
                name: name.clone(),
                columns: None,
            });
        }
        let record = known.topics.get(&topic.0).map(Arc::clone)?;
        Some(Table {
            name: record.name.clone(),
            columns: known.columns(&record),
        })
    }

    fn name(&self, topic: TopicId) -> Option<String> {
        Some(self.known().topics.get(&topic.0)?.name.clone())
    }

    fn family(&self, topic: TopicId) -> Option<TopicId> {
        family::of(self.known().topics.get(&topic.0)?)
    }
}

impl Broker {
    /// Names of the topics and families that are shown as Iceberg tables, in order.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        let Ok(incarnation) = self.incarnation() else {
            return Vec::new();
        };
        let shown = incarnation.storage().shown_topics();
        let catalog = incarnation.catalog();
        let is_shown = |id: TopicId| shown.binary_search(&id).is_ok();
        let mut names = BTreeSet::new();
        for topic in catalog.topics() {
            match family::of(topic) {
                Some(family) if is_shown(family) => names.insert(topic.family.clone()),
                None if is_shown(TopicId(topic.id)) => names.insert(topic.name.clone()),
                _ => false,
            };
        }
        names.into_iter().collect()
    }

    /// The Iceberg table of a topic or a family; none when there is none of that name, when nothing of it is in the cold
    /// tier yet, and for a topic that is shown with its family.
    ///
    /// # Errors
    /// [`TierError`] when the object store does not answer.
    pub async fn table(&self, name: &str) -> Result<Option<TableMetadata>, TierError> {
        let Ok(incarnation) = self.incarnation() else {
            return Ok(None);
        };
        let catalog = incarnation.catalog();
        let family = || {
            let mut topics = catalog.topics();
            family::of(topics.find(|topic| topic.family == name)?)
        };
        let topic = catalog.topic(name).map(|topic| TopicId(topic.id));
        match topic.or_else(family) {
            Some(topic) => incarnation.storage().table_metadata(topic).await,
            None => Ok(None),
        }
    }
}
