//! What a consumer's word would change, and whether there is room for it; nothing here changes what anybody listens to.

use std::collections::BTreeSet;
use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::time::Timestamp;

use crate::broker::lite::listeners::{Action, Known, OverQuota, Who};

/// What a consumer's word changes of what it listens to.
pub(super) struct Change {
    /// Names that it did not listen to before.
    pub(super) new: Vec<String>,
    /// Names that it listens to no more.
    pub(super) gone: Vec<Arc<str>>,
}

impl Known {
    /// What a word of a consumer changes; none: it is older than what that one said before.
    ///
    /// # Errors
    /// [`OverQuota`] when it would listen to too much.
    pub(super) fn weigh(
        &mut self,
        who: &Who,
        topic: u64,
        (action, names, version): (Action, &[String], Option<i64>),
        now: Timestamp,
    ) -> Result<Option<Change>, OverQuota> {
        self.sweep(now);
        let listener = self.listener(who, topic, now).ok_or(OverQuota::Server)?;
        if version.is_some() && version < listener.version {
            return Ok(None);
        }
        let given: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let adds = matches!(action, Action::Add | Action::Set);
        let is_new = |name: &&&str| adds && !listener.names.contains_key(**name);
        let is_gone = |name: &&Arc<str>| match action {
            Action::Add => false,
            Action::Remove => given.contains(&***name),
            Action::Set => !given.contains(&***name),
            Action::Clear => true,
        };
        let change = Change {
            new: given
                .iter()
                .filter(is_new)
                .map(|&name| name.to_owned())
                .collect(),
            gone: listener
                .names
                .keys()
                .filter(is_gone)
                .map(Arc::clone)
                .collect(),
        };
        let count = listener.names.len() - change.gone.len() + change.new.len();
        if adds && count > limits::LITE_SUBSCRIPTIONS_MAX {
            return Err(OverQuota::Consumer);
        }
        let (new, gone) = (change.new.len(), change.gone.len());
        if self.subscriptions + new > limits::LITE_SUBSCRIPTIONS_ALL_MAX + gone {
            return Err(OverQuota::Server);
        }
        Ok(Some(change))
    }
}
