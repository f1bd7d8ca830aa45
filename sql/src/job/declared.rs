//! Topics whose declaration changes under a query that runs: a new version of a schema, one more column.
//!
//! A query decodes by the declaration that it was planned with. **Invariant.** A row of a new version is there only once its declaration is,
//! so whoever asks here after rows were read, or after their ticks were closed, has none of a version that it does not know. It is planned
//! anew then, which is no trouble: what it has computed is saved before, and what it reads afterwards is read by the new declaration.

use crate::job::error::JobError;
use crate::topic::{TopicInfo, Topics};

/// Checks that topics are declared as a query knows them.
///
/// # Errors
/// [`JobError::Redeclared`] that names the first that is not. A topic that is gone is none of them.
pub(crate) fn check_declared<'a>(
    topics: &dyn Topics,
    known: impl IntoIterator<Item = &'a TopicInfo>,
) -> Result<(), JobError> {
    let redeclared = known.into_iter().find(|known| {
        let now = topics.topic(&known.name);
        now.is_some_and(|now| now.id == known.id && !is_as(&now, known))
    });
    match redeclared {
        None => Ok(()),
        Some(known) => Err(JobError::Redeclared {
            topic: known.name.clone(),
        }),
    }
}

/// Whether rows are read and written alike by both.
fn is_as(now: &TopicInfo, known: &TopicInfo) -> bool {
    now.columns == known.columns && now.encoding.schemas == known.encoding.schemas
}
